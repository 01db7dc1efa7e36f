"""Reverse KL over whole answers, by policy gradient."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Constant, Noted, Read
from ..core.term import Term, Update, kept, per_token
from ..data.live import Live
from ..data.source import Beside, Corpus
from ..data.steps.ask import Ask
from ..data.steps.note import Note
from ..signals.divergences import kl_forward, kl_reverse
from ..signals.importance import Ratio, Whitened
from ..signals.match import Match, Targets
from ..signals.policy import Clipped
from ..signals.pools import ToGo
from ..signals.readouts import LogProb
from ..voices.blend import Blend


@recipe(
    paper="arXiv:2306.08543",
    family="on-policy",
    formula="w clipped(q / q_old, mean of log p/q_old over later tokens) + w KL(q || p) + CE and KL(p || q) on text",
    differs=(
        "The advantage counts strictly later tokens, as the paper derives it; the released code counts the token too.",
        "The weight w multiplies both parts of the loss, as in the paper; the code has it inside the clip alone.",
        "Rewards are neither scaled nor bounded; advantages are whitened over the part of a round a process writes.",
        "Each of the reuse steps takes the whole round; the code goes through a round in mini-batches, four times.",
        "On text, KL(p || q) stands for the code's cross-entropy with the teacher: the gradient is the same.",
    ),
    axes={"writer": "student with teacher", "divergence": "reverse KL of answers", "gradient": "policy"},
)
def minillm(
    *,
    teacher_share: float = 0.2,
    reuse: int = 4,
    clip: float = 0.2,
    text: str = "train",
    text_scale: float = 1.0,
    text_kd_share: float = 0.5,
    max_tokens: int = 256,
) -> Recipe:
    """Minimise the reverse KL of whole answers: each token answers for the mean log-ratio of those that follow it.

    Tokens are drawn from ``mix = teacher_share p + (1 - teacher_share) q_old``, so each has the weight w = q_old / mix.

    Args:
        teacher_share: The teacher's share of each token's sampling distribution, in [0, 1); 0.2 keeps the student from
            answers that only please the teacher (repetition).
        reuse: Optimiser steps that use a round of answers, >= 1; the paper goes through each round 4 times.
        clip: How far q / q_old may move before its gradient stops, in [0, 1).
        text: The data set of plain text that keeps the student a language model; the paper's is a pre-training corpus.
        text_scale: Weight of the loss on text, >= 0; 0 leaves the text out.
        text_kd_share: Share of the teacher's distribution in the loss on text, in [0, 1]; the code's kd_ratio.
        max_tokens: The longest answer; the paper's inputs and answers share 512 tokens.

    Limits:
        teacher_share=0, reuse=1, text_scale=0 and answers of one token: opd.
    """
    if not 0 <= teacher_share < 1 or text_scale < 0 or not 0 <= text_kd_share <= 1:
        raise SettingError(
            "minillm",
            got=f"teacher_share={teacher_share}, text_scale={text_scale}, text_kd_share={text_kd_share}",
            expected="teacher_share in [0, 1), text_scale >= 0 and text_kd_share in [0, 1]",
            remedy="0.2, 1 and 0.5 are the paper's.",
        )
    old, advantage = Noted("old"), Whitened(ToGo(Noted("teacher") - Noted("old"), mean=True))
    notes = {"old": LogProb(), "teacher": LogProb(Read("teacher")), "advantage": advantage,
             "answer": Ratio(old, Noted("drawn")), "text": Constant(0.0)}  # fmt: skip
    ask = Ask(Blend(("student", "teacher"), (1 - teacher_share, teacher_share)), max_tokens=max_tokens)
    answers = Live(ask, *(Note(name, note) for name, note in notes.items()), prompts="train", reuse=reuse)
    # a row of text bears the notes of an answer with nothing in them, so that only the terms on text count it
    blank = (Note(name, Constant(float(name == "text"))) for name in notes)
    source = Beside((answers, Live(*blank, prompts=Corpus(text, trains="all")))) if text_scale else answers
    on_answer, on_text = ({"weight": Noted(name), "per": kept(per_token)} for name in ("answer", "text"))
    terms = (
        Term("policy", Clipped(Noted("advantage"), old, clip, clip), **on_answer),
        Term("kl", Match(kl_reverse), **on_answer),
        Term("text", Targets(), scale=text_scale * (1 - text_kd_share), **on_text),
        Term("text_kl", Match(kl_forward), scale=text_scale * text_kd_share, **on_text),
    )
    return Recipe((Train("train", source, (Update(terms if text_scale else terms[:2]),)),))
