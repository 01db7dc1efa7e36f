"""What every form of a teacher cache is: what it takes of scores, how it is written, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import SettingError
from ...core.scores import Kept, Scores, log_rest
from .code import MOST_CATEGORIES, Code, Decoder, Encoder

Array = NDArray[Any]
Fields = Mapping[str, Array]
"""By name, numbers over the T positions of a row, [T ...]; lists of unequal length are filled up with -1."""

CHUNK_ELEMENTS = 1 << 23


class Form(ABC):
    """A form: its settings are all that is needed to read what it wrote.

    ``coded`` forms need a ``Code``; ``gives`` is what a voice over them can be asked for (see ``core.needs``);
    ``linear`` is True where only what is linear in the probabilities may be read.
    """

    num_categories: int
    coded: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    gives: ClassVar[frozenset[str]] = frozenset({"next"})

    @abstractmethod
    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        """What is kept of scores over T positions, whose tokens are ``targets`` Int[T]."""

    @abstractmethod
    def put(self, out: Any, row: Fields, targets: Array) -> None:
        """Code a row into an ``Encoder``, or raw bytes into a ``bytearray``."""

    @abstractmethod
    def take(self, source: Any, targets: Array) -> Fields:
        """The inverse of ``put``, from a ``Decoder`` or bytes."""

    @abstractmethod
    def scores(self, rows: Fields) -> Scores:
        """The scores that fields are."""

    @abstractmethod
    def bytes_a_position(self) -> float:
        """About how many bytes a position takes."""

    @property
    def name(self) -> str:
        """The form's name in settings and manifests."""
        return type(self).__name__.lower()

    def facts(self) -> dict[str, Any]:
        """Name and settings, JSON-ready."""
        return {"form": self.name, **asdict(self)}  # type: ignore[call-overload]

    def data(self, row: Fields, targets: Array, code: Code | None) -> bytes:
        """A row as bytes."""
        if code is None:
            raw = bytearray()
            self.put(raw, row, targets)
            return bytes(raw)
        out = Encoder(code)
        self.put(out, row, targets)
        return out.done()

    def fields(self, data: bytes | memoryview, targets: Array, code: Code | None) -> Fields:
        """The inverse of ``data``."""
        return self.take(data if code is None else Decoder(code, data), targets)


def checked(form: Any, **least: float) -> None:
    """Refuse settings below their least value, and more categories than can be coded.

    Raises:
        SettingError: The first that is wrong.
    """
    for name, low in {"num_categories": 1, **least}.items():
        value = getattr(form, name)
        high = MOST_CATEGORIES if name == "num_categories" else float("inf")
        if not low <= value <= high:
            raise SettingError(
                f"teacher cache, {form.name}.{name}",
                got=str(value),
                expected=f"at least {low:g}" + (f" and at most {high:g}" if name == "num_categories" else ""),
                remedy="Change this setting.",
            )


def slices(scores: Scores) -> Iterator[slice]:
    """The positions of scores, a few at a time, so that no tensor of positions by vocabulary exists."""
    step = max(1, CHUNK_ELEMENTS // scores.num_categories)
    for start in range(0, len(scores), step):
        yield slice(start, min(start + step, len(scores)))


def on(targets: Array, like: Tensor) -> Tensor:
    """Targets as Int[T 1] beside log-probabilities."""
    return torch.from_numpy(targets.astype(np.int64)).to(like.device).unsqueeze(1)


def most_probable(scores: Scores, targets: Array, num: int) -> dict[str, Array]:
    """The most probable categories, falling, and the log-probability of each target."""
    ids, values, own = [np.zeros((0, num), np.int64)], [np.zeros((0, num))], [np.zeros(0)]
    for rows in slices(scores):
        log_probs = scores.at(rows)
        best = log_probs.topk(num, dim=-1)
        target = log_probs.gather(1, on(targets[rows], log_probs)).squeeze(1)
        for into, part in ((ids, best.indices), (values, best.values.double()), (own, target.double())):
            into.append(part.cpu().numpy())
    return {"ids": np.concatenate(ids), "log_probs": np.concatenate(values), "target": np.concatenate(own)}


def with_target(rows: Fields, num_categories: int) -> Kept:
    """The kept categories and one more, the token that is there; where it is among them, another with an even share.

    Args:
        rows: ``ids`` and ``log_probs`` [T k], ``targets`` Int[T] and their log-probabilities ``target`` Float[T].
        num_categories: C.
    """
    ids, values = rows["ids"].astype(np.int64), rows["log_probs"].astype(np.float64)
    kept, num = torch.from_numpy(values).float(), ids.shape[1]
    if num == num_categories:
        return Kept(torch.from_numpy(ids), kept, num_categories)
    inside = (ids == rows["targets"][:, None]).any(1)
    free = np.ones((len(ids), num + 1), bool)  # of the first k + 1 ids one is not among the k
    row, column = np.nonzero(ids <= num)
    free[row, ids[row, column]] = False
    even = log_rest(torch.from_numpy(values)).numpy() - np.log(num_categories - num)
    even = np.minimum(even, values.min(1, initial=0.0))  # rounding could lift it above the least that was kept
    last = np.where(inside, free.argmax(1), rows["targets"])
    share = torch.from_numpy(np.where(inside, even, rows["target"])).float()
    both = torch.from_numpy(np.concatenate([ids, last[:, None]], 1))
    return Kept(both, torch.cat([kept, share.unsqueeze(1)], 1), num_categories)


def stacked(rows: Sequence[Array], fill: int = -1) -> Array:
    """Arrays one behind another; those of two axes are filled up to the widest."""
    width = max((r.shape[1] for r in rows if r.ndim == 2), default=0)
    wide = [np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=fill) if r.ndim == 2 else r for r in rows]
    return np.concatenate(wide)
