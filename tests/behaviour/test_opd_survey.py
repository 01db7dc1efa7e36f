"""What a divergence gives up: modes or cover; and how errors add up for a student that never saw its own mistakes."""

import pytest
import torch
from torch import nn

from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour
SEEDS, SYMBOLS, TRACK = 3, 50, 6


class Bell(nn.Module):
    """A body whose logits are those of a Gaussian over the symbols: a mean and a width train."""

    def __init__(self, inner, mean, width):
        super().__init__()
        self.inner, self.mean, self.log_width, self.layers = inner, nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(width).log()), inner.layers

    def logits(self):
        return -0.5 * ((torch.arange(SYMBOLS) - 10 * self.mean) / self.log_width.exp()) ** 2

    def forward(self, input_ids, past_key_values=None, **ignored):
        said = self.inner(input_ids, past_key_values, **ignored)
        said.last_hidden_state = said.last_hidden_state.detach() * 0 + self.logits()
        return said


def modes(tables, tmp_path, seed):
    """The mass that each divergence's bell puts on either of two modes."""
    g = generator(seed, "modes")
    low, high = 10 + 3 * torch.rand((), generator=g), 37 + 3 * torch.rand((), generator=g)
    at = torch.arange(SYMBOLS)
    p = torch.exp(-0.5 * ((at - low) / 2) ** 2) + torch.exp(-0.5 * ((at - high) / 2) ** 2) + 1e-5
    middle = (low + high) / 2
    out = {}
    for name in ("kl_forward", "jensen", "kl_reverse"):
        student = tables.table("student", torch.zeros(1, 1, SYMBOLS))
        student.model.base_model = Bell(student.model.base_model, float(middle) / 10 - 0.4, 6.0)
        models = {"teacher": tables.table("teacher", p.log()[None, None]), "student": student}
        made = tables.train("opd_survey", models, tables.prompts(1, SYMBOLS), tmp_path, steps=200, batch_size=1, learning_rate=0.03,
                            seed=seed, divergence=name, max_tokens=1)  # fmt: skip
        q = made.model.base_model.logits().detach().double().softmax(-1)
        mass = float(q[at < middle].sum())
        reverse = float((q * (q.clamp_min(1e-300).log() - (p / p.sum()).double().log())).sum())
        out[name] = {"mass on one mode": max(mass, 1 - mass), "width": float(made.model.base_model.log_width.exp().detach()), "KL(q, p)": reverse}
    return out


def off_track(model, steps):
    """The expected number of symbols off the track among the first ``steps``, exactly."""
    table = model.model.base_model.table.detach().double().softmax(-1)
    mass, total = torch.zeros(12, dtype=torch.float64), 0.0
    mass[:TRACK] = 1 / TRACK
    for _ in range(steps):
        mass = mass @ table
        total += float(mass[TRACK:].sum())
    return total


def exposure(lab, tmp_path, seed):
    """Errors of 10 and 40 symbols, trained on the teacher's text and on the student's own."""
    world = lab.World(seed, tmp_path)
    right = torch.zeros(12, 12)
    right[torch.arange(12), (torch.arange(12) + 1) % TRACK] = 14.0  # off the track the teacher goes back to it
    world.teacher = world.wrap("teacher", right)
    start = 0.3 * torch.randn(12, 12, generator=generator(seed, "start"))
    start[TRACK:, TRACK:] += 5.0  # off the track the student stays there, until it is told
    pairs = torch.randint(TRACK, (64, 2), generator=generator(seed, "pairs")).tolist()
    prompts = [Record(f"p{i}", (Piece("".join(lab.LETTERS[s] for s in x), part="prompt", ids=tuple(x)),)) for i, x in enumerate(pairs)]
    out = {}
    for name, share in (("the teacher's text", 0.0), ("its own text", 1.0)):
        data = world.text(prompts=prompts) if not share else prompts
        made = world.train("opd_survey", steps=200, start=world.wrap("student", start), data=data, divergence="kl_forward", student_share=share,
                           max_tokens=lab.LENGTH)  # fmt: skip
        out[name] = {"in 10": off_track(made, 10), "in 40": off_track(made, 40)}
    return out


def test_opd_survey(lab, tables, told, tmp_path):
    names = ("mass on one mode", "width", "KL(q, p)", "in 10", "in 40")
    figures = {}
    for seed in range(SEEDS):
        for arm, found in {**modes(tables, tmp_path, seed), **exposure(lab, tmp_path, seed)}.items():
            figures.setdefault(arm, []).append({n: found.get(n, 0.0) for n in names})
    growth = {arm: [f["in 40"] / f["in 10"] for f in figures[arm]] for arm in ("the teacher's text", "its own text")}
    told(
        "First three rows: a Gaussian over 50 symbols fitted to two modes, 200 steps; last two: expected symbols off a track in texts of 10 "
        "and 40 symbols, of a student trained 200 steps by forward KL on text of the teacher, which never leaves the track, or on its own. "
        "Four times the length has, on average, "
        f"{sum(growth['the teacher' + chr(39) + 's text']) / SEEDS:.1f} and {sum(growth['its own text']) / SEEDS:.1f} times the errors. Exact; 0 where a figure is not of the row.",
        figures,
        lab.claim("Reverse KL puts over 90 % on one mode", figures, lambda f: f["kl_reverse"]["mass on one mode"] > 0.9),
        lab.claim("Forward KL covers both", figures, lambda f: f["kl_forward"]["mass on one mode"] < 0.65),
        lab.claim("Jensen-Shannon lies between in KL(q, p)", figures,
                  lambda f: f["kl_reverse"]["KL(q, p)"] <= f["jensen"]["KL(q, p)"] + 1e-3 and f["jensen"]["KL(q, p)"] < f["kl_forward"]["KL(q, p)"]),
        lab.Claim("Trained on its own text, four times the length has less than 6 times the errors", tuple(x < 6 for x in growth["its own text"])),
        lab.Claim("Trained on the teacher's, more than 8 times", tuple(x > 8 for x in growth["the teacher's text"])),
    )  # fmt: skip
