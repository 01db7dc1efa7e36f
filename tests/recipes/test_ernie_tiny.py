"""The checks of the card, on causal models and on encoders: what is compared, what moves, and one change a stage."""

from __future__ import annotations

import copy
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

import tutelage
from tutelage.core import catalog, node
from tutelage.core.batch import View
from tutelage.core.context import Context
from tutelage.core.errors import DataError, NeedError, SettingError, UnknownName
from tutelage.core.gradual import changes, followed, moved
from tutelage.core.needs import STATES, check
from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Read
from tutelage.core.term import Part
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.label import Label
from tutelage.models.parts import Classes, Widths
from tutelage.running.assemble import build_parts
from tutelage.signals.attention import AverageHeads, EachHead, score_error
from tutelage.signals.classes import NotedClass, RightClass
from tutelage.signals.divergences import kl_forward
from tutelage.signals.layers import latent
from tutelage.signals.lenses import Classify, Level
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop, module_of
from tutelage.training.settings import TrainSettings
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

TESTS = Path(__file__).parents[1]
KIT = runpy.run_path(str(TESTS / "models" / "encoder_kit.py"))
RUNNING = runpy.run_path(str(TESTS / "running" / "conftest.py"))
make_encoder, framed = KIT["make_encoder"], KIT["framed"]
teacher_folder, data_folder, new_run, forks = (RUNNING[n] for n in ("teacher_folder", "data_folder", "new_run", "forks"))
CLASSES = {"label": "label", "classes": ("no", "yes")}
TEXTS = [("a b c", "yes"), ("d", "no"), ("e f g h a b", "no"), ("c c", "yes")]


@pytest.fixture(params=["causal", "encoder"])
def world(request, new_causal, tmp_path):
    """A pair of 4 and 2 blocks and of other widths, ragged rows, and a step's gradients by slot."""
    encoder = request.param == "encoder"
    make = make_encoder if encoder else new_causal
    ws = Workspace(tmp_path, 3)
    ws.models.update(teacher=make("teacher", seed=1), tuned=make("tuned", seed=4))
    ws.models["student"] = make("student", seed=2, num_hidden_layers=2, hidden_size=16)
    rows = [
        Record(f"r{i}", (Piece(text, trains=encoder), *(() if encoder else (Piece(answer, trains=True),))), {"label": answer})
        for i, (text, answer) in enumerate(TEXTS)
    ]  # fmt: skip
    rows = list(run_steps((Label(CLASSES["label"], CLASSES["classes"]),), rows, ws))
    given = CLASSES if encoder else {}
    return SimpleNamespace(ws=ws, rows=rows, encoder=encoder, given={"layers": 2, **given}, tokenizer=ws.models["student"].tokenizer)


def trains(world, **arguments) -> dict[str, Train]:
    made = catalog.build("ernie_tiny", {**world.given, **arguments}).stages
    return {s.name: s for s in made if isinstance(s, Train)}


def step(world, stage, *, size=99, widen=0, **how):
    """Gradients by slot and the outcome of one step; ``widen`` appends that many columns of padding."""
    ws = world.ws
    build_parts(stage, ws)
    for slot, model in ws.models.items():
        module = module_of(model).requires_grad_(slot in moved(stage)).eval()
        module.zero_grad()
    update = stage.updates[0]
    plan = Plan.of(update, {slot: Says(slot) for slot in ws.models})
    batches = [wider(Collate(world.tokenizer, 64, **how)(part), widen) for part in split(world.rows, size)]
    outcome = run_update(plan, batches, ws, Progress("train", 0, 10), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
    named = ((f"{slot}/{n}", p.grad) for slot, m in ws.models.items() for n, p in module_of(m).named_parameters())
    return {name: g.clone() for name, g in named if g is not None}, outcome


def wider(batch, by):
    """The same batch with ``by`` more columns of padding."""
    if not by:
        return batch
    view = batch.views["main"]
    width = view.inputs["input_ids"].shape[1]
    inputs = {k: torch.nn.functional.pad(v, (0, by)) for k, v in view.inputs.items()}
    at, real = (x // width * (width + by) + x % width for x in (view.at, view.real))
    return replace(batch, views={"main": View(inputs, at, real, view.row)})


def values(outcome):
    return {name: tally.mean for name, tally in outcome.tallies.items()}


def worst(a, b):
    assert a.keys() == b.keys()
    scale = max(float(x.abs().max()) for x in b.values())
    return max(float((a[n] - b[n]).abs().max()) for n in b) / scale


# -- check 1 ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attention", ["scores", "heads", "average"])
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "maps that begin as the identity"])
def test_the_teacher_itself_has_no_latent_loss_and_no_gradient(world, attention, tie):
    world.ws.models["student"] = copy.deepcopy(world.ws.models["teacher"])
    world.ws.models["tuned"] = copy.deepcopy(world.ws.models["teacher"])
    stages = trains(world, attention=attention, tie=tie)
    for name in ("general", "enhanced", "adapt"):
        grads, told = step(world, stages[name])
        assert abs(told.loss) < 1e-6 and set(values(told)) == {"states", "attention"}
        assert grads and max(float(g.abs().max()) for g in grads.values()) < 1e-5


