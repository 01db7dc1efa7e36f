"""On-policy distillation from rollouts and teacher scores that are written once."""

from ..core.errors import SettingError
from ..core.feedback import Alarm
from ..core.recipe import Generate, Recipe, Train, recipe
from ..core.signal import Noted, Read
from ..core.term import Term, Update
from ..data.origin import SameOrigin, Signed, Vouched
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..data.steps.note import Note
from ..signals.match import Targets
from ..signals.policy import ScoreFunction
from ..signals.readouts import LogProb
from . import base

DRIFT = "The rollouts are no longer the student's: write new ones, or stop here."


@recipe(
    paper="arXiv:2604.13010",
    family="on-policy",
    formula="-A log q(y), A = log p(y) - log q(y) fixed, on rollouts of the student after its imitation, p cached",
    differs=(
        "The watch on the drift, the mean of log q_0(y) - log q(y), and its bound are not in the code (reconstructed).",
        "Both stages answer the prompts of one data set unless `prompts` names another; the paper's have one each.",
        "Optimiser settings are the run's: the paper imitates at 8e-5 for 3000 steps, corrects at 2e-6 for 150.",
    ),
    axes={"writer": "teacher, then student once", "divergence": "reverse KL, sampled token", "gradient": "policy"},
)
def lightning_opd(
    *,
    prompts: str = "train",
    taught: str = "",
    cached: str = "",
    strict: bool = True,
    most_drift: float = 0.1,
    max_tokens: int = 4096,
    teacher_temperature: float = 1.0,
    temperature: float = 0.8,
) -> Recipe:
    """Imitate the teacher, let it score one set of the student's own answers, and be corrected without it from then on.

    Args:
        prompts: The data set that the student answers for the cache.
        taught: A data set, written by an earlier run, that the student was already trained on: there is no imitation.
        cached: With `taught`, a data set of scored rollouts of an earlier run: no teacher is needed at all.
        strict: Refuse to go on when the teacher who wrote the taught answers is not the one who scored the rollouts.
        most_drift: Nats a token by which the student may leave its start before it is said that the cache is stale.
        max_tokens: The longest answer, of either; the code's is 4096.
        teacher_temperature: Of the teacher's sampling.
        temperature: Of the student's sampling; scores are at temperature 1, as the code has it.

    Limits:
        temperature=1, in the first step, in expectation over the rollouts: opd.
    """
    if cached and not taught:
        raise SettingError(
            "lightning_opd.cached",
            got=f"{cached!r} without taught",
            expected="the data set that the student was trained on before it wrote these rollouts",
            remedy="Name it as taught: the teacher of both must be the same.",
        )
    taught_rows, cached_rows = taught or "answers", cached or "rollouts"
    ask = Ask("student", max_tokens=max_tokens, temperature=temperature)
    score = Note("teacher", LogProb(Read("teacher")))
    same = SameOrigin("teacher", (taught_rows,), now=True, strict=strict)
    teach = Ask("teacher", max_tokens=max_tokens, temperature=teacher_temperature)
    imitate = (
        Generate("write", "answers", (teach, Signed("teacher"))),
        base.train(Corpus("answers"), Term("labels", Targets()), name="imitate"),
    )
    cache = Generate("cache", "rollouts", (same, ask, score, Signed("teacher")), over=prompts)
    rows = Vouched(Corpus(cached_rows), SameOrigin("teacher", (taught_rows, cached_rows), strict=strict))
    term = Term("correct", ScoreFunction(Noted("teacher") - LogProb()))
    drift = ("drift", Noted("log_prob") - LogProb())
    correct = Train("correct", rows, (Update((term,), watch=(drift,)),), alarms=(Alarm("drift", most_drift, DRIFT),))
    return Recipe((*(() if taught else imitate), *(() if cached else (cache,)), correct))
