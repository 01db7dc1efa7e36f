import errno

import pytest
import torch

from tutelage.core.errors import DataError, StoreError
from tutelage.core.scores import log_rest
from tutelage.data import files
from tutelage.data.saying import DenseScores, Hidden, TopScores
from tutelage.data.tensors import Said, TensorStore

KEY = {"teacher's weights": "b" * 64, "teacher's tokenizer": "c" * 64}


@pytest.fixture
def said():
    torch.manual_seed(0)
    lengths = {"a": 3, "b": 0, "c": 5, "d": 1}
    return {name: torch.randn(n, 11).log_softmax(-1) for name, n in lengths.items()}


def tokens(name):
    return [ord(name), 2, 3]


def fill(store, said, make):
    rows = [Said(name, tokens(name), make(value)) for name, value in said.items()]
    store.append(rows[:2])
    store.append(rows[2:])
    return store


def test_dense_comes_back_exactly(tmp_path, said):
    holds = DenseScores(11)
    fill(TensorStore(tmp_path / "s", KEY, holds), said, lambda v: {"log_probs": v})
    store = TensorStore(tmp_path / "s", KEY, holds)
    for name, value in said.items():
        assert torch.equal(store.scores(name, tokens(name)).at(slice(None)), value)
    assert len(store) == 4 and "c" in store and "z" not in store


def test_top_keeps_the_exact_rest(tmp_path, said):
    holds = TopScores(4, 11)
    store = fill(TensorStore(tmp_path / "s", KEY, holds), said, holds.of)
    fields = store.get("c", tokens("c"))
    assert fields["ids"].dtype == torch.int32 and fields["log_probs"].dtype == torch.float32
    rest = said["c"].double().sort(-1).values[:, :-4].exp().sum(-1)
    torch.testing.assert_close(log_rest(fields["log_probs"]).exp().double(), rest, rtol=1e-5, atol=1e-6)
    whole = store.scores("c", tokens("c")).at(slice(None))
    ids = fields["ids"].long()
    assert torch.equal(whole.gather(1, ids), said["c"].gather(1, ids))
    torch.testing.assert_close(whole.logsumexp(-1), torch.zeros(5), rtol=0, atol=1e-6)


def test_top_of_all_is_dense(tmp_path, said):
    holds = TopScores(11, 11)
    store = fill(TensorStore(tmp_path / "s", KEY, holds), said, holds.of)
    assert torch.equal(store.scores("a", tokens("a")).at(slice(None)), said["a"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_keep_their_type(tmp_path, said, dtype):
    store = fill(TensorStore(tmp_path / "s", KEY, Hidden(11)), said, lambda v: {"hidden": v.to(dtype)})
    assert torch.equal(store.get("c", tokens("c"))["hidden"], said["c"].to(dtype))
    with pytest.raises(DataError, match="no scores"):
        store.scores("c", tokens("c"))


def test_another_teacher_tokenizer_or_layout_is_refused_by_name(tmp_path, said):
    fill(TensorStore(tmp_path / "s", KEY, DenseScores(11)), said, lambda v: {"log_probs": v})
    for name in KEY:
        with pytest.raises(StoreError, match=f"another {name}"):
            TensorStore(tmp_path / "s", {**KEY, name: "d" * 64}, DenseScores(11))
    with pytest.raises(StoreError, match="another holds"):
        TensorStore(tmp_path / "s", KEY, DenseScores(12))


def test_a_row_that_changed_is_refused(tmp_path, said):
    store = fill(TensorStore(tmp_path / "s", KEY, DenseScores(11)), said, lambda v: {"log_probs": v})
    with pytest.raises(StoreError, match=r"row 'a'.*other token ids"):
        store.get("a", [1, 2])
    with pytest.raises(StoreError, match="no such row"):
        store.get("z", [1, 2])
    with pytest.raises(StoreError, match="rows that are there: a"):
        store.append([Said("a", [1], {"log_probs": said["a"]})])


def test_a_flipped_bit_is_found_in_its_shard_only(tmp_path, said):
    fill(TensorStore(tmp_path / "s", KEY, DenseScores(11)), said, lambda v: {"log_probs": v})
    path = tmp_path / "s" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    store = TensorStore(tmp_path / "s", KEY, DenseScores(11))
    assert store.get("a", tokens("a"))
    for name in "cd":
        with pytest.raises(StoreError, match=r"shard-00001\.safetensors"):
            store.get(name, tokens(name))
    path.unlink()
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors: got no file"):
        TensorStore(tmp_path / "s", KEY, DenseScores(11)).get("c", tokens("c"))


def test_a_full_disk_leaves_a_readable_store(tmp_path, said, monkeypatch):
    store = TensorStore(tmp_path / "s", KEY, DenseScores(11))
    rows = [Said(name, tokens(name), {"log_probs": v}) for name, v in said.items()]
    store.append(rows[:2])
    write = files.write_all
    for fails_at in (1, 2):  # the shard, then its line in the index
        calls = []

        def full(file, data, calls=calls, fails_at=fails_at):
            calls.append(1)
            if len(calls) == fails_at:
                file.write(data[:20])
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, data)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_all", full)
            with pytest.raises(StoreError, match="No space left"):
                store.append(rows[2:])
        again = TensorStore(tmp_path / "s", KEY, DenseScores(11))
        assert len(again) == 2 and torch.equal(again.get("a", tokens("a"))["log_probs"], said["a"])
    store.append(rows[2:])
    assert torch.equal(TensorStore(tmp_path / "s", KEY, DenseScores(11)).get("c", tokens("c"))["log_probs"], said["c"])


def test_names_in_data_never_become_file_names(tmp_path, said):
    store = TensorStore(tmp_path / "s", KEY, DenseScores(11))
    name = "../../etc/x\n"
    store.append([Said(name, [1], {"log_probs": said["a"]})])
    assert torch.equal(TensorStore(tmp_path / "s", KEY, DenseScores(11)).get(name, [1])["log_probs"], said["a"])
    found = sorted(p.name for p in tmp_path.rglob("*"))
    assert found == ["index.jsonl", "manifest.json", "s", "shard-00000.safetensors"]


def test_wrong_fields_and_a_damaged_index(tmp_path, said):
    store = TensorStore(tmp_path / "s", KEY, TopScores(4, 11))
    for bad in ({}, {"ids": said["a"][:, :4]}, {"ids": said["a"][:2, :4], "log_probs": said["a"][:, :4]}):
        with pytest.raises(DataError, match="row 'a'"):
            store.append([Said("a", [1], bad)])
    (tmp_path / "s" / "index.jsonl").write_text("[1]\n")
    with pytest.raises(StoreError, match=r"index.jsonl, line 1"):
        TensorStore(tmp_path / "s", KEY, TopScores(4, 11))
