"""Work and memory of some code as counts, which are the same on every machine and in every run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# where the two factors of a matrix product are among its arguments
FACTORS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}


class Counted(TorchDispatchMode):
    """Counts what runs inside it, backward passes included.

    Attributes:
        operations: Calls of PyTorch's own operations; those that only change how a tensor is seen are left out.
        products: Matrix products among them.
        multiplied: Multiplications of the matrix products; attention counts as two, and its backward pass not at all.
        moved: Elements that operations read and wrote.
        peak: The most bytes that tensors made inside held at once; what one operation uses within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.products = self.multiplied = self.moved = self.peak = 0
        self._now = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = list(_tensors((args, kwargs or {})))
        for tensor in given:
            if id(_storage(tensor)) not in self._alive:
                self._note(tensor, 0)
        out = func(*args, **(kwargs or {}))
        made = list(_tensors(out))
        for tensor in made:
            self._note(tensor, tensor.untyped_storage().nbytes())
        if not func.is_view:
            self.operations += 1
            self.moved += sum(t.numel() for t in (*given, *made))
            self._multiply(func, args)
        return out

    def counts(self) -> dict[str, int]:
        """All counts by name."""
        names = ("operations", "products", "multiplied", "moved", "peak")
        return {name: getattr(self, name) for name in names}

    def _multiply(self, func: Any, args: Any) -> None:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in FACTORS:
            a, b = (args[i] for i in FACTORS[name])
            self.products += 1
            self.multiplied += a.numel() * b.shape[-1]
        elif name.startswith("_scaled_dot_product") and not name.endswith("backward"):
            self.products += 1
            self.multiplied += 2 * args[0].numel() * args[1].shape[-2]

    def _note(self, tensor: Tensor, size: int) -> None:
        """Count a storage once, until it is gone."""
        storage = _storage(tensor)
        key = id(storage)
        if key in self._alive:
            return
        self._now += size
        self.peak = max(self.peak, self._now)
        self._alive[key] = weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.pop(key, None)
        self._now -= size


def counted(work: Callable[[], Any]) -> dict[str, int]:
    """The counts of one call; a call before it makes what is made once."""
    work()
    with Counted() as mode:
        work()
    return mode.counts()


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
