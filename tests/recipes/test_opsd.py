"""OPSD, check by check of its card; check 7 is tests/behaviour/test_opsd.py."""

from __future__ import annotations

import copy
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core.batch import View
from tutelage.core.catalog import build
from tutelage.core.context import Context
from tutelage.core.errors import DataError, MissingExtra, ModelError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Read
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.views import Told
from tutelage.models.adapter import adapted, bare, has_adapter, merged
from tutelage.models.load import load
from tutelage.signals.divergences import Jensen, Tempered, kl_forward
from tutelage.signals.match import Match, Top
from tutelage.signals.partial import CappedForward
from tutelage.signals.policy import ScoreFunction
from tutelage.training import checkpoint as store
from tutelage.training import optim
from tutelage.training.settings import TrainSettings
from tutelage.training.step import Plan, run_update
from tutelage.voices import Ema, Initial, Now, Says, itself

TESTS = Path(__file__).parents[1]
TRAINING, CONTRACTS = (runpy.run_path(str(TESTS / name / "conftest.py")) for name in ("training", "contracts"))
RUNNING = runpy.run_path(str(TESTS / "running" / "conftest.py"))
world, worst, setting = TRAINING["world"], TRAINING["worst"], CONTRACTS["setting"]
teacher_folder, data_folder, new_run = (RUNNING[n] for n in ("teacher_folder", "data_folder", "new_run"))
NEXT = frozenset({"next"})


def stage(**arguments):
    return build("opsd", {"max_tokens": 6, **arguments}).stages[0]


@pytest.fixture
def step(world):
    """Gradients of one step of the recipe on the world's rows, each told its own answer."""

    def take(made, **changes):
        made = replace(made, **changes)
        rows = [replace(r, fields={"reference": r.pieces[-1].content * 2}) for r in world.records]
        student = world.pair.student.model
        student.requires_grad_(True).train().zero_grad()
        plan = Plan.of(made.updates[0], {"student": Says("student"), "teacher": Says("teacher"), **made.voices})
        batch = Collate(world.tokenizer, 256, made.views)(rows)
        told = run_update(
            plan, [batch], world.ws, Progress("train", 0, 9), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f()
        )
        return {n: p.grad.clone() for n, p in student.named_parameters()}, told

    return take


def size(grads):
    return max(float(g.abs().max()) for g in grads.values())


def test_1_nothing_told_is_nothing_learned_and_fixed_only_at_step_0(step, world):
    same = {"views": {"informed": lambda record: record}}
    for decay in (0.0, 1.0, 0.5):
        grads, told = step(stage(decay=decay), **same)
        assert abs(told.loss) < 1e-6 and size(grads) < 1e-6
    informed, told = step(stage())
    assert told.loss > 1e-4 and size(informed) > 1e-4
    fixed, now = stage(decay=1.0), stage(decay=0.0)
    step(fixed, **same)  # the start is remembered here
    with torch.no_grad():
        world.pair.student.model.model.norm.weight *= 1.5
    assert step(fixed, **same)[1].loss > 1e-4 and abs(step(now, **same)[1].loss) < 1e-6


def test_2_both_sides_look_at_the_same_token_whatever_their_prompts_length(world):
    """A model whose logits name the position's own last token: the sentinel of the label position."""

    class Sentinel:
        tokenizer, model = world.tokenizer, torch.nn.Identity()

        def predict(self, view: View, wants):
            return {"next": view.inputs["input_ids"].flatten()[view.at]}

    rows = [replace(r, fields={"reference": "a long solution " * (i + 1)}) for i, r in enumerate(world.records)]
    batch = Collate(world.tokenizer, 256, stage().views, pack=True)(rows)
    world.ws.models["s"] = Sentinel()
    plain, told = (Now("s", view).predict(Context(batch, {}, {}, workspace=world.ws), NEXT)["next"] for view in ("main", "informed"))
    target, first = batch.units["tokens"].target, batch.units["tokens"].time == 0
    assert torch.equal(plain[~first], told[~first]) and torch.equal(plain[~first], target[:-1][~first[1:]])
    assert len(batch.views["main"].inputs["input_ids"].flatten()) < len(batch.views["informed"].inputs["input_ids"].flatten())


