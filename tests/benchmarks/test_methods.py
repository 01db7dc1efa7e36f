"""The bench of methods: its problems, its counts, its statistics, and one small run from end to end."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from benchmarks.methods import claims, job, ladder, measures, meter, plan, sizes, statistics, summary, table, tasks

from tutelage.core import catalog
from tutelage.data import corpus
from tutelage.signals.grades import find


# -- problems ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "data"
    tasks.write(folder, {"test": 20, "train": 30}, seed=0)
    return folder


def test_the_data_s_own_answers_are_right(data):
    """An answer whose work is wrong, or whose tags are missing, would teach everyone something false."""
    right = find("task")
    rows = corpus.read(data / "train.jsonl")
    assert {r.fields["family"] for r in rows} == {f.name for f in tasks.FAMILIES}
    assert all(right(r) == 1.0 for r in rows)


def test_partial_sums_are_right_at_each_step():
    said = tasks.partial_sums("State the final answer to the following arithmetic problem: 4 + 13 - 7 - 20 =")
    assert said == "4 + 13 = 17, 17 - 7 = 10, 10 - 20 = -10"
    for left, value in (step.split(" = ") for step in said.split(", ")):
        assert eval(left) == int(value)


def test_formulas_name_premises_and_conclusion():
    question = "Consider:\n1. Some cats are not dogs\n2. No dogs are fish\n\nDoes it follow that:\nAll fish are cats?\n"
    assert tasks.formulas(question) == "cats - dogs, dogs | fish: fish < cats"


def test_no_question_stands_in_two_splits(data):
    prompts = [[json.loads(x)["prompt"] for x in (data / f"{s}.jsonl").open()] for s in ("test", "train")]
    assert not set(prompts[0]) & set(prompts[1]) and all(len(set(p)) == len(p) for p in prompts)


def test_the_tokenizer_gives_back_every_text_and_keeps_digits_apart(data):
    texts = [json.loads(x)["prompt"] for x in (data / "train.jsonl").open()]
    made = tasks.tokenizer(texts, 300)
    for text in [*texts, "12 <answer>7</answer> ümläut"]:
        assert made.decode(made(text)["input_ids"]) == text
    assert not [t for t in made.get_vocab() if sum(c.isdigit() for c in t) > 1]


# -- figures ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("num", "right", "k"), [(5, 0, 2), (5, 2, 1), (5, 2, 3), (5, 5, 4), (6, 3, 6)])
def test_pass_at_k_is_the_share_of_all_subsets(num, right, k):
    marks = [1] * right + [0] * (num - right)
    subsets = list(itertools.combinations(marks, k))
    assert measures.pass_at(num, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def results(**marks):
    """Results of recipes whose right answers are given seed by seed."""
    return [
        {"recipe": name, "arm": "updates", "seed": seed, "right": text, "accuracy": text.count("1") / len(text), "ECE": 0.1 * seed}
        for name, seeds in marks.items()
        for seed, text in enumerate(seeds)
    ]


def test_a_difference_is_paired_by_item():
    """Half right, and the same half plus one: far apart by pairs, not by means."""
    low = "1" * 100 + "0" * 100
    high = "1" * 110 + "0" * 90
    figures = statistics.Figures(results(low=[low] * 3, high=[high] * 3))
    gap = figures.gap("updates", "high", "low")
    assert gap.mean == pytest.approx(0.05) and 0.02 < gap.low < 0.05 < gap.high < 0.09
    alone = figures.interval("updates", "high")
    assert alone.high - alone.low > 2 * (gap.high - gap.low)
    assert figures.beats("updates", "high", "low") == 1 == -figures.beats("updates", "low", "high")
    assert figures.beats("updates", "low", "low") == 0


def test_seeds_that_disagree_widen_the_interval():
    one, other = "1" * 60 + "0" * 40, "0" * 60 + "1" * 40
    figures = statistics.Figures(results(steady=[one, one], torn=[one, other], base=[other, one]))
    assert figures.beats("updates", "torn", "base") == 0
    wide, narrow = (figures.interval("updates", n) for n in ("torn", "steady"))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_bounds_of_few_seeds_are_student_s():
    from scipy import stats

    values = [0.1, 0.4, 0.3]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    made = statistics.student(values)
    assert (made.low, made.high) == pytest.approx((low, high), abs=1e-3)
    assert statistics.student([0.3]).high == math.inf


@pytest.mark.parametrize(
    ("low", "high", "as_good", "word"),
    [
        (0.01, 0.1, False, "appeared"),
        (-0.2, -0.1, False, "the contrary appeared"),
        (-0.01, 0.1, False, "leaned this way, not significantly"),
        (-0.1, 0.01, False, "did not appear"),
        (-0.01, 0.03, True, "appeared"),
        (-0.09, 0.03, True, "undecided"),
        (-0.09, -0.03, True, "the contrary appeared"),
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, as_good, word):
    gap = statistics.Interval((low + high) / 2, low, high)
    assert claims.verdict(claims.Claim("a", "b", "c", as_good=as_good), gap) == word


def test_less_is_better_where_a_claim_says_so():
    some = results(a=["1", "1", "1"], b=["1", "1", "1"])
    for r in some:
        r["ECE"] = {"a": 0.1, "b": 0.2}[r["recipe"]] + 0.001 * r["seed"]
    found = claims.judged(statistics.Figures(some), (claims.Claim("a", "b", "x", "ECE"), claims.Claim("b", "a", "x", "ECE")))
    assert [c["verdict"] for c in found] == ["appeared", "the contrary appeared"]


def test_the_speed_is_the_smallest_share_that_reaches_the_mark():
    some = results(opd=["1100", "1110"])
    half = [{**r, "arm": "updates x 0.2", "accuracy": a} for r, a in zip(some, (0.6, 0.4), strict=True)]
    found = statistics.speed(statistics.Figures(some + half), "opd", (0.1, 0.2), 0.5, "updates")
    assert found == {"curve": {0.2: 0.5, 1.0: 0.625}, "reached": 0.2, "by seed": [0.2, 1.0]}


# -- recipes ----------------------------------------------------------------------------------------------------------
def test_every_recipe_runs_or_says_why_not():
    names, refused = table.applicable()
    assert sorted([*names, *refused]) == catalog.names() and all(refused.values())


@pytest.mark.parametrize("name", table.applicable()[0])
def test_its_arguments_are_ones_that_it_takes(name):
    steps = table.updates(catalog.build(name, table.arguments(name, sizes.FULL)), 120)
    assert steps and all(n >= 1 for n in steps.values())


def test_the_student_s_updates_are_shared_by_its_stages():
    assert table.updates(catalog.build("strong_to_weak"), 120) == {"imitate": 60, "correct": 60}
    assert table.updates(catalog.build("distillm_2", {"epochs": 3}), 120) == {"train": 40}


def test_rollouts_are_rows():
    assert table.prompts_a_step("tip", sizes.FULL) * table.arguments("tip", sizes.FULL)["rollouts"] == sizes.FULL.rows
    assert table.prompts_a_step("forward_kl", sizes.FULL) == sizes.FULL.rows


def test_what_a_model_reads_is_counted(tiny_pair):
    count = meter.Count(weights=10)
    body = tiny_pair.student.model.base_model
    body.register_forward_pre_hook(count, with_kwargs=True)
    ids = torch.zeros(3, 7, dtype=torch.long)
    tiny_pair.student.model.requires_grad_(True)
    body(input_ids=ids)
    with torch.no_grad():
        body(ids[:2])
    tiny_pair.student.model.requires_grad_(False)
    body(inputs_embeds=torch.zeros(1, 5, 32))
    assert (count.trained, count.read) == (21, 14 + 5)
    assert count.flops == 2 * 10 * (3 * 21 + 19)


# -- a run ------------------------------------------------------------------------------------------------------------
SMALL = replace(sizes.QUICK, teacher=replace(sizes.QUICK.teacher, steps=1), student=replace(sizes.QUICK.student, steps=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ladder.prepared(tmp_path_factory.mktemp("work"), SMALL, 1)


def test_arms_run_are_kept_and_are_not_run_again(folder, monkeypatch):
    chain = [job.Job("forward_kl", "updates", 0, folder), job.Job("seqkd", "updates", 0, folder), job.Job("seqkd", "compute", 0, folder)]
    assert plan.follow(chain, SMALL) == []
    whole, plain, equal = (j.kept(SMALL) for j in chain)
    assert len(plain["right"]) == 8 and plain["tokens written"] > 0 == whole["tokens written"]
    assert plain["steps"] == SMALL.updates and whole["other FLOPs"] == 0 < plain["other FLOPs"]
    budget = whole["train FLOPs"]
    if equal["reached"]:  # steps are whole numbers
        assert equal["train FLOPs"] + equal["other FLOPs"] == pytest.approx(budget, rel=0.5)
    monkeypatch.setattr(job, "_arm", lambda *a: pytest.fail("it was there"))
    assert plan.follow(chain, SMALL) == []
    result = summary.summary([tuple(chain)], SMALL, 1)
    assert {(row[0], row[1]) for row in result.rows} == {("updates", "forward_kl"), ("updates", "seqkd"), ("compute", "seqkd")}
    assert not result.settings["missing"]
    json.dumps(result.settings, allow_nan=False)


def test_what_fails_leaves_the_others_alone_and_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(job, "_arm", lambda *a: 1 / 0)
    chain = (job.Job("jensen", "updates", 0, folder),)
    assert "ZeroDivisionError" in plan.follow(chain, SMALL)[0] and chain[0].kept(SMALL) is None


def test_another_recipe_or_setting_is_another_result(folder, monkeypatch):
    one = job.Job("tip", "updates", 0, folder)
    before = one.key(SMALL)
    assert one.key(replace(SMALL, updates=5)) != before
    monkeypatch.setitem(table.ENTRIES, "tip", table.Entry({"share": 0.2}))
    assert one.key(SMALL) != before


def test_a_chain_waits_for_what_it_reads(folder):
    chains = plan.chains(folder, SMALL, 1, ["opd", "jensen"])
    first = next(c for c in chains if c[0].recipe == "forward_kl")
    rest = [c for c in chains if len(c) > 1]
    assert plan._next(list(rest), {None: first}) is None
    assert plan._next(list(rest), {}) == rest[0]
