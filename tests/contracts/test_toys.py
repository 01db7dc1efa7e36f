"""Six families through one loop, each a toy with a known answer: what the core must carry before a hundred recipes do."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from tutelage.core.batch import Batch, Units, View
from tutelage.core.recipe import Train
from tutelage.core.record import Record
from tutelage.core.scores import Head, Lazy
from tutelage.core.seeds import generator
from tutelage.core.signal import Noted, Read
from tutelage.core.term import Part, Term, Update, per_row
from tutelage.core.workspace import Workspace
from tutelage.data.collate import split
from tutelage.signals.divergences import kl_forward
from tutelage.signals.lenses import AgainstBatch, Project
from tutelage.signals.match import Match, Targets, squared_error
from tutelage.signals.policy import Clipped
from tutelage.signals.pools import GroupNorm, RowSum
from tutelage.signals.preference import PairSigmoid
from tutelage.signals.readouts import LogProb
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says


class Table:
    """A model of one-token answers: context x -> hidden row x, a head over C answers."""

    def __init__(self, contexts, categories, size=None, seed=0):
        g = torch.Generator().manual_seed(seed)
        size = size or categories
        self.model = nn.Module()
        self.model.states = nn.Parameter(torch.randn(contexts, size, generator=g) * 0.1)
        self.model.head = nn.Parameter(torch.randn(categories, size, generator=g) / size**0.5)

    def predict(self, view, wants):
        hidden = self.model.states[view.inputs["input_ids"][:, 0]][view.at]
        return {"next": Lazy(hidden, Head(self.model.head)), "hidden": hidden, "pooled": hidden}

    def log_probs(self):
        return (self.model.states @ self.model.head.T).log_softmax(-1).detach()


@dataclass(frozen=True)
class Rows:
    """Rows made by a function of (step, workspace)."""

    make: object

    def draw(self, progress, ws, size, rank=0, world=1):
        return self.make(progress.step, ws)[rank::world]


def record(name, context, answer, group="", **notes):
    return Record(name, (), {"x": context, "y": answer}, notes, group)


def collate(records):
    n = len(records)
    at, target = torch.arange(n), torch.tensor([r.fields["y"] for r in records])
    units = {"tokens": Units(at, torch.zeros_like(at), target), "rows": Units(at, torch.zeros_like(at), at.clone())}
    names = sorted({k for r in records for k in r.notes})
    notes = {}
    for name in names:
        values = torch.tensor([float(r.notes[name]) for r in records])
        notes |= {f"rows.{name}": values, f"tokens.{name}": values}
    groups = {g: i for i, g in enumerate(dict.fromkeys(r.group or r.id for r in records))}
    view = View({"input_ids": torch.tensor([[r.fields["x"]] for r in records])}, at)
    return Batch(tuple(records), units, {"main": view}, notes, torch.tensor([groups[r.group or r.id] for r in records]))


@pytest.fixture
def train(tmp_path):
    def run(models, make, *updates, steps=150, rate=0.1, voices=None, parts=None, micro=None, schedule="constant", batch=collate):
        stage = Train("toy", Rows(make), updates, voices=voices or {}, parts=parts or {})
        settings = TrainSettings(steps=steps, batch_size=8, micro_batch_size=micro, learning_rate=rate, schedule=schedule, warmup_share=0, clip_norm=1e3)
        ws = Workspace(tmp_path)
        ws.models.update(models)
        for name, part in stage.parts.items():
            ws.models[name] = part()
        speak = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
        taken = []
        listener = type("L", (), {"stage": lambda *a: None, "note": lambda *a: None, "step": lambda self, m: taken.append(m)})()
        processes = Processes.start()
        Loop(stage, settings, ws, processes, batch, split, speak, tmp_path / "c", Metrics(tmp_path / "m.jsonl", processes), listener).run()
        return taken

    return run


def corpus(step, ws):
    return [record(f"{step}-{i}", i % 4, (i * 3 + step) % 5) for i in range(8)]


@pytest.mark.parametrize("micro", [None, 3])
def test_forward_kl_finds_the_teacher(train, micro):
    student, teacher = Table(4, 5, seed=1), Table(4, 5, seed=2)
    with torch.no_grad():
        teacher.model.states.mul_(30)
    taken = train({"student": student, "teacher": teacher}, corpus, Update((Term("kl", Match(kl_forward)),)), steps=200, micro=micro)
    assert taken[0]["kl"] > 0.3 and taken[-1]["kl"] < 2e-3
    assert torch.allclose(student.log_probs().exp(), teacher.log_probs().exp(), atol=0.03)


def test_grpo_finds_the_rewarded_answer(train):
    student = Table(4, 5, seed=1)

    def rollouts(step, ws):
        g, log_q = generator(0, step), student.log_probs()
        rows = []
        for x in range(4):
            for k in range(8):
                y = int(torch.multinomial(log_q[x].exp(), 1, generator=g))
                rows.append(record(f"{step}-{x}#{k}", x, y, group=f"{step}-{x}", right=float(y == x), old=float(log_q[x, y])))
        return rows

    grpo = Clipped(GroupNorm(Noted("right", "rows")), against=Noted("old"))
    train({"student": student}, rollouts, Update((Term("policy", grpo, per=per_row),)), steps=80, rate=0.1)
    assert all(student.log_probs()[x, x].exp() > 0.95 for x in range(4))


def test_dpo_reaches_its_closed_form(train):
    """Of two answers, one preferred three times in four: the optimum's log-ratio gap is log(3) / beta."""
    student, reference = Table(1, 3, seed=1), Table(1, 3, seed=1)
    beta = 0.5

    def pairs(step, ws):
        return [record(f"{step}-{i}-{y}", 0, y, group=f"{step}-{i}", right=float(y == (0 if i < 3 else 1))) for i in range(4) for y in (0, 1)]

    ratio = RowSum(LogProb() - LogProb(Read("reference")))
    models = {"student": student, "reference": reference}
    train(models, pairs, Update((Term("dpo", PairSigmoid(ratio, beta=beta), per=per_row),)), steps=400, rate=0.05, schedule="linear")
    gap = (student.log_probs() - reference.log_probs())[0]
    assert float(gap[0] - gap[1]) == pytest.approx(math.log(3) / beta, rel=0.02)


