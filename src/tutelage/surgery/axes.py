"""Axes: the directions in which a class's features vary beyond what the head tells, as made-up subclasses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import DataError, SettingError, unknown
from ..core.scores import Lazy
from ..core.seeds import generator
from ..core.workspace import Workspace
from ..data.collate import Collate, split
from ..models.causal import resting
from .fit import LONGEST, Fitted


@dataclass(frozen=True)
class ClassAxes:
    """For each class, S logits of subclasses: ``(h - m_c) U_c / (sigma_c beta)``; their softmax is a membership.

    U_c are the S directions in which the class's features vary most once what tells the classes apart is taken out,
    turned at random so that each varies as much as the others on average; sigma_c is the standard deviation along them.

    Args:
        slot: The model whose features they are.
        data: The data set.
        head: The slot of the head over classes, whose classes the rows' note ``label`` counts; empty takes the model's
            own head over tokens and the ``most`` next tokens that the data trains most often.
        subclasses: S, >= 1.
        temperature: beta, > 0; small ones make memberships sharp.
        most: Tokens at most.
        batch_size: Rows read at once.

    Source: arXiv:2409.20449.
    """

    slot: str
    data: str
    head: str = ""
    subclasses: int = 4
    temperature: float = 0.5
    most: int = 16
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.subclasses < 1 or not self.temperature > 0 or self.most < 2:
            raise SettingError(
                "ClassAxes",
                got=f"subclasses={self.subclasses}, temperature={self.temperature}, most={self.most}",
                expected="1 subclass or more, a temperature > 0 and 2 tokens or more",
                remedy="4 to 10 subclasses at 0.3 to 1 are usual.",
            )

    def __call__(self, workspace: Workspace) -> Fitted:
        """Read the data once for tokens' counts and once for their features' moments, in float64.

        Raises:
            UnknownName: No such data set or model.
            DataError: A class with as few features as subclasses, or too few directions left.
        """
        for name, among in ((self.slot, workspace.models), (self.data, workspace.data)):
            if name not in among:
                raise unknown("axes", name, among, "Name it under [models] or [data].")
        numbers = torch.cat([classes for _, classes in self._read(workspace, features=False)])
        counts = torch.bincount(numbers)
        if self.head:
            ids, weight = torch.arange(len(counts)), workspace.models[self.head].weight
        else:
            ids = counts.argsort(descending=True, stable=True)[: self.most]
            ids, weight = ids[counts[ids] > self.subclasses], workspace.models[self.slot].head.weight
        if len(ids) < 2 or int(counts[ids].min()) <= self.subclasses:
            raise DataError(
                f"axes over {self.data!r}",
                got=f"{int((counts > self.subclasses).sum())} classes of more than {self.subclasses} features",
                expected="two or more, and each class of a head among them",
                remedy="Give more rows or ask for fewer subclasses.",
            )
        means, spreads = self._moments(workspace, ids)
        draws = generator(workspace.seed, "axes")
        rows = class_axes(means, spreads, weight.detach().cpu()[ids].double(), self.subclasses, draws)
        rows = rows / self.temperature
        bias = -(rows * means.repeat_interleave(self.subclasses, 0)).sum(-1)
        return Fitted(rows.float(), bias.float(), None if self.head else ids)

    def _moments(self, workspace: Workspace, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of each class's features: Float64[K D], Float64[K D D]."""
        total: list[Tensor] = []
        for x, classes in self._read(workspace, features=True):
            x = x.double()
            ones = torch.ones(len(x), 1, dtype=x.dtype)
            some = [torch.cat([x, ones], 1)[classes == c] for c in ids.tolist()]
            parts = torch.stack([one.T @ one for one in some])  # second moments, sums and counts at once
            total = [total[0] + parts] if total else [parts]
        count = total[0][:, -1:, -1]
        means = total[0][:, -1, :-1] / count
        return means, total[0][:, :-1, :-1] / count.unsqueeze(-1) - means.unsqueeze(-1) * means.unsqueeze(-2)

    def _read(self, workspace: Workspace, *, features: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """By batch: features Float[N D] (none if not asked for) and the class of each Int[N]."""
        model = workspace.models[self.slot]
        what, collate = ("pooled" if self.head else "next"), Collate(model.tokenizer, model.max_positions or LONGEST)
        with torch.no_grad(), resting(model.model):
            for rows in split(workspace.data[self.data], self.batch_size):
                batch = collate(rows).to(model.device)
                classes = batch.notes["rows.label"].long() if self.head else batch.units["tokens"].target
                assert classes is not None
                said = model.predict(batch.views["main"], frozenset({what}))[what] if features else torch.zeros(0)
                yield (said.hidden if isinstance(said, Lazy) else said).cpu(), classes.cpu()


def class_axes(means: Tensor, spreads: Tensor, head: Tensor, num: int, draws: torch.Generator) -> Tensor:
    """Each class's directions over their deviation, Float64[K*num D], orthogonal to every difference of head rows.

    Args:
        means: Float64[K D].
        spreads: Covariances Float64[K D D].
        head: The classes' rows Float64[K D].
        num: Directions a class.
        draws: Draws the rotations.

    Raises:
        DataError: Fewer directions are left than asked for.
    """
    _, sizes, axes = torch.linalg.svd(head - head.mean(0), full_matrices=False)
    told = axes[sizes > sizes[0] * 1e-9] if len(sizes) and float(sizes[0]) > 0 else axes[:0]
    if means.shape[1] - len(told) < num:
        raise DataError(
            "axes",
            got=f"{means.shape[1]} dimensions, {len(told)} of which tell classes apart",
            expected=f"{num} more for the subclasses",
            remedy="Ask for fewer subclasses or classes.",
        )
    rest = torch.eye(means.shape[1], dtype=means.dtype) - told.T @ told
    found = []
    for spread in rest @ spreads @ rest:
        values, vectors = torch.linalg.eigh(spread)
        chosen = vectors[:, -num:] @ rotation(num, draws)
        deviation = values[-num:].clamp_min(0).mean().sqrt().clamp_min(torch.finfo(means.dtype).eps)
        found.append((rest @ chosen).T / deviation)
    return torch.cat(found)


def rotation(size: int, draws: torch.Generator) -> Tensor:
    """A rotation drawn evenly from SO(size): Float64[size size], of determinant 1."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=draws, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return torch.cat([q[:, :1] * torch.linalg.det(q).sign(), q[:, 1:]], 1)
