"""Along turns that went off track the teacher is trusted less, and success comes more surely."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tutelage.core.catalog import build
from tutelage.core.recipe import Recipe
from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.core.signal import Noted, Still
from tutelage.core.term import Term
from tutelage.signals.policy import Clipped
from tutelage.signals.pools import GroupNorm
from tutelage.signals.readouts import LogProb, gap

pytestmark = pytest.mark.behaviour

TURNS, ACTIONS, STATES, SEEDS = 4, 6, 7, 3  # states: on track at turns 0 to 3, off it at turns 1 to 3
END = ACTIONS
WORLD = """
def path(record):
    on = True
    for turn, piece in enumerate(record.trained()):
        on = piece.ids[0] == record.fields['right' if on else 'back'][turn]
    return on, turn + 1


def reply(record):
    on, turn = path(record)
    return None if turn == 4 else f"p{turn if on else 3 + turn}"


def arrives(record):
    return path(record)[0]
"""


class Body(nn.Module):
    """Logits of the state that the row named last; after an action comes the end."""

    def __init__(self, logits):
        super().__init__()
        self.table, self.layers = nn.Parameter(logits.clone()), nn.ModuleList([nn.Identity()])

    def forward(self, input_ids, past_key_values=None, **ignored):
        seen = input_ids
        if past_key_values is not None:
            key = input_ids[:, None, :, None].to(self.table.dtype)
            seen = past_key_values.update(key, key, 0)[0][:, 0, :, 0].long()
        size = self.table.shape[1]
        named = torch.where(seen >= size, seen - size, -1)
        place = torch.arange(seen.shape[1]).expand_as(seen).masked_fill(named < 0, 0).cummax(1).values
        state = named.gather(1, place).clamp(0, STATES - 1)[:, -input_ids.shape[1] :]
        end = 60 * nn.functional.one_hot(torch.tensor(END), size) - 30.0
        hidden = torch.where((input_ids < ACTIONS).unsqueeze(-1), end, self.table[state])
        return type("Said", (), {"last_hidden_state": hidden})


def model(tables, name, logits):
    never = torch.full((STATES, 1), -30.0)
    made = tables.table(name, torch.cat([logits, never], 1)[:, None])
    made.model.base_model = Body(torch.cat([logits, never], 1))
    made.config.eos_token_id = END
    return made


def unweighted(**arguments):
    """The group's reward and plain distillation."""
    (stage,) = build("sod", arguments).stages
    advantage = GroupNorm(Noted("right", "rows"), epsilon=1e-6) + Still(gap())
    update = replace(stage.updates[0], objective=(Term("policy", Clipped(advantage, Still(LogProb()), 0.2, 0.28)),))
    return Recipe((replace(stage, updates=(update,)),))


def success(trained, right, back):
    """The probability to be on track at the end, exact."""
    p = trained.model.base_model.table.detach().double().softmax(-1)
    on, off = 1.0, 0.0
    for turn in range(TURNS):
        stays, returns = float(p[turn, right[turn]]), float(p[3 + turn, back[turn]]) if turn else 0.0
        on, off = on * stays + off * returns, on * (1 - stays) + off * (1 - returns)
    return on


def test_sod(lab, tables, told, tmp_path):
    for name in ("reply", "arrives"):
        (tmp_path / f"{name}.py").write_text(WORLD)
    shared = {"tool": str(tmp_path / "reply.py"), "verifier": str(tmp_path / "arrives.py"), "rollouts": 16, "max_tokens": 2, "turns": TURNS}
    arms = {"reward and plain distillation": unweighted(**shared), "sod": "sod"}
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        g = generator(seed, "turns")
        right, back = torch.randint(ACTIONS, (2, TURNS), generator=g).tolist()
        teacher = 4 * torch.randn(STATES, ACTIONS, generator=g)
        student = 0.1 * torch.randn(STATES, ACTIONS, generator=g)
        for turn in range(TURNS):
            teacher[turn] = 3 * nn.functional.one_hot(torch.tensor(right[turn]), ACTIONS)
        models = {"teacher": model(tables, "teacher", teacher), "student": model(tables, "student", student)}
        figures["before"].append({"success": success(models["student"], right, back)})
        data = [Record("p", (Piece("p0", part="prompt", ids=(ACTIONS + 1,)),), {"right": right, "back": back})]
        for name, recipe in arms.items():
            figures[name].append({"success": success(tables.train(
                recipe, models, data, tmp_path, steps=120, batch_size=1, learning_rate=0.05, seed=seed,
                **(shared if recipe == "sod" else {}),
            ), right, back)})  # fmt: skip
    told(
        "A task of 4 turns with 6 actions; a wrong action leads off track, where the teacher is noise and one action comes back; right if "
        "on track at the end; 16 rows a round, 120 steps; the probability of success, exact, mean over seeds (range).",
        figures,
        lab.claim("More often successful than with plain distillation", figures,
                  lambda f: f["sod"]["success"] > f["reward and plain distillation"]["success"]),
    )  # fmt: skip
