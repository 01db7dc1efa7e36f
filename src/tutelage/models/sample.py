"""Sampling: seeded by row, batched, with the log-probabilities the sampler really used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import DataError, SettingError
from ..core.scores import Head
from .cache import take_rows
from .causal import Causal, resting
from .draw import Sampling, draw
from .prefill import Prefilled, prefill

__all__ = ["Sample", "Sampling", "sample"]


@dataclass(frozen=True)
class Sample:
    """What was written after one prompt.

    Args:
        ids: The sampled ids, the one that ended it included.
        log_probs: For each id, the model's own log-probability at temperature 1.
        drawn: For each id, its log-probability under the distribution it was drawn from (0 when greedy).
        stop: Why it ended: ``eos``, ``stop`` (a stop text was completed) or ``length``.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    drawn: tuple[float, ...]
    stop: str


def sample(causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]) -> list[Sample]:
    """Continue each prompt, all in one batch; a row's randomness depends on its seed alone.

    Equal prompts and a beginning that all share are read once. Rows that ended leave the batch when they are a quarter
    of it.

    Args:
        causal: The model; dropout is off while it writes.
        prompts: Token ids, at least one each.
        settings: See ``Sampling``.
        seeds: One a prompt. Each token uses up one uniform number of the row's generator.

    Raises:
        DataError: A prompt is empty, or longer than the context with what is to be written.
        SettingError: Not one seed a prompt.
    """
    _check(causal, prompts, settings, seeds)
    if not prompts:
        return []
    with torch.no_grad(), resting(causal.model):
        return _Writer(causal, prompts, settings, seeds).run()


class _Writer:
    """The rows being written: what each holds, and which of them are still in the batch."""

    def __init__(
        self, causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> None:
        self.causal, self.settings = causal, settings
        self.head = _float_head(causal.head)
        self.stops = frozenset(causal.stop_ids)
        self.uniform = torch.stack([_uniform(seed, settings.max_tokens) for seed in seeds]).to(causal.device)
        self.ids: list[list[int]] = [[] for _ in prompts]
        self.log_probs: list[list[float]] = [[] for _ in prompts]
        self.drawn: list[list[float]] = [[] for _ in prompts]
        self.reasons = ["" for _ in prompts]
        self.rows = list(range(len(prompts)))  # the row that each place of the batch writes
        self.state: Prefilled = prefill(causal, prompts, settings.max_tokens)

    def run(self) -> list[Sample]:
        for step in range(self.settings.max_tokens):
            index = torch.tensor(self.rows, device=self.causal.device)
            logits = self.head.squash(self.head.raw(self.state.hidden))
            picked = draw(logits, self.uniform[index, step], self.settings)
            self._note(picked.ids.tolist(), picked.log_probs.tolist(), picked.drawn.tolist())
            ids = self._compact(picked.ids)
            if not self.rows or step + 1 == self.settings.max_tokens:
                break
            self.state = self.state.step(self.causal, ids)
        fields = zip(self.ids, self.log_probs, self.drawn, self.reasons, strict=True)
        return [Sample(tuple(i), tuple(p), tuple(d), why or "length") for i, p, d, why in fields]

    def _note(self, ids: list[int], log_probs: list[float], drawn: list[float]) -> None:
        for place, row in enumerate(self.rows):
            if self.reasons[row]:
                continue
            self.ids[row].append(ids[place])
            self.log_probs[row].append(log_probs[place])
            self.drawn[row].append(drawn[place])
            if ids[place] in self.stops:
                self.reasons[row] = "eos"
            elif self.settings.stop and self._completes(self.ids[row]):
                self.reasons[row] = "stop"

    def _completes(self, ids: list[int]) -> bool:
        # a token is at least a byte: what it completes lies in the last tokens; a few more guard cut characters
        tail = max(len(text.encode()) for text in self.settings.stop) + 4
        text = self.causal.tokenizer.decode(ids[-tail:])
        return any(stop in text for stop in self.settings.stop)

    def _compact(self, ids: Tensor) -> Tensor:
        alive = [place for place, row in enumerate(self.rows) if not self.reasons[row]]
        if len(alive) == len(self.rows) or (alive and len(self.rows) - len(alive) < len(self.rows) / 4):
            return ids
        self.rows = [self.rows[place] for place in alive]
        if not alive:
            return ids
        index = torch.tensor(alive, device=ids.device)
        take_rows(self.state.cache, index)
        self.state = replace(self.state, mask=self.state.mask[index], position=self.state.position[index])
        return ids[index]


def _float_head(head: Head) -> Head:
    """The head in float32, made once instead of at every token."""
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    return head.with_tensors([t.to(dtype) for t in head.tensors()])


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _check(causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]) -> None:
    if len(seeds) != len(prompts):
        raise SettingError(
            "sample",
            got=f"{len(seeds)} seeds for {len(prompts)} prompts",
            expected="one seed a prompt",
            remedy="Derive each row's seed from its record's id.",
        )
    if settings.stop and causal.tokenizer is None:
        raise SettingError(
            "sample", got="stop texts and no tokenizer", expected="a tokenizer", remedy="Give the model its tokenizer."
        )
    for row, prompt in enumerate(prompts):
        longest = causal.max_positions
        total = len(prompt) + settings.max_tokens
        if not len(prompt) or (longest is not None and total > longest):
            got = f"{len(prompt)} tokens and {settings.max_tokens} to be written" if len(prompt) else "no tokens"
            raise DataError(
                f"prompt {row} for model {causal.name!r}",
                got=got,
                expected=f"from 1 to {longest or 'any number of'} tokens in all",
                remedy="Drop or shorten such prompts, or lower max_tokens." if len(prompt) else "Drop empty prompts.",
            )
