"""Export: what is written loads anywhere, and nothing is ever half written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutelage.core.errors import ModelError, StoreError
from tutelage.models import export as module
from tutelage.models.causal import Causal
from tutelage.models.export import export, model_card

IDS = torch.tensor([[5, 6, 7, 8]])
CARD = {"teacher": "big <script>alert(1)</script>", "licence": "apache-2.0", "objective": {"name": "kl", "steps": 3}}


@pytest.mark.parametrize("tied", [True, False])
def test_it_loads_elsewhere_with_the_same_logits(new_causal, tmp_path: Path, tied: bool) -> None:
    causal = new_causal(tie_word_embeddings=tied)
    causal.inner.generation_config.eos_token_id = [2, 0]
    folder = export(causal, tmp_path / "a" / "student", card=CARD)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(again(IDS).logits, causal.model(IDS).logits)
    assert again.generation_config.eos_token_id == [2, 0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("then in").input_ids == causal.tokenizer("then in").input_ids
    assert tokenizer.chat_template == causal.tokenizer.chat_template
    assert [p.name for p in folder.parent.iterdir()] == ["student"]
    assert not list(folder.glob("*.bin"))


def test_the_card(tiny_pair) -> None:
    causal = tiny_pair.student
    causal.facts["weights_sha256"] = "0" * 64
    text = model_card(causal, {**CARD, "licence": 'odd: "one"\n---\nx', "data": ["a*b", "c"]})
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == 'odd: "one"\n---\nx'
    assert "<script>" not in text
    assert "&lt;script&gt;" in body
    assert r"a\*b, c" in body
    assert "0" * 64 in body
    assert f"**num parameters**: {causal.num_parameters}" in body


def test_an_older_export_is_replaced_and_other_things_are_not(new_causal, tmp_path: Path) -> None:
    old, new = new_causal(seed=1), new_causal(seed=2)
    export(old, tmp_path / "m", card={})
    export(new, tmp_path / "m", card={})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert torch.equal(again(IDS).logits, new.model(IDS).logits)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="not a model"):
        export(new, tmp_path / "mine", card={})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_leaves_the_old_export(new_causal, tmp_path: Path, monkeypatch) -> None:
    old = new_causal(seed=1)
    export(old, tmp_path / "m", card={})

    def full(causal, card):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "model_card", full)
    with pytest.raises(StoreError, match="No space left on device"):
        export(new_causal(seed=2), tmp_path / "m", card={})
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "m")(IDS).logits, old.model(IDS).logits)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_failed_swap_puts_the_old_export_back(new_causal, tmp_path: Path, monkeypatch) -> None:
    old = new_causal(seed=1)
    export(old, tmp_path / "m", card={})
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.name.startswith(".m-"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(StoreError, match="unchanged"):
        export(new_causal(seed=2), tmp_path / "m", card={})
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "m")(IDS).logits, old.model(IDS).logits)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_adapter_must_be_merged(new_causal, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = new_causal()
    wrapped = peft.get_peft_model(base.model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(ModelError, match="merge_and_unload"):
        export(Causal("a", wrapped, base.tokenizer), tmp_path / "m", card={})
    merged = wrapped.merge_and_unload()
    export(Causal("a", merged, base.tokenizer), tmp_path / "m", card={})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(again(IDS).logits, merged(IDS).logits)
