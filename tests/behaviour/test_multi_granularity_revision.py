"""Answers corrected at their worst place read better to the teacher than raw ones, and than ones corrected anywhere."""

import math
import random

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.signal import Read
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.data.steps.revise import UNDRAWN, Revise, revisions, worst
from tutelage.signals.best import Best
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.readouts import LogProb
from tutelage.voices.says import Says

pytestmark = pytest.mark.behaviour

SEEDS, PROMPTS, HIGH = 3, 200, 1.0


class Anywhere:
    """A place drawn among those where the token is not the teacher's best."""

    def __init__(self, seed):
        self.draw = random.Random(seed)

    def __call__(self, said, best, gap):
        bad = [t for t, (a, b) in enumerate(zip(said, best, strict=True)) if a != b]
        return self.draw.choice(bad) if bad else None


def judged(lab, ws, rows, behind):
    """The teacher's NLL a token and, behind each row's place, the share of tokens where the two are far apart."""
    ctx = Context(Collate(lab.tokenizer(), 64)(rows), {s: Says(s) for s in ws.models}, {s: frozenset({"next"}) for s in ws.models}, workspace=ws)
    with torch.no_grad():
        nll, gap = -ctx(LogProb(Read("teacher"))), ctx(Match(kl_forward))
    units = ctx.batch.units["tokens"]
    after = torch.tensor([int(t) > behind[int(r)] for r, t in zip(units.row, units.time, strict=True)])
    return {"teacher's NLL a token": float(nll.mean()), "far apart behind the place": float((gap[after] > HIGH).double().mean())}


def places(rows):
    """Where each row's answer was corrected."""
    found = (piece.notes["drawn"] for row in rows for piece in row.trained())
    return [drawn.index(UNDRAWN) if UNDRAWN in drawn else math.inf for drawn in found]


def derailing(lab, seed):
    """Teacher and student of the first order: in the last three symbols the student stays, the teacher finds back."""
    g = torch.Generator().manual_seed(seed)
    teacher = 1.5 * torch.randn(lab.SYMBOLS, lab.SYMBOLS, generator=g)
    student = teacher + 0.5 * torch.randn(lab.SYMBOLS, lab.SYMBOLS, generator=g)
    lost = lab.SYMBOLS - 3
    teacher[:, lost:] -= 2.0
    student[lost:, lost:] += 3.0
    return teacher, student


def plain(lab, world, seed):
    """A second-order teacher and a rough first-order student, who forgets an error after one symbol."""
    rough = lab.best_cover(world.teacher.model.log_probs())[0].float()
    return None, rough + 0.7 * torch.randn(lab.SYMBOLS, lab.SYMBOLS, generator=torch.Generator().manual_seed(seed))


def three_ways(lab, tmp_path, seed, world, teacher, student):
    """What the teacher finds of answers as they were written, corrected at the worst place, and corrected anywhere."""
    ws = Workspace(tmp_path, seed, path=("revise",))
    ws.models.update(teacher=world.teacher if teacher is None else world.wrap("teacher", teacher), student=world.wrap("student", student))
    ask, signals = Ask("student", max_tokens=lab.LENGTH), (Best(Read("teacher")), Match(kl_forward))
    rows = list(run_steps((ask,), world.prompts(), ws))
    good = list(run_steps(revisions(ask, 1, *signals), rows, ws))
    random_place = (Note("best", signals[0]), Note("gap", signals[1]), Revise(ask, place=Anywhere(seed)))
    other = list(run_steps(random_place, rows, ws))
    assert places(good)[0] in (worst_of(rows[0], ws, signals), math.inf)
    return judged(lab, ws, rows, places(good)), judged(lab, ws, good, places(good)), judged(lab, ws, other, places(other))


def test_multi_granularity_revision(lab, told, tmp_path):
    names = ("as the student wrote them", "corrected at the worst place", "corrected anywhere")
    arms = {name: [] for name in (*names, *(f"{name}, errors forgotten" for name in names))}
    raw, ours, anywhere, raw_plain, ours_plain, anywhere_plain = arms
    for seed in range(SEEDS):
        world = lab.World(seed, tmp_path, num_prompts=PROMPTS)
        for some, tables in (((raw, ours, anywhere), derailing(lab, seed)), ((raw_plain, ours_plain, anywhere_plain), plain(lab, world, seed))):
            for arm, figures in zip(some, three_ways(lab, tmp_path, seed, world, *tables), strict=True):
                arms[arm].append(figures)

    def lower(a, b, figure):
        return lambda f: f[a][figure] < f[b][figure]

    nll, far = "teacher's NLL a token", "far apart behind the place"
    told(
        f"{PROMPTS} prompts answered by a student that stays where the teacher finds back, and, errors forgotten, by a rough "
        f"first-order student of a second-order chain; far apart is KL(p || q) above {HIGH} nat. Mean over seeds (range).",
        arms,
        lab.claim("The teacher finds corrected answers likelier than raw ones", arms, lower(ours, raw, nll)),
        lab.claim("The teacher finds them likelier than ones corrected anywhere", arms, lower(ours, anywhere, nll)),
        lab.claim("Behind the place the two are less often far apart than in the raw answer", arms, lower(ours, raw, far)),
        lab.claim("Where errors are forgotten at once the teacher finds them likelier all the same", arms, lower(ours_plain, raw_plain, nll)),
        lab.claim("There the two are less often far apart behind the place", arms, lower(ours_plain, raw_plain, far), expected=False),
    )  # fmt: skip


def worst_of(row, ws, signals):
    """The worst place of a raw answer."""
    steps = (Note("best", signals[0]), Note("gap", signals[1]))
    piece = next(iter(run_steps(steps, [row], ws))).pieces[-1]
    return worst(piece.ids, [int(b) for b in piece.notes["best"]], piece.notes["gap"])
