"""Checks of a loss over hidden states and heads: value and gradient against float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from . import oracle
from .asked import IGNORED, Adapter, Heads
from .check import Check, Found

POSITIONS, SIZE, WIDE, VOCABULARY = 24, 16, 20, 50
EXACT = 1e-5


def heads(*, seed: int = 0, **changes: object) -> Heads:
    """Seeded float32 numbers, logits of scale 2, every position with a label."""
    g = torch.Generator().manual_seed(seed)

    def draw(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=g) * scale

    made = Heads(
        draw(POSITIONS, SIZE), draw(VOCABULARY, SIZE, 2 * SIZE**-0.5), draw(POSITIONS, WIDE),
        draw(VOCABULARY, WIDE, 2 * WIDE**-0.5), torch.randint(VOCABULARY, (POSITIONS,), generator=g),
    )  # fmt: skip
    return replace(made, **changes)


def gradients(value: Tensor, asked: Heads) -> list[Tensor]:
    """The gradients of a scalar in float64; 0 where it has none."""
    found = torch.autograd.grad(value, asked.leaves(), allow_unused=True)
    return [
        torch.zeros_like(t).double() if g is None else g.detach().double()
        for g, t in zip(found, asked.leaves(), strict=True)
    ]


def apart(got: Tensor, right: Tensor) -> float:
    """The norm of the difference relative to that of what is right; infinite where a number is not finite."""
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    scale = float(right.norm())
    return float((got - right).norm()) / scale if scale else float(got.norm())


def answer(adapter: Adapter, asked: Heads) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients of a framework."""
    own = asked.to(asked.hidden.dtype)
    value = adapter.loss(own)
    return value.detach().double(), gradients(value, own)


def right(asked: Heads) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients in float64, of the same numbers."""
    own = asked.to(torch.float64)
    value = oracle.loss(own)
    return value.detach(), gradients(value, own)


def worst(adapter: Adapter, asked: Heads) -> float:
    """The largest relative error of value and gradients."""
    (value, grads), (true, exact) = answer(adapter, asked), right(asked)
    factor = asked.temperature**adapter.temperature_power
    pairs = [(value, true), *zip(grads, exact, strict=True)]
    return max(apart(a, b * factor) for a, b in pairs)


def equals(asked: Callable[[], Heads]) -> Callable[[Adapter], Found]:
    """The measurement of a loss that must be the oracle's."""
    return lambda adapter: Found(worst(adapter, asked()))


def _even(adapter: Adapter) -> Found:
    """Student and teacher alike."""
    asked = heads()
    asked = replace(asked, teacher_hidden=asked.hidden, teacher_weight=asked.weight, beta=0.5)
    value, grads = answer(adapter, asked)
    return Found(max(abs(float(value)), *(float(g.abs().max()) for g in grads)))


def _tempered(adapter: Adapter) -> Found:
    power = adapter.temperature_power
    return Found(worst(adapter, heads(temperature=2.0)), f"T^{power} KL" if power else "KL, without T^2")


def _masked() -> Heads:
    labels = heads().labels.clone()
    labels[::3] = IGNORED
    return heads(labels=labels)


def _nothing(adapter: Adapter) -> Found:
    value, grads = answer(adapter, heads(labels=torch.full((POSITIONS,), IGNORED)))
    figures = torch.cat([value.reshape(1), *(g.flatten() for g in grads)])
    if not bool(torch.isfinite(figures).all()):
        return Found(float("inf"), f"loss {float(value)}")
    return Found(float(figures.abs().max()))


def _weighted() -> Heads:
    return heads(token_weights=torch.linspace(0, 2, POSITIONS))


def _scaled(adapter: Adapter) -> Found:
    """The loss inside a larger one: three times itself."""
    own = heads(beta=0.5).to(torch.float32)
    exact = right(heads(beta=0.5))[1]
    return Found(max(apart(g, 3 * e) for g, e in zip(gradients(3 * adapter.loss(own), own), exact, strict=True)))


def _padded(name: str) -> Heads:
    """Extra rows of one head; the logits of their tokens are near -60, so they have no mass to speak of."""
    asked = heads()
    states = name.replace("weight", "hidden")
    hidden, weight = getattr(asked, states).clone(), getattr(asked, name)
    hidden[:, 0] = 1.0
    rows = torch.zeros(14, weight.shape[1])
    rows[:, 0] = -60.0
    return replace(asked, **{states: hidden, name: torch.cat([weight, rows])})