def test_3_the_ends_of_beta_and_the_whole_support_by_brute_force():
    g = torch.Generator().manual_seed(3)
    s, t = ((2 * torch.randn(4, 5, generator=g, dtype=torch.float64)).log_softmax(-1) for _ in range(2))

    def kl(a, b):
        return sum(math.exp(x) * (x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True))

    for beta, want in ((0.0, lambda a, b: kl(b, a)), (1.0, kl), (0.5, lambda a, b: (lambda m: 0.5 * kl(b, m) + 0.5 * kl(a, m))(((a.exp() + b.exp()) / 2).log()))):
        loss = stage(beta=beta).updates[0].objective[0].loss
        assert loss.compare(s, t).tolist() == pytest.approx([want(a, b) for a, b in zip(s, t, strict=True)])
        top = stage(beta=beta, num_kept=5).updates[0].objective[0].loss
        assert top.on == Top(5, rest="renormalise")
        assert torch.allclose(top.compare(*top.on(s, t)), loss.compare(s, t), atol=1e-12)
    tempered = stage(loss_temperature=2.0).updates[0].objective[0].loss.compare
    assert torch.allclose(tempered(s, t), Jensen(0.5)((s / 2).log_softmax(-1), (t / 2).log_softmax(-1)))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_4_the_gradient_is_that_against_a_stored_constant(decay, step, world):
    made = stage(decay=decay)
    got, told = step(made)
    world.ws.models["copy"] = copy.deepcopy(world.pair.student)
    want, same = step(made, voices={"informed": Says("copy", "informed")})
    assert worst(got, want) < 2e-6 and told.loss == pytest.approx(same.loss, rel=1e-5)
    voice = made.voices["informed"]
    batch = Collate(world.tokenizer, 256, made.views)([replace(r, fields={"reference": "x"}) for r in world.records])
    ctx = Context(batch, {"informed": voice}, {"informed": NEXT}, frozenset({"student"}), world.ws)
    assert not ctx.say("informed")["next"].hidden.requires_grad


def moved(pair):
    with torch.no_grad():
        for p in pair.student.model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))


def said(voice, world):
    batch = Collate(world.tokenizer, 256)(world.records)
    with torch.no_grad():
        return voice.predict(Context(batch, {}, {}, workspace=world.ws), NEXT)["next"].at(slice(None))


def test_5_a_decay_of_0_is_the_current_model_and_of_1_the_start(world):
    assert isinstance(itself(decay=0), Now) and isinstance(itself(decay=1), Initial)
    average = itself(decay=0.75)
    assert isinstance(average, Ema) and average.rate == 0.25
    copied, start, now = Ema(rate=1.0), Initial(), Now()
    before = said(now, world)
    for voice in (copied, start, average):
        assert torch.equal(said(voice, world), before)
    moved(world.pair)
    for voice in (copied, start, average):
        voice.shadow.observe(Progress("t", 0, 2), {})
    assert torch.equal(said(start, world), before) and not torch.equal(said(now, world), before)
    assert torch.equal(said(copied, world), said(now, world))
    assert not torch.equal(said(average, world), before)
    again = Initial()
    again.shadow.load_state_dict(start.shadow.state_dict())
    assert torch.equal(said(again, world), before), "a run that goes on keeps its start"
    with pytest.raises(SettingError, match="decay"):
        itself(decay=1.2)


