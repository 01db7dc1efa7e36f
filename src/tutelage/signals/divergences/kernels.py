"""A Triton kernel of the closed forms: a row's value, and its weighted slope written over the learner's logits.

One program takes one row, with a temperature of its own for each side, and walks both sides' logits a block at a time:
the log-normalisers; the value and the sum that the slope needs; the slope. Everything is added in float32, and no
memory is needed beyond the logits.

With ``q = softmax(z_q)``, ``p = softmax(z_p)``, ``m`` the mixture, ``a = sum u``:

* forward KL: slope ``q - p``
* reverse KL: ``u = q log q/p``, slope ``u - q a`` (``a`` is the value)
* Jensen(beta): ``u = (1 - beta) q log q/m``, slope ``u - q a``
* skewed forward(alpha), ``KL(p || alpha p + (1 - alpha) q)``: ``u = -(1 - alpha) q p / m``, slope ``u - q a``
* skewed reverse(alpha), ``KL(q || alpha q + (1 - alpha) p)``: ``u = q (log q/m - alpha q / m)``, slope ``u - q a``

The terms of ``u`` that are proportional to q cancel in the slope and are left out. The interpreter
(``TRITON_INTERPRET=1``, set before Triton is imported) runs the same code on a processor.
"""

# Triton's language is not Python: its types are its compiler's to check.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.scores import Head
from .launch import FORWARD, JENSEN, REVERSE, SKEWED_FORWARD, Divisors, Launch

BLOCK = 4096
_FORWARD, _REVERSE, _JENSEN, _SKEWED_FORWARD = (
    tl.constexpr(shape) for shape in (FORWARD, REVERSE, JENSEN, SKEWED_FORWARD)
)


def fuse(
    launch: Launch, raw_q: Tensor, head_q: Head, raw_p: Tensor, head_p: Head, coefficients: Tensor, by: Divisors
) -> Tensor:
    """See ``Launch``."""
    num, size = raw_q.shape
    values = torch.empty(num, dtype=torch.float32, device=raw_q.device)
    one = torch.full((num,), 1.0 / launch.temperature, device=raw_q.device)
    inverse_q, inverse_p = (one if t is None else (one / t).float().contiguous() for t in by)
    if num:
        _rows[(num,)](
            raw_q, raw_q.stride(0), raw_p, raw_p.stride(0), coefficients.float().contiguous(), values, size,
            float(head_q.scale), float(head_q.cap or 1.0), float(head_p.scale), float(head_p.cap or 1.0),
            inverse_q, inverse_p, float(launch.share), float(launch.factor),
            CAP_Q=head_q.cap is not None, CAP_P=head_p.cap is not None, SHAPE=launch.shape, BLOCK=BLOCK,
        )  # fmt: skip
    return values


@triton.jit
def _logits(at, inside, scale, cap, inverse_t, CAP: tl.constexpr):
    """A block of logits, scaled, capped and tempered; -inf outside the row."""
    z = tl.load(at, mask=inside, other=0.0).to(tl.float32) * scale
    if CAP:
        z = cap * (2 * tl.sigmoid(2 * z / cap) - 1)
    return tl.where(inside, z * inverse_t, -float("inf"))


@triton.jit
def _fold(z, top, total):
    """One more block in a running maximum and ``sum exp(z - maximum)``."""
    new_top = tl.maximum(top, tl.max(z, axis=0))
    return new_top, total * tl.exp(top - new_top) + tl.sum(tl.exp(z - new_top), axis=0)


@triton.jit
def _log_mixture(log_a, log_b, share):
    """``log(share a + (1 - share) b)``, finite sides only."""
    one = log_a + tl.log(share)
    other = log_b + tl.log(1 - share)
    top = tl.maximum(one, other)
    return top + tl.log(tl.exp(one - top) + tl.exp(other - top))


