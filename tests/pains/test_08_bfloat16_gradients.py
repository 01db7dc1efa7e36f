"""Pain 8: logits rounded to bfloat16 before the "float32" loss put gradients off by 4 to 23 % while the loss hardly moved.

Here the head's product of half-precision inputs is formed in float32.
"""

import pytest
import torch

from tutelage.core.batch import Batch, Units, View
from tutelage.core.context import Context
from tutelage.core.node import total
from tutelage.core.scores import Lazy
from tutelage.signals.divergences import Jensen, kl_forward, kl_reverse
from tutelage.signals.match import Match


class Fixed:
    """Says one thing."""

    def __init__(self, slot, scores):
        self.slot, self.scores = slot, scores

    def slots(self):
        return frozenset({self.slot})

    def predict(self, ctx, wants):
        return {"next": self.scores}


@pytest.mark.parametrize("compare", [kl_forward, kl_reverse, Jensen(0.5)])
def test_gradients_of_a_bfloat16_model(compare, new_causal):
    """Student and teacher are close, as late in training: the gradient is small, and rounding of logits is not."""
    causal = new_causal(vocab_size=600, tie_word_embeddings=False)
    causal.model.to(torch.bfloat16)
    ids = torch.randint(3, 260, (4, 16), generator=torch.Generator().manual_seed(0))
    view = View({"input_ids": ids}, torch.arange(64))
    with torch.no_grad():
        said = causal.predict(view, frozenset({"next"}))["next"]
    hidden = said.hidden.detach().clone().requires_grad_()
    nudge = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)) * 0.03
    other = (hidden.detach() + nudge).bfloat16()
    batch = Batch((), {"tokens": Units(torch.arange(64), torch.zeros(64, dtype=torch.long))}, {})
    voices = {"student": Fixed("student", Lazy(hidden, said.head)), "teacher": Fixed("teacher", Lazy(other, said.head))}
    ctx = Context(batch, voices, {}, frozenset({"student"}))
    value, _ = total(ctx, "tokens", [Match(compare)], torch.ones(1, 64))
    (got,) = torch.autograd.grad(value, hidden)

    def by_hand(logits):
        h = hidden.detach().double().requires_grad_()
        w = said.head.weight.detach().double()
        loss = compare(logits(h @ w.T).log_softmax(-1), logits(other.double() @ w.T).log_softmax(-1)).sum()
        return float(loss.detach()), torch.autograd.grad(loss, h)[0]

    exact, right = by_hand(lambda z: z)
    _, rounded = by_hand(lambda z: z + (z.bfloat16().double() - z).detach())
    error = lambda g: float((g.double() - right).norm() / right.norm())
    assert error(rounded) > 0.03, "the fault would be seen"
    assert error(got) < 0.004, "what is left is the gradient's own rounding to bfloat16"
    assert float(value.detach()) == pytest.approx(exact, rel=1e-4)