def test_5_an_adapter_switched_off_is_the_base_bitwise_and_comes_back_on_exceptions(world):
    base = said(Now(), world)
    student = world.pair.student
    world.ws.models["student"] = made = adapted(student, rank=2, targets=("q_proj", "down_proj"))
    assert torch.equal(said(Now(), world), base), "an adapter begins as nothing"
    with torch.no_grad():
        for name, p in made.model.named_parameters():
            if "lora_B" in name:
                p += 0.1
    tuned = said(Now(), world)
    assert not torch.equal(tuned, base) and torch.equal(said(Initial(), world), base)
    made.model.requires_grad_(False)
    made.model.get_submodule("base_model.model.model.norm").requires_grad_(True)
    flags = [p.requires_grad for p in made.model.parameters()]
    with pytest.raises(RuntimeError, match="teacher"), bare(made):
        raise RuntimeError("teacher")
    assert torch.equal(said(Now(), world), tuned) and [p.requires_grad for p in made.model.parameters()] == flags
    plain = merged(made)
    world.ws.models["student"] = plain
    assert not has_adapter(plain) and torch.allclose(said(Now(), world), tuned, atol=1e-5)
    assert merged(plain) is plain and has_adapter(made)


def test_only_the_adapter_trains(world):
    made = adapted(world.pair.student, rank=2)
    made.model.requires_grad_(True)
    chosen = {id(p) for g in optim.adamw([("student", made.model)], TrainSettings()).param_groups for p in g["params"]}
    names = {n for n, p in made.model.named_parameters() if id(p) in chosen}
    assert names and all("lora_" in n for n in names) and not any("lm_head" in n for n in names)
    with pytest.raises(ModelError, match="Merge"):
        adapted(made, rank=2)
    with pytest.raises(SettingError, match="rank"):
        adapted(merged(made), rank=0)
    with pytest.raises(ModelError, match="targets"):
        adapted(merged(made), rank=1, targets=("no_such",))


def test_the_extra_is_named(world, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"tutelage\[lora\]"):
        adapted(world.pair.student, rank=2)


def test_6_a_cap_bounds_each_entry_and_stops_its_gradient(setting):
    g = torch.Generator().manual_seed(1)
    z, t = (torch.randn(6, 9, generator=g, dtype=torch.float64) for _ in range(2))
    log_p = t.log_softmax(-1)
    assert torch.equal(CappedForward()(z.log_softmax(-1), log_p), kl_forward(z.log_softmax(-1), log_p))
    # one dominant entry: it is capped, and no gradient reaches the student's log-probability of it
    log_p = torch.tensor([[0.97, 0.01, 0.01, 0.01]], dtype=torch.float64).log()
    log_q = torch.tensor([[0.05, 0.35, 0.3, 0.3]], dtype=torch.float64).log().requires_grad_()
    value = CappedForward(0.5)(log_q, log_p)
    want = sum(min(p * math.log(p / q), 0.5) for p, q in zip((0.97, 0.01, 0.01, 0.01), (0.05, 0.35, 0.3, 0.3), strict=True))
    assert value.item() == pytest.approx(want)
    (grad,) = torch.autograd.grad(value.sum(), log_q)
    assert grad[0, 0] == 0 and torch.allclose(grad[0, 1:], -log_p.exp()[0, 1:])
    silent = torch.tensor([[0.0, 1.0]], dtype=torch.float64).log()
    assert float(CappedForward(0.1)(torch.tensor([[0.0, 1.0]], dtype=torch.float64).log(), silent)) == 0
    for wrong in ({"cap_nats": 0.5}, {"cap_nats": 0.0, "beta": 0.0}):
        with pytest.raises(SettingError):
            stage(**wrong)
    # through the lazy node, tile by tile
    s = setting()
    signal = Match(CappedForward(0.2))
    got = s.context()(signal)
    dense = CappedForward(0.2)(s.log_q(), s.log_p())
    assert torch.allclose(got, dense)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (s.hidden, s.weight)) for x in (got, dense)), strict=True):
        assert torch.allclose(a, b)


