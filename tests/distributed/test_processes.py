"""Two gloo processes train as one: whole weights (DDP) or split ones (FSDP2), off-policy, on-policy, picking tokens."""

import pytest

JOBS = {
    "off-policy": {"recipe": "forward_kl"},
    "on-policy": {"recipe": "opd", "args": {"max_tokens": 6}},
    # picks a share of the positions of all processes, by entropy and divergence on the scale of all of them
    "picking": {"recipe": "tip", "args": {"share": 0.4, "rollouts": 2, "max_tokens": 6}},
    "drawing": {"recipe": "tip", "args": {"share": 0.4, "by": "drawn", "rollouts": 2, "max_tokens": 6}},
    "adapter": {"recipe": "forward_kl", "lora": True},
    "rows coupled": {"recipe": "gkd", "args": {"max_tokens": 6}},
    # one row is left of each round: the process that does not hold it works along without a row
    "a process without rows": {"recipe": "forward_kl", "drop": [f"r{i}" for i in range(7)], "settings": {"batch_size": 8}},
    "recomputed activations": {"recipe": "forward_kl", "settings": {"gradient_checkpointing": True}},
}
SPLIT = {"whole": [], "student": ["student"], "teacher": ["teacher"], "both": ["student", "teacher"]}
PAIRS = [(job, split) for job in JOBS for split in SPLIT if split in ("whole", "both") or job in ("picking", "off-policy")]


@pytest.fixture(scope="module")
def told(worker, together, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    jobs = {f"{job}, {split}": {**JOBS[job], "split": SPLIT[split], "folder": folder / f"{job} {split}"} for job, split in PAIRS}
    two = together(2, folder, jobs)
    one = {name: worker.train(job, folder / f"{name} alone") for name, job in JOBS.items()}
    return lambda job, split: (two[f"{job}, {split}"], one[job])


@pytest.mark.parametrize(("job", "split"), PAIRS)
def test_two_processes_have_the_loss_curve_of_one(job, split, told):
    two, one = told(job, split)
    assert len(two) == len(one) == 4
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-5)
    assert [r["grad_norm"] for r in two] == pytest.approx([r["grad_norm"] for r in one], rel=1e-5)
    assert [r["positions"] for r in two] == [r["positions"] for r in one]


def test_a_process_without_rows_was_met(told):
    held = [len(r["lengths"]) for r in told("a process without rows", "both")[0]]
    assert set(held) == {0, 1}, "of the first process, by step"


def test_the_jobs_are_different_ones(told):
    """The picks, the adapter and the missing rows change the curve: none of them was passed over."""
    curves = {job: tuple(r["loss"] for r in told(job, "whole")[1]) for job in JOBS if job != "recomputed activations"}
    assert len(set(curves.values())) == len(curves)
