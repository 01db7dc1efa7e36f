"""Divergences between two distributions given as log-probabilities.

Every divergence is ``(log_q, log_p) Float[... C] -> Float[...]`` in nats: student first, teacher second, no reduction
over units. It is >= 0 and 0 when the two are equal; ``strict`` in the contract table says which are 0 only then.
``cross_entropy`` and ``cross_entropy_of_best`` have the same shape, and the first the gradient of ``kl_forward``, but
they are no divergences: where the two sides are equal they are not 0.
"""

from .alpha import Alpha, Renyi, hellinger, total_variation
from .kl import (
    Jensen,
    SkewedForward,
    SkewedReverse,
    cross_entropy,
    cross_entropy_of_best,
    kl_forward,
    kl_reverse,
    relative_entropy,
)
from .temper import Tempered

__all__ = [
    "Alpha",
    "Jensen",
    "Renyi",
    "SkewedForward",
    "SkewedReverse",
    "Tempered",
    "cross_entropy",
    "cross_entropy_of_best",
    "hellinger",
    "kl_forward",
    "kl_reverse",
    "relative_entropy",
    "total_variation",
]
