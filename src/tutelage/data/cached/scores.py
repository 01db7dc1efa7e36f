"""Scores that few numbers say: an unbiased sample of a distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.scores import Scores

NOTHING_NATS = -1e4
"""The logarithm given to ids that were not drawn: ``exp`` of it is exactly 0, and 0 times it is 0 where 0 times -inf
would be nan, which costs a second pass over the vocabulary."""


@dataclass(frozen=True, eq=False)
class Drawn(Scores):
    """Estimates of probabilities whose expectation is the distribution, 0 at ids that were not drawn.

    What is linear in the probabilities (``kl_forward`` and ``cross_entropy``: their gradient in the student) is
    unbiased; anything else read from it is not.

    Args:
        ids: Int[U K]; shorter rows are filled up with their first id.
        weights: Float[U K], > 0; shorter rows are filled up with their first weight.
        num_categories: C.
    """

    ids: Tensor
    weights: Tensor
    num_categories: int
    swept: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.ids.shape[0]

    def held(self, index: slice | Tensor) -> Scores:
        return Drawn(self.ids[index], self.weights[index], self.num_categories)

    def at(self, rows: slice) -> Tensor:
        ids, weights = self.ids[rows].long(), self.weights[rows]
        return weights.new_full((len(ids), self.num_categories), NOTHING_NATS).scatter_(1, ids, weights.log())
