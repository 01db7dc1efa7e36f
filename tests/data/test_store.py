import errno
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tutelage.core.errors import SettingError, StoreError
from tutelage.core.record import Piece, Record
from tutelage.data import files
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.keep import Keep
from tutelage.data.store import RowStore, generate, row_key

KEY = {"steps": "a" * 64, "student's weights": "b" * 64}


@pytest.fixture
def rows(kit):
    return [kit.text(f"r{n}", "Q é\u2028", "A\n" * n, ids=(n,), notes={"log_prob": (-0.1 * n,)}) for n in range(6)]


def test_rows_come_back_as_they_were(tmp_path, rows):
    store = RowStore(tmp_path / "s", KEY)
    store.append(rows[:2])
    store.append(rows[2:])
    again = RowStore(tmp_path / "s", KEY)
    assert list(again.records()) == rows and len(again) == 6 and "r3" in again and not again.complete


def test_a_row_is_never_doubled(tmp_path, rows):
    store = RowStore(tmp_path / "s", KEY)
    store.append(rows[:2])
    for bad in (rows[1:3], [rows[4], rows[4]]):
        with pytest.raises(StoreError, match="ids of their own"):
            store.append(bad)
    assert list(RowStore(tmp_path / "s", KEY).records()) == rows[:2]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_cut_off(tmp_path, rows, cut):
    store = RowStore(tmp_path / "s", KEY)
    store.append(rows)
    data = store.path.read_bytes()
    store.path.write_bytes(data[:-cut])
    again = RowStore(tmp_path / "s", KEY)
    assert list(again.records()) == rows[:-1]
    again.append(rows[-1:])
    assert store.path.read_bytes() == data


def test_another_key_is_refused_by_name(tmp_path, rows):
    RowStore(tmp_path / "s", KEY).append(rows)
    with pytest.raises(StoreError, match=r"another student's weights \(student's weights: bbbbbbbbbbbb\.\.\.\)"):
        RowStore(tmp_path / "s", {**KEY, "student's weights": "c" * 64})
    with pytest.raises(StoreError, match="another seed"):
        RowStore(tmp_path / "s", {**KEY, "seed": "1"})
    assert list(RowStore(tmp_path / "s", KEY).records()) == rows


def test_damage_is_named(tmp_path, rows):
    store = RowStore(tmp_path / "s", KEY)
    store.append(rows)
    lines = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(b"".join([lines[0], b"{]\n", *lines[2:]]))
    with pytest.raises(StoreError, match=r"rows.jsonl, line 2"):
        RowStore(tmp_path / "s", KEY)
    store.path.write_bytes(b"".join([lines[0], lines[0]]))
    with pytest.raises(StoreError, match="line 2: got id 'r0' for the second time"):
        RowStore(tmp_path / "s", KEY)
    (tmp_path / "s" / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="manifest"):
        RowStore(tmp_path / "s", KEY)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="thesis"):
        RowStore(tmp_path / "other", KEY)


def test_what_json_cannot_hold_is_refused_and_nothing_written(tmp_path, rows):
    store = RowStore(tmp_path / "s", KEY)
    with pytest.raises(StoreError, match="cache"):
        store.append([rows[0], Record("bad", (), {"x": object()})])
    store.append(rows)
    assert list(RowStore(tmp_path / "s", KEY).records()) == rows


def test_two_writers_are_noticed(tmp_path, rows):
    one, two = RowStore(tmp_path / "s", KEY), RowStore(tmp_path / "s", KEY)
    one.append(rows[:2])
    with pytest.raises(StoreError, match="Another process"):
        two.append(rows[2:3])
    assert list(RowStore(tmp_path / "s", KEY).records()) == rows[:2]


@pytest.mark.parametrize("written", [0, 7, 90])
def test_a_full_disk_leaves_the_rows_before(tmp_path, rows, monkeypatch, written):
    store = RowStore(tmp_path / "s", KEY)
    store.append(rows[:2])

    def full(file, data):
        file.write(data[:written])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        with pytest.raises(StoreError, match=r"No space left.*Free space"):
            store.append(rows[2:4])
        with pytest.raises(StoreError, match="No space left"):
            store.done(1)
    assert list(RowStore(tmp_path / "s", KEY).records()) == rows[:2]
    store.append(rows[2:])
    assert list(RowStore(tmp_path / "s", KEY).records()) == rows


