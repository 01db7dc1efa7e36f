"""Sentences that only the teacher would write are found in what the distilled student writes, and answers that hold many teach them faster."""

import pytest
import torch

from tutelage.core.seeds import generator
from tutelage.core.workspace import Workspace
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.credit import Credit

pytestmark = pytest.mark.behaviour
SEEDS, PROMPTS, STEPS, ONLY = 5, 32, 40, 0.4
SYMBOLS, END = 12, 11  # the last symbol ends a line, which is a sentence here


def corpora(seed):
    """Bigram models of A (the student's), of B (the teacher's), and of B's own lines alone: log-probabilities [12 12].

    Lines are three symbols and an end. A and B share the line 0 1 2; A has one of its own, B a family of 8.
    """
    g = generator(seed, "corpora")
    a = torch.full((SYMBOLS, SYMBOLS), 1e-3)
    a[0, 1] = a[1, 2] = a[2, END] = a[9, 10] = a[10, 2] = 1.0
    b = a.clone()
    a[END, 0] = a[END, 9] = 0.5
    a[3:9] = 1 / SYMBOLS
    for row, col in ((3, 5), (4, 5), (5, 7), (6, 7)):
        lean = 0.2 + 0.6 * float(torch.rand((), generator=g))
        b[row, col], b[row, col + 1] = lean, 1 - lean
    b[7:9, END] = 1.0
    own = b.clone()
    b[END, 0], b[END, 3], b[END, 4] = 1 - ONLY, ONLY / 2, ONLY / 2
    own[END, 3] = own[END, 4] = 0.5
    return [(t / t.sum(1, keepdim=True)).log() for t in (a, b, own)]


def credited(world, start, distilled):
    """Precision and recall of the label `teacher` over what the distilled student writes.

    Lines with a transition that only B makes are the teacher's in part, lines of such transitions alone are wholly so.
    """
    ws = Workspace(world.folder, world.seed)
    ws.models.update(teacher=world.teacher, start=start, student=distilled)
    a, b = (m.model.base_model.table.detach().log_softmax(-1).exp() for m in (start, world.teacher))
    theirs = (b >= 0.1) & (a < 0.1)
    labelled, right, wholly, found = 0, 0, 0, 0
    for row in run_steps((Credit(student="start", distilled="student"),), world.text(distilled), ws):
        ids = (row.pieces[0].ids[-1], *row.pieces[1].ids)
        for sentence in row.fields["credit"]:
            own = [bool(theirs[ids[k], ids[k + 1]]) for k in range(*sentence["span"])]
            labelled, right = labelled + (sentence["label"] == "teacher"), right + (sentence["label"] == "teacher" and any(own))
            wholly, found = wholly + all(own), found + (sentence["label"] == "teacher" and all(own))
    return {"precision": right / labelled, "recall": found / wholly}


def test_provenance_tracing(lab, found_as, tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "LETTERS", "abcdefghijk\n")
    arms = {"before": [], "random answers": [], "chosen answers": []}
    for seed in range(SEEDS):
        world = lab.World(seed, tmp_path, num_prompts=PROMPTS)
        a, b, own = corpora(seed)
        world.teacher, start = world.wrap("teacher", b), world.wrap("student", a)
        only = world.wrap("own", own).model.log_probs()
        distilled = world.train("seqkd", steps=60, start=start, max_tokens=lab.LENGTH, temperature=1.0)
        traced = credited(world, start, distilled)

        def worth(student, world=world, only=only, traced=traced):
            log_probs = student.model.log_probs()
            nll = world.figures(student)["student_nll"]
            return {"nll": nll, "own_nll": lab.exact(log_probs, only)["student_nll"], **traced}

        arms["before"].append(worth(start))
        for arm, candidates in (("random answers", 1), ("chosen answers", 4)):
            arms[arm].append(worth(world.train(
                "provenance_tracing", steps=STEPS, start=start, candidates=candidates, trace=False, max_tokens=lab.LENGTH,
            )))  # fmt: skip
    random, chosen = list(arms)[1:]
    found_as(
        f"Bigram chains of 12 symbols, lines of three as sentences; {100 * ONLY:.0f} % of the teacher's lines are of symbols "
        f"that only it knows. {PROMPTS} questions, one answer of 5 lines each to train on for {STEPS} steps, at random or "
        "chosen of 4; exact, mean over seeds (range). The label `teacher` in what a student writes that learned from random "
        "answers: precision is the share of labelled lines with a transition that only the teacher makes, recall the share "
        "of lines of such transitions alone that are labelled.",
        arms,
        [
            lab.claim("Lines labelled as the teacher's are so with a precision of 90 %", arms, lambda f: f[chosen]["precision"] >= 0.9),
            lab.claim("90 % of the lines that are wholly the teacher's are found", arms, lambda f: f[chosen]["recall"] >= 0.9),
            lab.claim("Chosen answers teach the teacher's own lines better", arms, lambda f: f[chosen]["own_nll"] < f[random]["own_nll"]),
            lab.claim("Chosen answers reach a lower NLL on all that the teacher writes", arms, lambda f: f[chosen]["nll"] < f[random]["nll"], expected=False),
        ],
        {"nll": "NLL of the teacher's text", "own_nll": "NLL of the teacher's own lines", "precision": "precision", "recall": "recall"},
    )  # fmt: skip
