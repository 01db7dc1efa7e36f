"""Progressive distillation: teacher, data and objective change one at a time."""

from ..core.gradual import gradual, in_order, with_teacher
from ..core.recipe import Change, Recipe, Stage, Train, recipe
from ..core.term import Term, Update
from ..data.source import Corpus
from ..signals.classes import Answer
from ..signals.layers import latent, width_maps
from ..surgery.copy import Copy

# by stage: whether the teacher is the tuned one, the text the task's, and the answer judged
STAGES = {"general": (0, 0, 0), "enhanced": (1, 0, 0), "adapt": (1, 1, 0), "specify": (1, 1, 1)}


@recipe(
    paper="arXiv:2106.02241",
    family="compression",
    formula="sum_m |W_m h_m - h'_g(m)|^2 / d + sum_m mean (A_m - A'_g(m))^2; last also soft T^2 KL(p || q) + hard CE",
    differs=(
        "The abstract names stages and losses; forms, layer map, weights and settings are reconstructed.",
        "The attention error is a mean over the keys that a query sees, then over queries, not over pairs.",
        "The layer map is M even steps through both models, so the student too may have more than M blocks.",
        "The maps begin as the identity and are learned even where the widths are equal, unless `tie` is set.",
        "A causal model's task is its answer: soft and hard losses stand at the answer's tokens, without a new head.",
        "A row's class is read off the mean of its final states by a linear head; BERT's would read [CLS].",
        "Unless the run names a tuned teacher, a stage of the run tunes a copy of the teacher on the task.",
        "Steps and rates are the run's; the card has 50, 20, 15, 15 % of them, at 1e-4, 1e-4, 5e-5 and 2e-5.",
    ),
    axes={"writer": "data", "divergence": "states, attention, then forward KL with labels", "gradient": "supervised"},
)
def ernie_tiny(
    *,
    general: str = "train",
    task: str = "train",
    tuned: str = "",
    label: str = "",
    classes: tuple[str, ...] = (),
    layers: int = 4,
    attention: str = "scores",
    level: bool = False,
    tie: bool = False,
    latent_scale: float = 1.0,
    temperature: float = 1.0,
    soft_scale: float = 1.0,
    hard_scale: float = 1.0,
    stages: tuple[str, ...] = tuple(STAGES),
    allow_jump: bool = False,
) -> Recipe:
    """Follow a teacher on general text, then the teacher fine-tuned, then on the task's text, then with its labels.

    Args:
        general: The data set of general text; every position of a row counts. Name another than the task's.
        task: The task's data set.
        tuned: The slot of a teacher fine-tuned on the task; by default a copy of the teacher is tuned on it.
        label: The field that holds a row's class; empty for a causal model whose task is to write the data's answers.
        classes: With `label`, its values, two or more.
        layers: M, from 1 to the student's blocks: compared are M even steps through both models; the paper's student
            has 4 blocks.
        attention: `scores` compares scores before the softmax, `heads` each head's probabilities by KL, `average` the
            probabilities averaged over heads, which models with other numbers of heads need.
        level: Compare states at one length. The paper's encoders do not; a causal model's stream needs it, because a
            few positions are a thousand times longer than the rest and would decide everything.
        tie: Compare states as they are, without learned maps; the widths must be equal.
        latent_scale: Weight of states and attention in the last stage, >= 0; 1 is the paper's sum.
        temperature: Of the soft loss, > 0.
        soft_scale: Weight of the soft loss, >= 0.
        hard_scale: Weight of the labels, >= 0.
        stages: Which of the four there are, in this order.
        allow_jump: Let several of teacher, data and objective change from a stage to the next.

    Limits:
        tuned=teacher: the stage enhanced is the stage general.
        stages=specify, latent_scale=0, soft_scale=0: supervised.
        stages=specify, latent_scale=0, hard_scale=0, tuned=teacher: forward_kl with the same temperature.
    """
    who, answer, maps = tuned or "tuned", Answer(label, classes), {} if tie else width_maps("maps", layers)
    texts = Corpus(general, trains="all"), answer.text(task, "labelled")
    judged = answer.judged(who, temperature, soft_scale, hard_scale)
    own, theirs = answer.heads("student"), answer.heads(who)
    plan: list[Stage] = [*answer.numbered(task, "labelled")]
    for name in in_order(stages, tuple(STAGES)):
        follows, text, last = STAGES[name]
        scale, heads = (latent_scale, {**own, **theirs}) if last else (1.0, {})
        terms = latent(
            layers, who if follows else "teacher", maps="".join(maps), attention=attention, level=level, scale=scale
        )
        moves = ("student", *maps, *(own if last else ()))
        update = Update((*terms, *(judged * last)), moves, watch=answer.watch("student") * last)
        plan.append(Train(name, texts[text], (update,), parts={**maps, **heads}))
    tuning = (*(() if tuned else (who,)), *theirs)
    tune = Train("tune", texts[1], (Update((Term("hard", answer.hard(who)),), tuning),), parts=theirs)
    made = (*(() if tuned else (Change("copy", who, Copy("teacher")),)), *((tune,) if tuning else ()))
    return Recipe(with_teacher(gradual(plan, allow_jump), who, made))
