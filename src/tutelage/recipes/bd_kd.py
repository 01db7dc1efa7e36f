"""Balanced divergences: online distillation in which each unit's entropies decide which KL counts more."""

from typing import Literal

from ..core.errors import SettingError, unknown
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Constant, Read
from ..core.term import Term, Update
from ..signals.classes import Answer
from ..signals.divergences import Tempered, kl_forward, kl_reverse
from ..signals.logits import AtTemperature
from ..signals.match import Match
from ..signals.picks import Above, Below
from ..signals.readouts import Entropy


@recipe(
    paper="arXiv:2212.12965",
    family="objective",
    formula="student: CE + T^2 (a KL(p || q) + b KL(q || p)), (a, b) = (1, delta) where H(q) > H(p), else (delta, 1); "
    "teacher: CE + T^2 KL(q || p); the other side is fixed in each",
    differs=(
        "The gate's weights, delta and T are reconstructed: of the paper the abstract and a summary were read.",
        "Without `classes` a unit is a trained position and its classes are the next tokens.",
        "One optimiser and one learning rate move both; the gate is read before either moves.",
        "A given teacher is trained on; the paper's begins from scratch. Two models, not K; the schedule is the run's.",
    ),
    axes={"writer": "data", "divergence": "forward and reverse KL, gated", "gradient": "supervised"},
)
def bd_kd(
    *,
    delta: float = 2.0,
    temperature: float = 1.0,
    direction: Literal["gated", "forward", "reverse"] = "gated",
    distil_scale: float = 1.0,
    label_scale: float = 1.0,
    online: bool = True,
    label: str = "",
    classes: tuple[str, ...] = (),
) -> Recipe:
    """Train student and teacher together; an overconfident student is pulled by forward, an unsure one by reverse KL.

    Args:
        delta: What the KL that is wanted weighs more than the other, >= 1; 1 is their sum everywhere.
        temperature: Of both distributions, in divergences and gate, > 0; 1 is usual in mutual learning.
        direction: `gated` is the paper's; `forward` alone is mutual learning, `reverse` its mirror.
        distil_scale: Weight of the divergences in both models' losses, >= 0.
        label_scale: Weight of both models' cross-entropy with the data, >= 0.
        online: Train the teacher too; without it the teacher is fixed.
        label: The field that holds a row's class; empty where the data's answers are text.
        classes: With `label`, its values, two or more; a teacher that is fixed then gets a head first.

    Limits:
        direction=forward, label_scale=0, online=false: forward_kl with the same temperature.
        direction=reverse, label_scale=0, online=false: reverse_kl.
        distil_scale=0, online=false: supervised.
    """
    if delta < 1 or min(distil_scale, label_scale) < 0:
        got = f"delta={delta}, scales {distil_scale} and {label_scale}"
        raise SettingError("bd_kd", got=got, expected="delta >= 1 and scales >= 0", remedy="2, 1 and 1 are usual.")
    answer = Answer(label, classes)
    q, p = answer.read("student"), answer.read("teacher")
    q_t, p_t = (Read(r.who, r.what, (*r.through, AtTemperature(Constant(temperature), r.over)), r.over) for r in (q, p))
    surplus = Entropy(q_t) - Entropy(p_t)  # above 0 the student is the less sure
    gated = (Below(surplus) * (delta - 1) + 1, Above(surplus) * (delta - 1) + 1)
    gates = {"gated": gated, "forward": (Constant(1.0), Constant(0.0)), "reverse": (Constant(0.0), Constant(1.0))}
    if direction not in gates:
        raise unknown("bd_kd.direction", direction, gates)
    forward, reverse = Tempered(kl_forward, temperature), Tempered(kl_reverse, temperature)
    terms = [Term("hard", answer.hard("student"), scale=label_scale)]
    terms.append(Term("forward", Match(forward, q, p), gates[direction][0], distil_scale))
    terms.append(Term("reverse", Match(reverse, q, p), gates[direction][1], distil_scale))
    if online:
        terms.append(Term("teacher", Match(forward, p, q), scale=distil_scale))
        terms.append(Term("teacher hard", answer.hard("teacher"), scale=label_scale))
    own, theirs, source = answer.heads("student"), answer.heads("teacher"), answer.text("train", "labelled")
    moves = ("student", *own, *(("teacher", *theirs) if online else ()))
    update = Update(tuple(terms), moves, watch=answer.watch("student"))
    probed = () if online else answer.probed("teacher", source)
    return Recipe(
        (*answer.numbered("train", "labelled"), *probed, Train("train", source, (update,), parts={**own, **theirs}))
    )
