"""Bits a byte: what models with different tokenizers, or behind a server, are compared by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.record import Record
from ..core.scores import Scores
from ..data.collate import Collate
from ..evaluation.evaluate import untouched
from ..models.agree import same_tokens
from ..models.causal import Causal
from ..models.encoder import Encoder
from ..training import checkpoint as store

FILE = "bits.json"


def comparable(teacher: Any, student: Any) -> bool:
    """Whether whole distributions of the two can be compared: both are here, and an id means the same to both."""
    return isinstance(teacher, Causal) and isinstance(student, Causal) and same_tokens(teacher, student)


def unmeasured(models: Mapping[str, Any]) -> str:
    """Why these models are not measured before and after; empty if they are."""
    if isinstance(models.get("student"), Encoder):
        return "Nothing is measured before and after: encoders score no next token. Look at what the stages log."
    if "teacher" not in models or "student" not in models:
        return "Nothing is measured: figures compare a model 'student' with a model 'teacher'."
    return ""


@torch.no_grad()
def bits_per_byte(model: Any, records: Sequence[Record], max_length: int, batch_size: int = 8) -> float:
    """``-log2 q(answer) / bytes of the answer``, over the trained pieces; the end of an answer counts as no byte.

    Args:
        model: Reads and predicts in its own tokens.
        records: Rows; those that are too long are cut, in the model's own tokens.
        max_length: The longest row, in tokens.
        batch_size: Rows a pass.
    """
    collate, nats = Collate(model.tokenizer, max_length), 0.0
    with untouched([model] if isinstance(model, Causal) else []):
        for start in range(0, len(records), batch_size):
            batch = collate(records[start : start + batch_size]).to(model.device)
            target = batch.units["tokens"].target
            scores = model.predict(batch.views["main"], frozenset({"next"}))["next"]
            assert isinstance(scores, Scores) and target is not None
            for at in range(0, len(target), 64):
                rows = slice(at, min(at + 64, len(target)))
                said = scores.at(rows).gather(-1, target[rows].unsqueeze(-1))
                nats -= float(said.double().sum())
    num_bytes = sum(len(p.content.encode()) for r in records for p in r.trained())
    return nats / math.log(2) / max(1, num_bytes)


def keep(folder: Path, name: str, models: Mapping[str, Any], records: Sequence[Record], max_length: int) -> str:
    """Measure student and teacher under a name of the results, unless that was done; what there is to say of it."""
    file = folder / FILE
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if "teacher" not in kept and "next" in models["teacher"].fields():
        kept["teacher"] = bits_per_byte(models["teacher"], records, max_length)
    if name not in kept:
        kept[name] = bits_per_byte(models["student"], records, max_length)
        store.write_text(file, json.dumps(kept))
    shown = ", ".join(f"{key} {value:.3f}" for key, value in kept.items())
    return f"Held-out answers, in bits a byte (the student's by stage; less is better): {shown}."
