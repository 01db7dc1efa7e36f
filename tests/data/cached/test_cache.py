"""The cache as files: found by tokens, append-only, checksummed, whole after any kill."""

import errno
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.errors import StoreError, UnknownName
from tutelage.core.scores import Head
from tutelage.data import files
from tutelage.data.cached import Asked, Cache, Dense, Top, head, opened, teacher_key
from tutelage.data.cached import code as coding
from tutelage.data.cached.log import ENTRY, HEADER, Shard

HERE = Path(__file__).parent
WORKER = runpy.run_path(str(HERE / "worker.py"))
KEY, FORM, asked, fields = (WORKER[n] for n in ("KEY", "FORM", "asked", "fields"))


def made(folder, numbers, form=FORM, key=KEY):
    cache = Cache(folder, key, form)
    cache.add([(asked(n), fields(asked(n), n)) for n in numbers])
    return cache


def same(found, number):
    row = asked(number)
    want = fields(row, number)
    order = [np.lexsort((r["ids"], -r["levels"])) for r in (found, want)]
    one, other = (np.take_along_axis(r["ids"], o, 1) for r, o in zip((found, want), order, strict=True))
    return np.array_equal(one, other) and np.array_equal(found["tail"], want["tail"]) and np.array_equal(found["targets"], row.targets)


def test_rows_are_found_by_their_tokens(tmp_path):
    made(tmp_path / "c", range(40))
    cache = opened(tmp_path / "c")
    assert len(cache) == 40 and cache.form == FORM and cache.log.num_positions == sum(len(asked(n).places) for n in range(40))
    assert all(same(cache.find(asked(n)), n) for n in range(40))
    assert all(cache.find(asked(n)) is None for n in range(40, 60))
    row = asked(3)
    other = row.tokens.copy()
    other[0] += 1
    assert cache.find(Asked(other, row.places)) is None  # another prefix is another question
    other = row.tokens.copy()
    other[-2] += 1
    assert cache.find(Asked(other, row.places)) is None


def test_a_row_cut_shorter_is_read_from_the_whole_one(tmp_path):
    """A smaller max_length, or a rollout that ends where another went on: nothing is asked again."""
    made(tmp_path / "c", range(20))
    cache = opened(tmp_path / "c")
    for number in range(20):
        row = asked(number)
        short = max(1, len(row.places) // 2)
        cut = Asked(row.tokens[: row.places[short - 1] + 1], row.places[:short])
        whole, part = cache.find(row), cache.find(cut)
        assert all(np.array_equal(part[k], whole[k][:short]) for k in ("ids", "levels", "tail"))
        later = Asked(row.tokens, row.places[1:]) if len(row.places) > 1 else None
        assert later is None or cache.find(later) is None  # other positions of it are another prefix
    longer = Asked(np.append(asked(2).tokens, 5), np.append(asked(2).places, asked(2).places[-1] + 1))
    assert cache.find(longer) is None


def test_rows_may_have_gaps(tmp_path):
    form = Dense(4)
    row = Asked(np.array([1, 2, 3, 0, 1, 2, 3, 3]), np.array([2, 3, 6, 7]))
    cache = Cache(tmp_path / "c", KEY, form)
    values = np.random.default_rng(0).random((4, 4)).astype("<f4")
    cache.add([(row, {"log_probs": values})])
    again = opened(tmp_path / "c")
    assert np.array_equal(again.find(row)["log_probs"], values)
    some = Asked(row.tokens[:7], np.array([2, 6]))
    assert np.array_equal(again.find(some)["log_probs"], values[[0, 2]])
    assert again.find(Asked(row.tokens[:7], np.array([2, 5]))) is None


def test_what_is_added_is_what_is_read_back(tmp_path):
    cache = Cache(tmp_path / "c", KEY, FORM)
    out = cache.add([(asked(n), fields(asked(n), n)) for n in range(30)])
    for number, told in enumerate(out):
        found = opened(tmp_path / "c").find(asked(number))
        assert all(np.array_equal(told[k], found[k]) for k in told)


def test_a_code_is_fitted_and_old_rows_stay_readable(tmp_path):
    cache = Cache(tmp_path / "c", KEY, FORM)
    sizes = []
    for start in range(0, 480, 40):
        before = cache.num_bytes
        cache.add([(asked(n), fields(asked(n), n)) for n in range(start, start + 40)])
        sizes.append(cache.num_bytes - before)
    codes = list((tmp_path / "c").glob("code-*.bin"))
    assert len(codes) >= 2
    again = opened(tmp_path / "c")
    assert all(same(again.find(asked(n)), n) for n in range(0, 480, 7))
    cache = opened(tmp_path / "c")
    cache.add([(asked(1000), fields(asked(1000), 1000))])
    assert len(list((tmp_path / "c").glob("code-*.bin"))) == len(codes)  # the newest code goes on
    codes[0].write_bytes(codes[0].read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"code-.*damaged"):
        [opened(tmp_path / "c").find(asked(n)) for n in range(480)]


def test_another_library_arithmetic_is_noticed(tmp_path, monkeypatch):
    made(tmp_path / "c", range(120))
    monkeypatch.setattr(coding.Code, "_check", lambda self: 5)
    with pytest.raises(StoreError, match="codes otherwise"):
        opened(tmp_path / "c").find(asked(0))


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    made(tmp_path / "c", range(3))
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match=r"tutelage\[cache\]"):
        opened(tmp_path / "c").find(asked(0))


