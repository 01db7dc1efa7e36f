"""Distillation whose teacher may be noisy or flat, and a report that parts being right from being like the teacher."""

from ..core.errors import SettingError
from ..core.recipe import Change, Evaluate, Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..data.steps.note import Note
from ..data.steps.stash import Stash
from ..evaluation.metrics.faithful import Faithful
from ..signals.divergences import Jensen, Tempered
from ..signals.match import Match, Targets
from ..signals.noisy import LogitNoise
from ..signals.pools import RowMean
from ..signals.readouts import Agrees
from ..surgery.copy import Copy
from . import base


@recipe(
    paper="arXiv:2505.15442",
    family="evaluation",
    formula="T^2 JSD_beta(softmax((z_T + s n) / T), softmax(z / T)) on data or on the student's answers",
    differs=(
        "Losses are means a token of the answer; the authors' mask also counts prompts, their mean is a sequence's.",
        "beta weighs both sides as the divergence has it; their code mixes the two, which shows only off 0.5.",
        "Noise is fixed by the last 16 tokens, not drawn anew each time it is read.",
        "The teacher is fine-tuned on the data first only if `tune` is set; adapters, rates and lengths are the run's.",
        "One pair and one method a run; `evaluation.statistics.correlate` reports over the cells of a grid of runs.",
        "Fidelity of rationales is BLEU over words; sentence embeddings are not read.",
    ),
    axes={
        "writer": "data and student",
        "divergence": "forward, reverse KL or Jensen-Shannon",
        "gradient": "supervised",
    },
)
def generalization_vs_fidelity(
    *,
    beta: float = 0.0,
    student_share: float = 0.0,
    temperature: float = 1.0,
    noise: float = 0.0,
    tune: bool = False,
    max_tokens: int = 128,
) -> Recipe:
    """Distil, then ask both models the held-out prompts: who is right, who agrees, and how alike their reasons are.

    Args:
        beta: 0 is forward KL (the paper's SeqKD), 1 reverse KL (RevKD), 0.5 Jensen-Shannon (GKD), in [0, 1].
        student_share: Probability that a step uses the student's own answers, in [0, 1]; GKD's is 0.5.
        temperature: T, > 0, of both sides of the loss, whose value is multiplied by its square; 2 was best, 5 too much.
        noise: s, >= 0, the deviation of the noise on the teacher's logits, in nats.
        tune: Fine-tune a copy of the teacher on the data first, and learn from it.
        max_tokens: The longest answer.

    Limits:
        noise=0, student_share=0: jensen with the same beta at temperature 1.
        noise=0, beta=0.5, student_share=0.5: gkd at temperatures of 1.
    """
    if not 0 <= student_share <= 1 or noise < 0:
        raise SettingError(
            "generalization_vs_fidelity",
            got=f"student_share={student_share}, noise={noise}",
            expected="a share in [0, 1] and noise >= 0",
            remedy="0 and 0 are the plain case.",
        )
    who = "tuned" if tune else "teacher"
    labels = Update((Term("labels", Targets(Read("tuned"))),), ("tuned",))
    first = (Change("copy", "tuned", Copy("teacher")), Train("tune", Corpus("train"), (labels,))) if tune else ()
    compare = Tempered(Jensen(beta), temperature)
    term = Term("match", Match(compare, p=Read(who, through=(LogitNoise(noise),) if noise else ())))
    train = base.mixed(term, student_share=student_share, max_tokens=max_tokens, temperature=1.0)
    notes = (Note("kl", RowMean(Match(Jensen(0.0), p=Read(who)))), Note("top1", RowMean(Agrees(p=Read(who)))))
    theirs, own = (Ask(slot, max_tokens=max_tokens, temperature=0.0) for slot in (who, "student"))
    both = {"both": (theirs, *notes, Stash("taught"), own)}
    return Recipe((*first, train, Evaluate("fidelity", both, {"faithful": Faithful(means=("kl", "top1"))})))
