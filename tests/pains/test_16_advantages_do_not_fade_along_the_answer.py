"""Pain 16: MiniLLM advantages were scaled by gamma^t, became NaN on long completions, and training did not converge.

Here an advantage is the mean of the log-ratios still to come: the same wherever it stands, finite however long the
answer is, and a chain that is trained by it comes closer to its teacher on its own text.
"""

import pytest
import torch

from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.record import Record
from tutelage.core.signal import Noted
from tutelage.signals.importance import Whitened
from tutelage.signals.pools import ToGo


def advantages(rewards, signal):
    row = torch.tensor([r for r, some in enumerate(rewards) for _ in some])
    time = torch.tensor([t for some in rewards for t in range(len(some))])
    notes = {"tokens.reward": torch.tensor([x for some in rewards for x in some], dtype=torch.float32)}
    batch = Batch(tuple(Record(f"r{i}", ()) for i in range(len(rewards))), {"tokens": Units(row, time)}, {}, notes)
    return Context(batch, {}, {})(signal)


def test_what_comes_later_counts_the_same_at_the_start_and_after_a_thousand_tokens():
    tail = [0.5, -2.0, 1.0, 3.0]
    alone = advantages([tail], ToGo(Noted("reward"), mean=True))
    behind = advantages([[0.0] * 1000 + tail], ToGo(Noted("reward"), mean=True))
    assert torch.allclose(behind[-4:], alone, atol=1e-5)
    assert float(behind[0]) == pytest.approx(sum(tail) / 1003, rel=1e-3)


@pytest.mark.parametrize("size", [4000, 20000])
def test_long_answers_and_harsh_rewards_stay_finite(size):
    g = torch.Generator().manual_seed(0)
    harsh = (torch.randn(size, generator=g) * 50 - 100).tolist()
    got = advantages([harsh, [-400.0], harsh[:7]], Whitened(ToGo(Noted("reward"), mean=True)))
    assert torch.isfinite(got).all() and float(got.std()) == pytest.approx(1, abs=1e-3)


def test_a_policy_trained_by_them_converges():
    """Two symbols; the teacher never writes a b after a b, but likes b: only what follows says that b is a mistake."""
    table = torch.zeros(3, 2, requires_grad=True)  # logits at the start, after a, after b
    teacher = torch.tensor([[0.0, 1.0], [2.0, -2.0], [-6.0, -6.0]]).log_softmax(-1)
    teacher[2] = torch.tensor([-9.0, -9.0])  # after b the teacher finds anything unlikely
    g, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam([table], 0.1)
    for _ in range(150):
        state, states, symbols = torch.zeros(64, dtype=torch.long), [], []
        for _ in range(4):
            drawn = torch.multinomial(table.detach().softmax(-1)[state], 1, generator=g).squeeze(1)
            states.append(state)
            symbols.append(drawn)
            state = drawn + 1
        at, said = torch.stack(states, 1), torch.stack(symbols, 1)
        log_q = table.log_softmax(-1)[at, said]
        rewards = (teacher[at, said] - log_q).detach()
        value = advantages(rewards.tolist(), ToGo(Noted("reward"))).view(64, 4)
        exact = (table.log_softmax(-1).exp() * (table.log_softmax(-1) - teacher)).sum(-1)[at]
        loss = (-value * log_q + exact).mean()
        optimiser.zero_grad()
        loss.backward()
        assert torch.isfinite(table.grad).all()
        optimiser.step()
    # the exact first part alone would write b first: its own log-ratio is the better one
    assert float(table.detach().softmax(-1)[0, 0]) > 0.95
