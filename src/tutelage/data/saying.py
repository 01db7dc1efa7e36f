"""What a tensor store holds of a row: whole distributions, their largest categories, or hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.scores import Dense, Kept, Scores


class Saying(ABC):
    """A layout: its fields, each ``[T ...]`` over a row's positions."""

    fields: ClassVar[tuple[str, ...]]

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, torch.dtype | None]]:
        """By field, the size of its last axis and its type on disk (None: as it comes)."""

    def scores(self, fields: Mapping[str, Tensor]) -> Scores:
        """The scores that the fields are.

        Raises:
            DataError: They are none.
        """
        raise DataError(
            repr(self),
            got="no scores",
            expected="a store of scores",
            remedy="Read its fields with get, or store scores.",
        )

    def length(self, fields: Mapping[str, Tensor]) -> int:
        """T, the row's positions."""
        return fields[self.fields[0]].shape[0]

    def join(self, rows: Sequence[Mapping[str, Tensor]], ids: Sequence[str]) -> dict[str, Tensor]:
        """The rows' fields one behind another.

        Raises:
            DataError: A field is missing or has another shape.
        """
        for name, row in zip(ids, rows, strict=True):
            self._check(name, row)
        shapes = self.shapes()
        out = {}
        for field in self.fields:
            joined = torch.cat([row[field].detach().cpu() for row in rows])
            out[field] = joined.to(shapes[field][1] or joined.dtype).contiguous()
        return out

    def _check(self, name: str, row: Mapping[str, Tensor]) -> None:
        expected = self.shapes()
        length = row[self.fields[0]].shape[:1] if self.fields[0] in row else ()
        found = {field: tuple(value.shape) for field, value in row.items()}
        wanted = {field: (*length, size) for field, (size, _) in expected.items()}
        if found != wanted:
            raise DataError(
                f"row {name!r}",
                got=f"fields of shapes {found}",
                expected=f"{ {field: ('T', size) for field, (size, _) in expected.items()} }",
                remedy="Give what the store's layout holds.",
            )


@dataclass(frozen=True)
class DenseScores(Saying):
    """Log-probabilities of every category: ``log_probs`` Float32[T C]."""

    num_categories: int
    fields: ClassVar[tuple[str, ...]] = ("log_probs",)

    def shapes(self) -> Mapping[str, tuple[int, torch.dtype | None]]:
        """By field, the size of its last axis and its type."""
        return {"log_probs": (self.num_categories, torch.float32)}

    def scores(self, fields: Mapping[str, Tensor]) -> Scores:
        """The scores that the fields are."""
        return Dense(fields["log_probs"])


@dataclass(frozen=True)
class TopScores(Saying):
    """The k most probable categories: ``ids`` Int32[T k] and ``log_probs`` Float32[T k].

    The log-probabilities are those of the whole distribution, so the mass of the rest is exactly what they leave of 1.
    """

    num_kept: int
    num_categories: int
    fields: ClassVar[tuple[str, ...]] = ("ids", "log_probs")

    def shapes(self) -> Mapping[str, tuple[int, torch.dtype | None]]:
        """By field, the size of its last axis and its type."""
        return {"ids": (self.num_kept, torch.int32), "log_probs": (self.num_kept, torch.float32)}

    def scores(self, fields: Mapping[str, Tensor]) -> Scores:
        """The scores that the fields are."""
        return Kept(fields["ids"], fields["log_probs"], self.num_categories)

    def of(self, log_probs: Tensor) -> dict[str, Tensor]:
        """The fields of whole log-probabilities Float[T C]."""
        top = log_probs.topk(self.num_kept, dim=-1)
        return {"ids": top.indices, "log_probs": top.values}


@dataclass(frozen=True)
class Hidden(Saying):
    """Hidden states: ``hidden`` Float[T D], in the type they come in."""

    num_features: int
    fields: ClassVar[tuple[str, ...]] = ("hidden",)

    def shapes(self) -> Mapping[str, tuple[int, torch.dtype | None]]:
        """By field, the size of its last axis and its type."""
        return {"hidden": (self.num_features, None)}
