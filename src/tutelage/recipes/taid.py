"""Temporally adaptive interpolated distillation."""

from ..core.errors import SettingError
from ..core.feedback import Climb
from ..core.recipe import Recipe, Train, recipe
from ..core.schedule import Complement
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.source import Corpus
from ..signals.divergences import cross_entropy
from ..signals.match import Match, Targets
from ..voices.blend import Blend


@recipe(
    paper="arXiv:2501.16937",
    family="objectives",
    formula="(1 - label_share) CE(p_t, q) + label_share CE(y, q), p_t = softmax((1 - t) log q + t log p), its q fixed",
    differs=(
        "t moves once an optimiser step, on the mean over the global batch; the code moves it each forward pass, on "
        "the mean of a process's micro-batch.",
        "The line that t never falls behind is that of the step in which t is used; the code's is one step older.",
        "With end below 1, t closes in on end; the code closes in on 1 and stops at end.",
        "The default of start is that of two of the paper's three pairs; Phi-3-mini to TinyLlama has 0.4.",
    ),
    axes={"writer": "data", "divergence": "forward KL to a moving target", "gradient": "supervised"},
)
def taid(
    *,
    start: float = 0.2,
    end: float = 1.0,
    rate: float = 5e-4,
    inertia: float = 0.99,
    label_share: float = 0.0,
    trains: str = "answer",
) -> Recipe:
    """Match a target that begins near the student itself and moves to the teacher as fast as the student follows.

    Args:
        start: The teacher's share t of the target at the first step, in [0, 1]; 0.2 is the paper's for most pairs.
        end: The share when the stage is done, from start to 1; 1 makes the end plain distillation.
        rate: The paper's alpha, in [0, 1]; below some thousand steps its 5e-4 adds nothing to the line: raise it.
        inertia: The paper's beta, in [0, 1): memory of how fast the loss falls; 0.99 looks back over a hundred steps.
        label_share: Share of the cross-entropy with the data's own tokens, in [0, 1]; the paper's is 0.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        start=1: the gradient of forward_kl.
        start=0, in the first step: no gradient at all.
        label_share=1: supervised.
    """
    if not 0 <= start <= end <= 1 or not 0 <= label_share <= 1:
        raise SettingError(
            "taid",
            got=f"start={start}, end={end}, label_share={label_share}",
            expected="0 <= start <= end <= 1 and a label_share in [0, 1]",
            remedy="0.2, 1 and 0 are the paper's.",
        )
    share = Climb("taid", start, end, rate, inertia)
    target = Blend(("student", "teacher"), (Complement(share), share), geometric=True)
    terms = [Term("taid", Match(cross_entropy, p=Read("target")), scale=1 - label_share)]
    if label_share:
        terms.append(Term("labels", Targets(), scale=label_share))
    source = Corpus("train", trains=trains)  # type: ignore[arg-type]
    return Recipe((Train("train", source, (Update(tuple(terms)),), voices={"target": target}),))
