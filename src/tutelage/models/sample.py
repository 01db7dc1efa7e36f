"""Sampling: seeded by row, batched, with the log-probabilities the sampler really used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core.errors import DataError, ModelError, SettingError
from ..core.scores import Head
from .cache import plain, take_rows
from .causal import Causal, resting
from .draw import Sampling, draw
from .few import reading_weights_once
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


@runtime_checkable
class Elsewhere(Protocol):
    """A model that writes in another place, such as behind a server."""

    def write(self, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]) -> list[Sample]:
        """Continue each prompt."""
        ...


def sample(
    causal: Causal,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    seeds: Sequence[int],
    others: Sequence[tuple[Causal, float]] = (),
    places: int | None = None,
) -> list[Sample]:
    """Continue each prompt; a row's randomness depends on its seed alone.

    Equal prompts and a beginning that all share are read once. Rows that ended leave the batch when they are a quarter
    of it, and those that wait take their places.

    Args:
        causal: The model; dropout is off while it writes.
        prompts: Token ids, at least one each.
        settings: See ``Sampling``.
        seeds: One a prompt. Each token uses up one uniform number of the row's generator.
        others: Models that write along, each with its share: every token is drawn from the average of all
            distributions, in which the first model has what they leave of 1. Log-probabilities are the average's.
        places: Rows written at once; all by default. A model with attention windows or recurrent states, whose rows
            cannot join others, writes one batch after another.

    Raises:
        DataError: A prompt is empty, or longer than the context with what is to be written.
        SettingError: Not one seed a prompt, or shares that are no shares.
        ModelError: Models of different vocabularies.
    """
    others = [pair for pair in others if pair[1] > 0]
    for each in (causal, *(model for model, _ in others)):
        _check(each, prompts, settings, seeds)
    _one_vocabulary(causal, others)
    if not prompts:
        return []
    if isinstance(causal, Elsewhere):
        return causal.write(prompts, settings, seeds)
    engine = getattr(causal, "engine", None)
    if engine is not None and not others:
        return engine.write(causal, prompts, settings, seeds)
    models = (causal, *(model for model, _ in others))
    places = min(places or len(prompts), len(prompts))
    together = len(prompts) if all(plain(model.config) for model in models) else places
    with torch.no_grad(), ExitStack() as stack:
        for each in models:
            stack.enter_context(resting(each.model))
            stack.enter_context(reading_weights_once(each.model))
        out: list[Sample] = []
        for first in range(0, len(prompts), together):
            some = slice(first, first + together)
            out += _Writer(causal, prompts[some], settings, seeds[some], others, places).run()
        return out


class _Reader:
    """A model that has read the rows so far, with its share of the distribution."""

    def __init__(self, causal: Causal, room: int, share: float) -> None:
        self.causal, self.room, self.share = causal, room, share
        self.head = _float_head(causal.head)
        self.state: Prefilled | None = None

    def logits(self) -> Tensor:
        assert self.state is not None
        return self.head.squash(self.head.raw(self.state.hidden))

    def read(self, ids: Tensor) -> None:
        assert self.state is not None
        self.state = self.state.step(self.causal, ids)

    def admit(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompts of rows that join."""
        new = prefill(self.causal, prompts, self.room)
        self.state = new if self.state is None else self.state.joined(new, self.room)

    def keep(self, index: Tensor) -> None:
        if not len(index):
            self.state = None
        elif self.state is not None:
            take_rows(self.state.cache, index)
            mask, position = self.state.mask[index], self.state.position[index]
            self.state = replace(self.state, mask=mask, position=position)


def _average(readers: Sequence[_Reader]) -> Tensor:
    """The logits of one model, or the log of the average of several distributions: Float[B V]."""
    if len(readers) == 1:
        return readers[0].logits()
    return torch.stack([r.logits().log_softmax(-1) + math.log(r.share) for r in readers]).logsumexp(0)


