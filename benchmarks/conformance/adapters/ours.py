"""Ourselves: the loss node, and one step of the training loop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from tutelage.core import node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.core.scores import Head, Lazy
from tutelage.core.signal import Signal
from tutelage.core.term import Term, Update
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.source import Corpus
from tutelage.models.agree import agree
from tutelage.models.causal import Causal
from tutelage.signals.divergences import Jensen, Tempered, kl_forward, kl_reverse
from tutelage.signals.match import Match, Top, whole
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

from ...head import Says as Given
from .. import tiny
from ..asked import IGNORED, Heads, Row, Scene, Stepped


class Ours:
    """tutelage."""

    name = "tutelage"
    loss_is = "core.node.total over signals.match.Match"
    step_is = "training.loop.Loop"
    temperature_power = 2
    half_is = "bfloat16 hidden states and heads"

    def loss(self, asked: Heads) -> Tensor:
        """Units are the positions that train; each has its coefficient."""
        kept = (asked.labels != IGNORED).nonzero().squeeze(1)
        count = max(len(kept), 1)
        size = min(len(asked.weight), len(asked.teacher_weight))
        student = Lazy(asked.hidden[kept], Head(asked.weight, asked.bias, size=size))
        teacher = Lazy(asked.teacher_hidden[kept], Head(asked.teacher_weight, size=size))
        voices = {"student": Given("student", student), "teacher": Given("teacher", teacher)}
        units = Units(torch.zeros_like(kept), torch.arange(len(kept)))
        ctx = Context(Batch((), {"tokens": units}, {}), voices, {}, frozenset({"student"}))
        weights = torch.ones(len(kept)) if asked.token_weights is None else asked.token_weights[kept].float()
        signal = _match(asked.beta, asked.temperature, asked.top_k)
        return node.total(ctx, "tokens", [signal], (weights / count)[None])[0]

    def step(self, scene: Scene) -> Stepped:
        """The loop that ``tutelage run`` runs, for one step."""
        student, teacher = tiny.pair(scene)
        before = tiny.weights(teacher)
        words = tiny.tokenizer()
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(Path(folder))
            models = {"teacher": Causal("teacher", teacher, words), "student": Causal("student", student, words)}
            agree(models["teacher"], models["student"])
            workspace.models.update(models)
            workspace.data["train"] = [_record(i, row, scene) for i, row in enumerate(scene.rows)]
            match = _match(scene.beta, scene.temperature, 0)
            stage = Train("t", Corpus("train"), (Update((Term("match", match),)),))
            settings = TrainSettings(
                steps=1, batch_size=len(scene.rows), micro_batch_size=scene.micro_batch, clip_norm=1e30
            )
            processes = Processes.start()
            log = Metrics(Path(folder) / "metrics.jsonl", processes)
            voices = {slot: Says(slot) for slot in models}
            collate = Collate(words, settings.max_length)
            with tiny.watched(student) as found:
                Loop(
                    stage, settings, workspace, processes, collate, split, voices, Path(folder) / "steps", log
                ).run()  # fmt: skip
        return Stepped(found, scene.rows, tiny.touched(teacher, before))


def _match(beta: float, temperature: float, top_k: int) -> Signal:
    compare = {0.0: kl_forward, 1.0: kl_reverse}.get(beta) or Jensen(beta)
    tempered = compare if temperature == 1 else Tempered(compare, temperature)
    return Match(tempered, on=Top(top_k) if top_k else whole)


def _record(number: int, row: Row, scene: Scene) -> Record:
    prompt = Piece("", part="prompt", ids=row.prompt, trains=scene.prompt_trains)
    return Record(f"r{number}", (prompt, Piece("", part="answer", ids=row.answer, trains=True)))


ADAPTERS = (Ours(),)
