"""A teacher of some merged pairs corrects a student of others: spans carry what shared tokens leave out."""

from __future__ import annotations

import runpy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.context import Context
from tutelage.core.seeds import generator
from tutelage.core.signal import Couples, Signal
from tutelage.core.term import Update
from tutelage.signals.parts import AtFirst

pytestmark = pytest.mark.behaviour

KIT = runpy.run_path(str(Path(__file__).with_name("letters.py")))
LETTERS, THEIRS, OWN = "abcdefgh", ("ab", "cd", "ef"), ("bc", "de", "gh")
LENGTH, ROWS, STEPS, RATE = 24, 32, 80, 0.15


@dataclass(frozen=True)
class Elsewhere(Signal):
    """The value of the next span of the batch that is not a single token: spans that have nothing to do with the text."""

    of: Signal
    single: Signal
    couples: ClassVar[Couples] = Couples.BATCH

    def __call__(self, ctx: Context) -> torch.Tensor:
        values, spans = ctx(self.of), (ctx(self.single) == 0).nonzero().squeeze(1)
        return values.index_copy(0, spans, values[spans.roll(1)])


def random_spans():
    """The recipe's stage with the teacher's scores of other spans."""
    (stage,) = build("simct", {"max_tokens": LENGTH, "temperature": 1.0}).stages
    (update,) = stage.updates
    (term,) = update.objective
    loss = term.loss.of
    wrong = replace(loss, p=Elsewhere(loss.p, loss.single))
    return replace(stage, updates=(Update((replace(term, loss=AtFirst(wrong)),)),))


def arm(spans):
    (stage,) = build("simct", {"spans": spans, "max_tokens": LENGTH, "temperature": 1.0}).stages
    return stage


def test_simct(lab, found_as, tmp_path):
    figures = {}
    for seed in range(5):
        shape = (len(LETTERS), len(LETTERS))
        logits = 1.2 * torch.randn(shape, generator=generator(seed, "source"), dtype=torch.float64)
        for a, b in (*THEIRS, *OWN):
            logits[LETTERS.index(a), LETTERS.index(b)] += 2
        source = logits.softmax(-1)
        teacher = KIT["over_pairs"](source, LETTERS, THEIRS)
        weak = KIT["over_pairs"]((0.5 * logits).softmax(-1), LETTERS, OWN)
        prompts = KIT["texts"](source, LETTERS, seed, count=256, length=2)
        data = [replace(r, pieces=(replace(r.pieces[0], content=r.pieces[0].content + r.pieces[1].content),)) for r in prompts]
        arms = {
            "no training": None,
            "shared tokens alone": arm("none"),
            "random spans": random_spans(),
            "simct": arm("minimal"),
            "simct, spans as released": arm("released"),
        }
        for name, stage in arms.items():
            student = weak
            if stage is not None:
                models = {"teacher": KIT["model"]("teacher", teacher, LETTERS, THEIRS), "student": KIT["model"]("student", weak, LETTERS, OWN)}
                student = KIT["train"](
                    stage, models, data, tmp_path, seed, steps=STEPS, batch_size=ROWS, learning_rate=RATE, max_length=LENGTH + 8
                )
            figures.setdefault(name, []).append({"nll": KIT["nll"](student, source, LETTERS, OWN)})
        figures.setdefault("the source itself", []).append({"nll": KIT["nll"](KIT["over_pairs"](source, LETTERS, OWN), source, LETTERS, OWN)})
    spans, shared, wrong = "simct", "shared tokens alone", "random spans"
    mean = {name: sum(f["nll"] for f in found) / len(found) for name, found in figures.items()}
    found_as(
        f"{STEPS} steps of {ROWS} answers of {LENGTH} tokens, from a student at half the source's logits. The source is a random chain of "
        f"{len(LETTERS)} letters; the teacher is that chain over letters and {', '.join(THEIRS)}, the student's tokens are letters and "
        f"{', '.join(OWN)}. Random spans have the teacher's score of another span of the batch. Exact over endless text, nats a letter, "
        "mean over seeds (range).",
        figures,
        (
            lab.Claim("Spans lower the NLL of the student's text in the mean, against shared tokens alone", (mean[spans] < mean[shared] - 0.03,)),
            lab.Claim("And against random spans", (mean[spans] < mean[wrong] - 0.03,)),
            lab.claim("On every seed, against shared tokens alone", figures, lambda f: f[spans]["nll"] < f[shared]["nll"], expected=False),
            lab.claim("On every seed, against random spans", figures, lambda f: f[spans]["nll"] < f[wrong]["nll"]),
        ),
        {"nll": "the source's NLL of the student's text"},
    )
