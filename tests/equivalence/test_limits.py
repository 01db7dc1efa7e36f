"""Each `Limits:` line of each recipe: at the limit two recipes give one gradient. A new line needs a test here."""

from __future__ import annotations

import ast
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.recipe import Generate
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Noted
from tutelage.core.term import Update, per_token, weighted
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.signals.match import Targets
from tutelage.voices import Now, Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, limit, trains, step = (KIT[n] for n in ("world", "worst", "limit", "trains", "step"))
same, nonzero = KIT["same"], KIT["nonzero"]
TESTS = Path(__file__).parents[1]


@limit("forward_kl", "label_share=1: supervised.")
def test_labels_alone(step):
    (one,), (other,) = trains("forward_kl", label_share=1.0), trains("supervised")
    same(step(one), step(other))
    assert worst(step(trains("forward_kl", label_share=0.5)[0])[0], step(other)[0]) > 0.01


@limit(
    "forward_kl",
    "temperature -> infinity: the squared distance of centred logits, divided by 2 and by the number of categories.",
)
def test_high_temperature():
    compare = trains("forward_kl", temperature=3000.0)[0].updates[0].objective[0].loss.compare
    g = torch.Generator().manual_seed(0)
    z, v = (torch.randn(5, 40, generator=g, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    value = compare(z.log_softmax(-1), v.log_softmax(-1))
    centred = [x - x.mean(-1, keepdim=True) for x in (z, v)]
    want = (centred[0] - centred[1]).square().sum(-1) / 2 / 40
    assert torch.allclose(value, want, rtol=3e-3)
    (got,), (right,) = (torch.autograd.grad(x.sum(), z) for x in (value, want))
    assert float((got - right).abs().max()) < 3e-3 * float(right.abs().max())


@limit("jensen", "beta=0: forward_kl.")
def test_jensen_at_0(step):
    same(step(trains("jensen", beta=0.0)[0]), step(trains("forward_kl")[0]))


@limit("jensen", "beta=1: reverse_kl.")
def test_jensen_at_1(step):
    same(step(trains("jensen", beta=1.0)[0]), step(trains("reverse_kl")[0]))
    assert worst(step(trains("jensen", beta=0.5)[0])[0], step(trains("reverse_kl")[0])[0]) > 0.01


@limit("gkd", "student_share=0, beta=0: forward_kl.")
def test_gkd_on_data(step):
    for at in (0, 3):
        same(step(trains("gkd", student_share=0.0, beta=0.0)[0], at), step(trains("forward_kl")[0], at))


@limit("gkd", "student_share=1, beta=1, temperature=1: opd.")
@limit("opd", "is gkd with student_share=1 and beta=1.")
def test_gkd_on_its_own_answers(step):
    shared = {"max_tokens": 6, "temperature": 1.0}
    for at in (0, 3):
        one = step(trains("gkd", student_share=1.0, beta=1.0, **shared)[0], at)
        same(one, step(trains("opd", **shared)[0], at))
        assert all(isinstance(answer, tuple) for _, answer in one[2])


@limit("reverse_kl", "on the student's own answers instead of data: opd.")
def test_reverse_kl_on_own_answers(step):
    opd, plain = trains("opd", max_tokens=6)[0], trains("reverse_kl")[0]
    same(step(replace(plain, source=opd.source)), step(opd))


@limit("supervised", "on text that the teacher wrote: seqkd.")
def test_supervised_on_the_teachers_text(step, world):
    generate, train = catalog.build("seqkd", {"max_tokens": 6}).stages
    assert isinstance(generate, Generate) and generate.into == train.source.name
    written = list(run_steps(generate.steps, world.records, world.ws.within("write")))
    assert all(r.pieces[-1].author == "teacher" for r in written)
    world.ws.data["answers"] = world.ws.data["train"] = written
    same(step(train), step(trains("supervised")[0]))


@limit("seqkd", "temperature=1 and many answers: the expected gradient is that of forward_kl on teacher text.")
def test_expected_gradient_of_teacher_samples(world):
    """The expectation over the next token, taken exactly: every token, weighted by the teacher's probability of it."""
    generate, train = catalog.build("seqkd", {"temperature": 1.0}).stages
    (ask,), (term,) = generate.steps, train.updates[0].objective
    assert isinstance(ask, Ask) and ask.who == "teacher" and ask.settings().temperature == 1 and term.loss == Targets()
    prompt = Piece("Go", "user")
    one = Record("one", (prompt, Piece("", "assistant", trains=True, ids=(7,))))
    view = Collate(world.tokenizer, 64)([one]).views["main"]
    with torch.no_grad():
        p = world.pair.teacher.predict(view, frozenset({"next"}))["next"].at(slice(None))[0].exp().tolist()
    every = [Record(f"{i}", (prompt, Piece("", "assistant", trains=True, ids=(i,))), notes={"p": x}) for i, x in enumerate(p)]
    expected, _ = world.gradients(Update((replace(term, weight=Noted("p", "rows"), per=weighted(per_token)),)), rows=every)
    exact, _ = world.gradients(trains("forward_kl")[0].updates[0], rows=[one])
    assert worst(expected, exact) < 1e-4


@limit("strong_to_weak", "without the first stage: opd.")
def test_second_stage(step):
    stage = trains("strong_to_weak", max_tokens=6)[1]
    same(step(stage), step(trains("opd", max_tokens=6)[0]))


@limit("strong_to_weak", "without the second, on the same text: forward_kl.")
def test_first_stage(step):
    stage = trains("strong_to_weak")[0]
    assert stage.source.name == "answers"
    same(step(stage), step(trains("forward_kl")[0]))


@limit("taid", "start=1: the gradient of forward_kl.")
def test_taid_from_the_teacher(step):
    one, other = step(trains("taid", start=1.0)[0]), step(trains("forward_kl")[0])
    assert one[2] == other[2] and worst(one[0], other[0]) < 2e-6
    assert one[1].loss > other[1].loss, "it also counts the teacher's entropy"
    assert worst(step(trains("taid", start=0.5)[0])[0], other[0]) > 0.01


@limit("taid", "start=0, in the first step: no gradient at all.")
def test_taid_from_the_student(step):
    still, moving = step(trains("taid", start=0.0)[0]), step(trains("forward_kl")[0])
    largest = max(float(g.abs().max()) for g in moving[0].values())
    assert max(float(g.abs().max()) for g in still[0].values()) < 1e-6 * largest


@limit("taid", "label_share=1: supervised.")
def test_taid_on_labels_alone(step):
    same(step(trains("taid", label_share=1.0)[0]), step(trains("supervised")[0]))


@limit("imitkd", "data_share=1, final_data_share=1, whole=true: the gradient of forward_kl.")
def test_imitkd_on_data(step):
    for at in (0, 3):
        one = step(trains("imitkd", data_share=1.0, final_data_share=1.0, whole=True)[0], at)
        other = step(trains("forward_kl")[0], at)
        assert one[2] == other[2] and worst(one[0], other[0]) < 2e-6


@limit("imitkd", "data_share=0, final_data_share=0, whole=true: the gradient of gkd with student_share=1 and beta=0.")
def test_imitkd_on_own_answers(step):
    shared = {"max_tokens": 6, "temperature": 0.9}
    one = step(trains("imitkd", data_share=0.0, final_data_share=0.0, whole=True, **shared)[0])
    other = step(trains("gkd", student_share=1.0, beta=0.0, **shared)[0])
    assert one[2] == other[2] and worst(one[0], other[0]) < 2e-6


@limit("minillm", "teacher_share=0, reuse=1, text_scale=0 and answers of one token: opd.")
def test_minillm_of_one_token(step):
    shared = {"teacher_share": 0.0, "reuse": 1, "text_scale": 0.0}
    other = step(trains("opd", max_tokens=1)[0])
    same(step(trains("minillm", max_tokens=1, **shared)[0]), other)
    longer = [step(trains(name, max_tokens=6, **how)[0]) for name, how in (("minillm", shared), ("opd", {}))]
    assert longer[0][2] == longer[1][2] and worst(longer[0][0], longer[1][0]) > 0.01


@pytest.fixture
def held(world):
    world.ws.data["held_out"] = [world.row("h", "What?", "that")]


@limit("distillm", "alpha=0, start=0, in the first step: reverse_kl.")
def test_distillm_on_data(step, held):
    same(step(trains("distillm", alpha=0.0)[0]), step(trains("reverse_kl")[0]))


@limit("distillm", "alpha=0, reverse=false, start=0, in the first step: forward_kl.")
def test_distillm_on_data_forward(step, held):
    same(step(trains("distillm", alpha=0.0, reverse=False)[0]), step(trains("forward_kl")[0]))


@limit("distillm", "alpha=0, start=1, in the first step: opd.")
def test_distillm_on_own_answers(step, held):
    same(step(trains("distillm", alpha=0.0, start=1.0, max_tokens=6)[0]), step(trains("opd", max_tokens=6)[0]))


def by_writer(step, world, scale):
    """A step of distillm_2 without a skew, and the rows that the teacher and the student wrote for it."""
    write, epochs = catalog.build("distillm_2", {"alpha": 0.0, "least": 0.0, "student_scale": scale,
                                                 "final_student_scale": scale, "max_tokens": 6}).stages  # fmt: skip
    answer, train = epochs.stages
    world.records = [replace(r, group="") for r in world.records]
    for stage in (write, answer):
        world.ws.data[stage.into] = list(run_steps(stage.steps, world.records, world.ws.within(stage.name)))
    return step(train), world.ws.data["answers"], world.ws.data["own"]


def twice(one, other):
    assert worst({n: g / 2 for n, g in one[0].items()}, other[0]) < 2e-6
    assert one[1].loss == pytest.approx(2 * other[1].loss, rel=1e-5)


@limit("distillm_2", "alpha=0, least=0, student_scale=0, final_student_scale=0: twice forward_kl on answers of the teacher.")
def test_distillm_2_on_the_teachers_text(step, world):
    one, taught, _ = by_writer(step, world, 0.0)
    world.ws.data["train"] = taught
    twice(one, step(trains("forward_kl")[0]))


@limit("distillm_2", "alpha=0, least=0, student_scale=2, final_student_scale=2: twice reverse_kl on answers of the student.")
def test_distillm_2_on_the_students_text(step, world):
    one, _, own = by_writer(step, world, 2.0)
    world.ws.data["train"] = own
    twice(one, step(trains("reverse_kl")[0]))


@limit("alm", "label_share=1: supervised.")
def test_alm_of_labels_alone(step):
    one, other = step(trains("alm", label_share=1.0)[0]), step(trains("supervised")[0])
    same(one, other)
    assert worst(step(trains("alm", label_share=0.5)[0])[0], other[0]) > 0.01


@limit("alm", "temperature -> infinity: the mean of (A - B) + A (log -B - log -A), A and B the chunk's log-probabilities.")
def test_alm_at_high_temperature():
    compare = trains("alm", temperature=1e6)[0].updates[0].objective[0].loss.compare
    g = torch.Generator().manual_seed(0)
    a, b = (-0.2 - 6 * torch.rand(50, generator=g, dtype=torch.float64) for _ in range(2))
    b.requires_grad_()
    value, want = compare(b, a), (a - b) + a * ((-b).log() - (-a).log())
    assert torch.allclose(value, want, rtol=2e-3, atol=1e-5)
    (got,), (right,) = (torch.autograd.grad(x.sum(), b) for x in (value, want))
    assert float((got - right).abs().max()) < 2e-3 * float(right.abs().max())


@limit("lightning_opd", "temperature=1, in the first step, in expectation over the rollouts: opd.")
def test_expected_gradient_of_cached_rollouts(world):
    """The expectation over the token that the student writes, taken exactly: every one, weighted by its probability."""
    stages = catalog.build("lightning_opd", {"temperature": 1.0}).stages
    ask, score = stages[2].steps[1:3]
    assert ask.who == "student" and ask.settings().temperature == 1
    prompt = Piece("Go", "user")
    one = Record("one", (prompt, Piece("", "assistant", trains=True, ids=(7,))))
    view = Collate(world.tokenizer, 64)([one]).views["main"]
    with torch.no_grad():
        q = world.pair.student.predict(view, frozenset({"next"}))["next"].at(slice(None))[0].exp().tolist()
    every = [Record(f"{i}", (prompt, Piece("", "assistant", trains=True, ids=(i,), notes={"log_prob": (0.0,)})), notes={"q": x}) for i, x in enumerate(q)]
    (term,) = stages[-1].updates[0].objective
    expected, _ = world.gradients(Update((replace(term, weight=Noted("q", "rows"), per=weighted(per_token)),)), rows=list(score(iter(every), world.ws)))
    exact, _ = world.gradients(trains("opd")[0].updates[0], rows=[one])
    assert worst(expected, exact) < 1e-4


@pytest.fixture
def scored(world):
    """What the first stage of ddk leaves: the teacher's log-probabilities on the validation rows."""
    (note,) = catalog.build("ddk").stages[0].steps
    world.ws.data["held_out.scored"] = list(run_steps((note,), [world.row("h", "What?", "that")], world.ws))


@limit("ddk", "one domain and kl_scale=0: supervised.")
def test_ddk_on_labels_alone(step, scored):
    for at in (0, 3):
        same(step(trains("ddk", kl_scale=0.0)[0], at), step(trains("supervised")[0], at))


@limit("ddk", "one domain and kl_scale=1: the sum of supervised and forward_kl.")
def test_ddk_on_one_domain(step, scored):
    both, parts = step(trains("ddk", kl_scale=1.0)[0]), [step(trains(name)[0]) for name in ("supervised", "forward_kl")]
    assert both[2] == parts[0][2]
    assert worst(both[0], {n: g + parts[1][0][n] for n, g in parts[0][0].items()}) < 2e-6


@limit("tip", "share=1, one rollout: opd.")
def test_tip_on_all_positions(step):
    for by in ("either", "entropy", "wrong", "drawn"):
        same(step(trains("tip", share=1.0, by=by, rollouts=1, max_tokens=6)[0]), step(trains("opd", max_tokens=6)[0]))


@limit("opsd", "nothing told and decay=0: the loss and its gradient are 0.")
def test_opsd_told_nothing(step):
    (stage,) = trains("opsd", decay=0.0, max_tokens=6)
    grads, told, _ = step(replace(stage, views={}, voices={"informed": Now("student")}))
    assert abs(told.loss) < 1e-6 and max(float(g.abs().max()) for g in grads.values()) < 1e-6


@limit("opsd", "a teacher in place of the informed self, beta=1, temperature=1, top_p=1: opd.")
def test_opsd_with_a_teacher(step):
    (stage,) = trains("opsd", beta=1.0, temperature=1.0, top_p=1.0, max_tokens=6)
    same(step(replace(stage, views={}, voices={"informed": Says("teacher")})), step(trains("opd", max_tokens=6)[0]))


def sampled_from_student(world):
    """Every next token of one prompt as a row, with the student's probability of it; and the row of that position."""
    prompt = Piece("Go", "user")
    one = Record("one", (prompt, Piece("", "assistant", trains=True, ids=(7,))))
    view = Collate(world.tokenizer, 64)([one]).views["main"]
    with torch.no_grad():
        log_q = world.pair.student.predict(view, frozenset({"next"}))["next"].at(slice(None))[0].tolist()
    every = []
    for i, x in enumerate(log_q):
        piece = Piece("", "assistant", trains=True, ids=(i,), notes={"log_prob": (x,), "drawn": (x,)})
        every.append(Record(f"{i}", (prompt, piece), notes={"p": math.exp(x), "right": 0.0}))
    return every, one


def in_expectation(world, term):
    """The gradient of a term over all of them, and that of opd at their position."""
    every, one = sampled_from_student(world)
    term = replace(term, weight=Noted("p", "rows"), per=weighted(per_token))
    got, _ = world.gradients(Update((term,)), rows=every, voices={"start": Now("student")})
    return got, world.gradients(trains("opd")[0].updates[0], rows=[one])[0]


@limit("g_opd_exopd", "reward_scale=1: the expected gradient is that of opd, for any reference.")
def test_g_opd_at_a_scale_of_1(world):
    (term,) = trains("g_opd_exopd", reward_scale=1.0)[0].updates[0].objective
    assert worst(*in_expectation(world, term)) < 1e-4
    (past,) = trains("g_opd_exopd")[0].updates[0].objective
    assert worst(*in_expectation(world, past)) > 0.01


@limit("scope", "every answer wrong and as likely to the teacher, correction=score: the expected gradient is that of opd.")
def test_scope_where_all_is_wrong(world):
    own, correction = trains("scope", correction="score")[0].updates[0].objective
    assert worst(*in_expectation(world, correction)) < 1e-4
    assert worst(*in_expectation(world, own)) > 0.01


@limit("scope", "every answer right and as likely to the student: supervised on its own answers.")
def test_scope_where_all_is_right(world):
    written = run_steps((Ask(max_tokens=6),), world.records, world.ws.within("t"))
    rows = [replace(r, notes={"right": 1.0}, group="") for r in written]
    got, told = world.gradients(trains("scope")[0].updates[0], rows=rows)
    want, plain = world.gradients(trains("supervised")[0].updates[0], rows=rows)
    assert worst(got, want) < 2e-6 and told.loss == pytest.approx(plain.loss, rel=1e-5)


@limit("distilling_step_by_step", "alpha=1: supervised on the label rows; rationales have no influence.")
def test_step_by_step_on_labels_alone(world):
    write, train = catalog.build("distilling_step_by_step", {"alpha": 1.0, "rationales": "data", "cue": " "}).stages
    rows = list(run_steps(write.steps, world.records, world.ws))
    labels = [r for r in rows if r.notes["label"]]
    assert 0 < len(labels) < len(rows)
    got, told = world.gradients(train.updates[0], rows=rows)
    want, alone = world.gradients(trains("supervised")[0].updates[0], rows=labels)
    assert worst(got, want) < 2e-6 and told.loss == pytest.approx(alone.loss, rel=1e-5)


@limit("provenance_tracing", "candidates=1: seqkd at the same temperature.")
def test_a_single_candidate(world, step):
    arguments = {"max_tokens": 6, "temperature": 1.0}
    choose, train = catalog.build("provenance_tracing", {"candidates": 1, "trace": False, **arguments}).stages
    write, plain = catalog.build("seqkd", arguments).stages
    answers = [list(run_steps(s.steps, world.records, world.ws.within("t"))) for s in (choose, write)]
    assert [r.pieces for r in answers[0]] == [r.pieces for r in answers[1]] and answers[0][0].pieces[-1].author == "teacher"
    world.ws.data["answers"] = world.ws.data["chosen"] = answers[0]
    same(step(train), step(plain))


def lines_of(path):
    """The lines that a file's tests are for: the decorators ``limit`` of its functions named test_."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            calls = [c for c in node.decorator_list if isinstance(c, ast.Call) and ast.unparse(c.func) == "limit"]
            yield from (tuple(ast.literal_eval(a) for a in c.args) for c in calls)


def test_every_line_of_every_card_has_a_test():
    lines = {(name, line) for name in catalog.names() for line in catalog.card(catalog.find(name)).limits}
    files = [f for home in ("equivalence", "recipes") for f in sorted((TESTS / home).glob("test_*.py"))]
    assert lines == {line for file in files for line in lines_of(file)}


@limit("ernie_tiny", "tuned=teacher: the stage enhanced is the stage general.")
def test_general_distillation_from_the_untuned_teacher_twice():
    first, second, third, _ = trains("ernie_tiny", tuned="teacher", general="general")
    assert replace(second, name="general") == first and third.source != first.source


@limit("ernie_tiny", "stages=specify, latent_scale=0, soft_scale=0: supervised.")
def test_the_last_stage_on_labels_alone(step):
    alone = {"stages": ("specify",), "latent_scale": 0.0, "tuned": "teacher", "tie": True, "layers": 2}
    (one,) = trains("ernie_tiny", **alone, soft_scale=0.0)
    same(nonzero(step(one)), step(trains("supervised")[0]))


@limit("ernie_tiny", "stages=specify, latent_scale=0, hard_scale=0, tuned=teacher: forward_kl with the same temperature.")
def test_the_last_stage_on_the_teacher_alone(step):
    alone = {"stages": ("specify",), "latent_scale": 0.0, "tuned": "teacher", "tie": True, "layers": 2}
    for temperature in (1.0, 2.0):
        (one,) = trains("ernie_tiny", **alone, hard_scale=0.0, temperature=temperature)
        same(nonzero(step(one)), step(trains("forward_kl", temperature=temperature)[0]))