@dataclass(frozen=True)
class Twice:
    """Two rows a prompt; what they say depends on the composition of the batch. Odd prompts are dropped."""

    fail_at: int = -1
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        batch = list(records)
        everyone = ",".join(r.id for r in batch)
        for record in batch:
            number = int(record.id[1:])
            if number == self.fail_at:
                raise KeyboardInterrupt
            if number % 3 == 1:
                continue
            for k in range(2):
                yield Record(f"{record.id}#{k}", (Piece(f"{everyone} é {number}", trains=True),), group=record.id)


@dataclass(frozen=True)
class NotTwo:
    def __call__(self, record):
        return record.id != "q2"


def run(folder, prompts, ws, step=None, batch_size=4):
    store = RowStore(folder, KEY)
    return list(generate((step or Twice(),), prompts, ws, store, batch_size)), store


def test_generate_goes_on_where_it_stopped(tmp_path, kit, ws):
    prompts = [kit.text(f"p{n}", "Q", "A") for n in range(10)]
    done, whole = run(tmp_path / "whole", prompts, ws)
    assert done == [1, 2, 3] and whole.complete and len(whole) == 14
    for fail_at in range(10):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "part", prompts, ws, Twice(fail_at))
    run(tmp_path / "part", prompts, ws)
    assert (tmp_path / "part/rows.jsonl").read_bytes() == whole.path.read_bytes()
    assert run(tmp_path / "part", prompts, ws)[0] == []


@pytest.mark.parametrize("num_lines", range(15))
def test_generate_completes_a_batch_written_in_part(tmp_path, kit, ws, num_lines):
    prompts = [kit.text(f"p{n}", "Q", "A") for n in range(10)]
    _, whole = run(tmp_path / "whole", prompts, ws)
    data = whole.path.read_bytes()
    # the state after a kill: some lines and a torn one; only batches whose rows are all there can be noted as done
    lines = data.splitlines(keepends=True)
    _, part = run(tmp_path / "part", prompts, ws)
    part.path.write_bytes(b"".join(lines[:num_lines]) + (lines[num_lines][:9] if num_lines < 14 else b""))
    manifest = json.loads((tmp_path / "part/manifest.json").read_text())
    manifest |= {"num_done": sum(num_lines >= n for n in (6, 10)), "complete": False}
    (tmp_path / "part/manifest.json").write_text(json.dumps(manifest))
    run(tmp_path / "part", prompts, ws)
    assert part.path.read_bytes() == data


def test_generate_asks_a_real_model(tmp_path, kit, ws):
    prompts = [kit.chat(f"q{n}", f"say {n}", "x") for n in range(4)]
    steps = (Ask(max_tokens=4), Keep(NotTwo()))
    with pytest.raises(SettingError, match="frozen dataclass"):
        row_key((Keep(lambda r: True),), prompts, ws)
    key = row_key(steps, prompts, ws)
    assert key["student's weights"] == "w0"
    store = RowStore(tmp_path / "s", key)
    list(generate(steps, prompts, ws, store, 2))
    assert [r.id for r in store.records()] == ["q0", "q1", "q3"]
    del ws.models["student"].facts["weights_sha256"]
    try:
        with pytest.raises(StoreError, match="no weights_sha256"):
            row_key(steps, prompts, ws)
    finally:
        ws.models["student"].facts["weights_sha256"] = "w0"


def test_generate_with_nothing_and_with_bad_settings(tmp_path, kit, ws):
    done, store = run(tmp_path / "s", [], ws)
    assert done == [] and store.complete
    with pytest.raises(StoreError, match="complete"):
        store.append([kit.text("x", "Q", "A")])
    from tutelage.data.steps.pick import Top

    with pytest.raises(SettingError, match="whole data set"):
        generate((Top(0.5, "x"),), [], ws, store)
    with pytest.raises(SettingError, match="batch_size"):
        generate((), [], ws, store, 0)
