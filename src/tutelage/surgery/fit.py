"""Fits: what is worked out of features in closed form, and put into a slot as a map that does not train.

A fit is read like a trained part: class means through the lens ``Classify``, directions through ``Project``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core.errors import DataError, SettingError, unknown
from ..core.record import Record
from ..core.workspace import Workspace
from ..data.collate import Collate, split
from ..data.hashing import hash_bytes
from ..models.causal import resting

FILE = "fitted.safetensors"
LONGEST = 1 << 20


class Fitted(nn.Module):
    """The affine map ``x W^T + b``, Float[... D] -> Float[... C], held as buffers.

    Args:
        weight: Float[C D].
        bias: Float[C].
        ids: Int[K], the categories that it is about, where these are not the first ones.
    """

    weight: Tensor
    bias: Tensor
    ids: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor, ids: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("ids", ids)

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        return nn.functional.linear(x, self.weight, self.bias)

    @property
    def facts(self) -> dict[str, str]:
        """Content hashes, as a model's; a fit has no tokenizer."""
        text = b"".join(x.cpu().contiguous().numpy().tobytes() for x in self.state_dict().values())
        return {"weights_sha256": hash_bytes(text), "tokenizer_sha256": "none"}

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: x.contiguous() for name, x in self.state_dict().items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """Read it from a folder."""
        return cls(**load_file(folder / FILE))


@dataclass(frozen=True)
class ClassMeans:
    """The mean features m_c of each class, as scores: ``x . m_c - |m_c|^2 / 2``, whose largest is the nearest mean.

    Args:
        slot: The model whose features they are.
        data: The data set; each row has its class as the note ``label`` (the step ``Label`` writes it).
        what: ``pooled``, or ``hidden.K`` at each trained position.
        label: The note.
        batch_size: Rows read at once.
    """

    slot: str
    data: str
    what: str = "pooled"
    label: str = "label"
    batch_size: int = 16

    def __call__(self, workspace: Workspace) -> Fitted:
        """Read the data once.

        Raises:
            UnknownName: No such data set.
            DataError: A row without a class, or a class without a row.
        """
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        for records, features, rows in _features(workspace, self.slot, self.data, self.what, self.batch_size):
            for number, record in enumerate(records):
                own = features[rows == number].double()
                label = _label(record, self.label)
                sums[label] = sums.get(label, torch.zeros((), dtype=torch.float64)) + own.sum(0)
                counts[label] = counts.get(label, 0) + len(own)
        empty = [c for c in range(max(counts) + 1) if not counts.get(c)]
        if empty:
            raise DataError(
                f"class means over {self.data!r}",
                got=f"no features of class {empty[0]}",
                expected="rows of every class from 0 on",
                remedy="Give the missing class rows, or name fewer classes.",
            )
        means = torch.stack([sums[c] / counts[c] for c in range(len(counts))])
        return Fitted(means.float(), (-means.square().sum(-1) / 2).float())


@dataclass(frozen=True)
class Directions:
    """The ``num`` directions in which features vary most, as coordinates: ``(x - mean) A^T``, A orthonormal rows.

    The largest entry of each direction is positive, so a fit made again is the same.

    Args:
        slot: The model whose features they are.
        data: The data set.
        num: How many, >= 1.
        what: ``pooled``, or ``hidden.K`` at each trained position.
        batch_size: Rows read at once.
    """

    slot: str
    data: str
    num: int = 8
    what: str = "pooled"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.num < 1:
            raise SettingError("Directions.num", got=str(self.num), expected="at least 1", remedy="8 to 64 is usual.")

    def __call__(self, workspace: Workspace) -> Fitted:
        """Read the data once; second moments are summed in float64.

        Raises:
            UnknownName: No such data set.
            DataError: Fewer features, or dimensions, than directions.
        """
        total, second, count = torch.zeros(()), torch.zeros(()), 0
        for _, features, _ in _features(workspace, self.slot, self.data, self.what, self.batch_size):
            x = features.double()
            total, second, count = total + x.sum(0), second + x.T @ x, count + len(x)
        if count <= self.num or len(total) < self.num:
            raise DataError(
                f"directions over {self.data!r}",
                got=f"{count} features of {len(total)} dimensions",
                expected=f"more features than directions, which are {self.num}, and as many dimensions",
                remedy="Give more rows or ask for fewer directions.",
            )
        mean = total / count
        _, vectors = torch.linalg.eigh(second / count - torch.outer(mean, mean))
        axes = vectors.flip(1).T[: self.num]
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        return Fitted(axes.float().contiguous(), -(axes @ mean).float())


def _features(
    workspace: Workspace, slot: str, data: str, what: str, size: int
) -> Iterator[tuple[list[Record], Tensor, Tensor]]:
    """By batch: its rows, features Float[N D], and the row of each."""
    for name, among in ((slot, workspace.models), (data, workspace.data)):
        if name not in among:
            raise unknown("fit", name, among, "Name it under [models] or [data].")
    if not workspace.data[data]:
        raise DataError(f"data set {data!r}", got="no rows", expected="at least one", remedy="Check what was read.")
    model = workspace.models[slot]
    collate = Collate(model.tokenizer, model.max_positions or LONGEST)
    with torch.no_grad(), resting(model.model):
        for rows in split(workspace.data[data], size):
            batch = collate(rows).to(model.device)
            features = model.predict(batch.views["main"], frozenset({what}))[what].cpu()
            row = torch.arange(len(rows)) if what == "pooled" else batch.units["tokens"].row.cpu()
            yield rows, features, row


def _label(record: Record, name: str) -> int:
    if name not in record.notes:
        raise DataError(
            f"record {record.id!r}",
            got=f"notes {', '.join(sorted(record.notes)) or 'none'}",
            expected=f"its class as the note {name!r}",
            remedy="Write it with the step Label first.",
        )
    return int(record.notes[name])
