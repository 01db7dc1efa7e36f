"""One token from each row's distribution, by the inverse of its cumulative sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingError

NEAR = 1024  # ids that top_p looks at before it sorts the whole vocabulary


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature, then the ``top_k`` most probable, then the smallest set with mass ``top_p``.

    Args:
        max_tokens: Tokens written at most, the stop token included; at least 1.
        temperature: Divides the logits; 1 is the model's own distribution, 0 takes the most probable token.
        top_k: How many of the most probable ids are kept; 0 keeps all.
        top_p: In (0, 1]; 1 keeps all.
        stop: Texts that end the answer when they are completed.

    Raises:
        SettingError: A number is out of its range.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            "max_tokens": (isinstance(self.max_tokens, int) and self.max_tokens >= 1, "a whole number from 1"),
            "temperature": (0 <= self.temperature < float("inf"), "a finite number from 0; 0 is greedy"),
            "top_k": (isinstance(self.top_k, int) and self.top_k >= 0, "a whole number from 0; 0 keeps all"),
            "top_p": (0 < self.top_p <= 1, "a number above 0 and at most 1; 1 keeps all"),
            "stop": (
                not isinstance(self.stop, str) and all(isinstance(s, str) and s for s in self.stop),
                "a tuple of texts that are not empty",
            ),
        }
        for name, (fits, expected) in rules.items():
            if not fits:
                raise SettingError(
                    f"Sampling.{name}",
                    got=repr(getattr(self, name)),
                    expected=expected,
                    remedy=f"Set {name} within its range.",
                )


def drawn_from(own: tuple[float, ...], settings: Sampling) -> tuple[float, ...]:
    """Log-probabilities under what was drawn from, where the model's own are all that is known.

    They are the same for plain sampling, 0 for one token a place, else nan.
    """
    if settings.temperature == 0:
        return (0.0,) * len(own)
    plain = settings.temperature == 1 and settings.top_p == 1 and not settings.top_k
    return own if plain else (math.nan,) * len(own)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Int[B] ids, Float[B] their log-probabilities at temperature 1 and under the distribution drawn from."""

    ids: Tensor
    log_probs: Tensor
    drawn: Tensor


def draw(logits: Tensor, uniform: Tensor, settings: Sampling) -> Drawn:
    """Pick one id a row: the first whose cumulative probability exceeds the row's uniform number.

    Args:
        logits: Float[B V].
        uniform: Float64[B] in [0, 1).
        settings: Temperature and cuts.
    """
    if settings.temperature == 0:
        ids = logits.argmax(-1)
        return Drawn(ids, _log_prob(logits, ids), torch.zeros_like(logits[:, 0]))
    warm = logits if settings.temperature == 1 else logits / settings.temperature
    cuts = bool(settings.top_k) or settings.top_p < 1
    if cuts:
        kept, place = _cut(warm, settings)
        within = _invert(kept, uniform)
        ids, drawn = place.gather(1, within[:, None])[:, 0], _log_prob(kept, within)
    else:
        ids = _invert(warm, uniform)
        drawn = _log_prob(warm, ids)
    own = drawn if warm is logits and not cuts else _log_prob(logits, ids)
    return Drawn(ids, own, drawn)


def _log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)


def _invert(logits: Tensor, uniform: Tensor) -> Tensor:
    """The inverse of the cumulative sum, in float64: in float32 rare tokens at the end would vanish."""
    mass = (logits - logits.amax(-1, keepdim=True)).exp().cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=logits.shape[1] - 1)


def _cut(logits: Tensor, settings: Sampling) -> tuple[Tensor, Tensor]:
    """Logits of the kept ids in falling order, -inf for the others, and the ids: Float[B K], Int[B K]."""
    total = logits.shape[1]
    most = min(settings.top_k or total, total)
    near = most if settings.top_p == 1 else min(most, NEAR)
    kept, place = logits.topk(near, -1)
    if settings.top_p == 1:
        return kept, place
    # the mass is relative to what top_k left
    whole = logits.logsumexp(-1) if most == total else logits.topk(most, -1).values.logsumexp(-1)
    mass = (kept - whole[:, None]).double().exp().cumsum(-1)
    if near < most and bool((mass[:, -1] < settings.top_p).any()):
        kept, place = logits.topk(most, -1)
        mass = (kept - whole[:, None]).double().exp().cumsum(-1)
    before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], -1)
    return kept.masked_fill(before >= settings.top_p, -torch.inf), place
