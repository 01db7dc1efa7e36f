"""Estimators: one divergence, summed over the vocabulary or guessed from a part of it."""

from __future__ import annotations

from ..core.errors import SettingError
from ..core.signal import Signal
from .divergences import Jensen, SkewedForward, SkewedReverse, kl_forward, kl_reverse
from .match import Match, Targets, Top, whole
from .policy import ScoreFunction
from .readouts import gap

RESTS = {"tail": "tail", "renormalised": "renormalise", "partial": "drop"}


def estimated(
    divergence: str, estimator: str = "full", *, k: int = 64, beta: float = 0.5, alpha: float = 0.1
) -> Signal:
    """A divergence of student and teacher at each token, as an estimator gives it: Float[U].

    * ``full`` sums every category;
    * ``tail`` the teacher's k and the rest as one, a lower bound;
    * ``renormalised`` the k alone, rescaled: blind to how much mass they hold;
    * ``partial`` their part of the sum, which may be negative or above the whole;
    * ``sampled`` the token that is there: for ``forward`` its negative log-likelihood, unbiased up to a constant where
      the teacher wrote it; for ``reverse`` a score function, unbiased in the gradient where the student did.

    Args:
        divergence: ``forward``, ``reverse``, ``jensen``, ``skewed_forward`` or ``skewed_reverse``.
        estimator: One of those above.
        k: Categories of the teacher that are kept, >= 1.
        beta: The teacher's share in the mixture of ``jensen``, in [0, 1].
        alpha: Share of the first side in the second of the skewed ones, in [0, 1).

    Raises:
        SettingError: Names that are none of these, or a sample of a divergence that has no such estimate.
    """
    compare = {
        "forward": kl_forward, "reverse": kl_reverse, "jensen": Jensen(beta), "skewed_forward": SkewedForward(alpha),
        "skewed_reverse": SkewedReverse(alpha),
    }.get(divergence)  # fmt: skip
    sampled = {"forward": Targets(), "reverse": ScoreFunction(gap())}.get(divergence)
    known = {"full": compare, "sampled": sampled, **dict.fromkeys(RESTS, compare)}
    if known.get(estimator) is None or compare is None:
        raise SettingError(
            "divergence and estimator",
            got=f"{divergence!r}, {estimator!r}",
            expected=f"a divergence, and full, {', '.join(RESTS)} or, of forward and reverse, sampled",
            remedy="Sum over the vocabulary (full) where a single token says nothing.",
        )
    if estimator == "sampled" and sampled is not None:
        return sampled
    return Match(compare, on=whole if estimator == "full" else Top(k, rest=RESTS[estimator]))
