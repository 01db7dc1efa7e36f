"""Narrower blocks: attention groups, MLP channels and stream channels that matter least go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, SettingError
from ..models.body import Body, resting
from ..models.build import build, changed_config, weights_of

Rows = Sequence[Sequence[int]]
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
ENOUGH = 2048  # positions that say how strong the kept channels are
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@torch.no_grad()
def narrow(teacher: Body, student: Body, keep: Sequence[int], rows: Rows, width: float) -> tuple[Body, Tensor]:
    """Keep the share ``width`` of groups, MLP channels and stream channels by their mean magnitude on the rows.

    The magnitudes are the teacher's: of what enters ``o_proj`` (whole groups of heads that share keys and values), of
    what enters ``down_proj``, and, for the stream, of the outputs of the norms, whose channels are the same in each
    block. Heads keep their size, so positions mean what they meant.

    Returns:
        The narrow student, and Int[D'] the stream channels it has.

    Raises:
        ModelError: The blocks are not as in Llama, Qwen or Mistral.
        SettingError: Nothing would be left, or there are no calibration rows.
    """
    blocks = [_parts(teacher, teacher.layers[k]) for k in keep]
    sizes = _sizes(teacher, width)
    per_group, groups = sizes.per_group, int(teacher.config.num_attention_heads) // sizes.per_group
    head_size = blocks[0]["self_attn.q_proj"].out_features // (groups * per_group)
    stream, inner = _magnitudes(teacher, blocks, rows)
    channels = _top(stream, sizes.stream)
    prefix = next(n for n, m in student.inner.named_modules() if m is student.layers)
    weights = _stream_cut(student, channels, prefix)
    for number, magnitudes in enumerate(inner):
        kept = _top(magnitudes["self_attn.o_proj"].view(groups, -1).mean(1), sizes.groups)
        mlp = _top(magnitudes["mlp.down_proj"], sizes.mlp)
        _cut_block(weights, f"{prefix}.{number}.", kept, mlp, (per_group * head_size, head_size))
    changes = {
        "hidden_size": sizes.stream,
        "intermediate_size": sizes.mlp,
        "num_attention_heads": sizes.groups * per_group,
        "num_key_value_heads": sizes.groups,
        "head_dim": head_size,
    }
    made = build(student.name, student, changed_config(student, changes), weights, student.facts)
    _level_norms(teacher, made, keep, rows, channels)
    return made, channels


@dataclass(frozen=True)
class _Sizes:
    """What stays: attention groups of ``per_group`` heads, MLP channels, stream channels."""

    groups: int
    per_group: int
    mlp: int
    stream: int


def _sizes(teacher: Body, width: float) -> _Sizes:
    config = teacher.config
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return _Sizes(
        _count(groups, width, 1, "attention groups"),
        heads // groups,
        _count(int(config.intermediate_size), width, 8, "MLP channels"),
        _count(teacher.hidden_size, width, 8, "stream channels"),
    )


def _level_norms(teacher: Body, made: Body, keep: Sequence[int], rows: Rows, channels: Tensor) -> None:
    """Scale each norm by the mean of ``rms(kept channels) / rms(all channels)`` of what enters it.

    A norm over the strongest channels divides by more than the whole one did; without this every block would get
    inputs that are too small.
    """
    pairs = [(teacher.body.get_submodule(n), made.body.get_submodule(m)) for n, m in _norm_names(teacher, made, keep)]
    ratios = [torch.zeros((), dtype=torch.float64, device=teacher.device) for _ in pairs]
    positions = 0

    def measures(number: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            square = args[0].double().square()
            ratios[number].add_((square[..., channels].mean(-1) / square.mean(-1).clamp(min=1e-30)).sqrt().sum())

        return hook

    hooks = [old.register_forward_pre_hook(measures(number)) for number, (old, _) in enumerate(pairs)]
    try:
        with resting(teacher.model):
            for row in (r for r in rows if len(r)):
                teacher.hidden({"input_ids": torch.tensor([list(row)], device=teacher.device)})
                positions += len(row)
                if positions >= ENOUGH:
                    break
    finally:
        for hook in hooks:
            hook.remove()
    for ratio, (_, new) in zip(ratios, pairs, strict=True):
        # ones pass unscaled, so this is the norm's gain, be it stored as w or as 1 + w
        gain = new(torch.ones_like(new.weight))
        new.weight += (ratio / positions - 1).to(new.weight.dtype) * gain


def _norm_names(teacher: Body, made: Body, keep: Sequence[int]) -> list[tuple[str, str]]:
    """Names of the norms of the stream in the teacher and in what was made of it."""
    width = teacher.hidden_size
    names = {m: n for n, m in teacher.body.named_modules()}
    blocks = {f"{names[teacher.layers[k]]}.": f"{names[teacher.layers[new]]}." for new, k in enumerate(keep)}
    found = []
    for name, module in teacher.body.named_modules():
        weight = getattr(module, "weight", None)
        if "norm" not in name or weight is None or weight.shape != (width,) or name.endswith(("q_norm", "k_norm")):
            continue
        old = next((b for b in blocks if name.startswith(b)), None)
        if old is not None:
            found.append((name, blocks[old] + name[len(old) :]))
        elif not name.startswith(names[teacher.layers] + "."):
            found.append((name, name))
    return found


def _count(total: int, width: float, step: int, what: str) -> int:
    """The share, rounded to a multiple of ``step`` where the whole is one."""
    step = step if total % step == 0 else 1
    count = int(total * width / step + 0.5) * step
    if count < 1:
        raise SettingError(
            "Shrink.width",
            got=f"{width}, which leaves none of {total} {what}",
            expected="a share that leaves one at least",
            remedy=f"Use a width of {step / total:.2g} or more.",
        )
    return count


def _parts(causal: Body, block: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*NAMES, *MLP):
        try:
            found[name] = block.get_submodule(name)
        except AttributeError:
            found[name] = None
        if not isinstance(found[name], nn.Linear):
            raise ModelError(
                f"width of model {causal.name!r}",
                got=f"{type(block).__name__} without a linear {name}",
                expected="blocks as in Llama, Qwen or Mistral",
                remedy="Shrink it by layers alone.",
            )
    return found


def _magnitudes(teacher: Body, blocks: list[dict[str, Any]], rows: Rows) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Sums of absolute inputs: of the norms' outputs over all blocks Float[D], and of each block's inner channels."""
    if not any(len(row) for row in rows):
        raise SettingError(
            "Shrink.width",
            got="no calibration tokens",
            expected="rows of token ids to measure on",
            remedy="Give calibration rows.",
        )
    stream = torch.zeros(teacher.hidden_size, dtype=torch.float64, device=teacher.device)
    inner: list[dict[str, Tensor]] = [{} for _ in blocks]
    hooks = []

    def adds(number: int, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            size = args[0].detach().abs().double().flatten(0, -2).sum(0)
            if name in ("self_attn.q_proj", "mlp.gate_proj"):
                stream.add_(size)
            else:
                inner[number][name] = inner[number].get(name, 0) + size

        return hook

    watched = ("self_attn.q_proj", "mlp.gate_proj", "self_attn.o_proj", "mlp.down_proj")
    for number, parts in enumerate(blocks):
        hooks += [parts[name].register_forward_pre_hook(adds(number, name)) for name in watched]
    try:
        with resting(teacher.model):
            for row in (r for r in rows if len(r)):
                teacher.hidden({"input_ids": torch.tensor([list(row)], device=teacher.device)})
    finally:
        for hook in hooks:
            hook.remove()
    return stream, inner


def _top(scores: Tensor, count: int) -> Tensor:
    """The places of the largest scores, rising."""
    return scores.topk(count).indices.sort().values


def _stream_cut(student: Body, channels: Tensor, prefix: str) -> dict[str, Tensor]:
    """All weights with the stream's channels cut: rows of what writes to it, columns of what reads from it."""
    writers = (".o_proj.weight", ".o_proj.bias", ".down_proj.weight", ".down_proj.bias")
    readers = (".q_proj.weight", ".k_proj.weight", ".v_proj.weight", ".gate_proj.weight", ".up_proj.weight")
    out: dict[str, Tensor] = {}
    width = student.hidden_size
    head_norms = (".q_norm.weight", ".k_norm.weight")
    for key, value in weights_of(student).items():
        inside = key.startswith(prefix + ".")
        if inside and key.endswith(writers):
            out[key] = value[channels]
        elif (inside and key.endswith(readers)) or (not inside and value.dim() == 2 and value.shape[1] == width):
            out[key] = value[:, channels]
        elif value.dim() == 1 and value.shape[0] == width and "norm" in key and not key.endswith(head_norms):
            out[key] = value[channels]
        else:
            out[key] = value
    return out


def _cut_block(weights: dict[str, Tensor], start: str, groups: Tensor, mlp: Tensor, sizes: tuple[int, int]) -> None:
    """Cut the inner channels of one block: whole attention groups and MLP channels."""
    queries, keys = (_spread(groups, size) for size in sizes)
    places = {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
    places |= {"mlp.gate_proj": mlp, "mlp.up_proj": mlp}
    for name, index in places.items():
        for kind in ("weight", "bias"):
            if f"{start}{name}.{kind}" in weights:
                weights[f"{start}{name}.{kind}"] = weights[f"{start}{name}.{kind}"][index]
    for name, index in {"self_attn.o_proj": queries, "mlp.down_proj": mlp}.items():
        weights[f"{start}{name}.weight"] = weights[f"{start}{name}.weight"][:, index]


def _spread(groups: Tensor, size: int) -> Tensor:
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()