# -- check 2 ----------------------------------------------------------------------------------------------------------
def test_the_class_head_gets_no_gradient_before_the_last_stage_and_its_losses_are_added_to_the_third(world):
    stages = trains(world)
    last, _ = step(world, stages["specify"])
    assert not world.encoder or float(last["student.classes/weight"].abs().max()) > 0
    for name in ("general", "enhanced", "adapt"):
        grads, _ = step(world, stages[name])
        assert not any("classes" in n for n in grads)
        assert {n.partition("/")[0] for n in grads} == {"student", "maps"}
    silent = trains(world, soft_scale=0.0, hard_scale=0.0)["specify"]
    (third, told), (fourth, same) = step(world, stages["adapt"]), step(world, silent)
    assert same.loss == pytest.approx(told.loss, rel=1e-6)
    assert worst({n: fourth[n] for n in third}, third) < 1e-6
    assert all(float(g.abs().max()) == 0 for n, g in fourth.items() if n not in third)
    assert step(world, stages["specify"])[1].loss > told.loss


# -- check 3, and however the rows are split and laid out ---------------------------------------------------------------
@pytest.mark.parametrize("attention", ["scores", "heads", "average"])
def test_padding_packing_and_splitting_change_no_term_and_no_gradient(world, attention):
    stage = trains(world, attention=attention)["specify"]
    grads, told = step(world, stage)
    for how in ({"widen": 7}, {"size": 1}, {"size": 2, "widen": 3}, {"padding": "left"}, {"pack": True}, {"pack": True, "size": 2}):
        other, same = step(world, stage, **how)
        assert values(same) == pytest.approx(values(told), rel=2e-6, abs=1e-6), how
        assert worst(other, grads) < 2e-5, how


# -- check 4 ----------------------------------------------------------------------------------------------------------
def loop(world, stage, tmp_path, steps=4, **settings):
    """The losses of a stage run by the loop, from the same start."""
    ws = replace(world.ws, models=type(world.ws.models)("model", {k: copy.deepcopy(m) for k, m in world.ws.models.items() if hasattr(m, "tokenizer")}))
    ws.data["train"] = ws.data["labelled"] = world.rows
    build_parts(stage, ws)
    log = Metrics(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", Processes.start())
    made = TrainSettings(steps=steps, batch_size=2, learning_rate=1e-2, max_length=64, **settings)
    run = Loop(stage, made, ws, log.processes, Collate(world.tokenizer, 64), split, {s: Says(s) for s in ws.models}, log.path.with_suffix(""), log)
    run.run()
    return [json.loads(x)["loss"] for x in log.path.read_text().splitlines()], run


def test_with_the_pre_trained_teacher_the_second_stage_is_the_first(world, tmp_path):
    stages = trains(world, tuned="teacher")
    assert replace(stages["enhanced"], name="general") == stages["general"]
    first, _ = loop(world, stages["general"], tmp_path)
    second, _ = loop(world, replace(stages["enhanced"], name="general"), tmp_path)
    other, _ = loop(world, replace(trains(world)["enhanced"], name="general"), tmp_path)
    assert first == second and other[0] != first[0] and len(set(first)) == 4


def test_each_stage_begins_with_a_fresh_optimiser_and_a_frozen_teacher_at_rest(world, tmp_path):
    stages = trains(world)
    _, one = loop(world, stages["general"], tmp_path)
    _, other = loop(world, stages["enhanced"], tmp_path, steps=1)
    counts = [{int(s["step"]) for s in run.moving[0].optimizer.state.values()} for run in (one, other)]
    assert counts == [{4}, {1}], "moments of one stage are not those of the next"
    slots = {"student", "maps"}
    assert set(other.moving[0].modules) == slots
    for slot in ("teacher", "tuned"):
        module = module_of(other.workspace.models[slot])
        assert not module.training and not any(p.requires_grad for p in module.parameters())
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), module_of(world.ws.models[slot]).state_dict().values(), strict=True))


