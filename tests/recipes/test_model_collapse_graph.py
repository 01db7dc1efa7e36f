"""The graph of model collapse, check by check of its card, and the graph that a recipe has."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.recipe import Evaluate, Generate, Recipe, Repeat, Train
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.live import Live, Replay
from tutelage.data.pipeline import run_steps
from tutelage.data.source import Beside, Corpus
from tutelage.data.steps.ask import Ask
from tutelage.evaluation.interaction import Graph
from tutelage.evaluation.lineage import bounded, learning_graph
from tutelage.evaluation.rounds import categoricals, regressions
from tutelage.recipes.model_collapse_graph import model_collapse_graph
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Targets
from tutelage.voices.itself import Initial, Now

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, limit, trains, step, same = (KIT[n] for n in ("world", "limit", "trains", "step", "same"))

SELF, FED = Graph(("a",), ((1.0,),), (0.0,)), Graph(("a",), ((0.8,),), (0.2,))
PAIR = Graph(("a", "b"), ((0.0, 1.0), (1.0, 0.0)), (0.0, 0.0))
HALF = Graph(("a", "b"), ((0.0, 0.7), (1.0, 0.0)), (0.3, 0.0))
CHAIN = Graph(("a", "b"), ((0.0, 0.0), (1.0, 0.0)), (1.0, 0.0))
APART = Graph(("root", "b", "c"), ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)), (1.0, 0.0, 0.0))
NOISE = 3 / 56  # sigma^2 d / (n - d - 1) for n = 60, d = 3


@pytest.mark.parametrize(
    ("graph", "collapses", "closed"),
    [(SELF, True, (("a",),)), (PAIR, True, (("a", "b"),)), (APART, True, (("b", "c"),)), (FED, False, ()), (HALF, False, ()), (CHAIN, False, ())],
    ids=["self loop", "two in a circle", "source and a circle apart", "self loop with real data", "circle with real data", "chain"],
)  # fmt: skip
def test_1_which_graphs_collapse(graph, collapses, closed):
    assert graph.collapses is collapses and graph.closed() == closed
    assert (graph.radius() < 1 - 1e-9) is not collapses


def random_graph(g):
    m = int(torch.randint(1, 9, (), generator=g))
    edges = (torch.rand(m, m + 1, generator=g, dtype=torch.float64) < 0.25) * torch.rand(m, m + 1, generator=g, dtype=torch.float64)
    edges[edges.sum(1) == 0, torch.randint(0, m + 1, (), generator=g)] = 1.0
    rows = (edges / edges.sum(1, keepdim=True)).tolist()
    return Graph(tuple(f"m{i}" for i in range(m)), tuple(tuple(r[:m]) for r in rows), tuple(1 - sum(r[:m]) if r[m] else 0.0 for r in rows))


def test_1_reachability_and_the_spectral_radius_agree_on_1000_random_graphs():
    g = torch.Generator().manual_seed(0)
    verdicts = []
    for _ in range(1000):
        graph = random_graph(g)
        verdicts.append(graph.collapses)
        assert graph.collapses == (graph.radius() >= 1 - 1e-9) == bool(graph.closed())
    assert 200 < sum(verdicts) < 800


def test_1_an_edge_points_from_who_writes_to_who_learns():
    turned = Graph(("a", "b"), ((0.0, 1.0), (0.0, 0.0)), (0.0, 1.0))
    assert not CHAIN.collapses and not turned.collapses
    lost = Graph(("a", "b"), ((1.0, 0.0), (1.0, 0.0)), (0.0, 0.0))
    assert lost.closed() == (("a",),) and lost.repair() == ("a",)
    assert Graph(("a", "b"), ((0.0, 1.0), (0.0, 1.0)), (0.0, 0.0)).repair() == ("b",)


@pytest.mark.parametrize(
    ("graph", "predicted"), [(SELF, [2.14]), (FED, [0.149]), (HALF, [0.21, 0.16]), (CHAIN, [0.054, 0.107])],
    ids=["self loop", "self loop with real data", "circle with real data", "chain"],
)  # fmt: skip
def test_2_the_simulation_follows_the_recursion(graph, predicted):
    want = graph.errors([NOISE] * len(graph.names), 40)[-1]
    assert sorted(want.tolist()) == pytest.approx(sorted(predicted), rel=0.1)
    got = regressions(graph, runs=400)[-1]
    assert torch.allclose(got, want, rtol=0.25)
    if not graph.collapses:
        assert torch.allclose(graph.steady([NOISE] * len(graph.names)), graph.errors([NOISE] * len(graph.names), 300)[-1], rtol=1e-9)


def test_2_the_covariance_is_the_sum_over_paths():
    g = torch.Generator().manual_seed(4)
    graph = next(x for x in (random_graph(g) for _ in range(99)) if len(x.names) > 3 and not x.collapses)
    noise = [0.1 * (i + 1) for i in range(len(graph.names))]
    total, power = torch.zeros(len(noise), len(noise), dtype=torch.float64), torch.eye(len(noise), dtype=torch.float64)
    for t in range(6):
        total = total + power @ torch.tensor(noise, dtype=torch.float64).diag() @ power.T
        power = power @ graph.matrix()
        assert torch.allclose(graph.errors(noise, 6)[t], total.diag())


@pytest.mark.parametrize("graph", [SELF, PAIR, FED, HALF, CHAIN], ids=["self", "pair", "fed", "half", "chain"])
def test_3_errors_grow_by_a_line_where_a_class_is_closed_and_not_elsewhere(graph):
    errors = regressions(graph, runs=600, seed=3)
    ratio = float(errors[39].mean() / errors[19].mean())
    low, high = (1.6, 2.4) if graph.collapses else (0.7, 1.4)
    assert low < ratio < high
    told = graph.errors([NOISE] * len(graph.names), 40)
    assert low < float(told[39].mean() / told[19].mean()) < high


@pytest.mark.parametrize("graph", [SELF, PAIR, APART], ids=["self", "pair", "apart"])
def test_4_a_tenth_of_real_data_at_one_model_of_each_closed_class_repairs_it(graph):
    fixed = graph.fed(0.1)
    assert len(graph.repair()) == len(graph.closed()) == 1
    assert not fixed.collapses and fixed.radius() < 1 and fixed.closed() == ()
    bound = fixed.steady([NOISE] * len(graph.names))
    assert torch.isfinite(bound).all() and (fixed.errors([NOISE] * len(graph.names), 200)[-1] <= bound + 1e-12).all()
    late = regressions(fixed, rounds=200, runs=60, seed=5)
    assert float(late[-1].max()) < 2 * float(bound.max())
    lost = torch.isinf(graph.steady([NOISE] * len(graph.names)))
    assert [n for n, x in zip(graph.names, lost, strict=True) if x] == list(graph.closed()[0])


def zipf(size=50):
    p = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    return p / p.sum()


def test_5_a_model_that_counts_its_own_draws_loses_atoms_and_entropy_for_good():
    start = float(torch.special.entr(zipf()).sum())
    for seed in range(3):
        support, entropy = categoricals(SELF, zipf(), seed=seed)
        assert (support.diff(dim=0) <= 0).all() and float(support[-1]) < 25
        assert float(entropy[-1]) < 0.7 * start
        kept, wide = categoricals(FED, zipf(), seed=seed)
        assert float(wide[-1]) > 0.85 * start and float(kept[-1]) > 2 * float(support[-1])


def test_6_other_names_and_another_order_permute_everything():
    g = torch.Generator().manual_seed(6)
    for _ in range(30):
        graph = random_graph(g)
        order = torch.randperm(len(graph.names), generator=g).tolist()
        other = Graph(
            tuple(graph.names[i] for i in order), tuple(tuple(graph.shares[i][j] for j in order) for i in order), tuple(graph.real[i] for i in order)
        )
        assert other.reached() == tuple(graph.reached()[i] for i in order) and other.collapses == graph.collapses
        assert {frozenset(c) for c in other.closed()} == {frozenset(c) for c in graph.closed()}
        noise = [0.1 + i for i in range(len(order))]
        moved = graph.errors(noise, 9)[:, order]
        assert torch.allclose(other.errors([noise[i] for i in order], 9), moved)


def test_accumulated_data_bounds_even_a_closed_loop():
    kept, replaced = (regressions(SELF, runs=200, accumulate=a) for a in (True, False))
    assert float(kept[-1]) < 0.15 and float(replaced[-1]) > 1.5


def test_graphs_that_are_none_are_refused():
    for names, shares, real in ((("a",), ((0.5,),), (0.2,)), (("a",), ((1.5,),), (-0.5,)), (("a", "a"), ((0, 0), (0, 0)), (1, 1)), ((), (), ())):
        with pytest.raises(SettingError, match="Graph"):
            Graph(names, shares, real)
    with pytest.raises(UnknownName):
        SELF.fed(0.1, "b")
    with pytest.raises(SettingError, match="rows"):
        regressions(SELF, rows=4)


def self_training(source, voices=None, loss=None, again=False):
    train = Train("train", source, (Update((Term("t", loss or Targets()),)),), voices=voices or {})
    return Recipe((Repeat("r", (train,), 2),) if again else (train,))


OWN = Live(Ask("student"), prompts="train")


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        (self_training(OWN), 1.0),
        (self_training(Corpus("train")), 0.0),
        (self_training(Beside((OWN, Corpus("train")))), 0.5),
        (self_training(Replay(OWN, 4)), 1.0),
        (self_training(OWN, loss=Match(kl_forward)), 0.0),
        (self_training(OWN, {"past": Now("student")}, Match(kl_forward, p=Read("past"))), 1.0),
        (self_training(OWN, {"past": Initial("student")}, Match(kl_forward, p=Read("past"))), 0.0),
        (self_training(OWN, {"past": Initial("student")}, Match(kl_forward, p=Read("past")), again=True), 1.0),
        (Recipe((Generate("w", "own", (Ask("student"),)), *self_training(Corpus("own")).stages)), 0.0),
        (build("recursive_meta_distillation", {"anchor": 0.25}), 0.75),
        (build("recursive_meta_distillation", {"anchor": 0.25, "written": True, "history": 3}), 0.75),
        (build("gkd"), 0.0),
        (build("opsd"), 0.0),
        (build("rlad_trrd"), 0.0),
    ],
    ids=["own text", "data", "half own", "replayed", "own text, teacher's labels", "itself now", "itself at the start", "itself each round",
         "own text once", "anchored generations", "anchored text", "gkd", "opsd", "rewards"],
)  # fmt: skip
def test_the_graph_of_a_recipe(recipe, share):
    graph = learning_graph(recipe)
    assert graph.names == ("student",) and graph.shares[0][0] == pytest.approx(share) and graph.real[0] == pytest.approx(1 - share)


def test_two_students_that_teach_each_other_have_a_closed_class():
    updates = tuple(Update((Term(f"of {a}", Match(kl_forward, q=Read(a), p=Read(b))),), (a,)) for a, b in itertools.permutations(("student", "peer")))
    recipe = Recipe((Repeat("r", (Train("train", Corpus(), updates),), 2),))
    assert learning_graph(recipe).closed() == (("student", "peer"),)
    with pytest.raises(SettingError, match="student and peer"):
        bounded(recipe)
    with pytest.raises(SettingError, match="no Train"):
        learning_graph(Recipe((Evaluate("e"),)))


def test_the_recipe_is_refused_where_real_data_never_comes_and_its_graph_is_what_it_says():
    with pytest.raises(SettingError, match="student"):
        build("model_collapse_graph", {"real_share": 0.0})
    for share in (0.0, 0.2, 1.0):
        graph = learning_graph(model_collapse_graph(real_share=share, allow_collapse=True))
        assert graph.real == pytest.approx((share,)) and graph.collapses is (share == 0)
    for arguments in ({"generations": 0}, {"real_share": 1.5}):
        with pytest.raises(SettingError, match="generations"):
            build("model_collapse_graph", arguments)


@limit("model_collapse_graph", "real_share=1: supervised.")
def test_on_real_data_alone(step, world):
    world.ws.data["own"] = world.records[:1]
    same(step(trains("model_collapse_graph", real_share=1.0)[0]), step(trains("supervised")[0]))


@limit("model_collapse_graph", "real_share=0, allow_collapse=true: the first generation is supervised on its own answers.")
def test_on_own_answers_alone(step, world):
    (repeat,) = model_collapse_graph(real_share=0.0, allow_collapse=True, max_tokens=6).stages
    write, train, _ = repeat.stages
    own = list(run_steps(write.steps, world.records, world.ws.within("w")))
    world.ws.data["own"] = world.ws.data["train"] = own
    one, other = step(train), step(trains("supervised")[0])
    assert one[2] == other[2] and {r.pieces[-1].author for r in own} == {"student"}
    same(one, other)
