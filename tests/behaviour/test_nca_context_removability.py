"""A student that learnt a context by heart counts it twice when it comes back, unless what it does with it is anchored."""

import pytest
import torch
from torch import nn

from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

ITEMS, SYMBOLS, SEEDS = 60, 10, 3


def informed(record):
    """The view in which the context stands before the prompt."""
    hint = Piece("h0", part="context", ids=(SYMBOLS + ITEMS,))
    return Record(record.id, (hint, *record.pieces), record.fields, record.notes, record.group)


class Body(nn.Module):
    """Logits of an item, and what the context adds to them: both train. A context stands first in a row."""

    def __init__(self, inner, extra):
        super().__init__()
        self.inner, self.extra, self.layers = inner, nn.Parameter(extra.clone()), inner.layers

    def forward(self, input_ids, past_key_values=None, **ignored):
        said = self.inner(input_ids, past_key_values, **ignored)
        told = (input_ids[:, :1] == SYMBOLS + ITEMS).unsqueeze(-1)
        item = (input_ids - SYMBOLS).clamp(0, ITEMS - 1)
        said.last_hidden_state = said.last_hidden_state + told * self.extra[item]
        return said


def both(tables, logits, extra):
    """A table whose context adds logits of its own."""
    model = tables.table("student", logits, 0.0)
    model.model.base_model = Body(model.model.base_model, extra)
    return model


def test_nca_context_removability(lab, tables, told, tmp_path):
    arms = {"context distillation (beta=0)": 0.0, "anchored, beta=0.5": 0.5}
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        g = generator(seed, "items")
        right = torch.randint(SYMBOLS, (ITEMS,), generator=g)
        other = (right + 1 + torch.randint(SYMBOLS - 1, (ITEMS,), generator=g)) % SYMBOLS
        logits = 0.1 * torch.randn(ITEMS, 1, SYMBOLS, generator=g)
        logits[torch.arange(ITEMS), 0, right] = 1.0
        extra = torch.zeros(ITEMS, SYMBOLS)
        extra[torch.arange(ITEMS), right] = 2.0
        half = torch.arange(ITEMS) < ITEMS // 2
        extra[torch.arange(ITEMS)[half], other[half]] = 2.8  # right with the context once, wrong with it twice

        def worth(model, right=right):
            body = model.model.base_model
            z = body.inner.table.detach()[:, 0].double()
            plain, returned = z, z + body.extra.detach().double()
            kept, again = plain.argmax(-1) == right, returned.argmax(-1) == right
            q, r = plain.log_softmax(-1), returned.log_softmax(-1)
            return {
                "right without": float(kept.double().mean()),
                "harm": float((kept & ~again).double().sum() / kept.double().sum().clamp_min(1)),
                "KL without to with": float((q.exp() * (q - r)).sum(-1).mean()),
            }

        student = both(tables, logits, extra)
        figures["before"].append(worth(student))
        data = tables.prompts(ITEMS, SYMBOLS, reference=["x"] * ITEMS)
        for name, beta in arms.items():
            figures[name].append(worth(tables.train(
                "nca_context_removability", {"student": student}, data, tmp_path, steps=150, batch_size=ITEMS, learning_rate=0.05,
                seed=seed, views={"told": informed}, beta=beta, num_kept=None, max_tokens=1,
            )))  # fmt: skip
    told(
        "60 items of 10 symbols; the context adds 2 to the right one and, for half of the items, 2.8 to a distractor, so that counted "
        "twice it errs; both tables train; 150 steps; exact, mean over seeds (range).",
        figures,
        lab.claim("Harm below 0.05", figures, lambda f: f["anchored, beta=0.5"]["harm"] < 0.05),
        lab.claim("Without the anchor the context harms a third of what was right", figures, lambda f: f["context distillation (beta=0)"]["harm"] > 0.33),
        lab.claim("Within a point of context distillation without the context", figures,
                  lambda f: abs(f["anchored, beta=0.5"]["right without"] - f["context distillation (beta=0)"]["right without"]) <= 0.01),
    )  # fmt: skip