# -- check 5 ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blocks", [1, 2, 5, 12, 30])
def test_the_layer_map_rises_strictly_and_ends_at_the_last_block(blocks):
    model = SimpleNamespace(num_layers=blocks)
    number = type(make_encoder())._number
    for steps in range(1, blocks + 1):
        at = [number(model, f"states.{m}/{steps}") for m in range(steps + 1)]
        assert at[0] == 0 and at[-1] == blocks and all(a < b for a, b in pairwise(at))
    assert number(model, f"states.0/{blocks + 1}") == -1, "more steps than blocks would compare one block twice"
    assert [number(SimpleNamespace(num_layers=12), f"states.{m}/4") for m in range(1, 5)] == [3, 6, 9, 12]


def scores_of(model, inputs):
    """Brute force: the states of every block, and its queries and keys multiplied out, in the model's own precision."""
    out = model.inner(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True)
    scores = []
    for block, h in zip(model.layers, out.hidden_states, strict=False):
        own, shape = block.attention.self, (*h.shape[:2], -1, block.attention.self.attention_head_size)
        q, k = (x(h).view(shape).transpose(1, 2) for x in (own.query, own.key))
        scores.append(q @ k.mT / own.attention_head_size**0.5)
    return out.hidden_states, scores


@pytest.mark.parametrize("attention", ["scores", "heads", "average"])
def test_brute_force_over_layers_tokens_heads_and_keys_gives_the_sums_and_their_gradients(attention):
    """A 2-block student of a 4-block teacher in float64: loops over rows and tokens against the two terms."""
    teacher, student = make_encoder(seed=1), make_encoder(seed=2, num_hidden_layers=2, hidden_size=16)
    maps = Widths(3, 16, 24)
    torch.nn.init.normal_(maps[1].weight)
    for module in (teacher.model, student.model, maps):
        module.double()
    rows = [Record(f"r{i}", (Piece(text, trains=True),)) for i, (text, _) in enumerate(TEXTS)]
    batch = Collate(framed(), 64)(rows)
    inputs = batch.views["main"].inputs
    (h, s), (t, a) = scores_of(student, inputs), scores_of(teacher, inputs)
    states, looks, tokens = 0.0, 0.0, 0
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        for i in range(length):
            tokens += 1
            for m, g in enumerate((0, 2, 4)):
                states = states + (h[m][row, i] @ maps[m].weight.T - t[g][row, i].detach()).square().sum() / 24
            for m, g in ((1, 2), (2, 4)):
                q, p = s[m - 1][row, :, i, :length], a[g - 1][row, :, i, :length].detach()
                if attention == "scores":
                    looks = looks + (q - p).square().mean()
                else:
                    q, p = (x.softmax(-1) if attention == "heads" else x.softmax(-1).mean(0) for x in (q, p))
                    looks = looks + (p * (p.log() - q.log())).sum(-1).mean()
    weights = [*student.model.parameters(), *maps.parameters()]
    want = torch.autograd.grad((states + looks) / tokens, weights, allow_unused=True)
    terms = latent(2, maps="maps", attention=attention)
    models = {"teacher": teacher, "student": student, "maps": maps}
    ws = SimpleNamespace(models=models, ledger=Workspace(Path(".")).ledger)
    wants = {w: frozenset(r.what for x in terms for r in x.loss.reads() if r.who == w) for w in ("teacher", "student")}
    ctx = Context(batch, {w: Says(w) for w in models}, wants, frozenset({"student", "maps"}), ws)
    found = [ctx(term.loss) for term in terms]
    assert all(len(x) == tokens == len(batch.units["real"]) for x in found)
    assert float(found[0].detach().sum()) == pytest.approx(float(states.detach()), rel=1e-9)
    assert float(found[1].detach().sum()) == pytest.approx(float(looks.detach()), rel=1e-9)
    got = torch.autograd.grad((found[0].sum() + found[1].sum()) / tokens, weights, allow_unused=True)
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.allclose(one, other, atol=1e-9))


