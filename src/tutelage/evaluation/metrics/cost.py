"""Cost: parameters, bytes, tokens a second and memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from torch import nn

from ...core.ledger import Ledger


def num_parameters(model: nn.Module) -> int:
    """The number of parameters; a tensor shared by two layers counts once."""
    return sum(p.numel() for p in model.parameters())


def num_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers that would be saved, tied tensors once."""
    seen: dict[tuple[int, int], int] = {}
    for tensor in model.state_dict().values():
        seen[tensor.data_ptr(), tensor.numel()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def bytes_on_disk(path: Path) -> int:
    """Bytes of the weight files of a saved model: a file, or the ``.safetensors`` and ``.gguf`` files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.glob("*") if f.suffix in (".safetensors", ".gguf"))


def tokens_per_second(ledger: Ledger, slot: str, deed: str) -> float | None:
    """Tokens over seconds of an account, None if nothing was charged."""
    account = ledger.get(slot, deed)
    return account.tokens / account.seconds if account.seconds > 0 else None


def peak_memory_bytes() -> int:
    """The most memory this process has held so far (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