def test_infonce_tells_every_pair_apart(train):
    """In-batch contrast is cross-entropy over a head whose classes are the batch itself."""
    texts, images = Table(6, 2, size=8, seed=1), Table(6, 2, size=8, seed=2)
    against = Read("images", "pooled", (AgainstBatch(Read("texts", "pooled", over="rows"), scale=10.0),), over="rows")
    every = lambda step, ws: [record(f"{step}-{x}", x, 0) for x in range(6)]
    models = {"texts": texts, "images": images}
    taken = train(models, every, Update((Term("contrast", Targets(against)),), moves=("texts", "images")), steps=100, rate=0.05)
    assert taken[0]["contrast"] > 1 and taken[-1]["contrast"] < 0.02


def test_in_batch_contrast_refuses_accumulation(train):
    from tutelage.core.errors import NeedError

    against = Read("student", "pooled", (AgainstBatch(Read("student", "pooled", over="rows")),), over="rows")
    with pytest.raises(NeedError, match="whole batch"):
        train({"student": Table(4, 5)}, corpus, Update((Term("contrast", Targets(against)),)), micro=4)


def test_fitnets_learns_through_a_projector_that_is_not_the_student(train):
    student, teacher = Table(4, 5, size=3, seed=1), Table(4, 5, size=7, seed=2)
    hint = Match(squared_error, q=Read("student", "hidden", (Project("projector"),)), p=Read("teacher", "hidden"))
    parts = {"projector": Part(nn.Linear, (("in_features", 3), ("out_features", 7)))}
    update = Update((Term("hint", hint),), moves=("student", "projector"))
    before = teacher.model.states.clone()
    taken = train({"student": student, "teacher": teacher}, corpus, update, parts=parts, steps=300, rate=0.03)
    assert taken[-1]["hint"] < 0.02 * taken[0]["hint"]
    assert torch.equal(before, teacher.model.states) and teacher.model.states.grad is None


