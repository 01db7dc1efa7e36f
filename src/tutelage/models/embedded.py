"""vLLM in this process, writing in a model's place; the weights go over in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..core.errors import MissingExtra, NeedError
from .adapter import merged
from .causal import Causal
from .draw import Sampling, drawn_from
from .engine import Engine, tensors
from .export import export
from .sample import Sample

ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
"""One process for all, so that tensors need not be copied to another; variables that are set stay as they are."""


class Embedded(Engine):
    """A vLLM engine made for one model, on the device of this process.

    Args:
        causal: The model; its configuration and tokenizer are the engine's.
        dtype: The precision in which the engine computes.
        max_length: The longest prompt and answer together; the model's longest context by default.
        cache_bytes: What keys and values may take, > 0.
        tolerance_nats: See ``Engine``.

    Raises:
        MissingExtra: vLLM cannot be imported here.
        NeedError: Several processes train.
    """

    def __init__(
        self,
        causal: Causal,
        *,
        dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
        cache_bytes: int = 1 << 30,
        tolerance_nats: float = 0.1,
    ) -> None:
        super().__init__(tolerance_nats)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise NeedError(
                "rollouts by vLLM in this process",
                got="several processes",
                expected="one, whose torch.distributed it can set up for itself",
                remedy="Start a server and name its url.",
            )
        self.dtype = dtype
        with _environment(), tempfile.TemporaryDirectory() as folder:
            engine = _engine()
            start = export(merged(causal), Path(folder) / "start", card={})
            self._engine = engine(
                model=str(start),
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=max_length or causal.max_positions,
                kv_cache_memory_bytes=cache_bytes,
                skip_tokenizer_init=causal.tokenizer is None,
                enforce_eager=True,
                disable_log_stats=True,
            )

    def __repr__(self) -> str:
        return "vLLM in this process"

    def _give(self, causal: Causal, now: str) -> None:
        # a tied head stands in the state under its own name too, without which its packed form would stay old
        self._engine.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(tensors(causal, self.dtype).items())}
        )
        self._engine.reset_prefix_cache()

    def _read(self, ids: list[int]) -> list[float]:
        settings = _params()(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        said = self._engine.generate([{"prompt_token_ids": ids}], settings, use_tqdm=False)[0].prompt_logprobs
        return [float(at[i].logprob) for i, at in zip(ids[1:], said[1:], strict=True)]

    def _write(
        self, causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> list[Sample]:
        made = [_asked(settings, seed, causal.stop_ids) for seed in seeds]
        rows: list[Any] = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [
            _sample(said.outputs[0], causal, settings) for said in self._engine.generate(rows, made, use_tqdm=False)
        ]


def _asked(settings: Sampling, seed: int, stops: Sequence[int]) -> Any:
    return _params()(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seed=seed & 0x7FFFFFFF,
        logprobs=0,
        stop=list(settings.stop) or None,
        stop_token_ids=list(stops),
        ignore_eos=not stops,
        detokenize=bool(settings.stop),
    )


def _sample(said: Any, causal: Causal, settings: Sampling) -> Sample:
    ids = tuple(int(i) for i in said.token_ids)
    own = tuple(float(at[i].logprob) for i, at in zip(ids, said.logprobs, strict=True))
    stop = "length" if said.finish_reason != "stop" else "eos" if ids[-1:] and ids[-1] in causal.stop_ids else "stop"
    return Sample(ids, own, drawn_from(own, settings), stop)


def _engine() -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise MissingExtra(
            "rollouts by vLLM in this process",
            got=f"no vLLM that can be imported ({error})",
            expected="vLLM in the environment that trains",
            remedy="Install it there (pip install vllm), or start a server from an environment of its own and name its "
            "url in rollouts; python -m tools.vllm_env of a checkout makes one for processors.",
        ) from None
    return LLM


def _params() -> Any:
    from vllm import SamplingParams

    return SamplingParams


@contextmanager
def _environment() -> Iterator[None]:
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