@pytest.mark.parametrize("rounds", [3])
def test_kill_nine_loses_nothing_and_doubles_nothing(tmp_path, rounds):
    folder = tmp_path / "c"
    for _ in range(rounds):
        process = subprocess.Popen([sys.executable, str(HERE / "worker.py"), str(folder)], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        told = [int(process.stdout.readline()) for _ in range(25)][-1]
        process.kill()
        told = [told, *map(int, process.stdout.read().split())][-1]
        process.wait()
        cache = opened(folder)
        assert len(cache) >= told
        assert all(same(cache.find(asked(n)), n) for n in range(0, len(cache), 5))
    keys = np.concatenate([s.entries["whole"] for s in cache.log.shards])
    assert len(set(keys.tolist())) == len(keys) == len(cache)


def test_every_torn_tail_is_cut(tmp_path):
    """Whatever byte writing stopped at: whole records stay, the rest is cut, and the next row follows."""
    made(tmp_path / "c", range(6))
    shard, index = tmp_path / "c" / "shard-00000.bin", tmp_path / "c" / "shard-00000.index"
    whole, entries = shard.read_bytes(), np.frombuffer(index.read_bytes(), ENTRY)
    ends = (entries["offset"] + entries["length"]).astype(int) + HEADER.size
    cuts = sorted({0, 5, *(int(e) + d for e in ends for d in (-1, 0, 1, 20)), len(whole) - 1} - {len(whole) + 1, len(whole) + 20})
    for cut in cuts[:: max(1, len(cuts) // 14)]:
        for kept in (0, 17, 2 * ENTRY.itemsize, 2 * ENTRY.itemsize + 9, 6 * ENTRY.itemsize):
            folder = tmp_path / f"cut-{cut}-{kept}"
            shutil.copytree(tmp_path / "c", folder)
            (folder / shard.name).write_bytes(whole[:cut])
            (folder / index.name).write_bytes(index.read_bytes()[:kept])
            cache = opened(folder)
            left = int((ends <= cut).sum())
            assert len(cache) == left and all(same(cache.find(asked(n)), n) for n in range(left))
            cache.add([(asked(n), fields(asked(n), n)) for n in range(left, 8)])
            again = opened(folder)
            assert len(again) == 8 and all(same(again.find(asked(n)), n) for n in range(8))
            shutil.rmtree(folder)


def test_a_flipped_bit_is_found_in_its_record_only(tmp_path):
    made(tmp_path / "c", range(6))
    shard = tmp_path / "c" / "shard-00000.bin"
    entries = Shard(shard).entries
    data = bytearray(shard.read_bytes())
    data[int(entries["offset"][2]) + HEADER.size + 40] ^= 4
    shard.write_bytes(data)
    cache = opened(tmp_path / "c")
    assert len(cache) == 6
    for number in (0, 1, 3, 4, 5):
        assert same(cache.find(asked(number)), number)
    with pytest.raises(StoreError, match=rf"shard-00000.bin, byte {int(entries['offset'][2])}.*checksum"):
        cache.find(asked(2))


def test_a_damaged_index_is_made_again(tmp_path):
    made(tmp_path / "c", range(6))
    index = tmp_path / "c" / "shard-00000.index"
    data = bytearray(index.read_bytes())
    data[2 * ENTRY.itemsize + 3] ^= 1
    index.write_bytes(data)
    assert len(opened(tmp_path / "c")) == 6
    index.unlink()
    cache = opened(tmp_path / "c")
    assert len(cache) == 6 and same(cache.find(asked(5)), 5)
    cache.add([(asked(7), fields(asked(7), 7))])
    assert index.stat().st_size == 7 * ENTRY.itemsize


def test_another_teacher_tokenizer_vocabulary_or_form_is_refused_by_name(tmp_path):
    made(tmp_path / "c", range(3))
    for name in KEY:
        with pytest.raises(StoreError, match=f"another {name}"):
            Cache(tmp_path / "c", {**KEY, name: "d"}, FORM)
    with pytest.raises(StoreError, match="another num_categories"):
        Cache(tmp_path / "c", KEY, Top(8, 301))
    with pytest.raises(StoreError, match="another num_kept"):
        opened(tmp_path / "c", Top(9, 300))
    with pytest.raises(StoreError, match=r"no manifest.json"):
        opened(tmp_path / "nothing")
    (tmp_path / "c" / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="manifest"):
        opened(tmp_path / "c")


def test_a_full_disk_leaves_a_readable_cache(tmp_path, monkeypatch):
    cache = made(tmp_path / "c", range(5))
    write = files.write_all
    for fails_at in (1, 2):  # the shard, then its index
        calls = []

        def full(file, data, calls=calls, fails_at=fails_at):
            calls.append(1)
            if len(calls) == fails_at:
                file.write(bytes(data[:20]))
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, data)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_all", full)
            with pytest.raises(StoreError, match=r"No space left.*Free space"):
                cache.add([(asked(5), fields(asked(5), 5))])
        again = opened(tmp_path / "c")
        assert len(again) == 4 + fails_at and all(same(again.find(asked(n)), n) for n in range(4 + fails_at))
    cache.add([(asked(n), fields(asked(n), n)) for n in range(6, 8)])
    again = opened(tmp_path / "c")
    assert sorted(n for n in range(10) if again.find(asked(n)) is not None) == list(range(8)) and len(again) == 8


def test_a_read_only_folder_is_read(tmp_path, monkeypatch):
    made(tmp_path / "c", range(5))

    def refuse(self, mode="r", *more, **kw):
        if any(m in mode for m in "wa+"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(self, mode, *more, **kw)

    original = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    cache = opened(tmp_path / "c")
    assert same(cache.find(asked(4)), 4)
    with pytest.raises(StoreError, match="Permission denied"):
        cache.add([(asked(5), fields(asked(5), 5))])


def test_two_writers_write_two_shards(tmp_path):
    one = made(tmp_path / "c", range(3))
    two = opened(tmp_path / "c")
    two.add([(asked(n), fields(asked(n), n)) for n in range(3, 5)])
    one.add([(asked(n), fields(asked(n), n)) for n in range(5, 7)])
    assert sorted(p.name for p in (tmp_path / "c").glob("shard-*.bin")) == ["shard-00000.bin", "shard-00001.bin"]
    again = opened(tmp_path / "c")
    assert len(again) == 7 and all(same(again.find(asked(n)), n) for n in range(7))


def test_a_lost_shard_loses_its_own_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.data.cached.log.SHARD_BYTES", 2000)
    cache = Cache(tmp_path / "c", KEY, FORM)
    for number in range(30):
        cache.add([(asked(number), fields(asked(number), number))])
    shards = sorted((tmp_path / "c").glob("shard-*.bin"))
    assert len(shards) > 3
    assert all(same(opened(tmp_path / "c").find(asked(n)), n) for n in range(30))
    shards[1].unlink()
    shards[1].with_suffix(".index").unlink()
    again = opened(tmp_path / "c")
    gone = [n for n in range(30) if again.find(asked(n)) is None]
    assert 0 < len(gone) < 15
    again.add([(asked(n), fields(asked(n), n)) for n in gone])
    assert all(same(opened(tmp_path / "c").find(asked(n)), n) for n in range(30))


def test_the_head_is_kept_once_and_checked(tmp_path):
    tmp_path = tmp_path / "h"
    tmp_path.mkdir()
    low = ((torch.randn(2, 4), torch.randn(6, 2), 0.5),)
    whole = Head(torch.randn(6, 4), torch.randn(6), 0.5, 3.0, 5, low)
    head.write(tmp_path, whole)
    found, hidden = head.read(tmp_path), torch.randn(3, 4)
    torch.testing.assert_close(found.squash(found.raw(hidden)), whole.squash(whole.raw(hidden)))
    data = bytearray((tmp_path / head.NAME).read_bytes())
    data[-1] ^= 1
    (tmp_path / head.NAME).write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        head.read(tmp_path)


def test_a_model_must_say_what_it_is(new_causal):
    causal = new_causal()
    with pytest.raises(StoreError, match="weights_sha256"):
        teacher_key(causal)
    causal.facts = {"weights_sha256": "a", "tokenizer_sha256": "b", "dtype": "float32"}
    assert teacher_key(causal) == {"weights": "a", "tokenizer": "b", "dtype": "float32"}


def test_a_form_of_the_future_is_named(tmp_path):
    made(tmp_path / "c", range(2))
    file = tmp_path / "c" / "manifest.json"
    file.write_text(file.read_text().replace('"top"', '"tap"'))
    with pytest.raises(UnknownName, match="Did you mean 'top'"):
        opened(tmp_path / "c")
