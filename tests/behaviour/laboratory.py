"""A laboratory of Markov chains: a teacher that a student cannot fit, and every figure exact.

The teacher is a random second-order chain over 12 symbols, the student a first-order table: whatever it learns, it has to
choose what to give up, and the recipes differ in what they choose. Both are models with the interface of transformers, so
recipes, steps, sampler, collate and loop are the ones that users run. What a student is worth is worked out over all
states of the chain in float64, so no figure carries the noise of a measurement.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tutelage.core.catalog import build
from tutelage.core.describe import digest
from tutelage.core.recipe import Generate, Recipe, Repeat, Train
from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.models.causal import Causal
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

SYMBOLS, LENGTH = 12, 20
LETTERS = "abcdefghijkl"
FIGURES = {
    "teacher_nll": "teacher's NLL of the student's text",
    "student_nll": "student's NLL of the teacher's text",
    "forward_kl": "KL(p, q) on the teacher's text",
    "reverse_kl": "KL(q, p) on the student's text",
}


class Fixed(nn.Module):
    """A head that is the identity and does not train: the states are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(SYMBOLS))


class Body(nn.Module):
    """A table of logits over the last one or two symbols, Float[12^order 12]; with a cache, the symbols are its keys.

    The first symbol of a row has no neighbour; no trained position follows it directly, because prompts have two.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.order = logits.dim() - 1
        self.table = nn.Parameter(logits.reshape(-1, SYMBOLS).clone())
        self.layers = nn.ModuleList([nn.Identity()])

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **ignored: Any) -> Any:
        seen = input_ids
        if past_key_values is not None:
            key = input_ids[:, None, :, None].to(self.table.dtype)
            seen = past_key_values.update(key, key, 0)[0][:, 0, :, 0].long()
        before = nn.functional.pad(seen, (1, 0))[:, -input_ids.shape[1] - 1 : -1]
        place = input_ids if self.order == 1 else before * SYMBOLS + input_ids
        return SimpleNamespace(last_hidden_state=self.table[place])


class Chain(nn.Module):
    """A Markov chain with the interface of a causal model of transformers."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.base_model, self.head = Body(logits), Fixed()
        self.config = SimpleNamespace(num_hidden_layers=1, hidden_size=SYMBOLS, max_position_embeddings=None)
        self.config.get_text_config = lambda decoder=True: self.config

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def log_probs(self) -> Tensor:
        """Float64[a b c]: ``log P(c | a b)``; a student's does not depend on a."""
        table = self.base_model.table.detach().double().log_softmax(-1)
        shape = (1, SYMBOLS, SYMBOLS) if self.base_model.order == 1 else (SYMBOLS,) * 3
        return table.reshape(shape).expand(SYMBOLS, SYMBOLS, SYMBOLS)


def tokenizer() -> PreTrainedTokenizerFast:
    """Twelve letters, no special token: every answer has the full length."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({s: i for i, s in enumerate(LETTERS)}, "a")))


def exact(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """The four figures in nats a position, by propagating the chain over all pairs of symbols."""
    out = {}
    for writer, names in ((teacher, ("student_nll", "forward_kl")), (student, ("teacher_nll", "reverse_kl"))):
        reader = student if writer is teacher else teacher
        mass = torch.full((SYMBOLS, SYMBOLS), 1 / SYMBOLS**2, dtype=torch.float64)
        nll = own = 0.0
        for _ in range(LENGTH):
            joint = mass.unsqueeze(-1) * writer.exp()
            nll -= float((joint * reader).sum())
            own -= float((joint * writer).sum())
            mass = joint.sum(0)
        out |= {names[0]: nll / LENGTH, names[1]: (nll - own) / LENGTH}
    return out


def best_cover(teacher: Tensor) -> Tensor:
    """The first-order chain that covers the teacher's text best, in closed form: its conditional means."""
    mass = torch.full((SYMBOLS, SYMBOLS), 1 / SYMBOLS**2, dtype=torch.float64)
    total = torch.zeros(SYMBOLS, SYMBOLS, dtype=torch.float64)
    for _ in range(LENGTH):
        joint = mass.unsqueeze(-1) * teacher.exp()
        total += joint.sum(0)
        mass = joint.sum(0)
    return (total / total.sum(-1, keepdim=True)).log().expand(SYMBOLS, SYMBOLS, SYMBOLS)