def test_the_sampled_token_alone_has_the_reverse_gradient_in_expectation(step):
    made = stage(sampled=True).updates[0].objective[0]
    assert isinstance(made.loss, ScoreFunction) and {r.who for r in made.loss.reads()} == {"student", "informed"}
    assert isinstance(stage().updates[0].objective[0].loss.compare, Jensen)
    assert stage(beta=0.0, cap_nats=0.3).updates[0].objective[0].loss.compare == CappedForward(0.3)
    assert isinstance(stage(loss_temperature=2.0).updates[0].objective[0].loss.compare, Tempered)
    assert size(step(stage(sampled=True))[0]) > 0


def test_a_teacher_told_nothing_by_the_data_is_named(world):
    view = Told()
    row = Record("r7", (Piece("Why?", "user"), Piece("So.", "assistant", trains=True)))
    with pytest.raises(DataError, match="record 'r7'.*nothing in field 'reference'"):
        view(row)
    with pytest.raises(DataError, match="no prompt"):
        view(Record("r8", (Piece("So.", "text", trains=True),), {"reference": "x"}))
    told = view(replace(row, fields={"reference": "{because}"}))
    assert told.pieces[0].content == "Why?\n\n{because}" and told.pieces[1] == row.pieces[1]


def test_a_told_prompt_longer_than_the_window_is_named_and_nothing_is_lost(world):
    row = replace(world.records[0], fields={"reference": "a very long solution " * 40})
    with pytest.raises(DataError, match="record 'a' in view 'informed'.*a prompt of .* tokens.*max_length=128"):
        Collate(world.tokenizer, 128, stage().views)([row])
    assert len(Collate(world.tokenizer, 128)([row]).units["tokens"]) > 0


def test_the_students_answer_is_cut_alike_in_both_views_and_cut_answers_train(world):
    ask = stage(max_tokens=12).source.steps[0]
    (row,) = run_steps((ask,), [replace(world.records[1])], world.ws.within("t"))
    batch = Collate(world.tokenizer, 256, stage().views)([row])
    assert row.fields["reference"] == world.records[1].pieces[-1].content
    assert len(batch.units["tokens"]) == len(row.pieces[-1].ids) == len(batch.views["informed"].at)
    assert row.pieces[-1].stop == "length" or row.pieces[-1].ids[-1] in world.pair.student.stop_ids


def test_an_informed_teacher_of_another_slot_is_plain_opd(step):
    made = stage(beta=1.0, temperature=1.0, top_p=1.0)
    want, told = step(build("opd", {"max_tokens": 6}).stages[0])
    got, same = step(made, views={}, voices={"informed": Says("teacher")})
    assert worst(got, want) < 2e-6 and same.loss == pytest.approx(told.loss, rel=1e-5)
    assert made.updates[0].objective[0].loss == Match(Jensen(1.0), p=Read("informed"))


def test_a_run_with_an_adapter_trains_it_alone_and_exports_it_merged(new_run):
    """The base is its own teacher; a second call of the finished run changes nothing."""
    table = new_run(recipe="opsd", args={"max_tokens": 4}, models__student={"load": new_run()["models"]["teacher"], "lora": {"rank": 2}})
    table["train"] = {"steps": 2, "batch_size": 4, "max_length": 256, "learning_rate": 1e-2}
    done = tutelage.run(table)
    base, student = (load(str(p)) for p in (table["models"]["teacher"], done.student))
    (final,) = (done.folder / "checkpoints").rglob("final")
    kept = store.load(final).tensors["slot-student"]
    before = base.model.state_dict()
    frozen = {n: v for n, v in kept.items() if "lora_" not in n}
    assert frozen and all(torch.equal(v, before[n.removeprefix("base_model.model.").replace(".base_layer", "")]) for n, v in frozen.items())
    assert any(bool(v.abs().max() > 0) for n, v in kept.items() if "lora_B" in n)
    assert not has_adapter(student) and any(not torch.equal(v, before[n]) for n, v in student.model.state_dict().items())
    stamp = (done.student / "model.safetensors").read_bytes()
    assert (tutelage.run(table).student / "model.safetensors").read_bytes() == stamp
