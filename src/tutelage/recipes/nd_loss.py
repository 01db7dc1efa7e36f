"""Feature norm and direction: distillation with one term that lengthens and turns the student's features."""

from ..core.errors import SettingError
from ..core.recipe import Change, Recipe, Stage, Train, recipe
from ..core.schedule import Linear
from ..core.signal import Read
from ..core.term import Term, Update
from ..signals.classes import Answer
from ..signals.layers import width_maps
from ..signals.lenses import Classify, Project
from ..signals.toward import Beneath, ClassRow, Toward
from ..surgery.fit import ClassMeans


@recipe(
    paper="arXiv:2305.17007",
    family="features",
    formula="nd (1 - <f, e> / max(|f|, |t|)) + kd w T^2 KL(p_T || q_T) + CE, e the class's unit mean of teacher "
    "features, w rising to 1 over the warm-up",
    differs=(
        "Without `classes` the classes are the next tokens, at each trained position, and e is the teacher's own "
        "unembedding row of the token, not a mean of states.",
        "The projector is one linear map that begins as the identity; the paper's has batch normalisation and dropout "
        "before it, which would make a row's loss depend on the others.",
        "With `classes` the features are the mean of a row's final states, and the teacher's logits come from a head "
        "over them that a stage of the run trains first.",
        "Class means are kept in float32; the released ones are rounded text.",
        "The warm-up is a share of the stage's steps, the paper's of epochs; optimiser and rate are the run's.",
    ),
    axes={"writer": "data", "divergence": "norm-aware cosine, forward KL, labels", "gradient": "supervised"},
)
def nd_loss(
    *,
    nd_scale: float = 1.0,
    kd_scale: float = 1.0,
    label_scale: float = 1.0,
    temperature: float = 4.0,
    warmup_share: float = 0.1,
    project: bool = False,
    label: str = "",
    classes: tuple[str, ...] = (),
) -> Recipe:
    """Push the student's last features along the direction of their class in the teacher, and make them long.

    Args:
        nd_scale: Weight of the push, >= 0; the paper's are 1 to 4.
        kd_scale: Weight of the soft loss once it is warm, >= 0; the paper's is 1.
        label_scale: Weight of the cross-entropy with the data, >= 0; the paper's is 1.
        temperature: Of the soft loss, > 0; 4 is the paper's.
        warmup_share: Part of the stage over which the soft loss's weight rises, in [0, 1]; the push has its own at
            once.
        project: Learn a map from the student's width to the teacher's for the push alone; needed where they differ.
        label: The field that holds a row's class; empty where the data's answers are text.
        classes: With `label`, its values, two or more.

    Limits:
        nd_scale=0, label_scale=0, warmup_share=0: forward_kl with the same temperature.
        nd_scale=0, kd_scale=0: supervised.
    """
    if min(nd_scale, kd_scale, label_scale) < 0 or not 0 <= warmup_share <= 1:
        raise SettingError(
            "nd_loss",
            got=f"scales {nd_scale}, {kd_scale}, {label_scale}, warmup_share={warmup_share}",
            expected="scales >= 0 and a share in [0, 1]",
            remedy="1, 1, 1 and 0.1 are usual.",
        )
    answer = Answer(label, classes)
    over, what, head = ("rows", "pooled", ()) if classes else ("tokens", "next", (Beneath(),))
    axis = (Classify("means"), ClassRow("label", "rows")) if classes else (ClassRow(),)
    own = Read("student", what, (*head, *((Project("map", 0),) if project else ())), over)
    push = Toward(own, Read("teacher", what, head, over), Read("teacher", what, axis, over))
    warm = Linear(0.0, kd_scale, 0.0, warmup_share) if warmup_share else kd_scale
    terms = (Term("nd", push, scale=nd_scale), *answer.judged("teacher", temperature, warm, label_scale))
    parts = {**(width_maps("map", 0) if project else {}), **answer.heads("student")}
    update = Update(terms, ("student", *parts), watch=answer.watch("student"))
    source = answer.text("train", "labelled")
    plan: list[Stage] = [*answer.numbered("train", "labelled"), *answer.probed("teacher", source)]
    if classes:
        plan.append(Change("means", "means", ClassMeans("teacher", "labelled")))
    return Recipe((*plan, Train("train", source, (update,), parts={**parts, **answer.heads("teacher")})))
