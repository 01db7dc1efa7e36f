"""Pain 44: a server cannot temper prompt log-probabilities, and sampler and trainer give other numbers for one token.

Here a temperature on a part of the vocabulary is refused when built; the sampler writes down both the model's own
log-probability and that of what it drew from; and both agree with the trainer's pass.
"""

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.context import Context
from tutelage.core.errors import SettingError
from tutelage.core.signal import Noted, Read
from tutelage.core.voice import Says
from tutelage.data.collate import Collate
from tutelage.data.steps.ask import Ask
from tutelage.signals.divergences import Tempered, kl_forward
from tutelage.signals.match import Match, Top
from tutelage.signals.readouts import LogProb


def test_a_tempered_divergence_over_a_few_tokens_is_refused_when_built():
    with pytest.raises(SettingError, match="every category"):
        Match(Tempered(kl_forward, 2.0), on=Top(20))


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 1.5])
def test_sampler_and_trainer_agree_token_by_token(ws, kit, tokenizer, temperature):
    prompts = [kit.chat(f"q{n}", "what is " + "two and " * n + "two?", "four") for n in range(4)]
    rows = list(Ask("student", max_tokens=12, temperature=temperature)(iter(prompts), ws))
    with torch.no_grad():
        ctx = Context(Collate(tokenizer, 200)(rows), {"student": Says("student")}, {}, frozenset(), ws)
        own = ctx(LogProb())
        warm = (ctx.say("student")["next"].at(slice(None)) / temperature).log_softmax(-1)
    notes = ctx.batch.notes
    assert torch.allclose(notes["tokens.log_prob"], own, atol=1e-4)
    drawn = warm.gather(1, ctx.batch.units["tokens"].target[:, None]).squeeze(1)
    assert torch.allclose(notes["tokens.drawn"], drawn, atol=1e-4)


def test_scores_of_warm_rollouts_are_at_temperature_1_on_both_sides():
    """Teacher and student are compared as they are; the sampler's temperature only chose the tokens."""
    stages = catalog.build("lightning_opd", {"temperature": 0.8}).stages
    _, ask, score, _ = stages[2].steps
    assert ask.temperature == 0.8 and score.signal == LogProb(Read("teacher"))
    (term,) = stages[-1].updates[0].objective
    assert term.loss.advantage == Noted("teacher") - LogProb()
