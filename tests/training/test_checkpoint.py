"""Checkpoints are whole or absent, and verified."""

import errno
import json

import pytest
import torch

from tutelage.core.errors import StoreError
from tutelage.training import checkpoint as store


def made(step, value=1.0):
    return store.Checkpoint(step, {"slot-student": {"w": torch.full((3, 2), value)}}, {"best": None})


def test_round_trip_and_tied_weights(tmp_path):
    w = torch.randn(4, 3)
    store.save(tmp_path, store.Checkpoint(5, {"m": {"a": w, "b": w, "t": w.T}}, {"x": [1, "é"]}))
    back = store.latest(tmp_path)
    assert back.step == 5 and back.plain == {"x": [1, "é"]}
    assert torch.equal(back.tensors["m"]["a"], w) and torch.equal(back.tensors["m"]["b"], w) and torch.equal(back.tensors["m"]["t"], w.T)


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 10):
        store.save(tmp_path, made(step), keep_last=2)
    assert [p.name for p in store.steps(tmp_path)] == ["step-00000002", "step-00000010"]


def test_no_checkpoint_is_none(tmp_path):
    assert store.latest(tmp_path / "none") is None


@pytest.mark.parametrize("harm", ["flip", "truncate", "missing", "manifest"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, harm):
    path = store.save(tmp_path, made(7))
    file = path / "slot-student.safetensors"
    if harm == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif harm == "truncate":
        file.write_bytes(file.read_bytes()[:-4])
    elif harm == "missing":
        file.unlink()
    else:
        (path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="Delete .*step-00000007"):
        store.latest(tmp_path)


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    store.save(tmp_path, made(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(StoreError, match="No space left.*free some space"):
        store.save(tmp_path, made(2))
    monkeypatch.undo()
    assert store.latest(tmp_path).step == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_kill_while_writing_leaves_a_name_that_is_not_a_checkpoint(tmp_path):
    store.save(tmp_path, made(1))
    half = tmp_path / ".writing-00000002"
    half.mkdir()
    (half / "manifest.json").write_text("{")
    assert store.latest(tmp_path).step == 1
    store.save(tmp_path, made(2))
    assert store.latest(tmp_path).step == 2


def test_only_safetensors_and_json_are_read(tmp_path):
    path = store.save(tmp_path, made(1))
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../outside.safetensors"] = "0"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError):
        store.latest(tmp_path)
