"""The processes of a run, through accelerate: what they sum, gather and exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from .shards import Shards, Together


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Args:
        accelerator: What joined them.
        shards: The models that are split over them.
    """

    accelerator: Accelerator
    shards: Shards = field(default_factory=Shards)

    @classmethod
    def start(cls, precision: str = "float32", log: Sequence[str] = (), folder: str = ".") -> Processes:
        """Join the run's processes (one, unless started by ``accelerate launch`` or torchrun)."""
        mixed = "bf16" if precision == "bfloat16" else "no"
        return cls(
            Accelerator(
                mixed_precision=mixed,
                log_with=list(log) or None,  # type: ignore[arg-type]
                project_dir=folder,
                # the others wait while the first process writes answers: that may take hours
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=2))],
                cpu=not torch.cuda.is_available(),
            )
        )

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        """How many there are."""
        return self.accelerator.num_processes

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.world == 1:
            return value
        out = self.accelerator.reduce(value.to(self.accelerator.device), "sum")
        return out.cpu() if isinstance(out, Tensor) else value

    def table(self, *numbers: float) -> Tensor:
        """A few numbers of every process: Float64[processes numbers]."""
        mine = torch.zeros(self.world, len(numbers), dtype=torch.float64)
        mine[self.rank] = torch.tensor(numbers, dtype=torch.float64)
        return self.sum(mine)

    def gather(self, value: Any) -> list[Any]:
        """Every process's object, in rank order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()

    def wrap(self, modules: Mapping[str, nn.Module], partial: bool = False) -> nn.Module:
        """One module over those that an update moves, with gradient exchange where there are several processes.

        Split models exchange theirs by themselves.

        Args:
            modules: The modules.
            partial: Some of their parameters may get no gradient (a norm or a head behind the states that are read).
        """
        if any(slot in self.shards for slot in modules):
            return Together({})
        accelerator: Any = self.accelerator
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=partial)
        return self.accelerator.prepare(Together(modules))

    def run(self, wrapped: nn.Module, function: Callable[[], Tensor]) -> Tensor:
        """Run a function inside an update's module and inside every split model, in the run's precision."""

        def cast() -> Tensor:
            with self.accelerator.autocast():
                return function()

        return self.shards.inside(lambda: wrapped(cast))

    @staticmethod
    def alone(wrapped: nn.Module) -> AbstractContextManager[None]:
        """Hold back the exchange of whole gradients: for all micro-batches but the last."""
        hold: Any = getattr(wrapped, "no_sync", None)
        return hold() if hold is not None else nullcontext()
