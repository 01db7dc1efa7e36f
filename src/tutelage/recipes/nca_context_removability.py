"""Context distillation that survives the context's return."""

from ..core.recipe import Evaluate, Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.live import Live
from ..data.steps.ask import Ask
from ..data.steps.through import Through
from ..data.views import Told
from ..evaluation.metrics.paired import Harm
from ..signals.divergences import kl_forward, kl_reverse
from ..signals.grades import Grade, find
from ..signals.match import Match, Top, whole
from ..voices.itself import Initial
from ..voices.says import Says


@recipe(
    paper="arXiv:2606.11627",
    family="on-policy",
    formula="KL(q(. | x) || p(. | x, c)) + beta KL(stopped q(. | x) || q(. | x, c)) on answers written without c",
    differs=(
        "The k tokens of each term are those of its first argument, renormalised on both sides (reconstructed).",
        "The cosine of hidden states between the two views is not measured; harm and lengths are.",
        "Games as environments are not here; lengths, batch and rate are the run's.",
    ),
    axes={"writer": "student", "divergence": "reverse KL, and forward KL to itself", "gradient": "supervised"},
)
def nca_context_removability(
    *,
    context: str = "reference",
    beta: float = 0.5,
    num_kept: int | None = 256,
    teacher: str = "",
    verifier: str = "number",
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Learn to act without a context as a teacher does with it, and anchor what the student does with it to that.

    Args:
        context: The field of the records that holds the context; `reference`, the data's own answer, is there always.
        beta: Weight of the anchor, >= 0; the paper's best is 0.5, and 0 is plain context distillation.
        num_kept: Compare only the k most probable tokens, renormalised, >= 1; none compares all.
        teacher: The slot of a teacher that sees the context; empty takes the student as it was at the start.
        verifier: What says right or wrong in the measure of harm: `exact`, `number`, `symbolic`, `schema`, `program`
            or `task`, or the path of a Python file with a function of its name, `Record -> number`.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        beta=0 and all tokens kept: opsd with beta=1 told the same.
        an empty context and the current weights as teacher: no gradient, whatever beta.
    """
    told = Told(context)
    informed = Says(teacher, "told") if teacher else Initial("student", "told")
    of_student = whole if num_kept is None else Top(num_kept, of="student", rest="renormalise")
    of_anchor = whole if num_kept is None else Top(num_kept, rest="renormalise")
    terms = [Term("kl", Match(kl_reverse, p=Read("informed"), on=of_student))]
    if beta:
        anchor = Match(kl_forward, q=Read("returned"), p=Read("student"), on=of_anchor)
        terms.append(Term("anchor", anchor, scale=beta))
    ask = Ask("student", max_tokens=max_tokens, temperature=temperature)
    voices = {"informed": informed, "returned": Says("student", "told")}
    train = Train("train", Live(ask, prompts="train"), (Update(tuple(terms)),), voices=voices, views={"told": told})
    greedy = Ask("student", max_tokens=max_tokens, temperature=0.0)
    again = (greedy, Grade(find(verifier), "right"), Through(told, greedy), Grade(find(verifier), "right when told"))
    return Recipe((train, Evaluate("context", {"with and without": again}, {"harm": Harm("right", "right when told")})))