@dataclass
class World:
    """One seed: its teacher, its prompts, and a place to train in.

    Args:
        seed: Teacher, text and draws derive from it.
        folder: Checkpoints and logs go there.
        num_prompts: Rows of ``train``.
        batch_size: Rows a step.
        learning_rate: The peak; it falls to 0 by a line.
    """

    seed: int
    folder: Path
    num_prompts: int = 512
    batch_size: int = 32
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        self.teacher = self.chain("teacher", 2)
        self.processes = Processes.start()

    def chain(self, name: str, order: int) -> Causal:
        """A random chain of logit scale 2."""
        shape = (SYMBOLS,) * (order + 1)
        return self.wrap(name, 2 * torch.randn(shape, generator=generator(self.seed, name)))

    def wrap(self, name: str, logits: Tensor) -> Causal:
        """Logits as a model, with the facts that a loaded one has."""
        facts = {"weights_sha256": digest(str(logits.tolist())), "tokenizer_sha256": digest(LETTERS)}
        return Causal(name, Chain(logits).eval(), tokenizer(), facts)

    def blank(self) -> Causal:
        """A student that knows nothing: every symbol is as likely."""
        return self.wrap("student", torch.zeros(SYMBOLS, SYMBOLS))

    def prompts(self) -> list[Record]:
        """Pairs of symbols, all as likely."""
        pairs = torch.randint(SYMBOLS, (self.num_prompts, 2), generator=generator(self.seed, "prompts")).tolist()
        return [
            Record(f"p{i}", (Piece("".join(LETTERS[s] for s in pair), part="prompt", ids=tuple(pair)),))
            for i, pair in enumerate(pairs)
        ]

    def text(self, writer: Causal | None = None, prompts: Sequence[Record] | None = None) -> list[Record]:
        """The prompts, or others, answered by the teacher or another chain."""
        ws = Workspace(self.folder, self.seed, path=("text",))
        ws.models["writer"] = writer or self.teacher
        return list(run_steps((Ask("writer", max_tokens=LENGTH, author="data"),), prompts or self.prompts(), ws))

    def train(
        self,
        recipe: str | Recipe,
        *,
        steps: int | Mapping[str, int],
        start: Causal | None = None,
        data: Sequence[Record] | None = None,
        more: Mapping[str, Sequence[Record]] | None = None,
        given: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Causal:
        """Run a recipe to its end; ``start`` is left as it is, ``log`` holds each step's row and ``ws`` what was made.

        ``data`` is the data set ``train``, ``more`` are others by name. Arguments of the recipe
        may also be ``given``: some have the names of ours.
        """
        student = copy.deepcopy(start) if start else self.blank()
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            ws = Workspace(Path(name), self.seed)
            ws.models.update(teacher=self.teacher, student=student)
            ws.data["train"] = list(data) if data is not None else self.prompts()
            ws.data.update({name: list(rows) for name, rows in (more or {}).items()})
            made = build(recipe, arguments | dict(given or {})) if isinstance(recipe, str) else recipe
            self._stages(made.stages, ws, steps)
            self.ws, log = ws, Path(name) / "metrics.jsonl"
            self.log = [json.loads(line) for line in log.read_text().splitlines()]
        return student

    def _stages(self, stages: Sequence[Any], ws: Workspace, steps: int | Mapping[str, int], at: str = "") -> None:
        for stage in stages:
            name = f"{at}{stage.name}"
            if isinstance(stage, Generate):
                rows = run_steps(stage.steps, ws.data[stage.over], ws.within(name))
                ws.data[stage.into] = list(rows)
            elif isinstance(stage, Repeat):
                for number in range(stage.times):
                    self._stages(stage.stages, ws, steps, f"{name}-{number}-")
            else:
                num_steps = steps if isinstance(steps, int) else steps[stage.name]
                self._stage(replace(stage, name=name), ws, num_steps)

    def _stage(self, stage: Any, ws: Workspace, steps: int) -> None:
        assert isinstance(stage, Train)
        settings = TrainSettings(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_share=0.0,
            clip_norm=1e3,
            max_length=LENGTH + 2,
        )
        collate = Collate(tokenizer(), settings.max_length, stage.views, pack=settings.pack)
        voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
        log = Metrics(ws.folder / "metrics.jsonl", self.processes)
        folder = ws.folder / stage.name
        Loop(stage, settings, ws, self.processes, collate, split, voices, folder, log).run()

    def figures(self, student: Causal) -> dict[str, float]:
        """What the student is worth, exactly."""
        return exact(student.model.log_probs(), self.teacher.model.log_probs())


@dataclass(frozen=True)
class Claim:
    """What a recipe is said to do, and on which seeds it was seen.

    Args:
        text: The claim.
        held: One answer a seed.
        expected: False for a claim that is not seen on each seed: what is kept says so, and the test notices if that
            changes.
    """

    text: str
    held: tuple[bool, ...]
    expected: bool = True

    @property
    def verdict(self) -> str:
        """How often it was seen; a claim about the mean of the seeds has one answer."""
        if len(self.held) == 1:
            return "so it is" if self.held[0] else "it is not so"
        return f"{sum(self.held)} of {len(self.held)} seeds"


Arms = Mapping[str, Sequence[Mapping[str, float]]]


def claim(text: str, arms: Arms, holds: Any, *, expected: bool = True) -> Claim:
    """Ask ``holds(figures by arm)`` of each seed."""
    num = len(next(iter(arms.values())))
    return Claim(text, tuple(bool(holds({a: rows[i] for a, rows in arms.items()})) for i in range(num)), expected)


def finding(caption: str, arms: Arms, claims: Iterable[Claim], figures: Mapping[str, str] = FIGURES) -> dict[str, Any]:
    """What the tier keeps of a test: a table over seeds, and a verdict on each claim."""
    claims = tuple(claims)
    rows = [[arm, *(_span([seed[f] for seed in seeds]) for f in figures)] for arm, seeds in arms.items()]
    told = " ".join(f"{c.text}: {c.verdict}{'' if c.expected else ', so this is not claimed here'}." for c in claims)
    return {
        "caption": f"{caption} {told}",
        "columns": ["", *figures.values()],
        "rows": rows,
        "seeds": list(range(len(next(iter(arms.values()))))),
        "figures": {a: [{f: round(seed[f], 3) for f in figures} for seed in seeds] for a, seeds in arms.items()},
        "claims": [{"text": c.text, "held": list(c.held), "expected": c.expected} for c in claims],
        "verdict": "as claimed" if all(all(c.held) for c in claims) else "not all as claimed",
    }


def surprising(claims: Iterable[Claim]) -> list[str]:
    """The claims that were not seen although expected, or seen on every seed although not."""
    return [f"{c.text}: {c.verdict}" for c in claims if all(c.held) != c.expected]


def _span(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"
