"""What single recipes need to run on the bench's task. A recipe that is not named runs as it is.

Arguments that many recipes share get their values in ``COMMON`` wherever a recipe takes them, so that most new recipes
need no line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tutelage.core import catalog
from tutelage.core.needs import stages
from tutelage.core.recipe import Recipe, Repeat, Stage, Train

from .sizes import Sizes
from .tasks import FAMILIES

BASELINES = ("supervised", "seqkd", "forward_kl", "reverse_kl", "gkd")
# recipes whose accuracy after fewer updates is measured as well
LADDER = ("supervised", "seqkd", "forward_kl", "opd", "gkd")
COMMON: Mapping[str, Any] = {"verifier": "task", "rollouts": 4, "held": "validation"}
ANSWERS = ("rollouts",)  # arguments that say how often the student answers a prompt in a step


@dataclass(frozen=True)
class Entry:
    """How a recipe runs here.

    Args:
        args: Its arguments, where the defaults do not fit.
        models: Further slots; ``start`` and ``teacher`` stand for these folders.
        refused: Why it does not run here; empty if it does.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""


def _each(split: str) -> list[str]:
    return [f"{split}-{family.name}" for family in FAMILIES]


TOLD = "its teacher is the student told the solution in words, which a model this small cannot use"

ENTRIES: Mapping[str, Entry] = {
    "dasd_entropy": Entry(refused=TOLD),
    "ddk": Entry({"domains": _each("train"), "held": _each("validation"), "every": 20}),
    "distillm": Entry({"every": 20}),
    "distilling_step_by_step": Entry({"labels": "data", "rationales": "data", "cue": r"\n"}),
    "ernie_tiny": Entry({"tuned": "teacher", "layers": 2, "attention": "average", "level": True}),
    "nca_context_removability": Entry(refused=TOLD),
    "nd_loss": Entry({"project": True}),
    "opsd": Entry(refused=TOLD),
    "pi_distill": Entry(refused=TOLD),
    "provenance_tracing": Entry({"trace": False, "verifier": ""}),
    "simct": Entry(refused="teacher and student have one tokenizer here, and then it is `opd`"),
    "sod": Entry(refused="it corrects turns with a tool, and these problems are answered without one"),
    "taid": Entry({"rate": 5e-3}),
}


def entry(name: str) -> Entry:
    """What a recipe needs here."""
    return ENTRIES.get(name, Entry())


def arguments(name: str, sizes: Sizes) -> dict[str, Any]:
    """A recipe's arguments: the common ones that it takes, then its own."""
    known = catalog.parameters(catalog.find(name))
    common = {**COMMON, "max_tokens": sizes.max_tokens}
    if name in BASELINES and "temperature" in known:
        common["temperature"] = 1.0
    return {k: v for k, v in common.items() if k in known} | dict(entry(name).args)


def prompts_a_step(name: str, sizes: Sizes) -> int:
    """Prompts an update, so that every recipe trains the same number of rows an update."""
    given = arguments(name, sizes)
    return max(1, sizes.rows // max([given.get(a, 1) for a in ANSWERS]))


def applicable() -> tuple[list[str], dict[str, str]]:
    """The recipes that run here, baselines first, and the others with the reason."""
    refused = {n: entry(n).refused for n in catalog.names() if entry(n).refused}
    rest = [n for n in catalog.names() if n not in refused and n not in BASELINES]
    return [*BASELINES, *rest], refused


def updates(recipe: Recipe, total: int) -> dict[str, int]:
    """Steps by Train stage: the student's stages share the updates evenly; one that moves others has as many."""
    rounds = _rounds(recipe.stages)
    own = {
        s.name for s in stages(recipe.stages) if isinstance(s, Train) and any("student" in u.moves for u in s.updates)
    }
    each = max(1, total // sum(rounds[name] for name in own))
    return dict.fromkeys(rounds, each)


def _rounds(some: tuple[Stage, ...], times: int = 1) -> dict[str, int]:
    """How often each Train stage runs."""
    found: dict[str, int] = {}
    for stage in some:
        if isinstance(stage, Repeat):
            found |= _rounds(stage.stages, times * stage.times)
        elif isinstance(stage, Train):
            found[stage.name] = times
    return found
