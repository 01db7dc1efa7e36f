"""Checkpoints of several processes: resumed by another number of them, split, and never lost."""

import json
import shutil
from functools import cache

import pytest
import torch
from safetensors import safe_open

from tutelage.core.errors import StoreError
from tutelage.training import checkpoint as store

STEPS = {"steps": 6, "batch_size": 6}
JOBS = {
    "off-policy": {"recipe": "forward_kl", "settings": STEPS},
    # a round is used three times: it is taken up in its middle, by processes that hold other parts of it
    "on-policy": {"recipe": "opd", "args": {"max_tokens": 6}, "reuse": 3, "settings": STEPS},
    "adapter": {"recipe": "forward_kl", "lora": True, "settings": STEPS},
}
SPLIT = {"whole": [], "split": ["student", "teacher"]}
BOTH = [(job, how) for job in JOBS for how in SPLIT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def undisturbed(worker, folder):
    return {name: worker.train(job, folder / f"{name} alone") for name, job in JOBS.items()}


@pytest.fixture(scope="module")
def written(together, folder):
    """Folders of runs of two processes, ended while step 5 was under way: the newest checkpoint is of step 4 or 5."""
    jobs = {
        f"{job}, {how}": {**JOBS[job], "split": SPLIT[how], "stop": 5, "folder": folder / f"{job} {how}"} for job, how in BOTH
    }
    together(2, folder, jobs)
    return {name: job["folder"] for name, job in jobs.items()}


@pytest.fixture(scope="module")
def resumed(worker, together, written, folder):
    """The rest of each run, by the number of processes: what one wrote goes on with two, what two wrote with 1 and 4."""

    @cache
    def run(num):
        jobs = {}
        for job, how in BOTH:
            made = written[f"{job}, {how}"] if num != 2 else folder / f"{job} stopped"
            if not made.exists():
                worker.train({**JOBS[job], "stop": 5}, made)
            own = shutil.copytree(made, folder / f"{job} {how} by {num}")
            jobs[f"{job}, {how}"] = {**JOBS[job], "split": SPLIT[how], "folder": own}
        return together(num, folder, jobs) if num > 1 else {n: worker.train(j, j["folder"]) for n, j in jobs.items()}

    return run


@pytest.mark.parametrize("num", [1, 2, 4])
@pytest.mark.parametrize(("job", "how"), BOTH)
def test_another_number_of_processes_goes_on_with_the_same_curve(job, how, num, undisturbed, resumed):
    rest, whole = resumed(num)[f"{job}, {how}"], undisturbed[job]
    assert [r["step"] for r in rest] == [5, 6]
    assert [r["loss"] for r in rest] == pytest.approx([r["loss"] for r in whole[4:]], rel=1e-5)
    assert [r["grad_norm"] for r in rest] == pytest.approx([r["grad_norm"] for r in whole[4:]], rel=1e-5)


def newest(made):
    return store.steps(made / "c")[-1]


def test_no_process_writes_what_another_holds(written):
    """Of split weights and moments each file has its own half of the rows; together they have each row once."""
    path = newest(written["off-policy, split"])
    for group in ("slot-student", "optimizer-0"):
        sizes = [0, 0]
        for rank in (0, 1):
            with safe_open(path / f"{group}.{rank}.safetensors", framework="pt") as stored:
                sizes[rank] = sum(stored.get_tensor(name).numel() for name in stored.keys())  # noqa: SIM118
        assert 0.9 < sizes[0] / sizes[1] < 1.1, group
    whole = store.load(newest(written["off-policy, whole"])).tensors
    put_together = store.load(path).tensors
    for group, tensors in whole.items():
        assert tensors.keys() == put_together[group].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(put_together[group][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "manifest", "half a manifest", "rows"])
def test_a_damaged_part_is_named(harm, written, tmp_path):
    path = shutil.copytree(newest(written["off-policy, split"]), tmp_path / "step-00000004")
    file, manifest = path / "slot-student.1.safetensors", path / "manifest.json"
    if harm == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif harm == "missing":
        file.unlink()
    elif harm == "manifest":
        manifest.unlink()
    elif harm == "half a manifest":
        manifest.write_text(manifest.read_text()[:200])
    else:
        table = json.loads(manifest.read_text())
        del table["files"][file.name]
        manifest.write_text(json.dumps(table))
    with pytest.raises(StoreError, match="Delete .*step-00000004") as caught:
        store.load(path)
    if harm == "rows":
        assert "not all rows" in str(caught.value)


def test_a_kill_while_several_write_keeps_the_checkpoint_before(worker, launch, undisturbed, folder):
    """The second process dies with half a file written; what was there goes on, by one process, to the same end."""
    job = {**JOBS["off-policy"], "split": SPLIT["split"], "folder": str(folder / "killed")}
    file = folder / "killed.json"
    file.write_text(json.dumps({"it": {**job, "die": 3}}))
    code, said = launch(2, file)
    assert code != 0, said
    assert [p.name for p in store.steps(folder / "killed" / "c")] == ["step-00000002"]
    assert (folder / "killed" / "c" / ".writing-00000003").exists(), "half of it is there, under a name that is none"
    rest = worker.train(job, folder / "killed")
    assert [r["step"] for r in rest] == [3, 4, 5, 6]
    assert [r["loss"] for r in rest] == pytest.approx([r["loss"] for r in undisturbed["off-policy"][2:]], rel=1e-5)


def test_a_disk_that_is_full_for_one_process_stops_all_with_one_message(launch, folder):
    file = folder / "full.json"
    job = {**JOBS["off-policy"], "split": SPLIT["split"], "folder": str(folder / "full"), "full": 2}
    file.write_text(json.dumps({"it": job}))
    code, said = launch(2, file)
    assert code != 0 and "process 1: " in said and "No space left" in said and "Earlier checkpoints are whole" in said
    assert [p.name for p in store.steps(folder / "full" / "c")] == ["step-00000001"]