class _Writer:
    """The rows being written: what each holds, which of them are in the batch, and which wait."""

    def __init__(
        self,
        causal: Causal,
        prompts: Sequence[Sequence[int]],
        settings: Sampling,
        seeds: Sequence[int],
        others: Sequence[tuple[Causal, float]],
        places: int,
    ) -> None:
        self.causal, self.prompts, self.settings, self.places = causal, prompts, settings, places
        self.stops = frozenset(causal.stop_ids)
        self.uniform = torch.stack([_uniform(seed, settings.max_tokens) for seed in seeds]).to(causal.device)
        self.ids: list[list[int]] = [[] for _ in prompts]
        self.log_probs: list[list[float]] = [[] for _ in prompts]
        self.drawn: list[list[float]] = [[] for _ in prompts]
        self.reasons = ["" for _ in prompts]
        self.rows: list[int] = []  # the row that each place of the batch writes
        self.began: list[int] = []  # by row that has joined, the step at which it did; the others wait
        self.step = 0
        own = 1 - sum(share for _, share in others)
        shares = [(causal, own)] * (own > 0) + list(others)
        self.readers = [_Reader(model, settings.max_tokens, share) for model, share in shares]

    def run(self) -> list[Sample]:
        self._admit()
        while self.rows:
            index = torch.tensor(self.rows, device=self.causal.device)
            step = torch.tensor([len(self.ids[row]) for row in self.rows], device=self.causal.device)
            # a row that ended stays a while: what it draws is dropped
            at = self.uniform[index, step.clamp_max(self.settings.max_tokens - 1)]
            picked = draw(_average(self.readers), at, self.settings)
            self._note(picked.ids.tolist(), picked.log_probs.tolist(), picked.drawn.tolist())
            ids = self._compact(picked.ids)
            if self.rows:
                for reader in self.readers:
                    reader.read(ids)
            self.step += 1
            self._admit()
        fields = zip(self.ids, self.log_probs, self.drawn, self.reasons, strict=True)
        return [Sample(tuple(i), tuple(p), tuple(d), why) for i, p, d, why in fields]

    def _admit(self) -> None:
        """Rows that wait take free places, a quarter of all at a time: each time the others are moved."""
        started = len(self.began)
        free, waiting = self.places - len(self.rows), len(self.prompts) - started
        if not waiting or (self.rows and free < max(1, self.places / 4)):
            return
        new = range(started, started + min(free, waiting))
        for reader in self.readers:
            reader.admit([self.prompts[row] for row in new])
        self.rows += new
        self.began += [self.step] * len(new)

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
            elif len(self.ids[row]) == self.settings.max_tokens:
                self.reasons[row] = "length"

    def _completes(self, ids: list[int]) -> bool:
        # a token is at least a byte: what it completes lies in the last tokens; a few more guard cut characters
        tail = max(len(text.encode()) for text in self.settings.stop) + 4
        text = self.causal.tokenizer.decode(ids[-tail:])
        return any(stop in text for stop in self.settings.stop)

    def _compact(self, ids: Tensor) -> Tensor:
        alive = [place for place, row in enumerate(self.rows) if not self.reasons[row]]
        ended = len(self.rows) - len(alive)
        # one that ended must not read on beyond the context that it was checked for
        last = self.step - min((self.began[row] for row in self.rows if self.reasons[row]), default=self.step)
        if not ended or (alive and ended < len(self.rows) / 4 and last + 1 < self.settings.max_tokens):
            return ids
        self.rows = [self.rows[place] for place in alive]
        index = torch.tensor(alive, dtype=torch.long, device=ids.device)
        for reader in self.readers:
            reader.keep(index)
        return ids[index]


def _float_head(head: Head) -> Head:
    """The head in float32, made once instead of at every token."""
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    return head.with_tensors([t.to(dtype) for t in head.tensors()])


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _one_vocabulary(causal: Causal, others: Sequence[tuple[Causal, float]]) -> None:
    shares = [share for _, share in others]
    if sum(shares) > 1 + 1e-9:
        raise SettingError(
            "sample", got=f"shares {shares} beside the first model", expected="at most 1 in all", remedy="Lower them."
        )
    sizes = {model.name: model.head.num_categories for model in (causal, *(m for m, _ in others))} if others else {}
    if len(set(sizes.values())) > 1:
        raise ModelError(
            "sample from several models",
            got=f"vocabularies of {sizes}",
            expected="one vocabulary",
            remedy="Average models of one tokenizer; padded heads are cut by `agree`.",
        )


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
