"""A cache of rollouts serves as well as a live teacher, where one teacher wrote the answers and scores the rollouts."""

import warnings

import pytest
import torch

from tutelage.core.workspace import Workspace
from tutelage.data.origin import Signed

pytestmark = pytest.mark.behaviour
ONLINE = '''"""The same loss with a live teacher and fresh rollouts."""
from tutelage.core.recipe import Recipe, recipe
from tutelage.core.term import Term
from tutelage.recipes import base
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import gap


@recipe(paper="none", family="on-policy", formula="-A log q(y)")
def online(*, max_tokens: int = 20) -> Recipe:
    """Sampled-token on-policy distillation."""
    return base.on_policy(Term("correct", ScoreFunction(gap())), max_tokens=max_tokens, temperature=1.0)
'''


def gradient(lab, student, teacher, writer):
    """The expected gradient of the loss by the student's logits, Float64[a b], over all that a writer may write."""
    log_q, log_p, log_w = (x.model.log_probs()[0] for x in (student, teacher, writer))
    advantage = (log_p - log_q) * log_w.exp()
    by_logits = -(advantage - advantage.sum(-1, keepdim=True) * log_q.exp())
    mass, total = torch.full((lab.SYMBOLS,), 1 / lab.SYMBOLS, dtype=torch.float64), torch.zeros_like(log_q)
    for _ in range(lab.LENGTH):
        total += mass.unsqueeze(-1) * by_logits
        mass = mass @ log_w.exp()
    return total.flatten()


def test_lightning_opd(lab, measure, found, tmp_path):
    (tmp_path / "online.py").write_text(ONLINE)
    cosines = {"one teacher": [], "two teachers": []}
    kept = {"one teacher": [], "two teachers": []}

    def arms(world):
        world.teacher, out = world.chain("teacher", 1), {}
        for case, writer in (("one teacher", world.teacher), ("two teachers", world.chain("another", 1))):
            ws = Workspace(world.folder, world.seed)
            ws.models["teacher"] = writer
            world.num_prompts = 60
            taught = list(Signed("teacher")(iter(world.text(writer)), ws))
            world.num_prompts = 1024
            world.learning_rate = 0.1
            start = world.train("supervised", data=taught, steps=60)
            world.learning_rate = 0.05
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                offline = world.train("lightning_opd", start=start, steps=120, more={"told": taught}, taught="told",
                                      strict=False, max_tokens=lab.LENGTH, temperature=1.0)  # fmt: skip
            assert bool(said) == (case == "two teachers"), "it is said that the teachers differ"
            online = world.train(str(tmp_path / "online.py"), start=start, steps=120)
            pair = (gradient(lab, online, world.teacher, who) for who in (start, online))
            cosines[case].append(float(torch.cosine_similarity(*pair, dim=0)))
            arms = {f"imitation, {case}": start, f"online, {case}": online, f"lightning_opd, {case}": offline}
            a, b, c = (world.figures(s)["reverse_kl"] for s in arms.values())
            kept[case].append((a - c) / (a - b))
            out |= arms
        return out

    figures = measure(arms, seeds=4)
    spans = {case: f"{min(kept[case]):.2f} to {max(kept[case]):.2f}" for case in kept}
    angles = {case: f"{min(cosines[case]):.2f} to {max(cosines[case]):.2f}" for case in cosines}
    found(
        "Student and teachers are first-order chains. 60 steps of imitation on 60 answers of the teacher, or of another one; "
        "then 120 steps of 32 rows to the teacher, online or from 1,024 cached rollouts. Share of online's fall of KL(q, p) "
        f"on its own text: {spans['one teacher']} with one teacher, {spans['two teachers']} with two. Cosine of the two "
        f"expected gradients where online ends: {angles['one teacher']} and {angles['two teachers']}. Nats a position, mean (range).",
        figures,
        lab.Claim("One teacher: the cache keeps at least 0.9 of what online gains", tuple(x >= 0.9 for x in kept["one teacher"])),
        lab.Claim("Two teachers: the cosine is lower", tuple(b < a for a, b in zip(*cosines.values(), strict=True))),
        lab.Claim("Two teachers: the cache keeps less", tuple(b < a for a, b in zip(*kept.values(), strict=True))),
    )
