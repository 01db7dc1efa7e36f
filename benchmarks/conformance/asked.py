"""What a framework can be asked, and the ways in which it may decline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

IGNORED = -100


class NotOffered(Exception):
    """Nothing in the framework's public interface does this."""


class ByChoice(Exception):
    """The framework's documentation says that it does something else on purpose."""


class Refused(Exception):
    """The framework ends with an error of its own that says what is wrong."""


class NotHere(Exception):
    """The part that does this does not run on this device."""


@dataclass(frozen=True, eq=False)
class Heads:
    """A loss between two heads: its mean over the positions whose label is not ``IGNORED``.

    Args:
        hidden: Float[P D], the student's.
        weight: Float[V D], the student's head.
        teacher_hidden: Float[P E].
        teacher_weight: Float[W E].
        labels: Int[P], the token that each position predicts.
        beta: 0 is KL(teacher, student), 1 is KL(student, teacher), between them the Jensen-Shannon divergence
            ``beta KL(p, m) + (1 - beta) KL(q, m)`` with ``m = beta p + (1 - beta) q``.
        temperature: Divides both sides' logits.
        bias: Float[V] of the student's head, or None.
        token_weights: Float[P], or None for 1: ``sum w d / count``.
        top_k: Compare the teacher's k most probable tokens and one bucket for all others; 0 for every token.
    """

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    beta: float = 0.0
    temperature: float = 1.0
    bias: Tensor | None = None
    token_weights: Tensor | None = None
    top_k: int = 0

    def to(self, dtype: torch.dtype) -> Heads:
        """The same numbers as leaves of their own in another type; the student's get gradients."""

        def own(tensor: Tensor | None, grad: bool) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(dtype).clone().requires_grad_(grad)

        student = {name: own(getattr(self, name), True) for name in ("hidden", "weight", "bias")}
        others = {name: own(getattr(self, name), False) for name in ("teacher_hidden", "teacher_weight")}
        return replace(self, **student, **others)

    def leaves(self) -> list[Tensor]:
        """What gets a gradient."""
        return [t for t in (self.hidden, self.weight, self.bias) if t is not None]


@dataclass(frozen=True)
class Row:
    """A prompt and an answer, as token ids; the answer ends with the end-of-text token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """One optimiser step of a tiny student under a tiny teacher.

    Args:
        rows: The rows of the step; a framework that writes its own answers takes their prompts.
        micro_batch: Rows a forward pass, on each process.
        family: The architecture of both models.
        beta: As in ``Heads``.
        temperature: Of the loss.
        dropout: Of the teacher's attention, which an evaluating teacher does not apply.
        prompt_trains: Whether every token of a row trains.
        teacher_extra: Rows that the teacher's head and embedding have beyond the vocabulary.
        max_tokens: The longest answer that a framework may write.
    """

    rows: tuple[Row, ...]
    micro_batch: int
    family: str = "llama"
    beta: float = 0.0
    temperature: float = 1.0
    dropout: float = 0.0
    prompt_trains: bool = False
    teacher_extra: int = 0
    max_tokens: int = 48


@dataclass(frozen=True)
class Stepped:
    """What a step showed.

    Args:
        gradients: By parameter name, as the optimiser got them.
        rows: What was trained on, the framework's own answers if it wrote them.
        teacher_touched: Whether the teacher got a gradient or other weights.
    """

    gradients: Mapping[str, Tensor]
    rows: tuple[Row, ...]
    teacher_touched: bool = False


class Adapter(Protocol):
    """A framework as the checks see it. Each method may raise NotOffered, ByChoice, Refused or NotHere.

    ``loss_is`` and ``step_is`` say which public entry points stand behind the methods. ``temperature_power`` is the
    power of the temperature by which the framework multiplies a tempered loss; ``half_is`` says in what precision it
    gets half-precision inputs.
    """

    name: str
    loss_is: str
    step_is: str
    temperature_power: int
    half_is: str

    def loss(self, asked: Heads) -> Tensor:
        """A scalar whose backward pass reaches ``asked.leaves()``."""
        ...

    def step(self, scene: Scene) -> Stepped:
        """One real training step, of all processes that were started together."""
        ...
