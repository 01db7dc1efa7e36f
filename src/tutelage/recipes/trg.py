"""Token-level relationship graphs: who is close to whom across a batch, and within each row."""

from dataclasses import replace

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.schedule import Linear
from ..core.signal import Read
from ..core.term import Term, Update, per_row
from ..data.source import Corpus
from ..signals.classes import Answer
from ..signals.graphs import NeighbourGraph, SameToken, SelfSimilarity
from ..signals.layers import width_maps
from ..signals.lenses import Level, Project
from ..signals.toward import Beneath


@recipe(
    paper="arXiv:2306.12442",
    family="features",
    formula="CE + kd T^2 KL(p_T || q_T) + local KL(A_p || A_q) over nearest tokens + global InfoNCE of the same token "
    "+ inner MSE of softmax(F F^T / sqrt D) within each row",
    differs=(
        "Tokens are the last states at the trained positions, not patches; nothing has to be resized.",
        "k, the variance, one side's neighbours for both, weights and temperatures are reconstructed; the global "
        "temperature falls on a line.",
        "The teacher stands first in the local KL, the usual direction; `reverse` is as printed.",
        "Only the student is projected, into the teacher's space, and only for the global term.",
        "For the inner term each state is brought to one length: products of long states would make every softmax pick "
        "the token itself. Drawn tokens that the teacher holds in one place count once.",
    ),
    axes={"writer": "data", "divergence": "graphs of states, forward KL, labels", "gradient": "supervised"},
)
def trg(
    *,
    local_scale: float = 1.0,
    global_scale: float = 0.1,
    inner_scale: float = 1.0,
    kd_scale: float = 1.0,
    label_scale: float = 1.0,
    temperature: float = 4.0,
    num_neighbours: int = 8,
    most: int = 512,
    sharpness: float = 1.0,
    coarse: float = 0.5,
    fine: float = 0.07,
    reverse: bool = False,
) -> Recipe:
    """Give the student's tokens the teacher's neighbourhoods, across the batch and within each row.

    The terms relate the whole batch: a step takes it at once, so micro_batch_size must be batch_size.

    Args:
        local_scale: Weight of the neighbour graph, >= 0.
        global_scale: Weight of finding the same token among all, >= 0.
        inner_scale: Weight of the similarities within a row, >= 0.
        kd_scale: Weight of the soft loss, >= 0.
        label_scale: Weight of the cross-entropy with the data, >= 0.
        temperature: Of the soft loss, > 0.
        num_neighbours: Of each token, >= 1; 8 to 16 is usual.
        most: Tokens of a batch that make up the graph, >= 2; its cost grows with their square.
        sharpness: The neighbour graph's inverse temperature, > 0; 1 is as published, and nearly flat.
        coarse: The global term's temperature at the start, > 0.
        fine: The global term's temperature at the end, > 0.
        reverse: The student first in the local KL.

    Limits:
        local_scale=0, global_scale=0, inner_scale=0, label_scale=0: forward_kl with the same temperature.
        local_scale=0, global_scale=0, inner_scale=0, kd_scale=0: supervised.
    """
    scales = (local_scale, global_scale, inner_scale, kd_scale, label_scale)
    if min(scales) < 0 or max(scales) == 0 or min(sharpness, coarse, fine) <= 0:
        got = f"{scales}, sharpness={sharpness}, temperatures {coarse}, {fine}"
        raise SettingError("trg", got=got, expected="scales >= 0, one above; others > 0", remedy="See the defaults.")
    q, p = (Read(who, through=(Beneath(),)) for who in ("student", "teacher"))
    level_q, level_p = (replace(read, through=(*read.through, Level())) for read in (q, p))
    mapped = replace(q, through=(*q.through, Project("map", 0)))
    graph = NeighbourGraph(q, p, num_neighbours, most, 1 / sharpness, reverse)
    terms = (
        Term("local", graph, scale=local_scale),
        Term("global", SameToken(mapped, p, most, Linear(coarse, fine)), scale=global_scale),
        Term("inner", SelfSimilarity(level_q, level_p), scale=inner_scale, per=per_row),
        *Answer().judged("teacher", temperature, kd_scale, label_scale),
    )
    parts = width_maps("map", 0) if global_scale else {}
    update = Update(tuple(t for t in terms if t.scale), ("student", *parts))
    return Recipe((Train("train", Corpus("train"), (update,), parts=parts),))
