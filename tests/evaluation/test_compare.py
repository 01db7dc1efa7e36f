"""Comparison: known answers, refusals, and the coverage of the interval on simulated recipes."""

import json

import pytest
import torch

from tutelage.core.errors import SettingError, StoreError
from tutelage.evaluation.compare import by_name, by_recipe, compare, group, interval
from tutelage.evaluation.run_folder import RunFolder


def write(folder, name, recipe, kl, top1=None, held_out="h", count=None):
    """A minimal evaluated run."""
    run = folder / name
    run.mkdir()
    size = len(kl)
    records = {"ids": [f"r{i}" for i in range(size)], "count": count or [10] * size, "kl": kl,
               "top1": top1 or [0.5] * size, "student_nll": kl}  # fmt: skip
    (run / "run.json").write_text(json.dumps({"name": name, "recipe_hash": recipe}))
    (run / "evaluation.json").write_text(json.dumps({"held_out": {"hash": held_out}, "after": {"records": records}}))
    return run


def some(seed, size=60, shift=0.0):
    return (torch.rand(size, generator=torch.Generator().manual_seed(seed)) + 0.5 + shift).tolist()


def test_identical_runs_cannot_be_told_apart(tmp_path):
    found = compare([write(tmp_path, "a", "A", some(0)), write(tmp_path, "b", "B", some(0))])
    assert [d.verdict for d in found] == ["cannot tell"] * 3
    assert all(d.low == d.high == d.difference == 0 for d in found)


def test_a_shifted_copy_is_better_and_the_other_way_worse(tmp_path):
    low = write(tmp_path, "low", "L", some(0, shift=-0.05), top1=[0.7] * 60)
    high = write(tmp_path, "high", "H", some(0))
    by_metric = {d.metric: d for d in compare([high, low])}
    assert by_metric["kl"].verdict == "better" and by_metric["kl"].difference == pytest.approx(-0.05)
    assert by_metric["top1"].verdict == "better"  # more is better here
    assert {d.verdict for d in compare([low, high])} == {"worse"}
    json.dumps(by_metric["kl"].to_dict())


def test_pairing_finds_what_unpaired_records_hide(tmp_path):
    """Records differ a hundred times more than the recipes do; the pairs still tell."""
    hard = torch.linspace(0, 10, 60, dtype=torch.float64)
    noise = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05
    a, b = write(tmp_path, "a", "A", hard.tolist()), write(tmp_path, "b", "B", (hard - 0.1 + noise).tolist())
    assert compare([a, b], metrics=["kl"])[0].verdict == "better"


def test_records_weigh_by_their_positions(tmp_path):
    count = [1] * 59 + [941]
    a = write(tmp_path, "a", "A", [1.0] * 60, count=count)
    b = write(tmp_path, "b", "B", [1.0] * 59 + [2.0], count=count)
    assert compare([a, b], metrics=["kl"])[0].group_mean == pytest.approx(1 + 941 / 1000)


def test_seeds_that_scatter_forbid_a_verdict_that_one_seed_would_give(tmp_path):
    """Both recipes have the same mean over seeds 0.3 apart; the first seeds alone look different."""
    a = [write(tmp_path, f"a-seed{s}", "A", some(0, shift=o)) for s, o in enumerate((0.0, 0.3, 0.6))]
    b = [write(tmp_path, f"b-seed{s}", "B", some(0, shift=o)) for s, o in enumerate((0.2, 0.5, 0.4))]
    assert compare([a[0], b[0]], metrics=["kl"])[0].verdict == "worse"
    found = compare([*a, *b], metrics=["kl"])[0]
    assert found.verdict == "cannot tell" and found.num_seeds == (3, 3) and (found.baseline, found.group) == ("a", "b")


@pytest.mark.parametrize(("num_seeds", "num_records"), [(1, 40), (1, 8), (3, 40), (5, 25)])
def test_the_interval_covers_the_truth_19_times_in_20(num_seeds, num_records):
    gen = torch.Generator().manual_seed(7)
    truth, inside, num = -0.1, 0, 400
    for trial in range(num):
        record = torch.randn(num_records, generator=gen, dtype=torch.float64)
        tilt = 0.2 * torch.randn(num_records, generator=gen, dtype=torch.float64)
        spread = 0.1 if num_seeds > 1 else 0.0
        sides = [
            record + share * tilt + mean + spread * torch.randn(num_seeds, 1, generator=gen, dtype=torch.float64)
            + 0.1 * torch.randn(num_seeds, num_records, generator=gen, dtype=torch.float64)
            for mean, share in ((0.0, 0.0), (truth, 1.0))
        ]  # fmt: skip
        low, high = interval(*sides, torch.ones(num_records, dtype=torch.float64), num_resamples=400, seed=trial)
        inside += low <= truth <= high
    assert 0.92 <= inside / num <= 0.99


def test_groups_by_recipe_and_by_name(tmp_path):
    runs = [
        write(tmp_path, n, r, some(0)) for n, r in (("x-seed0", "A"), ("x-seed1", "A"), ("y-seed0", "A"), ("z", "B"))
    ]
    assert {k: len(v) for k, v in group(runs).items()} == {"x": 3, "z": 1}
    assert {k: len(v) for k, v in group(runs, by_name).items()} == {"x": 2, "y": 1, "z": 1}
    names = ("half-seed3", "half_s3", "half-3", "half")
    assert {by_name(RunFolder(tmp_path, {"name": n})) for n in names} == {"half"}
    assert by_recipe(RunFolder(tmp_path, {"name": "half-2"})) == "half"


def test_refusals(tmp_path):
    a, b = write(tmp_path, "a", "A", some(0)), write(tmp_path, "b", "B", some(0), held_out="other")
    with pytest.raises(StoreError, match="same held-out"):
        compare([a, b])
    with pytest.raises(SettingError, match="1 recipe"):
        compare([a])
    c = write(tmp_path, "c", "C", some(1))
    with pytest.raises(SettingError, match="magic"):
        compare([a, c], metrics=["magic"])
    with pytest.raises(StoreError, match="top5"):
        compare([a, c], metrics=["top5"])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("{}")
    with pytest.raises(StoreError, match="Evaluate the run"):
        compare([a, tmp_path / "d"])
    with pytest.raises(StoreError, match="no such folder"):
        compare([a, tmp_path / "nowhere"])
