"""Cutting an answer where it has settled into a loop spends a budget of tokens better than whole answers or random cuts."""

import importlib.util
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.live import Live
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

pytestmark = pytest.mark.behaviour

SYMBOLS, LOOP, LONGEST, BUDGET, SEEDS, WINDOW, RUNS, EXEMPT = 24, 4, 300, 20_000, 3, 16, 4, 32
STRETCH, LEARNING_RATE, NOISE = 16, 5.0, 0.1


def chains():
    """The laboratory of chains with 24 symbols."""
    spec = importlib.util.spec_from_file_location("behaviour_chains", Path(__file__).with_name("laboratory.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.SYMBOLS, module.LETTERS = SYMBOLS, "abcdefghijklmnopqrstuvwx"
    return module


def worlds(seed):
    """First-order logits of teacher and student: the last symbols lead to one another alone, nearly alike in both."""
    g = generator(seed, "loop")
    teacher = 1.5 * torch.randn(SYMBOLS, SYMBOLS, generator=g)
    student = teacher + 1.0 * torch.randn(SYMBOLS, SYMBOLS, generator=g)
    free = SYMBOLS - LOOP
    student[free:] = teacher[free:] + NOISE * torch.randn(LOOP, SYMBOLS, generator=g)
    for table in (teacher, student):
        table[free:, :free] -= 12
        table[:free, free:] -= 1.0
    return teacher, student


class Spent(Exception):
    """The budget is used up."""


@dataclass(frozen=True)
class Spend:
    """Lets prompts through until a budget of written tokens is used up."""

    budget: int
    reads: str = "whole"

    def __call__(self, records, ws):
        if ws.ledger.state_dict().get("student/sample", {"tokens": 0})["tokens"] >= self.budget:
            raise Spent
        yield from records


class Chance:
    """Stops an answer behind the exempt start with one chance a stretch, at a place drawn in it."""

    def __init__(self, chance, seed):
        self.chance, self.draw = chance, generator(seed, "cuts")

    def __call__(self, values):
        stops = len(values) > EXEMPT and float(torch.rand(1, generator=self.draw)) < self.chance
        return len(values) - int(torch.randint(STRETCH, (1,), generator=self.draw)) if stops else None

    def learn(self, values):
        pass


def trained(lab, descent, recipe, models, folder, seed):
    """The student once the budget of tokens is spent, and the ledger."""
    ws = Workspace(Path(folder), seed)
    ws.models.update(models)
    pairs = torch.randint(SYMBOLS - LOOP, (64, 2), generator=generator(seed, "prompts")).tolist()
    ws.data["train"] = [
        Record(f"p{i}", (Piece("".join(lab.LETTERS[s] for s in pair), part="prompt", ids=tuple(pair)),)) for i, pair in enumerate(pairs)
    ]
    stage = recipe.stages[0]
    stage = replace(stage, source=Live(Spend(BUDGET), *stage.source.steps, prompts="train"))
    settings = TrainSettings(
        steps=10_000, batch_size=8, learning_rate=LEARNING_RATE, schedule="constant", warmup_share=0.0, clip_norm=1e3,
        max_length=LONGEST + 2, pack=False,
    )  # fmt: skip
    processes = Processes.start()
    collate = Collate(lab.tokenizer(), LONGEST + 2, stage.views)
    voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
    log = Metrics(ws.folder / "metrics.jsonl", processes)
    with pytest.raises(Spent), descent(True):
        Loop(stage, settings, ws, processes, collate, split, voices, ws.folder / stage.name, log).run()
    return ws.models["student"], ws.ledger.state_dict()


def stopped_by_chance(recipe, mean, seed):
    """The recipe with answers for which about as much is written on the mean, and which are cut at random."""
    stage = recipe.stages[0]
    (step,) = stage.source.steps
    chance = min(1.0, STRETCH / max(STRETCH, mean - EXEMPT))
    return replace(recipe, stages=(replace(stage, source=Live(replace(step, stop=Chance(chance, seed)), prompts="train")),))


def test_kat(lab, tables, told, tmp_path):
    world = chains()
    arms = {"whole answers": 0.0, "kat": 0.3, "random cuts": None}
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        teacher, student = worlds(seed)
        place = world.World(seed, tmp_path)

        def worth(model, teacher=teacher):
            q, p = model.model.base_model.table.detach().double().log_softmax(-1), teacher.double().log_softmax(-1)
            return float((q.exp() * (q - p)).sum(-1)[: SYMBOLS - LOOP].mean())

        figures["before"].append({"reverse KL": worth(place.wrap("student", student)), "kept an answer": 0, "written an answer": 0})
        for name, flagged in arms.items():
            made = build("kat", {
                "flagged": flagged or 0.0, "window": WINDOW, "runs": RUNS, "exempt": EXEMPT, "num_kept": SYMBOLS, "least": 16,
                "warmup_steps": 2, "queue": 256, "stretch": STRETCH, "max_tokens": LONGEST, "top_p": 1.0,
            })  # fmt: skip
            made = made if flagged is not None else stopped_by_chance(made, figures["kat"][-1]["written an answer"], seed)
            models = {"teacher": place.wrap("teacher", teacher), "student": place.wrap("student", student)}
            with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
                model, ledger = trained(world, tables._descent, made, models, folder, seed)
            done = [ledger.get(f"stretches/{deed}", {"calls": 0, "tokens": 0}) for deed in ("finished", "stopped")]
            num, tokens = (sum(d[key] for d in done) for key in ("calls", "tokens"))
            figures[name].append({"reverse KL": worth(model), "kept an answer": tokens / num, "written an answer": ledger["student/sample"]["tokens"] / num})

    def mean(name):
        return sum(f["reverse KL"] for f in figures[name]) / SEEDS

    told(
        f"First-order chains over 24 symbols, 4 of them a loop in which both nearly agree; answers of at most 300 tokens, 8 a step, "
        f"no new step after {BUDGET:,} written tokens, random cuts after as many written tokens an answer; exact reverse KL of the other symbols' rows, mean over seeds (range).",
        figures,
        lab.claim("Lower than with whole answers", figures, lambda f: f["kat"]["reverse KL"] < f["whole answers"]["reverse KL"]),
        lab.Claim("Lower than with random cuts on the mean", (mean("kat") < mean("random cuts"),)),
    )  # fmt: skip
