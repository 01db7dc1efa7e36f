"""Models whose weights are split over the processes (FSDP2), beside those that each process holds whole.

Every process holds a part of each tensor. A block is gathered when it runs and let go after it; what stands around
the blocks (embedding, last norm, head) is there as long as a function runs ``inside``. The split of one model does not
touch another's, so a teacher may be split and its student whole, or both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from ..core.errors import ModelError
from ..core.signal import Read

Said = TypeVar("Said")


class Together(nn.Module):
    """Several modules as one, whose forward runs a function.

    Wrappers arm their hooks in ``forward``: bodies, heads and the loss node must all run inside it.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({name.replace(".", "_"): m for name, m in modules.items()})

    def forward(self, function: Callable[[], Any]) -> Any:
        """Run the function."""
        return function()


class Shards:
    """The split models of a run, by slot."""

    def __init__(self) -> None:
        self._roots: dict[str, Any] = {}
        self._plain: dict[str, Any] = {}
        self._mesh: DeviceMesh | None = None

    def __contains__(self, slot: str) -> bool:
        return slot in self._roots

    def __bool__(self) -> bool:
        return bool(self._roots)

    def meet(self, device: torch.device) -> None:
        """Agree with the other processes on who holds what; all of them call it, before the first ``split``."""
        if self._mesh is None:
            self._mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))

    def split(self, slot: str, model: Any) -> None:
        """Keep this process's part of a model's weights: each block by itself, then what stands around them.

        Args:
            slot: The model's slot.
            model: A model adapter or a module; it stays where it is and keeps its part alone.

        Raises:
            ModelError: Other processes were not met, or the slot is split already.
        """
        if self._mesh is None or slot in self._roots:
            raise ModelError(
                f"split of model {slot!r}",
                got="one that is split already" if slot in self._roots else "a process that met no others",
                expected="a whole model, in a run of several processes",
                remedy="Start the run with torchrun or accelerate launch; split each slot once.",
            )
        self._plain[slot] = _without_weights(model)
        module = model if isinstance(model, nn.Module) else model.model
        for block in getattr(model, "layers", ()):
            fully_shard(block, mesh=self._mesh)
        self._roots[slot] = fully_shard(Together({slot: module}), mesh=self._mesh)

    def inside(self, function: Callable[[], Said]) -> Said:
        """Run a function where split models can be called and their heads read; all processes call them as often."""
        for root in self._roots.values():
            function = _within(root, function)
        return function()

    def quiet(self, function: Callable[[], Said]) -> Said:
        """The same without gradients; nothing stays gathered."""
        try:
            with torch.no_grad():
                return self.inside(function)
        finally:
            self.rest()

    def whole(self, function: Callable[[], Said], slots: Iterable[str]) -> Said:
        """Run a function while each process holds all weights of some slots, so that it may call them as it likes."""
        units = [unit for slot in slots if slot in self._roots for unit in _units(self._roots[slot])]
        if not units:
            return function()
        with torch.no_grad(), _held(units):
            try:
                return self.inside(function)
            finally:
                self.rest()

    def rest(self) -> None:
        """Let go of whatever is still gathered."""
        for root in self._roots.values():
            for unit in _units(root):
                unit.reshard()

    def gathered(self, slot: str, model: Any) -> Any:
        """A whole copy of a model on the first process's CPU, None elsewhere; all processes call it."""
        if slot not in self._roots:
            return model
        module = model if isinstance(model, nn.Module) else model.model
        state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if torch.distributed.get_rank() != 0:
            return None
        made = copy.deepcopy(self._plain[slot])
        inner = made if isinstance(made, nn.Module) else made.model
        inner.load_state_dict(state, assign=True)
        if not isinstance(made, nn.Module):
            made.inner.tie_weights()
        return made


def asked(tree: Iterable[tuple[str, Any]]) -> set[str]:
    """The slots that the parts of a walked tree ask or read."""
    found: set[str] = set()
    for _, part in tree:
        if isinstance(part, Read):
            found.add(part.who)
        elif not isinstance(part, type) and callable(getattr(part, "slots", None)):
            found |= part.slots()
    return found


def clip(parameters: Sequence[nn.Parameter], bound: float) -> float:
    """Scale gradients down to a norm of at most ``bound``; their norm before, over all parts of split ones."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, bound)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def rows(tensor: Tensor) -> tuple[Tensor, int, int]:
    """What this process holds of a tensor: its rows, the first one's number, and how many rows there are in all.

    A whole tensor is all of its rows.
    """
    if not isinstance(tensor, DTensor):
        return tensor, 0, tensor.shape[0] if tensor.dim() else 1
    if tensor.device_mesh.ndim != 1 or tensor.placements != (Shard(0),):
        raise ModelError(
            "a split tensor",
            got=f"placements {tensor.placements}",
            expected="rows split over one line of processes",
            remedy="Split models with Shards.split.",
        )
    each = -(-tensor.shape[0] // tensor.device_mesh.size())
    return tensor.to_local(), min(each * tensor.device_mesh.get_local_rank(), tensor.shape[0]), tensor.shape[0]


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """Rows that were read, as a tensor split in the way of another."""
    if not isinstance(tensor, DTensor):
        return part
    part = part.to(tensor.device)
    return DTensor.from_local(
        part, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def _within(root: nn.Module, function: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: root(function)


def _units(root: nn.Module) -> list[FSDPModule]:
    return [m for m in root.modules() if isinstance(m, FSDPModule)]


@contextmanager
def _held(units: Sequence[FSDPModule]) -> Iterator[None]:
    """Blocks stay gathered after they ran."""
    blocks = [unit for unit in units if not isinstance(unit, Together)]
    for unit in blocks:
        unit.set_reshard_after_forward(False)
    try:
        for unit in units:
            unit.unshard()
        yield
    finally:
        for unit in blocks:
            unit.set_reshard_after_forward(True)


def _without_weights(model: Any) -> Any:
    """The same model without memory for its parameters; tied ones stay tied, buffers and tokenizer are kept."""
    module = model if isinstance(model, nn.Module) else model.model
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        memo[id(tokenizer)] = tokenizer
    return copy.deepcopy(model, memo)
