"""Bytes that the loss keeps for its backward pass: forward KL, 512 positions of which 256 train, 4,096 categories."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.signals.divergences import kl_forward

from .common import Result
from .head import Inputs

POSITIONS, TRAINED, SIZE, VOCABULARY, CHUNK = 512, 256, 64, 4096, 32


def saved_bytes(work: Callable[[], Tensor], inputs: Inputs) -> int:
    """Bytes of the distinct tensors that autograd saves; the inputs, which exist anyway, are not counted."""
    own = {t.untyped_storage().data_ptr() for t in vars(inputs).values()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = work()
    del value
    return sum(found.values())


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
        rows.append((name, saved_bytes(work, own), formed, again, float(value)))
    return Result(
        "retained",
        "Bytes saved for the backward pass, the inputs not counted. Our node saves none: it holds the gradients "
        "themselves, which become .grad; every arm ends with these.",
        {"P": POSITIONS, "trained": TRAINED, "D": SIZE, "V": VOCABULARY, "chunk": CHUNK},
        ("arm", "saved bytes", "gradients formed, bytes", "head computed again", "value"),
        tuple(rows),
    )
