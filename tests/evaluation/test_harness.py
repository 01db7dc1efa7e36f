"""lm-evaluation-harness on local tasks; without the package, the error that names the extra."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest
import torch

from tutelage.core.errors import DataError, MissingExtra, SettingError, StoreError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.data.render import prompt_ids
from tutelage.evaluation.harness import check_tasks, harness
from tutelage.models.sample import Sampling, sample

needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="package lm-eval is not installed")

TASK = """task: pick
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture
def model(pair):
    return pair[0]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of four questions in a JSONL file."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"{n}?", "choices": [" a", " b"], "answer": n % 2} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "pick.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    return tmp_path / "pick.yaml", rows


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else find(name, *a))
    with pytest.raises(MissingExtra, match=r"tutelage\[harness\]"):
        check_tasks(["number"])
    check_tasks([])


@needs_harness
def test_answers_to_records_are_those_of_the_sampler(model):
    """The prompt is rendered and the answer cut as everywhere else, so greedy answers agree."""
    model.model.eval()
    ask = [Record(f"r{n}", (Piece(f"Q: {n} and {n}? "),)) for n in range(4)]
    said = sample(model, [prompt_ids(r, model.tokenizer) for r in ask], Sampling(max_tokens=6, temperature=0.0), [0] * 4)
    texts = [model.tokenizer.decode(s.ids, skip_special_tokens=True).strip() or "?" for s in said]
    right = [text if n < 3 else "something else" for n, text in enumerate(texts)]
    records = [Record(r.id, (*r.pieces, Piece(t, trains=True))) for r, t in zip(ask, right, strict=True)]
    found = harness({"m": model}, ["exact"], records, max_tokens=6)
    assert found["m"]["exact"]["right"] == 0.75


@needs_harness
def test_a_yaml_task_scores_the_likelihoods_of_the_model(model, task):
    file, rows = task
    found = harness({"m": model}, [str(file)])["m"]["pick"]
    model.model.eval()
    right = 0
    for row in rows:
        scores = []
        for choice in row["choices"]:
            ids = model.tokenizer(row["question"] + choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_probs = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(float(log_probs[k - 1, ids[k]]) for k in range(len(ids) - len(choice), len(ids))))
        right += scores.index(max(scores)) == row["answer"]
    assert found["acc"] == right / 4 and math.isfinite(found["acc_stderr"])


@needs_harness
def test_models_are_left_as_they_were(model, records):
    model.model.train()
    some = [r for r in records if r.id != "bare"]
    harness({"m": model}, ["number"], some[:2], max_tokens=3)
    assert model.model.training and all(p.requires_grad for p in model.model.parameters())


@needs_harness
def test_bad_tasks_are_refused_before_anything_runs(tmp_path, model):
    with pytest.raises(UnknownName, match="number"):
        check_tasks(["numbr"])
    with pytest.raises(StoreError, match="no such file"):
        check_tasks([str(tmp_path / "none.yaml")])
    for name, text, error, word in (
        ("hub", "task: x\ndataset_path: openai/gsm8k\n", SettingError, "data_files"),
        ("nameless", "dataset_path: json\n", StoreError, "task: NAME"),
        ("torn", "task: [", StoreError, "YAML"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
        with pytest.raises(error, match=word):
            check_tasks([str(tmp_path / f"{name}.yaml")])
    with pytest.raises(DataError, match="no records"):
        harness({"m": model}, ["number"])


@needs_harness
def test_a_task_that_fails_is_named(tmp_path, model):
    (tmp_path / "bad.yaml").write_text(TASK.format(file=tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match="bad.yaml"):
        harness({"m": model}, [str(tmp_path / "bad.yaml")])
