"""How far a gradient depends on how a batch of ragged rows is split, packed or padded: it should not."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Signal, uniform
from tutelage.core.term import Per, Term, Update, per_row, per_token
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.models.causal import Causal
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.match import Match
from tutelage.signals.readouts import Entropy
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

from .common import Result

WORDS, ROWS = 64, 16
OBJECTIVES: dict[str, tuple[Signal, Signal, Per]] = {
    "forward KL a token": (Match(kl_forward), uniform, per_token),
    "forward KL a row": (Match(kl_forward), uniform, per_row),
    "reverse KL, entropy as weight": (Match(kl_reverse), Entropy(), per_token),
}


def tiny(name: str, seed: int, layers: int, dtype: torch.dtype) -> Causal:
    """A small Llama of random weights."""
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(seed)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({str(i): i for i in range(WORDS)}, "0")))
    model = torch.nn.Module.to(LlamaForCausalLM(config), dtype)
    return Causal(name, model.eval(), words)


def ragged() -> list[Record]:
    """Rows whose answers have from 1 to 46 tokens."""
    g = torch.Generator().manual_seed(0)
    rows = []
    for number in range(ROWS):
        ids = tuple(torch.randint(WORDS, (2 + 3 * number,), generator=g).tolist())
        answer = Piece("", part="answer", trains=True, ids=ids[1 + number % 3 :] or ids[-1:])
        rows.append(Record(f"r{number}", (Piece("", part="prompt", ids=ids[:1]), answer)))
    return rows


class World:
    """A teacher, a student and rows; gradients under any split."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.workspace = Workspace(Path("."))
        self.workspace.models.update(teacher=tiny("teacher", 1, 3, dtype), student=tiny("student", 2, 2, dtype))
        self.student: Causal = self.workspace.models["student"]
        self.rows = ragged()

    def gradient(self, objective: str, size: int, *, means: bool = False, pack: bool = True) -> Tensor:
        """The student's whole gradient, micro-batches of ``size`` rows; ``means`` averages their means instead."""
        loss, weight, per = OBJECTIVES[objective]
        plan = Plan.of(Update((Term("t", loss, weight, per=per),)), {s: Says(s) for s in self.workspace.models})
        collate = Collate(self.student.tokenizer, 96, pack=pack)
        batches = [collate(rows) for rows in split(self.rows, size)]
        self.workspace.models["teacher"].model.requires_grad_(False)
        self.student.model.zero_grad()
        rounds = [[b] for b in batches] if means else [batches]
        for some in rounds:
            run_update(
                plan, some, self.workspace, Progress(), backward=lambda v: (v / len(rounds)).backward(),
                reduce=lambda t: t, inside=lambda f: f(),
            )  # fmt: skip
        return torch.cat([p.grad.flatten() for p in self.student.model.parameters() if p.grad is not None])


def run(device: str, quick: bool) -> Result:
    """The table."""
    rows = []
    splits = (1, 5) if quick else (1, 2, 3, 5, 8)
    for dtype in (torch.float32, torch.float64):
        world = World(dtype)
        for objective in OBJECTIVES:
            whole = world.gradient(objective, ROWS)
            scale = float(whole.abs().max())

            def off(other: Tensor, whole: Tensor = whole, scale: float = scale) -> float:
                return float((other - whole).abs().max()) / scale

            worst = max(off(world.gradient(objective, size)) for size in splits)
            padded = off(world.gradient(objective, 3, pack=False))
            means = off(world.gradient(objective, 1, means=True))
            rows.append((str(dtype).removeprefix("torch."), objective, worst, padded, means))
    return Result(
        "invariance",
        "Largest difference of a gradient's entry from that of the whole batch, relative to the largest entry. Last "
        "column, for comparison: the mean of the means of micro-batches of one row, as loops that divide too early do.",
        {"rows": ROWS, "answers": "1 to 46 tokens", "micro-batch rows": list(splits)},
        ("dtype", "objective", "any split", "padded instead of packed", "mean of means"),
        tuple(rows),
    )
