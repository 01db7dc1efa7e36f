"""Engines: programs made for writing, which write in a model's place with the weights that it has now."""

from __future__ import annotations

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..core.errors import ModelError, SettingError, TutelageError
from .adapter import merged
from .causal import Causal, resting
from .draw import Sampling
from .quiet import quiet
from .sample import Sample

TEXT = "The quick brown fox jumps over 12 lazy dogs, and nothing in there is the end of it."
SIZES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Probe:
    """Log-probabilities of a fixed text's tokens, in nats: the model's own, and those that the engine says."""

    own: tuple[float, ...]
    said: tuple[float, ...]

    @property
    def apart(self) -> float:
        """The mean absolute difference."""
        return sum(abs(a - b) for a, b in zip(self.own, self.said, strict=True)) / max(1, len(self.own))


class Engine(ABC):
    """Writes in a model's place. Before it writes it is given the model's weights, if they are others than it has.

    After each hand-over it is asked for log-probabilities of a fixed text. It must say what the model says, within
    ``tolerance_nats``, and not exactly what it said before where the model no longer does: an engine that keeps old
    weights, all or some, is an error at once. A copy of the model has no engine: it writes in this process.

    Args:
        tolerance_nats: The largest mean difference that rounding may cause, > 0.
    """

    far: ClassVar[bool] = False
    """Whether it writes in another process, which may be away."""
    ahead: int = 0
    """Rounds that are written while others train."""
    fault: ClassVar[type[TutelageError]] = ModelError

    def __init__(self, tolerance_nats: float) -> None:
        if not tolerance_nats > 0:
            raise SettingError(
                "rollouts.tolerance_nats", got=str(tolerance_nats), expected="a number > 0", remedy="0.1 is usual."
            )
        self.tolerance_nats = tolerance_nats
        self.probe: Probe | None = None
        self._given = ""
        self._busy = threading.Lock()  # taken while a round is written ahead, whatever the weights do meanwhile
        self._staying = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def write(
        self, causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> list[Sample]:
        """Continue each prompt with the weights that the model has now.

        Raises:
            TutelageError: ``fault``: it does not take the weights, or gives ids that the model does not have.
        """
        self.follow(causal)
        out = self._write(causal, prompts, settings, seeds)
        most = max((i for said in out for i in said.ids), default=0)
        if causal.size is not None and most >= causal.size:
            raise self._faulty(
                f"the id {most}",
                f"one of the {causal.size} that the tokenizer has",
                "The head is padded, and its padding has learned nothing: cut it off before training.",
            )
        return out

    def follow(self, causal: Causal) -> None:
        """Have the engine take the model's weights, and see that it did; nothing is done where it has them."""
        if getattr(self._staying, "on", False):
            return
        now = fingerprint(causal.model)
        if now != self._given:
            with self._busy:
                self._given = ""
                self._take(causal, now)
                self._given = now

    def hold(self) -> None:
        """Keep the weights that it has until ``held`` ends, which may be in another thread."""
        self._busy.acquire()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What this thread writes inside the block is written with the weights that the engine has."""
        self._staying.on = True
        try:
            yield
        finally:
            self._staying.on = False
            self._busy.release()

    def _take(self, causal: Causal, now: str) -> None:
        """Hand weights over, and compare what both say."""
        before = self.probe
        self._give(causal, now)
        found = self._compared(causal)
        deaf = before is not None and found.said == before.said and found.own != before.own
        if deaf or not found.apart <= self.tolerance_nats:
            how = "did not move with the weights" if deaf else f"are {found.apart:.3g} nats a token away"
            raise self._faulty(
                f"log-probabilities of a fixed text that {how}",
                f"those of model {causal.name!r} within {self.tolerance_nats:g} nats",
                self._advice(),
            )
        self.probe = found

    def _compared(self, causal: Causal) -> Probe:
        ids = probe_ids(causal)
        return Probe(own_log_probs(causal, ids), tuple(self._read(ids)))

    def _faulty(self, got: str, expected: str, remedy: str) -> TutelageError:
        return self.fault(f"rollouts by {self}", got=got, expected=expected, remedy=remedy)

    def _advice(self) -> str:
        return (
            "See that it serves the student's architecture without quantisation, and takes new weights; half precision "
            "may need a larger tolerance_nats."
        )

    @abstractmethod
    def _give(self, causal: Causal, now: str) -> None:
        """Hand the model's weights over; ``now`` is their fingerprint."""

    @abstractmethod
    def _read(self, ids: list[int]) -> list[float]:
        """Log-probabilities of all but the first id."""

    @abstractmethod
    def _write(
        self, causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> list[Sample]:
        """Continue each prompt."""


def fingerprint(model: nn.Module) -> str:
    """A name for the weights as they are: by tensor, the sum of its bits read as whole numbers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        bits = tensor.detach().contiguous().view(SIZES[tensor.element_size()])
        digest.update(f"{name} {int(bits.sum(dtype=torch.int64))}\n".encode())
    return digest.hexdigest()[:32]


def probe_ids(causal: Causal) -> list[int]:
    """The ids of a fixed text, at least two."""
    ids = [] if causal.tokenizer is None else list(causal.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    longest = causal.max_positions or len(ids)
    return ids[: longest - 1] if len(ids) > 1 else [i % causal.head.num_categories for i in range(16)]


@torch.no_grad()
def own_log_probs(causal: Causal, ids: Sequence[int]) -> tuple[float, ...]:
    """What the model says of all ids but the first."""
    row = torch.tensor([list(ids)], device=causal.device)
    with resting(causal.model):
        head = causal.head
        scores = head.squash(head.raw(causal.hidden({"input_ids": row})[0, :-1])).log_softmax(-1)
    return tuple(scores.gather(1, row[0, 1:, None])[:, 0].tolist())


def tensors(causal: Causal, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every weight by name, an adapter added, a tied head once more under its own name."""
    state = merged(causal).inner.state_dict()
    return {name: t.detach().to(dtype) if t.is_floating_point() else t.detach() for name, t in state.items()}


def write_weights(causal: Causal, folder: Path, dtype: torch.dtype) -> None:
    """Weights and configuration as transformers writes them; a tied head stands there once more.

    Engines pack the head for their own use, and pack it anew only where its name is among what they load.
    """
    plain = merged(causal)
    state = tensors(plain, dtype)
    head = plain.inner.get_output_embeddings().weight
    with quiet():
        plain.inner.save_pretrained(folder, state_dict=dict(state))
    files = sorted(folder.glob("*.safetensors"))
    found = {name for file in files for name in _names(file)}
    again = {n for n, t in plain.inner.state_dict().items() if t.data_ptr() == head.data_ptr()} - found
    if again:
        save_file({name: state[name].contiguous() for name in again}, folder / "tied.safetensors")
    index = folder / "model.safetensors.index.json"
    if again and index.exists():
        table = json.loads(index.read_text())
        table["weight_map"] |= dict.fromkeys(sorted(again), "tied.safetensors")
        index.write_text(json.dumps(table))


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as held:
        return list(held.keys())
