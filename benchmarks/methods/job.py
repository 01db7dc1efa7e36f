"""One recipe with one seed: its arms, each measured and kept as one JSON file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from tutelage.core import catalog
from tutelage.core.describe import describe
from tutelage.data.corpus import read
from tutelage.models.load import load
from tutelage.running.api import resolve
from tutelage.running.runner import Runner
from tutelage.training.checkpoint import write_text

from . import ladder, table
from .measures import measured
from .meter import Follower
from .sizes import Sizes, fingerprint

VERSION = 1  # raise it when what is measured changes
UPDATES, COMPUTE = "updates", "compute"
BUDGET = "forward_kl"  # the compute arm has as many FLOPs as this recipe's equal updates
REFERENCES = ("teacher", "start")


@dataclass(frozen=True)
class Job:
    """A recipe, an arm and a seed.

    Args:
        recipe: Its name, or one of ``REFERENCES``: a model as it is.
        arm: ``updates``, ``compute`` or ``updates x SHARE``.
        seed: Of the start, the run and its draws.
        folder: The prepared folder; data and teacher lie beside it.
    """

    recipe: str
    arm: str
    seed: int
    folder: Path

    @property
    def file(self) -> Path:
        """Where its figures are kept."""
        return self.folder / "results" / f"{self.recipe}-{self.arm.replace(' ', '')}-{self.seed}.json"

    @property
    def base(self) -> Path:
        """Where data and teacher are."""
        return self.folder.parent

    def key(self, sizes: Sizes) -> str:
        """What the figures depend on: the composition that the recipe builds, not its text."""
        if self.recipe in REFERENCES:
            return fingerprint([VERSION, sizes.key])
        given = table.arguments(self.recipe, sizes)
        made = describe(catalog.build(self.recipe, given))
        return fingerprint([VERSION, sizes.key, self.arm, made, dict(table.entry(self.recipe).models)])

    def kept(self, sizes: Sizes) -> dict[str, Any] | None:
        """Its figures, if they were measured with the recipe and the settings as they are."""
        if not self.file.exists():
            return None
        found = json.loads(self.file.read_text(encoding="utf-8"))
        return found if found["key"] == self.key(sizes) else None


def do(job: Job, sizes: Sizes) -> str:
    """Run and measure what is not there; returns what went wrong, or nothing."""
    if job.kept(sizes) is not None:
        return ""
    job.file.parent.mkdir(parents=True, exist_ok=True)
    try:
        result = _reference(job, sizes) if job.recipe in REFERENCES else _arm(job, sizes)
    except Exception as error:  # one recipe that cannot run leaves the others alone
        return f"{job.recipe}, {job.arm}, seed {job.seed}: {type(error).__name__}: {error}"
    about = {"key": job.key(sizes), "recipe": job.recipe, "arm": job.arm, "seed": job.seed}
    write_text(job.file, json.dumps(about | result))
    return ""


def _reference(job: Job, sizes: Sizes) -> dict[str, Any]:
    who = job.base / "teacher" if job.recipe == "teacher" else ladder.start(job.base, sizes, job.seed)
    return _worth(job, sizes, load(str(who)), None)


def _arm(job: Job, sizes: Sizes) -> dict[str, Any]:
    updates, reached = _updates(job, sizes)
    given = table.arguments(job.recipe, sizes)
    recipe = catalog.build(job.recipe, given)
    steps = table.updates(recipe, updates)
    home = job.folder / "running" / job.file.stem
    shutil.rmtree(home, ignore_errors=True)
    follower = Follower()
    runner = Runner(resolve(run_table(job, sizes, given, steps, home)), follower)
    follower.runner, start, worked = runner, perf_counter(), process_time()
    runner()
    inside, outside = follower.spent(steps)
    ledger = json.loads((home / "run" / "ledger.json").read_text(encoding="utf-8"))
    cost = {
        "steps": updates,
        "reached": reached,
        "train FLOPs": inside,
        "other FLOPs": outside,
        "tokens written": sum(a["tokens"] for k, a in ledger.items() if k.endswith("/sample")),
        "teacher positions": follower.counts["teacher"].read,
        "seconds": perf_counter() - start,
        "processor seconds": process_time() - worked,
    }
    worth = _worth(job, sizes, load(str(home / "run" / "student")), recipe.asked)
    shutil.rmtree(home, ignore_errors=True)
    return cost | worth


def _worth(job: Job, sizes: Sizes, student: Any, put: Any) -> dict[str, Any]:
    rows = read(job.base / "data" / "test.jsonl")
    return measured(student, load(str(job.base / "teacher")), rows, sizes, put)


def _updates(job: Job, sizes: Sizes) -> tuple[int, bool]:
    """The student's updates of an arm, and whether the arm's compute was reached or a bound came before it."""
    if job.arm == UPDATES:
        return sizes.updates, True
    if job.arm != COMPUTE:
        return max(1, round(float(job.arm.removeprefix("updates x ")) * sizes.updates)), True
    own = _needed(Job(job.recipe, UPDATES, job.seed, job.folder), sizes)
    whole = _needed(Job(BUDGET, UPDATES, job.seed, job.folder), sizes)
    left = whole["train FLOPs"] + whole["other FLOPs"] - own["other FLOPs"]
    wanted = left * sizes.updates / own["train FLOPs"]
    most, least = round(sizes.most * sizes.updates), max(1, sizes.updates // 10)
    return min(most, max(least, round(wanted))), least <= wanted <= most


def _needed(job: Job, sizes: Sizes) -> dict[str, Any]:
    found = job.kept(sizes)
    if found is None:
        raise RuntimeError(f"the compute arm needs {job.recipe} with {job.arm}, seed {job.seed}, first")
    return found


def run_table(job: Job, sizes: Sizes, given: Mapping[str, Any], steps: Mapping[str, int], home: Path) -> dict[str, Any]:
    """The RunFile of an arm."""
    data = job.base / "data"
    places = {"teacher": str(job.base / "teacher"), "start": str(ladder.start(job.base, sizes, job.seed))}
    more = {slot: places[place] for slot, place in table.entry(job.recipe).models.items()}
    return {
        "recipe": job.recipe,
        "name": "run",
        "output": str(home),
        "seed": job.seed,
        "args": dict(given),
        "models": {"teacher": places["teacher"], "student": places["start"], **more},
        "data": {
            p.stem: str(p) for p in sorted(data.glob("*.jsonl")) if p.stem.split("-")[0] in ("train", "validation")
        },
        "train": {
            "batch_size": table.prompts_a_step(job.recipe, sizes),
            "max_length": 256,
            "learning_rate": sizes.learning_rate,
            "checkpoint_seconds": 1e6,
            **{stage: {"steps": num} for stage, num in steps.items()},
        },
    }
