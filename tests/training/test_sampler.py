"""The sampler beside the trainer: read in the loss's own sweep, and what is done where they are apart."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core import node
from tutelage.core.errors import ModelError, NeedError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Noted
from tutelage.core.term import Term, Update
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.data.live import Live
from tutelage.data.steps.ask import Ask
from tutelage.models import sample as sampling
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.importance import Truncated
from tutelage.signals.match import Match
from tutelage.signals.pools import RowMean
from tutelage.signals.readouts import LogProb
from tutelage.training.sampler import Drawn, corrected, judged
from tutelage.training.settings import TrainSettings
from tutelage.training.step import Plan, run_update
from tutelage.voices.blend import Blend
from tutelage.voices.says import Says

RUN = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
data_folder, teacher_folder, new_run = RUN["data_folder"], RUN["teacher_folder"], RUN["new_run"]
LIVE = Live(Ask("student"))


def rows(off=0.25):
    """Two rows that the student drew and one of data; the sampler said ``-1 - off * place`` of each token."""
    made = []
    for number, ids in enumerate(((20, 30, 40, 50), (60, 70, 80))):
        said = tuple(-1.0 - off * place for place in range(len(ids)))
        answer = Piece("", author="student", trains=True, ids=ids, notes={"log_prob": said, "drawn": said})
        made.append(Record(f"r{number}", (Piece("one two "), answer)))
    return [*made, Record("data", (Piece("three "), Piece("four", trains=True)))]


@pytest.fixture
def ws(tiny_pair):
    made = Workspace(Path())
    made.models.update(teacher=tiny_pair.teacher, student=tiny_pair.student)
    tiny_pair.teacher.model.requires_grad_(False)
    tiny_pair.student.model.requires_grad_(True).zero_grad()
    return made


def outcome(ws, update, drawn, records, micro=3, backward=lambda value: value.backward()):
    for parameter in ws.models["student"].model.parameters():
        parameter.grad = None
    collate = Collate(ws.models["student"].tokenizer, 64)
    records = drawn.marked(records)
    batches = [drawn.filled(collate(records[i : i + micro])) for i in range(0, len(records), micro)]
    plan = Plan.of(update, {s: Says(s) for s in ws.models}, drawn)
    found = run_update(
        plan, batches, ws, Progress("one", 0, 2), backward=backward, reduce=lambda x: x, inside=lambda f: f()
    )
    grads = [p.grad.clone() for p in ws.models["student"].model.parameters() if p.grad is not None]
    return found, grads


def own(ws, record):
    """What the student says of the tokens of a row's answer, in float64."""
    model = ws.models["student"]
    prompt = model.tokenizer("one two ", add_special_tokens=False)["input_ids"]
    ids = [*prompt, *record.pieces[1].ids]
    with torch.no_grad():
        log_q = model.inner(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [float(log_q[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]


def wanted(ws):
    pairs = [(q, s) for r in rows()[:2] for q, s in zip(own(ws, r), r.pieces[1].notes["log_prob"], strict=True)]
    gaps = torch.tensor([q - s for q, s in pairs], dtype=torch.float64)
    return {
        "sampler_gap_nats": gaps.abs().mean(), "sampler_k1_nats": -gaps.mean(), "sampler_k3_nats": (gaps.expm1() - gaps).mean(),
    }  # fmt: skip


KL = Update((Term("kl", Match(kl_forward)),))


@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize("loss", [Match(kl_forward), Match(kl_reverse) * RowMean(LogProb())], ids=["in the sweep", "a loss over rows"])
def test_the_gap_is_that_of_the_drawn_tokens(ws, loss, micro):
    update = Update((Term("kl", loss),))
    found, _ = outcome(ws, update, Drawn.of(LIVE, ["student"]), rows(), micro)
    for name, value in wanted(ws).items():
        assert found.tallies[name].mean == pytest.approx(float(value), rel=1e-5) and found.tallies[name].count == 7


def test_nothing_moves_by_a_bit_and_no_pass_is_added(ws, monkeypatch):
    sweeps, run = [], node.run
    monkeypatch.setattr(node, "run", lambda sweep, *more: sweeps.append(sweep) or run(sweep, *more))
    (bare, plain), num = outcome(ws, KL, Drawn(), rows()), len(sweeps)
    watched, seen = outcome(ws, KL, Drawn.of(LIVE, ["student"]), rows())
    assert len(sweeps) == 2 * num and bare.loss == watched.loss
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert set(watched.tallies) - set(bare.tallies) == {"sampler_gap_nats", "sampler_k1_nats", "sampler_k3_nats"}


def test_skipped_tokens_are_not_counted(ws):
    records = [replace(r, pieces=tuple(replace(p, notes={**p.notes, "w": tuple([1.0, 0.0] * len(p.ids))[: len(p.ids)]}) if p.ids else p for p in r.pieces)) for r in rows()[:2]]
    update = Update((Term("kl", Match(kl_forward), weight=Noted("w")),))
    found, _ = outcome(ws, update, Drawn.of(LIVE, ["student"]), records)
    assert found.tallies["sampler_gap_nats"].count == 4


def test_who_drew(ws):
    assert Drawn.of(LIVE, ["student"]) == Drawn("student", frozenset({"student"}))
    assert Drawn.of(LIVE, ["critic"]) == Drawn() == Drawn.of(Live(Ask("teacher")), ["student"])
    assert Drawn.of(Live(Ask("student", author="me")), ["student"]).authors == {"me"}
    mixed = Live(Ask(Blend(("student", "teacher"), (0.5, 0.5))))
    assert Drawn.of(mixed, ["student"]) == Drawn(), "what several write together is not the student's alone"
    teachers = [replace(r, pieces=tuple(replace(p, author="teacher") for p in r.pieces)) for r in rows()]
    assert Drawn.of(LIVE, ["student"]).marked(teachers) == teachers


# -- corrected ------------------------------------------------------------------------------------------------------
def test_a_correction_is_the_truncated_ratio_token_by_token(ws):
    drawn = Drawn.of(LIVE, ["student"])
    found, grads = outcome(ws, corrected(KL, drawn, 1.5), drawn, rows())
    student, teacher = ws.models["student"], ws.models["teacher"]
    batch = drawn.filled(Collate(student.tokenizer, 64)(drawn.marked(rows())))
    view, target = batch.views["main"], batch.units["tokens"].target
    for parameter in student.model.parameters():
        parameter.grad = None
    log_q = student.predict(view, frozenset({"next"}))["next"].at(slice(None)).double()
    log_p = teacher.predict(view, frozenset({"next"}))["next"].at(slice(None)).double().detach()
    old = batch.notes["tokens.sampler"].double()
    ratio = (log_q.gather(1, target[:, None])[:, 0].detach() - old).exp().clamp(max=1.5)
    ratio = torch.where(old > 0, torch.ones_like(ratio), ratio)
    loss = (ratio * (log_p.exp() * (log_p - log_q)).sum(-1)).mean()
    loss.backward()
    assert int((old > 0).sum()) == len(target) - 7 and float(ratio.max()) <= 1.5 and float(ratio.min()) < 1
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    want = [p.grad for p in student.model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(grads, want, strict=True))


def test_a_sampler_that_is_the_trainer_is_not_corrected(ws):
    same = [replace(r, pieces=(r.pieces[0], replace(r.pieces[1], notes={"log_prob": tuple(own(ws, r))}))) for r in rows()[:2]]
    drawn = Drawn.of(LIVE, ["student"])
    assert outcome(ws, corrected(KL, drawn, 2.0), drawn, same)[0].loss == pytest.approx(outcome(ws, KL, drawn, same)[0].loss, rel=1e-5)


def test_a_loss_over_rows_is_not_corrected():
    update = Update((Term("row", RowMean(LogProb())),))
    with pytest.raises(NeedError, match="sampler_gap = 'correct'"):
        corrected(update, Drawn("student", frozenset({"student"})), 2.0)
    with pytest.raises(SettingError, match="cap"):
        Truncated(LogProb(), "sampler", 0.0)


# -- judged ---------------------------------------------------------------------------------------------------------
def test_within_and_beyond_the_bound():
    at = Progress("one", 3, 9)
    assert judged(0.1, TrainSettings(), at) == "" and "step 4 of stage 'one'" in judged(0.11, TrainSettings(), at)
    with pytest.raises(ModelError, match=r"0\.11 nats") as caught:
        judged(0.11, TrainSettings(sampler_gap="refuse"), at)
    assert caught.value.remedy


def lying(monkeypatch, off):
    """A sampler that says other log-probabilities than it draws from, as an engine with old weights does."""
    from tutelage.data.steps import ask

    def wrong(*args, **named):
        return [replace(s, log_probs=tuple(x - off for x in s.log_probs)) for s in sampling.sample(*args, **named)]

    monkeypatch.setattr(ask, "sample", wrong)


def run(new_run, name, **train):
    table = new_run(output=name, recipe="opd", args={"max_tokens": 4}, evaluate={"num_records": 1, "num_samples": 0})
    table["train"] = {"steps": 2, "batch_size": 2, "max_length": 96, "learning_rate": 1e-4, **train}
    done = tutelage.run(table).folder
    return [json.loads(x) for x in (done / "metrics.jsonl").read_text().splitlines()], json.loads((done / "notes.json").read_text()) if (done / "notes.json").exists() else []


def test_runs_say_it_once_correct_it_or_stop(new_run, monkeypatch):
    good, notes = run(new_run, "good")
    assert max(row["sampler_gap_nats"] for row in good) < 1e-5 and not any("nats a token apart" in n for n in notes)
    lying(monkeypatch, 0.3)
    told, notes = run(new_run, "told")
    assert [row["kl"] for row in told] == [row["kl"] for row in good], "only a metric"
    assert sum("0.3 nats a token apart" in n for n in notes) == 1
    ratios, _ = run(new_run, "corrected", sampler_gap="correct", sampler_ratio_cap=1.2)
    assert ratios[0]["kl"] == pytest.approx(1.2 * good[0]["kl"], rel=1e-4)
    with pytest.raises(ModelError, match="apart"):
        run(new_run, "refused", sampler_gap="refuse")