def test_causal_attention_is_the_librarys_and_sees_no_later_token(new_causal):
    model = new_causal(seed=3)
    rows = [Record("a", (Piece("the thin end", trains=True),)), Record("b", (Piece("in", trains=True),))]
    view = Collate(model.tokenizer, 64)(rows).views["main"]
    with torch.no_grad():
        found = model.predict(view, frozenset({"attention.2"}))["attention.2"]
        model.inner.set_attn_implementation("eager")
        own = model.body(**view.inputs, output_attentions=True).attentions[1]
    torch.testing.assert_close(found.softmax(-1), own.transpose(1, 2).flatten(0, 1)[view.real], atol=1e-6, rtol=1e-5)
    time = view.real % view.inputs["input_ids"].shape[1]
    assert [int(x) for x in (~found.isneginf()[:, 0]).sum(-1)] == (time + 1).tolist()


# -- heads that do not fit ----------------------------------------------------------------------------------------------
def test_other_numbers_of_heads_are_refused_and_averages_compare_them():
    g = torch.Generator().manual_seed(0)
    q, p = (torch.randn(5, heads, 6, generator=g, dtype=torch.float64) for heads in (2, 3))
    for compare in (score_error, EachHead(kl_forward)):
        with pytest.raises(NeedError, match='attention="average"'):
            compare(q, p)
    q[0, :, 4:] = p[0, :, 4:] = -torch.inf
    q.requires_grad_()
    mean = [AverageHeads()(x, None) for x in (q, p)]
    assert torch.allclose(mean[0].exp(), q.softmax(-1).mean(1)) and mean[0][0, 4:].isneginf().all()
    kl_forward(mean[0], mean[1]).sum().backward()
    assert torch.isfinite(q.grad).all() and float(q.grad[0, :, 4:].abs().max()) == 0


def test_levelled_states_have_no_length_and_agree_at_equality(world):
    """A long stream at a few positions decides nothing: what each token says is its direction."""
    h = torch.tensor([[3.0, 4.0], [3e4, 4e4]], dtype=torch.float64)
    assert torch.allclose(Level()(h, None), torch.tensor([[3.0, 4.0]] * 2, dtype=torch.float64) / 12.5**0.5)
    assert float(Level()(torch.zeros(1, 2), None).abs().max()) == 0
    grads, told = step(world, trains(world, level=True)["general"])
    assert float(told.tallies["states"].mean) < 3 * 2 * 2 + 2 and grads
    world.ws.models["student"] = copy.deepcopy(world.ws.models["teacher"])
    world.ws.models.pop("maps")
    assert abs(step(world, trains(world, level=True)["general"])[1].loss) < 1e-6


# -- classes --------------------------------------------------------------------------------------------------------------
def test_a_head_over_classes_is_dense_cross_entropy_in_value_and_gradient(fixed_rows):
    batch, hidden, head, labels = fixed_rows
    read = Read("student", "pooled", (Classify("head"),), "rows")
    voice = SimpleNamespace(slots=lambda: frozenset({"student"}), predict=lambda ctx, wants: {"pooled": hidden})
    ctx = Context(batch, {"student": voice}, {}, frozenset({"student"}), SimpleNamespace(models={"head": head}))
    weight = torch.linspace(0.5, 2, len(labels), dtype=torch.float64)
    value, _ = node.total(ctx, "rows", [NotedClass(read)], weight[None])
    logits = head(hidden)
    want = (cross_entropy(logits, labels, reduction="none") * weight).sum()
    assert torch.allclose(value, want)
    leaves = (hidden, head.weight, head.bias)
    for one, other in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(want, leaves), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert torch.equal(ctx.still(RightClass(read)), (logits.argmax(-1) == labels).double())


@pytest.fixture
def fixed_rows():
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([2, 0, 1, 1, 2])
    batch = Collate(framed(), 16)([Record(f"r{i}", (Piece("a b", trains=True),), notes={"label": float(x)}) for i, x in enumerate(labels)])
    head = Classes(4, 3).double()
    with torch.no_grad():
        head.weight.normal_(generator=g)
    return batch, torch.randn(5, 4, generator=g, dtype=torch.float64).requires_grad_(), head, labels


