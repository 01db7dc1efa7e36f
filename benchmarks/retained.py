"""Bytes that the loss keeps for its backward pass: forward KL, 512 positions of which 256 train, 4,096 categories."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.signals.divergences import kl_forward

from .common import Result
from .head import Inputs

POSITIONS, TRAINED, SIZE, VOCABULARY, CHUNK = 512, 256, 64, 4096, 32


class Saved:
    """A tensor that a graph holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(work: Callable[[], Tensor], inputs: Inputs) -> int:
    """Bytes of the distinct tensors that the graph of a loss holds; the inputs, which exist anyway, are not counted.

    What a forward pass saves and lets go before it returns is not held: only what is alive then counts.
    """
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        value = work()
    own = {t.untyped_storage().data_ptr() for t in vars(inputs).values()}
    held = {s.data_ptr(): s.nbytes() for s in (saved.tensor.untyped_storage() for saved in alive)}
    del value
    return sum(size for place, size in held.items() if place not in own)


def masked(inputs: Inputs) -> Tensor:
    """Dense over all positions, then a mask: what many trainers do."""
    log_q = (inputs.hidden @ inputs.weight.T).log_softmax(-1)
    log_p = (inputs.teacher_hidden @ inputs.teacher_weight.T).log_softmax(-1)
    mask = (torch.arange(len(log_q)) < TRAINED).float()
    return (kl_forward(log_q, log_p) * mask).sum() / TRAINED


def checkpointed(inputs: Inputs) -> Tensor:
    """Chunks of the trained positions, each recomputed in the backward pass."""
    total = torch.zeros(())
    for begin in range(0, TRAINED, CHUNK):
        rows = slice(begin, begin + CHUNK)

        def part(hidden: Tensor, weight: Tensor, rows: slice = rows) -> Tensor:
            log_p = (inputs.teacher_hidden[rows] @ inputs.teacher_weight.T).log_softmax(-1)
            return kl_forward((hidden @ weight.T).log_softmax(-1), log_p).sum()

        total = total + checkpoint(part, inputs.hidden[rows], inputs.weight, use_reentrant=False)
    return total / TRAINED


def held(value: Tensor) -> int:
    """Bytes of the gradients that our node formed in its forward pass and hands over in the backward pass."""
    grads = getattr(value.grad_fn, "grads", None) or ()
    return sum(g.nbytes for g in grads if g is not None)


def run(device: str, quick: bool) -> Result:
    """The table."""
    inputs = Inputs.seeded(POSITIONS, SIZE, VOCABULARY)
    trained = inputs.first(TRAINED)
    arms: dict[str, tuple[Inputs, Callable[[], Tensor], str]] = {
        "dense, all positions, mask": (inputs, lambda: masked(inputs), "no"),
        "dense, trained positions": (trained, lambda: trained.dense(kl_forward), "no"),
        "chunks of 32 with checkpoint": (inputs, lambda: checkpointed(inputs), "yes"),
        "ours": (trained, lambda: trained.ours(kl_forward), "no"),
    }
    rows = []
    for name, (own, work, again) in arms.items():
        value = work()
        formed = held(value)
        rows.append((name, saved_bytes(work, own), formed, again, float(value.detach())))
    return Result(
        "retained",
        "Bytes saved for the backward pass, the inputs not counted. Our node saves none: it holds the gradients "
        "themselves, which become .grad; every arm ends with these.",
        {"P": POSITIONS, "trained": TRAINED, "D": SIZE, "V": VOCABULARY, "chunk": CHUNK},
        ("arm", "saved bytes", "gradients formed, bytes", "head computed again", "value"),
        tuple(rows),
    )
