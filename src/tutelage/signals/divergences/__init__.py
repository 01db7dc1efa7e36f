"""Divergences between two distributions given as log-probabilities.

Every one is ``(log_q, log_p) Float[... C] -> Float[...]`` in nats: student first, teacher second, no reduction over
units. It is >= 0 and 0 when the two are equal; ``strict`` in the contract table says which are 0 only then.
"""

from .alpha import Alpha, Renyi, hellinger, total_variation
from .kl import Jensen, SkewedForward, SkewedReverse, kl_forward, kl_reverse, relative_entropy
from .temper import Tempered

__all__ = [
    "Alpha",
    "Jensen",
    "Renyi",
    "SkewedForward",
    "SkewedReverse",
    "Tempered",
    "hellinger",
    "kl_forward",
    "kl_reverse",
    "relative_entropy",
    "total_variation",
]