@triton.jit
def _terms(log_q, log_p, share, SHAPE: tl.constexpr):
    """The block's parts of the value and of ``u``."""
    q = tl.exp(log_q)
    p = tl.exp(log_p)
    if SHAPE == _FORWARD:
        value = p * (log_p - log_q)
        u = -p
    elif SHAPE == _REVERSE:
        value = q * (log_q - log_p)
        u = value
    elif SHAPE == _JENSEN:
        log_m = _log_mixture(log_p, log_q, share)
        u = (1 - share) * q * (log_q - log_m)
        value = share * p * (log_p - log_m) + u
    elif SHAPE == _SKEWED_FORWARD:
        log_m = _log_mixture(log_p, log_q, share)
        value = p * (log_p - log_m)
        u = (share - 1) * q * tl.exp(log_p - log_m)
    else:
        log_m = _log_mixture(log_q, log_p, share)
        value = q * (log_q - log_m)
        u = value - share * q * tl.exp(log_q - log_m)
    return value, u


@triton.jit
def _rows(
    q_ptr, q_stride, p_ptr, p_stride, coefficient_ptr, value_ptr, size,
    scale_q, cap_q, scale_p, cap_p, inverse_q_ptr, inverse_p_ptr, share, factor,
    CAP_Q: tl.constexpr, CAP_P: tl.constexpr, SHAPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # compiled callers may hand numbers over as float64
    scale_q, cap_q = tl.cast(scale_q, tl.float32), tl.cast(cap_q, tl.float32)
    scale_p, cap_p = tl.cast(scale_p, tl.float32), tl.cast(cap_p, tl.float32)
    share, factor = tl.cast(share, tl.float32), tl.cast(factor, tl.float32)
    row = tl.program_id(0).to(tl.int64)
    inverse_q, inverse_p = tl.load(inverse_q_ptr + row), tl.load(inverse_p_ptr + row)
    q_row, p_row = q_ptr + row * q_stride, p_ptr + row * p_stride
    coefficient = tl.load(coefficient_ptr + row)

    top_q, sum_q = -float("inf"), 0.0
    top_p, sum_p = -float("inf"), 0.0
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < size
        top_q, sum_q = _fold(_logits(q_row + at, inside, scale_q, cap_q, inverse_q, CAP_Q), top_q, sum_q)
        top_p, sum_p = _fold(_logits(p_row + at, inside, scale_p, cap_p, inverse_p, CAP_P), top_p, sum_p)
    norm_q, norm_p = top_q + tl.log(sum_q), top_p + tl.log(sum_p)

    value, total = 0.0, 0.0
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < size
        # outside the row both sides are set to log 1, where every term is 0 after the mask
        log_q = tl.where(inside, _logits(q_row + at, inside, scale_q, cap_q, inverse_q, CAP_Q) - norm_q, 0.0)
        log_p = tl.where(inside, _logits(p_row + at, inside, scale_p, cap_p, inverse_p, CAP_P) - norm_p, 0.0)
        part, u = _terms(log_q, log_p, share, SHAPE)
        value += tl.sum(tl.where(inside, part, 0.0), axis=0)
        total += tl.sum(tl.where(inside, u, 0.0), axis=0)
    tl.store(value_ptr + row, value * factor)

    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < size
        z_q = tl.where(inside, _logits(q_row + at, inside, scale_q, cap_q, 1.0, CAP_Q), 0.0)
        log_q = z_q * inverse_q - norm_q
        log_p = tl.where(inside, _logits(p_row + at, inside, scale_p, cap_p, inverse_p, CAP_P) - norm_p, 0.0)
        part, u = _terms(log_q, log_p, share, SHAPE)
        slope = (u - tl.exp(log_q) * total) * (coefficient * factor * inverse_q * scale_q)
        if CAP_Q:
            slope *= 1 - (z_q / cap_q) * (z_q / cap_q)
        tl.store(q_row + at, slope, mask=inside)