@dataclass(frozen=True)
class Generated:
    """One-step samples ``x = mean + spread * z`` of the student, and the same with noise of scale sigma."""

    sigma: float = 1.0

    def slots(self):
        return frozenset({"student"})

    def predict(self, ctx, wants):
        g = ctx.generator("noise")
        z, noise = torch.randn(len(ctx.batch.records), 1, generator=g), torch.randn(len(ctx.batch.records), 1, generator=g)
        x = ctx.workspace.models["student"](z)
        return {"x": x, "noisy": x.detach() + self.sigma * noise}


@dataclass(frozen=True)
class Denoised:
    """A critic's guess of x from the noisy sample."""

    def slots(self):
        return frozenset({"fake"})

    def predict(self, ctx, wants):
        return {"x": ctx.workspace.models["fake"](ctx.say("clip")["noisy"])}


@dataclass(frozen=True)
class Pulled:
    """Where distribution matching pulls a sample: ``x - (fake(noisy) - real(noisy))``, real = N(2, 0.5^2) in closed form."""

    mean: float = 2.0
    spread: float = 0.5
    sigma: float = 1.0
    _: None = field(default=None, repr=False)

    def slots(self):
        return frozenset()

    def predict(self, ctx, wants):
        said = ctx.say("clip")
        shrink = self.spread**2 / (self.spread**2 + self.sigma**2)
        real = self.mean + shrink * (said["noisy"] - self.mean)
        return {"x": (said["x"] - (ctx.say("fake")["x"] - real)).detach()}


def test_one_step_generator_with_a_critic_matches_the_distribution(train):
    """Two updates in one loop: the critic follows the generator, the generator is pulled to the real distribution."""

    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.spread = nn.Parameter(torch.tensor([0.0])), nn.Parameter(torch.tensor([1.5]))

        def forward(self, z):
            return self.mean + self.spread * z

    over = {"over": "rows"}
    pull = Match(squared_error, q=Read("clip", "x", **over), p=Read("pulled", "x", **over))
    follow = Match(squared_error, q=Read("fake", "x", **over), p=Read("clip", "x", **over))
    student = Affine()
    voices = {"clip": Generated(), "fake": Denoised(), "pulled": Pulled()}
    many = lambda step, ws: [record(f"{step}-{i}", 0, 0) for i in range(256)]
    train(
        {"student": student}, many,
        Update((Term("fake", follow, per=per_row),), moves=("fake",), fresh=True, learning_rate=3.0),
        Update((Term("pull", pull, per=per_row),), every=2),
        voices=voices, parts={"fake": Part(nn.Linear, (("in_features", 1), ("out_features", 1)))}, steps=900, rate=0.02, schedule="linear",
    )
    assert float(student.mean) == pytest.approx(2.0, abs=0.1)
    assert abs(float(student.spread)) == pytest.approx(0.5, abs=0.12)


def test_a_term_of_scale_zero_is_logged_without_gradient(train):
    student, teacher = Table(4, 5, seed=1), Table(4, 5, seed=2)
    start = student.model.states.detach().clone()
    terms = (Term("kl", Match(kl_forward), scale=0.0), Term("also", Targets(), scale=0.0))
    taken = train({"student": student, "teacher": teacher}, corpus, Update(terms), steps=2)
    assert taken[0]["kl"] > 0 and taken[0]["also"] > 1 and taken[0]["loss"] == 0
    assert torch.equal(start, student.model.states)


def test_recipes_are_values():
    a, b = (Update((Term("kl", Match(kl_forward) * 2.0),)) for _ in range(2))
    assert a == b and hash(a) == hash(b)
    assert a != replace(a, every=2)
    assert "Match(compare=" in repr(a)
