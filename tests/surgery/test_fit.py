"""Fits in closed form: class means and directions, equal to plain loops, kept and read back, and usable as parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.surgery.fit import ClassMeans, Directions, Fitted

WORDS = ["the cat", "in there", "a longer answer, then", "the end", "one", "two three", "four", "and five of them"]


@pytest.fixture
def world(tiny_pair, tmp_path):
    ws = Workspace(tmp_path, 0)
    ws.models["teacher"] = tiny_pair.teacher
    ws.data["train"] = [
        Record(f"r{i}", (Piece(f"q{i}", "user"), Piece(w, "assistant", trains=True)), {}, {"label": float(i % 3)})
        for i, w in enumerate(WORDS)
    ]
    return ws


def features(ws, what):
    """One row at a time, without padding."""
    model, out = ws.models["teacher"], []
    for record in ws.data["train"]:
        batch = Collate(model.tokenizer, 256)([record])
        with torch.no_grad():
            out.append(model.predict(batch.views["main"], frozenset({what}))[what].double())
    return out


@pytest.mark.parametrize("what", ["pooled", "hidden.2"])
@pytest.mark.parametrize("size", [3, 16])
def test_class_means_are_those_of_a_loop_and_name_the_nearest(world, what, size):
    fit = ClassMeans("teacher", "train", what, batch_size=size)(world)
    rows = features(world, what)
    want = torch.stack([torch.cat([x for i, x in enumerate(rows) if i % 3 == c]).mean(0) for c in range(3)])
    assert torch.allclose(fit.weight.double(), want, atol=1e-5)
    x = torch.cat(rows)
    nearest = (x[:, None] - want).square().sum(-1).argmin(-1)
    assert torch.equal(fit(x.float()).argmax(-1), nearest)


@pytest.mark.parametrize("what", ["pooled", "hidden.1"])
def test_directions_are_those_of_a_singular_value_decomposition(world, what):
    fit = Directions("teacher", "train", 3, what)(world)
    x = torch.cat(features(world, what)).numpy()
    _, _, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    for own, theirs in zip(fit.weight.double().numpy(), v[:3], strict=True):
        assert abs(abs(own @ theirs) - 1) < 1e-4 and own[np.abs(own).argmax()] > 0
    assert np.allclose(fit.weight @ fit.weight.T, np.eye(3), atol=1e-5)
    assert np.allclose(fit(torch.tensor(x).float()).mean(0), 0, atol=1e-4)


def test_it_does_not_train_and_is_read_back_as_it_was(world, tmp_path):
    fit = ClassMeans("teacher", "train")(world)
    assert not list(fit.parameters())
    fit.save(tmp_path / "kept")
    again = Fitted.load(tmp_path / "kept")
    assert torch.equal(again.weight, fit.weight) and torch.equal(again.bias, fit.bias)


def test_bad_input(world):
    with pytest.raises(UnknownName, match="nobody"):
        ClassMeans("nobody", "train")(world)
    with pytest.raises(UnknownName, match="nothing"):
        Directions("teacher", "nothing")(world)
    with pytest.raises(DataError, match="fewer directions"):
        Directions("teacher", "train", 8)(world)
    with pytest.raises(SettingError, match=r"Directions\.num"):
        Directions("teacher", "train", 0)
    world.data["gap"] = [replace(r, notes={"label": 2.0 * r.notes["label"]}) for r in world.data["train"]]
    with pytest.raises(DataError, match="no features of class 1"):
        ClassMeans("teacher", "gap")(world)
    world.data["bare"] = [replace(r, notes={}) for r in world.data["train"]]
    with pytest.raises(DataError, match="note 'label'"):
        ClassMeans("teacher", "bare")(world)
    world.data["none"] = []
    with pytest.raises(DataError, match="no rows"):
        ClassMeans("teacher", "none")(world)
