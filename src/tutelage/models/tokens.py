"""What makes two tokenizers the same: their tokens, merges, special tokens and template, and hashes of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def vocabulary(tokenizer: Any) -> list[str]:
    """Token strings by id; ids without a token are empty strings."""
    table = tokenizer.get_vocab()
    out = [""] * (1 + max(table.values(), default=-1))
    for token, index in table.items():
        out[index] = token
    return out


def merges(tokenizer: Any) -> Any:
    """The merge rules, or None where the tokenizer has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else json.loads(backend.to_str())["model"].get("merges")


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 over token strings in the order of their ids."""
    return _digest(vocabulary(tokenizer))


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over vocabulary, merges, special tokens and chat template."""
    special = {k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())}
    return _digest([vocabulary(tokenizer), merges(tokenizer), special, tokenizer.chat_template])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()
