"""What a training step takes on many GPUs, worked out on paper from the models' configurations.

Memory is that of one GPU: parts of what is split (FSDP2) and all of what is not, two gathered blocks with what stands
around the blocks, activations of one micro-batch, and the loss node's buffers. Time is the larger of computing and of
exchanging weights and gradients, which overlap. Writing rollouts is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.errors import SettingError
from ..models.cost import BYTES, Cost, cost
from ..training.settings import TrainSettings
from .peak import head_elements

MASTER_BYTES = 4
"""What trains is held in float32: weights, gradients and both moments."""


@dataclass(frozen=True)
class Machines:
    """GPUs of one kind.

    Args:
        num_gpus: How many, >= 1.
        memory_bytes: Of each.
        flops: Peak operations a second of each, in the precision of the run.
        utilisation: The share of the peak that is reached, in (0, 1]; 0.4 is usual for dense models.
        bandwidth: Bytes a second that each GPU sends and receives; the slowest link that a gathered block crosses.
        spare_share: Memory left to the allocator and the libraries.

    Raises:
        SettingError: A number outside its range.
    """

    num_gpus: int
    memory_bytes: float = 80e9
    flops: float = 989e12
    utilisation: float = 0.4
    bandwidth: float = 50e9
    spare_share: float = 0.1

    def __post_init__(self) -> None:
        positive = min(self.num_gpus, self.memory_bytes, self.flops, self.bandwidth) > 0
        if not positive or not 0 < self.utilisation <= 1 or not 0 <= self.spare_share < 1:
            raise SettingError(
                "plan for GPUs",
                got=", ".join(f"{k}={v:g}" for k, v in asdict(self).items()),
                expected="numbers above 0, shares up to 1",
                remedy="E.g. --gpus 8 --gpu-memory 80 --gpu-flops 989e12.",
            )


@dataclass(frozen=True)
class Role:
    """A model of the run.

    Args:
        cost: Its counts.
        num_layers: Its blocks.
        hidden: The width of its stream.
        inner: The width inside its blocks.
        vocabulary: The rows of its head.
        bytes_each: Of a weight.
        moves: Whether it trains.
        split: Whether its weights are split over the GPUs.
    """

    cost: Cost
    num_layers: int
    hidden: int
    inner: int
    vocabulary: int
    bytes_each: int
    moves: bool
    split: bool

    @classmethod
    def of(cls, config: Any, dtype: str = "float32", *, moves: bool = False, split: bool = True) -> Role:
        """The model of a configuration."""
        text = config.get_text_config(decoder=True)
        sizes = (text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.vocab_size)
        return cls(cost(config), *sizes, MASTER_BYTES if moves else BYTES[dtype], moves, split)

    @property
    def around(self) -> int:
        """Parameters outside the blocks: embedding, last norm, head."""
        return self.vocabulary * self.hidden + self.hidden + self.cost.num_head_parameters

    @property
    def block(self) -> int:
        """Parameters of one block."""
        return (self.cost.num_parameters - self.around) // self.num_layers


@dataclass(frozen=True)
class Estimate:
    """What a step takes.

    Args:
        memory: Bytes on each GPU at the peak, by component.
        fits: Whether they fit, with room to spare.
        computing_seconds: Of a step.
        exchanging_seconds: Of a step.
        positions: Tokens of a step, over all GPUs.
        micro_batches: Forward and backward passes of a step.
    """

    memory: Mapping[str, int]
    fits: bool
    computing_seconds: float
    exchanging_seconds: float
    positions: int
    micro_batches: int

    @property
    def memory_bytes(self) -> int:
        """Of each GPU."""
        return sum(self.memory.values())

    @property
    def step_seconds(self) -> float:
        """One step."""
        return max(self.computing_seconds, self.exchanging_seconds)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form with what follows from it."""
        more = {"memory_bytes": self.memory_bytes, "step_seconds": self.step_seconds}
        return {**asdict(self), **more, "positions_per_second": self.positions / self.step_seconds}