def test_labels_are_checked_before_anything_trains(world):
    rows = [Record("x", (Piece("a", trains=True),), {"label": "maybe"})]
    with pytest.raises(UnknownName, match="maybe"):
        list(run_steps((Label("label", ("no", "yes")),), rows, world.ws))
    with pytest.raises(DataError, match="a field 'class'"):
        list(run_steps((Label("class", ("no", "yes")),), rows, world.ws))
    with pytest.raises(SettingError, match="two classes"):
        Label("label", ("yes", "yes"))
    whole = [Record("y", (Piece("a", trains=True),), {"label": 1})]
    assert next(run_steps((Label("label", ("0", "1")),), whole, world.ws)).notes == {"label": 1.0}


def test_a_parts_sizes_are_those_of_the_runs_models(world):
    made = Part(Widths, (("num_maps", 3),), (("in_features", "student.hidden_size"), ("out_features", "teacher.hidden_size")))
    widths = made(world.ws.models)
    assert [tuple(m.weight.shape) for m in widths] == [(world.ws.models["teacher"].hidden_size, 16)] * 3
    with pytest.raises(NeedError, match=r"teacher\.hidden_size"):
        made({"student": world.ws.models["student"]})


# -- the plan ---------------------------------------------------------------------------------------------------------------
def test_one_thing_changes_from_a_stage_to_the_next_and_a_jump_is_refused(world):
    stages = trains(world, general="general")
    plan = [stages[n] for n in ("general", "enhanced", "adapt", "specify")]
    assert [changes(a, b) for a, b in pairwise(plan)] == [("teacher",), ("data",), ("objective",)]
    assert [followed(s) for s in plan] == [("teacher",)] + [("tuned",)] * 3
    jump = {"general": "general", "stages": ("general", "specify")}
    with pytest.raises(SettingError, match="other teacher and other data and other objective at once.*allow_jump"):
        trains(world, **jump)
    assert list(trains(world, **jump, allow_jump=True)) == ["general", "tune", "specify"]
    with pytest.raises(SettingError, match="in this order"):
        trains(world, stages=("adapt", "general"))
    with pytest.raises(SettingError, match="both or neither"):
        catalog.build("ernie_tiny", {"label": "x"})


def test_what_moves_in_each_stage(world):
    heads = [["tuned.classes"], ["student.classes"]] if world.encoder else [[], []]
    got = {name: list(moved(stage)) for name, stage in trains(world).items()}
    assert got == {
        "general": ["student", "maps"], "tune": ["tuned", *heads[0]], "enhanced": ["student", "maps"],
        "adapt": ["student", "maps"], "specify": ["student", "maps", *heads[1]],
    }  # fmt: skip
    named = trains(world, tuned="fine", tie=True)
    assert "tune" not in named or list(moved(named["tune"])) == ["fine.classes"]
    assert "copy" not in [s.name for s in catalog.build("ernie_tiny", {"tuned": "fine"}).stages]


def test_an_encoder_is_refused_where_next_tokens_are_read():
    with pytest.raises(NeedError, match="An encoder predicts no next token"):
        check(catalog.build("ernie_tiny"), {"student": STATES, "teacher": STATES})
    check(catalog.build("ernie_tiny", CLASSES), {"student": STATES, "teacher": STATES, "tuned": STATES})


# -- whole runs -------------------------------------------------------------------------------------------------------------
def test_a_run_goes_on_with_its_maps_and_exports_only_the_student(new_run, forks):
    train = {"steps": 3, "batch_size": 3, "max_length": 96, "learning_rate": 1e-3, "checkpoint_seconds": 1e-9}
    whole, killed = (new_run(folder, recipe="ernie_tiny", args={"layers": 2}, train=train) for folder in ("whole", "killed"))
    done = forks(whole)
    assert done["code"] == 0, done["said"]
    assert forks(killed, kill="enhanced 2")["code"] == -9
    assert forks(killed)["code"] == 0
    folders = [Path(t["output"]) / t["name"] for t in (whole, killed)]
    kept = [
        [{k: v for k, v in json.loads(x).items() if not k.startswith(("time", "tokens_per"))} for x in (f / "metrics.jsonl").read_text().splitlines()]
        for f in folders
    ]
    assert kept[0] == kept[1] and [r["stage"] for r in kept[0]][::3] == ["general", "tune", "enhanced", "adapt", "specify"]
    assert (folders[0] / "student" / "model.safetensors").read_bytes() == (folders[1] / "student" / "model.safetensors").read_bytes()
    assert {p.name for p in (folders[0] / "checkpoints" / "specify" / "final").glob("*.safetensors")} == {"slot-student.safetensors", "slot-maps.safetensors"}
    assert {p.name for p in (folders[0] / "student").glob("*.safetensors")} == {"model.safetensors"}
    notes = json.loads((folders[0] / "run.json").read_text())["notes"]
    assert "Stage 'enhanced' trains student, maps; frozen: teacher, tuned." in notes