def _phantoms(adapter: Adapter) -> Found:
    """The teacher's head is the larger one; is the student given the tokens that it lacks, at logits of 0?"""
    asked = _padded("teacher_weight")
    error = worst(adapter, asked)
    missing = torch.zeros(len(asked.teacher_weight) - VOCABULARY, SIZE)
    given = right(replace(asked, weight=torch.cat([asked.weight, missing])))[0]
    alike = apart(answer(adapter, asked)[0], given) < EXACT
    return Found(error, "tokens that the student lacks count as logits of 0" if alike and error > EXACT else "")


def _half(adapter: Adapter) -> Found:
    """Hidden states and heads in bfloat16, logits of scale 4, the Jensen-Shannon divergence."""
    positions, size, vocabulary = 128, 512, 8192
    g = torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(count, size, generator=g).mul_(scale).bfloat16()
        for count, scale in ((positions, 1.0), (vocabulary, 4 * size**-0.5)) * 2
    ]
    labels = torch.randint(vocabulary, (positions,), generator=g)
    asked = Heads(*drawn, labels, beta=0.5)
    _, grads = answer(adapter, asked)
    exact = right(asked)[1]
    return Found(100 * max(apart(a, b) for a, b in zip(grads, exact, strict=True)), adapter.half_is)


def _frozen(adapter: Adapter) -> Found:
    """Gradients that reach a teacher whose tensors could take some."""
    own = heads().to(torch.float32)
    own.teacher_hidden.requires_grad_()
    own.teacher_weight.requires_grad_()
    adapter.loss(own).backward()
    found: Sequence[Tensor | None] = (own.teacher_hidden.grad, own.teacher_weight.grad)
    return Found(max([float(g.norm()) for g in found if g is not None], default=0.0))


def _close(adapter: Adapter) -> Found:
    """Top 4 where the student has moved mass into the teacher's top 4: the sum over these alone is negative."""
    asked = heads()
    weight = asked.weight + 0.02 * heads(seed=1).weight
    asked = replace(asked, teacher_hidden=asked.hidden, teacher_weight=asked.weight, weight=weight, top_k=4)
    value, _ = answer(adapter, asked)
    note = f"loss {float(value):.3g} nats"
    return Found(float("inf") if float(value) < 0 else worst(adapter, asked), note)


def _formula(name: str, pains: tuple[int, ...], measure: Callable[[Adapter], Found]) -> Check:
    return Check(name, pains, EXACT, "largest relative error of value and gradients", measure)


LARGEST = "largest of |loss| and |gradient|"
CHECKS = (
    _formula("KL(teacher, student) is the formula's", (5, 20), equals(heads)),
    _formula("KL(student, teacher) is the formula's", (5, 22), equals(lambda: heads(beta=1.0))),
    _formula("Jensen-Shannon divergence is the formula's", (5,), equals(lambda: heads(beta=0.5))),
    Check("Student = teacher: loss 0, gradient 0", (5, 23), 1e-6, LARGEST, _even),
    _formula("Temperature 2 softens both sides", (5, 44), _tempered),
    _formula("A head's bias is part of it", (6,), equals(lambda: heads(bias=torch.linspace(-1, 1, VOCABULARY)))),
    _formula("Masked positions leave no trace", (7, 11, 15), equals(_masked)),
    Check("A batch without trained positions gives 0", (15,), 0.0, LARGEST, _nothing),
    _formula("A weight for each token", (9,), equals(_weighted)),
    _formula("Three times the loss has three times the gradient", (9, 21), _scaled),
    _formula("Teacher's head is padded, in the loss", (25,), _phantoms),
    _formula("Student's head is padded, in the loss", (25,), equals(lambda: _padded("weight"))),
    Check("bfloat16 gradients", (8,), 0.5, "error of the gradients in percent", _half),
    Check("The teacher gets no gradient, in the loss", (24,), 0.0, "norm of its gradient", _frozen),
    _formula("Top k and an exact rest", (18, 20), equals(lambda: heads(top_k=4))),
    Check(
        "Top k near equality: not negative, not clamped", (18, 19), 1e-4, "relative error, infinite if negative", _close
    ),
)
