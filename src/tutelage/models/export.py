"""Write a model as a folder that any transformers program loads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ModelError, StoreError
from .body import Body
from .encoder import Encoder
from .quiet import quiet


def export(causal: Body, folder: Path, *, card: Mapping[str, Any]) -> Path:
    """Write safetensors, config, tokenizer, generation config and model card; all of it or nothing.

    Args:
        causal: The model; adapters must be merged.
        folder: Where it goes. A folder that is there is replaced once the new one is complete.
        card: What the model card says, e.g. ``teacher``, ``licence``, ``data``, ``objective``, ``seed``, ``hashes``;
            values are texts, numbers, lists or mappings, and are escaped.

    Raises:
        ModelError: An adapter is wrapped around the model.
        StoreError: The folder cannot be written, or holds something that is not a model.
    """
    if causal.model is not causal.inner:
        raise ModelError(
            f"export of model {causal.name!r}",
            got="a model with an adapter around it",
            expected="plain weights",
            remedy="Merge the adapter first (merge_and_unload).",
        )
    folder = Path(folder)
    _check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        _write(causal, work, card)
        _swap(work, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder / "config.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise StoreError(
            f"export to {str(folder)!r}",
            got="something there that is not a model",
            expected="no folder, an empty one, or an older export",
            remedy="Choose another folder.",
        )


def _write(causal: Body, work: Path, card: Mapping[str, Any]) -> None:
    with quiet(), torch.no_grad():
        causal.inner.save_pretrained(work)
        if causal.tokenizer is not None:
            causal.tokenizer.save_pretrained(work)
        if getattr(causal.inner, "generation_config", None) is not None:
            causal.inner.generation_config.save_pretrained(work)
    (work / "README.md").write_text(model_card(causal, card), encoding="utf-8")
    os.chmod(work, 0o755)
    for path in work.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(work: Path, folder: Path) -> None:
    """Put the finished folder in place; at no time is a half of one there."""
    if not folder.exists():
        work.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
    try:
        folder.rename(old / "old")
        try:
            work.rename(folder)
        except OSError:
            (old / "old").rename(folder)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"export to {str(folder)!r}",
        got=f"{type(error).__name__}: {error.strerror or error}",
        expected="a folder that can be written, with room for the weights",
        remedy="Free space or choose another folder; what was there before is unchanged.",
    )


def model_card(causal: Body, card: Mapping[str, Any]) -> str:
    """The model card: YAML front matter, then one line a fact."""
    front = {
        "license": card.get("licence") or causal.facts.get("licence") or "unknown",
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction" if isinstance(causal, Encoder) else "text-generation",
        "tags": ["distillation", "tutelage"],
    }
    # every JSON value is a YAML value, so quoting is exact without a YAML writer
    lines = ["---", *(f"{k}: {json.dumps(v)}" for k, v in front.items()), "---", "", f"# {_plain(causal.name)}", ""]
    facts = {**causal.facts, **card, "num_parameters": causal.num_parameters}
    lines += [f"- **{_plain(str(k).replace('_', ' '))}**: {_shown(v)}" for k, v in facts.items() if v is not None]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "".join(f"\n  - {_plain(str(k))}: {_shown(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(v) for v in value)
    return _plain(str(value))


def _plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]#|~" else c for c in text)
