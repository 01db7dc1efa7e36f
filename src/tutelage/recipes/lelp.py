"""Learning from embeddings' linear projections: classes split into subclasses by the teacher's features."""

from ..core.errors import SettingError
from ..core.recipe import Change, Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Part, Term, Update
from ..models.parts import Classes
from ..signals.classes import Answer, NotedClass, RightClass
from ..signals.divergences import kl_forward
from ..signals.lenses import Classify
from ..signals.match import Match, Targets
from ..signals.subclasses import Merge, Subdivide
from ..surgery.axes import ClassAxes


@recipe(
    paper="arXiv:2409.20449",
    family="features",
    formula="KL(t || q), t(c, s) = p(c) softmax_s((h - m_c) U_c / (sigma_c beta)), U_c the class's main directions "
    "orthogonal to the differences of the head's rows, turned at random",
    differs=(
        "Without `classes` the classes are the next tokens: the `num_tokens` most frequent ones are split, the others "
        "stay whole, and the student keeps its own head; a head that tells the parts of a token is trained beside it "
        "and dropped.",
        "Only what tells the split tokens from each other is taken out: all rows of a vocabulary span every direction.",
        "With `classes` the features are the mean of a row's final states, and the teacher's head over them is trained "
        "by a stage of the run; classes of the fit are the labels, never the teacher's guesses.",
        "sigma_c is one number a class, the deviation along its directions (reconstructed).",
        "No temperature on top of the subclasses' own; the entropy of the target is subtracted, which moves nothing.",
        "Features are of the rows as they are: there is no augmentation.",
    ),
    axes={"writer": "data", "divergence": "forward KL over subclasses", "gradient": "supervised"},
)
def lelp(
    *,
    subclasses: int = 4,
    temperature: float = 1.0,
    num_tokens: int = 16,
    label_scale: float = 0.0,
    label: str = "",
    classes: tuple[str, ...] = (),
) -> Recipe:
    """Distil into made-up subclasses, whose memberships linear projections of the teacher's features tell.

    Args:
        subclasses: Parts of each class, >= 1, fewer than it has examples; up to about 10 in the paper, 1 is plain KL.
        temperature: Of the memberships, > 0; 0.3 to 1 is usual; in small trials 1 is best, and a large one makes
            all parts alike.
        num_tokens: Without classes, how many next tokens are split at most, >= 2; those trained most often.
        label_scale: Weight of the cross-entropy with the data, >= 0; the paper has none.
        label: The field that holds a row's class; empty where the data's answers are text.
        classes: With `label`, its values, two or more.

    Limits:
        subclasses=1: forward_kl.
    """
    if label_scale < 0:
        raise SettingError("lelp.label_scale", got=str(label_scale), expected=">= 0", remedy="0 is the paper's.")
    answer, who = Answer(label, classes), "student.subclasses"
    axes = ClassAxes("teacher", "labelled" if classes else "train", "teacher.classes" if classes else "", subclasses,
                     temperature, num_tokens)  # fmt: skip
    split, over = Subdivide("axes", "axes", subclasses), answer.read("teacher").over
    p = Read("teacher", answer.read("teacher").what, (*answer.read("teacher").through, split), over)
    q = Read("student", p.what, (Classify(who) if classes else Subdivide(who, "axes", subclasses),), over)
    merged = Read("student", p.what, (*q.through, Merge(subclasses)), over)
    hard = NotedClass(merged) if classes else Targets()
    terms = (
        Term("subclasses", Match(kl_forward, q, p)),
        *((Term("hard", hard, scale=label_scale),) * bool(label_scale)),
    )
    size = (("out_features", (len(classes) or num_tokens) * subclasses),)
    parts = {who: Part(Classes, size, (("in_features", "student.hidden_size"),)), **answer.heads("teacher")}
    source, watch = answer.text("train", "labelled"), (("right", RightClass(merged)),) * bool(classes)
    update = Update(terms, ("student", who), watch=watch)
    made = (*answer.numbered("train", "labelled"), *answer.probed("teacher", source), Change("axes", "axes", axes))
    return Recipe((*made, Train("train", source, (update,), parts=parts)))
