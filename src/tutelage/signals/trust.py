"""How far, and in which direction, a teacher's sampled log-ratio is to be followed."""

from __future__ import annotations

from ..core.signal import Signal
from .apply import Apply
from .parts import PartMean, Place, RowFirst
from .picks import Above
from .pools import RowMean, RowQuantile
from .scale import Ceiling

SMALL = 1e-6


def regained(gap: Signal, into: str, most: float) -> Signal:
    """``min(d_1 / d_k, most)`` for the k-th part of a record, 1 for the first; ``d`` the part's mean ``|gap|``.

    The product of the ratios of neighbouring parts, of which only the ends are left. Over the unit list ``into``.

    Source: arXiv:2605.07725.
    """
    drift = PartMean(Apply("abs", gap), into) + SMALL
    later = Above(Place(into), 0.0)
    return 1 - later + later * Ceiling(RowFirst(drift) * drift**-1, most)


def unit_gap(gap: Signal) -> Signal:
    """A log-ratio in units of its mean size in the record: whatever its scale, the mean of its size is 1."""
    return gap * (RowMean(Apply("abs", gap)) + SMALL) ** -1


def towards(gap: Signal, entropy: Signal, share: float) -> Signal:
    """``tanh((boundary - H) / mean |H - mean H|) sigmoid(|gap| - 1)`` in (-1, 1): above 0 where H is low.

    The boundary is the record's quantile ``share`` of the entropies H; small gaps count little either way.

    Source: arXiv:2605.22563.
    """
    deviation = RowMean(Apply("abs", entropy - RowMean(entropy))) + SMALL
    side = Apply("tanh", (RowQuantile(entropy, share) - entropy) * deviation**-1)
    return side * Apply("sigmoid", Apply("abs", gap) - 1)
