"""A teacher's head, kept once beside the states that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ...core.errors import StoreError
from ...core.scores import Head
from ..files import write_whole
from ..hashing import hash_bytes

NAME = "head.safetensors"
FACTS = "head.json"


def write(folder: Path, head: Head) -> None:
    """Keep a head, low-rank pairs added to its weight; one that is there already stays.

    Raises:
        StoreError: The disk refuses.
    """
    if (folder / FACTS).exists():
        return
    weight = head.weight.detach().cpu()
    for a, b, factor in head.low:
        weight = weight + (b.detach() @ a.detach() * factor).to(weight)
    tensors = {"weight": weight.contiguous()} | ({} if head.bias is None else {"bias": head.bias.detach().cpu()})
    data = save(tensors)
    facts = {"scale": head.scale, "cap": head.cap, "size": head.size, "sha256": hash_bytes(data)}
    write_whole(folder / NAME, data)
    write_whole(folder / FACTS, (json.dumps(facts) + "\n").encode())


def read(folder: Path) -> Head:
    """The head that was kept.

    Raises:
        StoreError: It is missing or damaged.
    """
    try:
        facts, data = json.loads((folder / FACTS).read_text()), (folder / NAME).read_bytes()
        if hash_bytes(data) != facts["sha256"]:
            raise ValueError("bytes with another checksum")
        tensors = load(data)
        with torch.no_grad():
            return Head(tensors["weight"], tensors.get("bias"), facts["scale"], facts["cap"], facts["size"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(
            str(folder / NAME),
            got=str(error),
            expected="the head as it was written",
            remedy="Delete both head files and write once more with the teacher at hand: states stay.",
        ) from error
