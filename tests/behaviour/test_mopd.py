"""A teacher that is shown right and wrong answers of the same prompt teaches; one shown those of other prompts does not."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.data.live import Live

pytestmark = pytest.mark.behaviour

PROMPTS, LENGTH, SYMBOLS, SEEDS, ROLLOUTS = 10, 4, 8, 3, 8
RIGHT, WRONG = 2.0, -0.5  # what a shown answer adds to the logits of its symbols


def reader(tables, logits):
    """A model that leans on the answers it is shown: those of a right one, then a wrong one, stand before the prompt."""
    model = tables.ended("student", logits)
    body = model.model.base_model

    class Reading(type(body)):
        """The table, and what is shown, one symbol a position; the end symbol, which stands for none, changes nothing."""

        def forward(self, input_ids, past_key_values=None, **ignored):
            said = super().forward(input_ids, past_key_values=past_key_values)
            prompts, length, size = self.table.shape
            start = ((input_ids >= size) & (input_ids < size + prompts)).int().argmax(1)
            if past_key_values is not None or int(start.min()) < 2 * length:
                return said
            time = (torch.arange(input_ids.shape[1])[None] - start[:, None]).clamp(0, length - 1)
            for back, lift in ((2, RIGHT), (1, WRONG)):
                hint = input_ids.gather(1, start[:, None] - back * length + time) - size - prompts
                one = torch.nn.functional.one_hot(hint.clamp(0, size - 1), size).clone()
                one[..., -1] = 0
                said.last_hidden_state = said.last_hidden_state + lift * one
            return said

    body.__class__ = Reading
    return model


def shown(record):
    """The view in which the first right and the wrong peer stand before the prompt, the end symbol for what is missing."""
    peers = record.fields["peers"]
    ids = []
    for name in ("right", "wrong"):
        text = (peers[name] or [""])[0]
        symbols = [int(word[1:]) for word in text.split()][:LENGTH]
        ids += [SYMBOLS + 1 + PROMPTS + s for s in [*symbols, *[SYMBOLS] * (LENGTH + 1 - len(symbols))]]
    hint = Piece(" ".join(f"h{i - SYMBOLS - 1 - PROMPTS}" for i in ids), part="hint", ids=tuple(ids))
    return Record(record.id, (hint, *record.pieces), record.fields, record.notes, record.group)


@dataclass(frozen=True)
class Others:
    """Gives each row the peers of a row of another prompt."""

    reads: ClassVar[str] = "whole"

    def __call__(self, records, ws):
        rows = list(records)
        for place, row in enumerate(rows):
            other: Any = rows[(place + ROLLOUTS) % len(rows)]
            notes = {**row.notes, "informed": other.notes["informed"]}
            yield replace(row, fields={**row.fields, "peers": other.fields["peers"]}, notes=notes)


def unrelated(recipe):
    stage = recipe.stages[0]
    return replace(recipe, stages=(replace(stage, source=Live(*stage.source.steps, Others(), prompts="train")),))


def test_mopd(lab, tables, told, tmp_path):
    rule = tmp_path / "solves.py"
    rule.write_text("def solves(record):\n    return list(record.pieces[-1].ids) == list(record.fields['solution'])\n")
    arms = {"mopd": {}, "shown peers of another prompt": None}
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        g = generator(seed, "code")
        solution = torch.randint(SYMBOLS, (PROMPTS, LENGTH), generator=g)
        logits = 0.1 * torch.randn(PROMPTS, LENGTH, SYMBOLS, generator=g)
        student = reader(tables, logits.scatter_add(2, solution[..., None], torch.full((PROMPTS, LENGTH, 1), 1.85)))

        def success(model, solution=solution):
            said = tables.log_probs(model)[:, :LENGTH]
            return {"success": float(said.gather(2, solution[..., None]).sum((1, 2)).exp().mean())}

        figures["before"].append(success(student))
        data = tables.prompts(PROMPTS, SYMBOLS + 1, solution=[(*s, SYMBOLS) for s in solution.tolist()])
        for name, how in arms.items():
            made = build("mopd", {"verifier": str(rule), "max_tokens": LENGTH + 1, **(how or {})})
            figures[name].append(success(tables.train(
                unrelated(made) if how is None else made, {"student": student, "teacher": student}, data, tmp_path, steps=50,
                batch_size=PROMPTS, learning_rate=0.2, seed=seed, views={"peers": shown},
            )))  # fmt: skip
    told(
        "10 prompts of 4 symbols out of 8, right if all are; a right peer adds 2 to the logits of its symbols, a wrong one "
        "takes 0.5 off, in a teacher that averages the student at rate 0.05; 8 rollouts a prompt, 50 steps; the "
        "probability of success, exact, mean over seeds (range).",
        figures,
        lab.claim("Above 0.8", figures, lambda f: f["mopd"]["success"] > 0.8),
        lab.claim("With peers of another prompt below 0.1", figures, lambda f: f["shown peers of another prompt"]["success"] < 0.1),
    )  # fmt: skip