def test_two_processes_are_as_one_though_the_last_norm_gets_no_gradient(new_run, tmp_path):
    train = {"steps": 2, "batch_size": 4, "max_length": 96, "learning_rate": 1e-3}
    one, two = (new_run(folder, recipe="ernie_tiny", args={"layers": 2}, train=train, data__held_out=None) for folder in ("one", "two"))
    tutelage.run(one)
    job = tmp_path / "run.json"
    job.write_text(json.dumps(two))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(33500 + os.getpid() % 2000)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run([*launch, str(TESTS / "running" / "worker.py"), str(job)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [(Path(t["output"]) / t["name"] / "metrics.jsonl").read_text().splitlines() for t in (one, two)]
    losses = [[json.loads(x)["loss"] for x in log] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and len(losses[0]) == 10


def test_more_steps_than_blocks_are_refused_before_the_first_step(new_run):
    with pytest.raises(NeedError, match="smaller M"):
        tutelage.run(new_run(recipe="ernie_tiny", args={"layers": 3}, train={"steps": 1, "batch_size": 2}))


@pytest.fixture(scope="session")
def encoder_files(tmp_path_factory):
    from tutelage.models.export import export

    folder = tmp_path_factory.mktemp("encoders")
    export(make_encoder("teacher", seed=1), folder / "teacher", card={})
    (folder / "task.jsonl").write_text("".join(json.dumps({"text": t, "label": a}) + "\n" for t, a in TEXTS * 2))
    (folder / "general.jsonl").write_text("".join(json.dumps({"text": " ".join("abcdefgh"[i : i + 4])}) + "\n" for i in range(5)))
    return folder


def encoder_table(files, tmp_path, recipe="ernie_tiny", **arguments):
    given = {"general": "general", "label": "label", "classes": ["no", "yes"], "layers": 2} if recipe == "ernie_tiny" else {}
    return {
        "recipe": recipe, "name": "enc", "output": str(tmp_path), "args": {**given, **arguments},
        "models": {"teacher": str(files / "teacher"), "student": {"shrink": {"layers": 2, "refit": False}}},
        "data": {"train": str(files / "task.jsonl"), "general": str(files / "general.jsonl"), "held_out": str(files / "task.jsonl")},
        "train": {"steps": 2, "batch_size": 3, "learning_rate": 1e-3, "max_length": 32},
    }  # fmt: skip


def test_encoders_run_from_files_to_a_student_that_transformers_loads(encoder_files, tmp_path):
    from transformers import AutoModel

    done = tutelage.run(encoder_table(encoder_files, tmp_path))
    rows = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in rows][::2] == ["general", "tune", "enhanced", "adapt", "specify"]
    assert {"states", "attention", "soft", "hard", "right"} <= rows[-1].keys() and 0 <= rows[-1]["right"] <= 1
    assert AutoModel.from_pretrained(done.student).config.num_hidden_layers == 2
    final = done.folder / "checkpoints" / "specify" / "final"
    assert (final / "slot-student.classes.safetensors").exists() and done.report.exists()
    assert any("encoders score no next token" in n for n in json.loads((done.folder / "run.json").read_text())["notes"])


def test_encoders_are_planned_and_refused_for_other_recipes_before_weights_load(encoder_files, tmp_path):
    made = tutelage.plan(tutelage.RunFile(**encoder_table(encoder_files, tmp_path)))
    own = [s.name for s in made.stages if s.name not in ("load", "measure", "finish")]
    assert own == ["label", "general", "tune", "enhanced", "adapt", "specify"]
    for recipe in ("forward_kl", "opd"):
        with pytest.raises(NeedError, match="An encoder predicts no next token"):
            tutelage.run(encoder_table(encoder_files, tmp_path, recipe))
    assert not (tmp_path / "enc").exists()
