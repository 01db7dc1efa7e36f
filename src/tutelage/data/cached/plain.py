"""Forms that hold numbers as they are: whole distributions, the exact largest, one token, hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core import scores as said
from ...core.errors import NeedError, unknown
from ...core.scores import Head, Kept, Lazy, Scores
from .form import Array, Fields, Form, checked, most_probable, on, slices, with_target

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Dense(Form):
    """Every category's log-probability in float32: exact, 4 C bytes a position."""

    num_categories: int
    gives = frozenset({"next"})

    def __post_init__(self) -> None:
        checked(self)

    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        some = [scores.at(rows).float().cpu().numpy() for rows in slices(scores)]
        return {"log_probs": np.concatenate([np.zeros((0, self.num_categories), np.float32), *some])}

    def put(self, out: Any, row: Fields, targets: Array) -> None:
        out += row["log_probs"].astype("<f4").tobytes()

    def take(self, source: Any, targets: Array) -> Fields:
        return {"log_probs": np.frombuffer(source, "<f4").reshape(len(targets), self.num_categories)}

    def scores(self, rows: Fields) -> Scores:
        return said.Dense(torch.from_numpy(np.array(rows["log_probs"], np.float32)))

    def bytes_a_position(self) -> float:
        return 4.0 * self.num_categories


@dataclass(frozen=True)
class Target(Form):
    """The log-probability of the token that is there, in float32: 4 bytes a position."""

    num_categories: int
    gives = frozenset({"next.target"})

    def __post_init__(self) -> None:
        checked(self)

    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        some = [np.zeros((0, 1), np.float32)]
        for rows in slices(scores):
            log_probs = scores.at(rows)
            some.append(log_probs.gather(1, on(targets[rows], log_probs)).float().cpu().numpy())
        return {"log_probs": np.concatenate(some)}

    def put(self, out: Any, row: Fields, targets: Array) -> None:
        out += row["log_probs"].astype("<f4").tobytes()

    def take(self, source: Any, targets: Array) -> Fields:
        return {"log_probs": np.frombuffer(source, "<f4").reshape(-1, 1)}

    def scores(self, rows: Fields) -> Scores:
        ids, log_probs = rows["targets"][:, None].astype(np.int64), np.minimum(rows["log_probs"], 0)
        return Kept(torch.from_numpy(ids), torch.from_numpy(log_probs), self.num_categories)

    def bytes_a_position(self) -> float:
        return 4.0


@dataclass(frozen=True)
class Exact(Form):
    """The k most probable categories in float32 with 32-bit ids, and the token that is there: 8 k + 4 bytes."""

    num_kept: int
    num_categories: int
    gives = frozenset({"next.top", "next.target"})

    def __post_init__(self) -> None:
        checked(self, num_kept=1)

    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        top = most_probable(scores, targets, min(self.num_kept, self.num_categories))
        return {name: value.astype("<i4" if name == "ids" else "<f4") for name, value in top.items()}

    def put(self, out: Any, row: Fields, targets: Array) -> None:
        for name, kind in (("ids", "<i4"), ("log_probs", "<f4"), ("target", "<f4")):
            out += row[name].astype(kind).tobytes()

    def take(self, source: Any, targets: Array) -> Fields:
        num, view = len(targets) * min(self.num_kept, self.num_categories), memoryview(source)
        ids, values = (np.frombuffer(view[4 * num * i : 4 * num * (i + 1)], k) for i, k in enumerate(("<i4", "<f4")))
        target = np.frombuffer(view[8 * num :], "<f4")
        shape = (len(targets), min(self.num_kept, self.num_categories))
        return {"ids": ids.reshape(shape), "log_probs": values.reshape(shape), "target": target}

    def scores(self, rows: Fields) -> Scores:
        return with_target(rows, self.num_categories)

    def bytes_a_position(self) -> float:
        return 8.0 * min(self.num_kept, self.num_categories) + 4


@dataclass(frozen=True)
class States(Form):
    """The state that the teacher's head reads, in the type it comes in; the head itself is kept once.

    Args:
        num_features: D.
        num_categories: C.
        dtype: ``float32``, ``float16`` or ``bfloat16``; states of another type are converted.
    """

    num_features: int
    num_categories: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checked(self, num_features=1)
        if self.dtype not in TYPES:
            raise unknown("teacher cache, states.dtype", self.dtype, TYPES)

    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        if not isinstance(scores, Lazy):
            raise NeedError(
                "teacher cache of states",
                got=type(scores).__name__,
                expected="hidden states under a head",
                remedy="Keep the states of a causal model in this process; of others keep the top or drawn ids.",
            )
        return {"hidden": scores.hidden.detach().to(TYPES[self.dtype]).cpu().contiguous().view(torch.uint8).numpy()}

    def put(self, out: Any, row: Fields, targets: Array) -> None:
        out += row["hidden"].tobytes()

    def take(self, source: Any, targets: Array) -> Fields:
        return {"hidden": np.frombuffer(source, np.uint8).reshape(len(targets), int(self.bytes_a_position()))}

    def scores(self, rows: Fields) -> Scores:
        raise NeedError(
            "teacher cache of states",
            got="states alone",
            expected="a head",
            remedy="Read them with States.under(rows, head).",
        )

    def under(self, rows: Fields, head: Head) -> Scores:
        """The scores of states under their head."""
        hidden = torch.from_numpy(np.array(rows["hidden"]).ravel()).view(TYPES[self.dtype])
        return Lazy(hidden.reshape(-1, self.num_features).to(head.weight.device), head)

    def bytes_a_position(self) -> float:
        return float(self.num_features * TYPES[self.dtype].itemsize)