def estimate(roles: Mapping[str, Role], settings: TrainSettings, machines: Machines) -> Estimate:
    """One step of a stage whose rows are as long as they may be, every position of them trained.

    Args:
        roles: The models by slot.
        settings: Batch, length, precision and recomputation.
        machines: The GPUs.

    Raises:
        SettingError: Fewer rows than GPUs.
    """
    if settings.batch_size < machines.num_gpus:
        raise SettingError(
            "train.batch_size",
            got=f"{settings.batch_size} rows for {machines.num_gpus} GPUs",
            expected="a row or more for each",
            remedy="Raise batch_size or use fewer GPUs.",
        )
    own = -(-settings.batch_size // machines.num_gpus)
    micro = min(settings.micro_batch_size or own, own)
    num_micro = -(-own // micro)
    memory = _memory(roles, settings, machines, micro * settings.max_length)
    flops = sum(_flops(role, settings) for role in roles.values()) * own
    sent = sum(_sent(role, settings, machines.num_gpus) for role in roles.values()) * num_micro
    sent += sum(_exchanged(role, machines.num_gpus) for role in roles.values())
    return Estimate(
        memory,
        sum(memory.values()) <= machines.memory_bytes * (1 - machines.spare_share),
        flops / (machines.flops * machines.utilisation),
        sent / machines.bandwidth,
        settings.batch_size * settings.max_length,
        num_micro,
    )


def _memory(roles: Mapping[str, Role], settings: TrainSettings, machines: Machines, positions: int) -> dict[str, int]:
    out: dict[str, int] = {}
    for slot, role in roles.items():
        parts = machines.num_gpus if role.split else 1
        num = math.ceil(role.cost.num_parameters / parts)
        out[f"weights of {slot}"] = num * role.bytes_each
        gathered = (2 * role.block + role.around) * role.bytes_each if role.split else 0
        if role.moves:
            out[f"gradients of {slot}"] = num * MASTER_BYTES
            out[f"optimiser of {slot}"] = 2 * num * MASTER_BYTES
            gathered += (role.block + role.around) * MASTER_BYTES if role.split else 0
        if gathered:
            out[f"gathered of {slot}"] = gathered
        out[f"activations of {slot}"] = _activations(role, settings, positions)
    widest = max(role.vocabulary for role in roles.values())
    heads = max((role.vocabulary * role.hidden for role in roles.values() if role.moves), default=0)
    chunk = min(head_elements(settings, len(roles), accelerated=True), widest * positions)
    out["loss buffers"] = MASTER_BYTES * (len(roles) * chunk + heads)
    return out


def _activations(role: Role, settings: TrainSettings, positions: int) -> int:
    """What the blocks keep for the backward pass, or one block's own where nothing goes back through it."""
    width = 2 if settings.precision == "bfloat16" else 4
    # both norms' inputs and results, queries to values with their rotated copies, attention's output; the gated MLP
    inside = positions * (8 * role.hidden + 4 * role.inner) * width
    stream = positions * role.hidden * MASTER_BYTES
    if not role.moves:
        return inside + 2 * stream
    blocks = 1 if settings.gradient_checkpointing else role.num_layers
    return blocks * inside + (role.num_layers + 2) * stream


def _flops(role: Role, settings: TrainSettings) -> float:
    """Of one row: a forward pass, and for what trains a backward pass of twice that and what is computed again.

    Computing again stops before a block's last product, which nothing keeps. The loss node forms the head's gradient on
    the way, with two more products, and computes nothing again.
    """
    body = role.cost.flops(settings.max_length, 0)
    head = settings.max_length * role.cost.head_flops
    if not role.moves:
        return body + head
    last = 2 * role.num_layers * role.hidden * role.inner * settings.max_length
    return 3 * body + (body - last if settings.gradient_checkpointing else 0) + 3 * head


def _sent(role: Role, settings: TrainSettings, num_gpus: int) -> float:
    """Bytes that a GPU receives in a micro-batch for a split model: its weights forward and back, and gradients."""
    if not role.split or num_gpus == 1:
        return 0.0
    others = role.cost.num_parameters * (num_gpus - 1) / num_gpus
    return others * role.bytes_each if not role.moves else others * (2 * role.bytes_each + MASTER_BYTES)


def _exchanged(role: Role, num_gpus: int) -> float:
    """Bytes that a GPU sends and receives in a step to sum the gradients of a whole model."""
    if role.split or not role.moves or num_gpus == 1:
        return 0.0
    return 2 * role.cost.num_parameters * MASTER_BYTES * (num_gpus - 1) / num_gpus
