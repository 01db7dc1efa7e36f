"""Content hashes: what a cache is keyed by."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import StoreError
from ..core.record import Record

CHUNK_BYTES = 1 << 20


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON-ready value; the order of keys does not matter."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode())


def hash_ids(ids: Sequence[int]) -> str:
    """SHA-256 of token ids, each as 8 bytes."""
    return hash_bytes(array("q", ids).tobytes())


def hash_records(records: Iterable[Record]) -> str:
    """SHA-256 over records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(hash_json(record.to_dict()).encode())
    return digest.hexdigest()


def hash_file(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first ``size`` bytes, read in chunks so that memory does not grow with it."""
    digest = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def model_hashes(model: Any, where: str) -> dict[str, str]:
    """Content hashes of a model's ``weights`` and ``tokenizer``.

    Args:
        model: A model adapter.
        where: What to call it in a message.

    Raises:
        StoreError: The model does not say what its weights are.
    """
    facts = getattr(model, "facts", {})
    names = {"weights": "weights_sha256", "tokenizer": "tokenizer_sha256"}
    missing = [fact for fact in names.values() if not facts.get(fact)]
    if missing:
        raise StoreError(
            f"model {where!r}",
            got=f"no {' and no '.join(missing)} among its facts",
            expected="content hashes, so that what another model said is never taken for its own",
            remedy="Load it with models.load, or set its facts.",
        )
    return {name: str(facts[fact]) for name, fact in names.items()}
