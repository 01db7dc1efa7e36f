"""The laboratory itself: its exact figures are those of the texts that the real sampler writes."""

import pytest
import torch

from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask

pytestmark = pytest.mark.behaviour


def read(causal, records, lab, pack):
    """Each trained symbol's log-probability, and its row's two symbols before it."""
    batch = Collate(lab.tokenizer(), lab.LENGTH + 2, pack=pack)(records)
    with torch.no_grad():
        scores = causal.predict(batch.views["main"], frozenset({"next"}))["next"].at(slice(None))
    return scores.gather(1, batch.units["tokens"].target[:, None]).squeeze(1).double()


@pytest.mark.parametrize("pack", [False, True])
def test_a_chain_reads_what_it_wrote(lab, tmp_path, pack):
    world = lab.World(0, tmp_path, num_prompts=16)
    for model in (world.teacher, world.chain("student", 1)):
        records = world.text(model)
        noted = torch.tensor([x for r in records for p in r.trained() for x in p.notes["log_prob"]])
        assert torch.allclose(read(model, records, lab, pack), noted.double(), atol=1e-5)
        table = model.model.log_probs()
        ids = [[i for p in r.pieces for i in p.ids] for r in records]
        said = torch.tensor([float(table[a, b, c]) for row in ids for a, b, c in zip(row, row[1:], row[2:])])
        assert torch.allclose(said.double(), noted.double(), atol=1e-5)


def test_exact_figures_are_the_means_of_samples(lab, tmp_path):
    world = lab.World(1, tmp_path, num_prompts=4096)
    student = world.chain("student", 1)
    exact = world.figures(student)
    ws = Workspace(tmp_path, 5)
    ws.models.update(teacher=world.teacher, student=student)
    for writer, reader, nll, kl in (
        ("teacher", student, "student_nll", "forward_kl"),
        ("student", world.teacher, "teacher_nll", "reverse_kl"),
    ):
        records = list(run_steps((Ask(writer, max_tokens=lab.LENGTH, batch_size=512),), world.prompts(), ws))
        log_reader = read(reader, records, lab, False)
        own = torch.tensor([x for r in records for p in r.trained() for x in p.notes["log_prob"]]).double()
        assert float(-log_reader.mean()) == pytest.approx(exact[nll], rel=0.02)
        assert float((own - log_reader).mean()) == pytest.approx(exact[kl], rel=0.03)


def test_no_first_order_chain_covers_better_than_the_closed_form(lab, tmp_path):
    world = lab.World(2, tmp_path)
    teacher = world.teacher.model.log_probs()
    best = lab.best_cover(teacher)
    floor = lab.exact(best, teacher)["student_nll"]
    g = torch.Generator().manual_seed(0)
    for _ in range(8):
        noise = 0.05 * torch.randn(1, lab.SYMBOLS, lab.SYMBOLS, generator=g, dtype=torch.float64)
        assert lab.exact((best + noise).log_softmax(-1), teacher)["student_nll"] > floor
