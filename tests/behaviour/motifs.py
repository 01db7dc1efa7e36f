"""A laboratory of encoders: a bigram language, and the question which of two of its motifs comes first.

Task rows are rows of the language in which both motifs occur once, so the task is a question about general text. The
teacher (4 blocks, 64 features) is trained as a masked language model, then tuned on 1,024 labelled rows; students (2 blocks,
32 features) begin at random and see 64. There is one language and one teacher; seeds differ in students, labelled rows and
draws. Recipes, steps and loop are those that users run.
"""

from __future__ import annotations

import copy
import runpy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tutelage.core.catalog import build
from tutelage.core.recipe import Change, Generate, Train
from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.pipeline import run_steps
from tutelage.models.encoder import Encoder
from tutelage.running.assemble import build_parts
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).parents[1] / "models" / "encoder_kit.py"))
SYMBOLS, LENGTH, FIRST = 12, 16, 4  # ids before FIRST are the tokenizer's frame
LETTERS = KIT["WORDS"][FIRST:][:SYMBOLS]
MOTIFS = ((0, 1), (2, 3))
CLASSES = ("a", "b")
RATE = 3e-3


class World:
    """The language, and its teacher before and after it was tuned on the question."""

    def __init__(self, folder: Path, pretrain: int = 300, tune: int = 150) -> None:
        self.folder, self.processes = folder, Processes.start()
        logits = 1.5 * torch.randn(SYMBOLS, SYMBOLS, generator=generator(0, "language"))
        for first, second in MOTIFS:
            logits[first, second] = logits[first].max()
        self.chain = logits.softmax(-1)
        self.general = [self.record(f"g{i}", row) for i, row in enumerate(self._text("general", 2048).tolist())]
        self.held = self.task("held", 1000)
        self.teacher = self._pretrained(pretrain)
        made = self.train(0, {"tune": tune}, num_labelled=1024, stages=("enhanced",))
        self.tuned = {slot: made.models[slot] for slot in ("tuned", "tuned.classes")}
        self.teacher_right = self.accuracy(made, "tuned")

    def _text(self, name: str, num: int) -> Tensor:
        """Int[num LENGTH], rows of the language."""
        g = generator(0, name)
        out = [torch.randint(SYMBOLS, (num,), generator=g)]
        for _ in range(LENGTH - 1):
            out.append(torch.multinomial(self.chain[out[-1]], 1, generator=g).squeeze(1))
        return torch.stack(out, 1)

    def task(self, name: str, num: int) -> list[Record]:
        """Rows in which each motif occurs once; the label is the one that comes first."""
        rows: list[Record] = []
        while len(rows) < num:
            text = self._text(f"{name} {len(rows)}", 4 * num)
            at = [(text[:, :-1] == a) & (text[:, 1:] == b) for a, b in MOTIFS]
            both = (at[0].sum(1) == 1) & (at[1].sum(1) == 1)
            first = (at[0].int().argmax(1) > at[1].int().argmax(1)).long()
            for row, label in zip(text[both].tolist(), first[both].tolist(), strict=True):
                rows.append(self.record(f"{name}{len(rows)}", row, CLASSES[label]))
        return rows[:num]

    @staticmethod
    def record(name: str, row: Sequence[int], label: str = "") -> Record:
        return Record(name, (Piece(" ".join(LETTERS[s] for s in row), trains=True, ids=tuple(s + FIRST for s in row)),), {"label": label} if label else {})

    def _pretrained(self, steps: int) -> Encoder:
        """A masked language model: 30 % of the letters are hidden and guessed back."""
        model = KIT["make_encoder"]("teacher", seed=0, hidden_size=64, intermediate_size=128, initializer_range=0.05)
        words = model.inner.get_input_embeddings().weight
        model.model.train()
        optimizer = torch.optim.AdamW(model.model.parameters(), lr=2e-3)
        g = generator(0, "masks")
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
            ids = self._text(f"mlm {step}", 32) + FIRST
            hidden = torch.rand(ids.shape, generator=g) < 0.3
            framed = torch.nn.functional.pad(ids.masked_fill(hidden, 3), (1, 1))
            framed[:, 0], framed[:, -1] = 1, 2
            states = model.hidden({"input_ids": framed})[:, 1:-1]
            loss = cross_entropy((states @ words.T)[hidden], ids[hidden])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.model.eval()
        return model

    @staticmethod
    def student(seed: int) -> Encoder:
        """Two blocks of half the width, at random."""
        return KIT["make_encoder"]("student", seed=100 + seed, num_hidden_layers=2, hidden_size=32, intermediate_size=64, initializer_range=0.05)

    def train(self, seed: int, steps: Mapping[str, int], *, num_labelled: int = 64, **arguments: Any) -> Workspace:
        """Run the stages of the recipe that have steps; what they made is in the workspace."""
        ws = Workspace(self.folder, seed)
        ws.models.update(teacher=self.teacher, student=self.student(seed), **getattr(self, "tuned", {}))
        ws.data.update(general=self.general, train=self.task(f"labelled {seed}", num_labelled))
        given = {"general": "general", "label": "label", "classes": CLASSES, "layers": 2, **arguments}
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            for stage in build("ernie_tiny", given).stages:
                self._stage(stage, ws, Path(name), steps)
        return ws

    def _stage(self, stage: Any, ws: Workspace, folder: Path, steps: Mapping[str, int]) -> None:
        if isinstance(stage, Generate):
            ws.data[stage.into] = list(run_steps(stage.steps, ws.data[stage.over], ws.within(stage.name)))
        elif isinstance(stage, Change):
            ws.models.setdefault(stage.into, copy.deepcopy(stage.by(ws)))
        elif isinstance(stage, Train) and steps.get(stage.name):
            build_parts(stage, ws)
            settings = TrainSettings(steps=steps[stage.name], batch_size=16, learning_rate=RATE, max_length=LENGTH + 2, warmup_share=0.1, checkpoint_seconds=1e9, pack=False)
            voices = {slot: Says(slot) for slot in ws.models}
            log = Metrics(folder / f"{stage.name}.jsonl", self.processes)
            Loop(stage, settings, ws, self.processes, Collate(KIT["framed"](), LENGTH + 2), split, voices, folder / stage.name, log).run()

    def accuracy(self, ws: Workspace, who: str = "student", rows: Sequence[Record] = ()) -> float:
        """How often a model is right, by default on rows that no student was trained on."""
        rows = rows or self.held
        view = Collate(KIT["framed"](), LENGTH + 2)(rows).views["main"]
        with torch.no_grad():
            guess = ws.models[f"{who}.classes"](ws.models[who].predict(view, frozenset({"pooled"}))["pooled"]).argmax(-1)
        return float((guess == torch.tensor([CLASSES.index(r.fields["label"]) for r in rows])).double().mean())
