"""Rationales as a second task."""

from ..core.errors import SettingError
from ..core.recipe import Generate, Recipe, recipe
from ..core.signal import Noted
from ..core.term import Term, kept, per_token
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..data.steps.parse import Parse
from ..data.steps.shots import Shots, Without
from ..data.steps.tasks import Task, Tasks
from ..signals.match import Targets
from . import base


@recipe(
    paper="arXiv:2305.02301",
    family="data",
    formula="alpha CE(label | 'predict: ' x) + (1 - alpha) CE(rationale | 'explain: ' x), each a mean over its tokens",
    differs=(
        "A causal model reads the prompts; the paper trains T5, whose encoder does.",
        "The number of demonstrations and greedy decoding of the teacher are reconstructed.",
        "Answers of the teacher in which the cue is missing are dropped and counted.",
        "Rows where one task's text is cut for length keep the other task's.",
    ),
    axes={"writer": "teacher", "divergence": "cross-entropy", "gradient": "supervised"},
)
def distilling_step_by_step(
    *,
    alpha: float = 0.5,
    labels: str = "data",
    rationales: str = "teacher",
    demonstrations: str = "train",
    num_demonstrations: int = 8,
    cue: str = r"####",
    max_tokens: int = 256,
) -> Recipe:
    """Teach the label and, as a task of its own, why: prompts at work begin with 'predict: '.

    Args:
        alpha: Weight of the label task, in [0, 1]; 1 is plain training on labels.
        labels: `data` takes the label from the data's own answer, `teacher` from the teacher's.
        rationales: Who explains: `teacher`, asked with demonstrations, or `data`, whose answers hold a rationale.
        demonstrations: The data set of the demonstrations: rows whose answer is a rationale, the cue and the label.
        num_demonstrations: How many the teacher reads.
        cue: A regular expression of what stands between rationale and label; the last one counts.
        max_tokens: The longest answer of the teacher.

    Limits:
        alpha=1: supervised on the label rows; rationales have no influence.
    """
    if not 0 <= alpha <= 1:
        raise SettingError(
            "distilling_step_by_step.alpha", got=str(alpha), expected="a share in [0, 1]", remedy="0.5 is the code's."
        )
    for name, value in (("labels", labels), ("rationales", rationales)):
        if value not in ("data", "teacher"):
            raise SettingError(
                f"distilling_step_by_step.{name}", got=repr(value), expected="'data' or 'teacher'", remedy="Name one."
            )
    asked = "teacher" in (labels, rationales)
    written = {"teacher": "answer", "data": "reference" if asked else "answer"}
    ask = Ask("teacher", max_tokens=max_tokens, temperature=0.0)
    parse = (
        Parse(rf"(?P<rationale>.*)(?:{cue})", of=written[rationales]),
        Parse(rf".*(?:{cue})(?P<label>.*)", of=written[labels], whole="label" if labels == "data" else ""),
    )
    steps = (*((Shots(demonstrations, num_demonstrations), ask, Without()) if asked else ()), *parse)
    predict, explain = Task("label", "predict: ", "label"), Task("rationale", "explain: ", "rationale")
    terms = (
        Term("label", Targets(), weight=Noted("label", "rows"), scale=alpha, per=kept(per_token)),
        Term("rationale", Targets(), weight=Noted("rationale", "rows"), scale=1 - alpha, per=kept(per_token)),
    )
    write = Generate("explain", "explained", (*steps, Tasks((predict, explain))))
    return Recipe((write, base.train(Corpus("explained"), *terms)), asked=predict)
