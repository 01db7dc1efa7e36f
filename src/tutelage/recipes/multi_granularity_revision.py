"""Sequences, tokens and phrases revised: answers corrected on the way, a learned band of the teacher, neighbours."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Part, Term, Update, kept, per_token
from ..data.live import Live
from ..data.steps.ask import Ask
from ..data.steps.revise import revisions
from ..signals.band import Bounds, learned_band
from ..signals.best import Best
from ..signals.divergences import kl_forward
from ..signals.match import Match
from ..signals.neighbours import MatchPairs, SamePhrase


@recipe(
    paper="arXiv:2407.10068",
    family="on-policy",
    formula="KL(p' || q') within the band of p's mass from l to u that a part learns + span_scale mean over phrases of "
    "sum ((q_i q_i+1)^a - (p_i p_i+1)^a)^2, on own answers with the teacher's token at the worst place",
    differs=(
        "Sizes, soft edges, the mass floor as a penalty and its weight 1 are reconstructed from reviews of the paper.",
        "Phrases lie between punctuation, 8 tokens at most; the paper's come from a chunker.",
        "Products of neighbours are taken to the power 1/2, since at 1 they vanish with the vocabulary.",
        "Each round is on-policy; the replay of earlier answers and the loss on references are not there.",
        "An answer whose every token is the teacher's best stays as it is (reconstructed).",
    ),
    axes={"writer": "student, corrected", "divergence": "forward KL in a learned band", "gradient": "supervised"},
)
def multi_granularity_revision(
    *,
    rounds: int = 1,
    banded: bool = True,
    span_scale: float = 0.5,
    least_mass: float = 0.5,
    outside: float = 0.0,
    num_read: int = 64,
    longest_phrase: int = 8,
    power: float = 0.5,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Correct the student's answers where they derail, and teach it what of the teacher a small student can follow.

    Args:
        rounds: Times that each answer is corrected at its worst place and written on, >= 0.
        banded: Compare within the band that a part learns; else over the whole vocabulary.
        span_scale: Weight of the loss on neighbouring tokens of a phrase, >= 0.
        least_mass: Of the teacher's mass that the band should keep, in [0, 1]; without it an empty band would be best.
        outside: Weight of what the student puts outside the band, >= 0; the paper forgives it.
        num_read: Probabilities of the teacher that the band's part reads, >= 1.
        longest_phrase: Tokens, >= 2.
        power: a, in (0, 1].
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        rounds=0, banded=False and span_scale=0: gkd with student_share=1 and beta=0.
    """
    if span_scale < 0 or num_read < 1:
        raise SettingError(
            "multi_granularity_revision",
            got=f"span_scale={span_scale}, num_read={num_read}",
            expected="span_scale >= 0 and num_read >= 1",
            remedy="0.5 and 64 are usual.",
        )
    ask = Ask("student", max_tokens=max_tokens, temperature=temperature)
    revised = revisions(ask, rounds, Best(Read("teacher")), Match(kl_forward))
    tokens = learned_band("band", num_read, least_mass, outside) if banded else Match(kl_forward)
    spans = Term("spans", MatchPairs(power), SamePhrase(longest_phrase), span_scale, kept(per_token))
    update = Update((Term("tokens", tokens), *((spans,) if span_scale else ())), ("student", *(["band"] * banded)))
    parts = {"band": Part(Bounds, (("width", num_read),))} if banded else {}
    return Recipe((Train("train", Live(ask, *revised, prompts="train"), (update,), parts=parts),))
