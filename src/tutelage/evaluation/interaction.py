"""Graphs of models that learn from each other: which of them lose touch with real data, and how fast.

An edge j -> i means that i trains on labels that j gives. In each round model i is fitted anew on a mixture of real
labels, share ``r_i``, and labels of the models as they were the round before, shares ``W_ij``; a row adds up to 1. The
errors follow ``e(t + 1) = W e(t) + xi``: they stay bounded iff the spectral radius of W is below 1, which holds iff
real data reaches every model along the edges. Where it does not, a closed class (a strongly connected set without real
data and without an edge from outside) hears only itself, and its squared error grows by a constant a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import SettingError, unknown


@dataclass(frozen=True)
class Graph:
    """Who learns from whom.

    Args:
        names: The models, m.
        shares: W, m rows of m shares >= 0: row i says whose labels model i trains on.
        real: r, one share a model. Real data at the start alone is none: only what comes in every round counts, as do
            the labels of a model that never trains, whose error does not add up.

    Source: arXiv:2605.20151; the exact statement is reconstructed.
    """

    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    real: tuple[float, ...]

    def __post_init__(self) -> None:
        m = len(self.names)
        square = len(self.shares) == m and all(len(row) == m for row in self.shares) and len(self.real) == m
        if not m or not square or len(set(self.names)) < m:
            raise SettingError(
                "Graph",
                got=f"{m} names, {len(self.shares)} rows of shares, {len(self.real)} real shares",
                expected="a row and a real share for each of some names that differ",
                remedy="Give shares[i][j], the share of model i's labels that model j gives.",
            )
        for name, row, real in zip(self.names, self.shares, self.real, strict=True):
            if min(*row, real) < 0 or abs(sum(row) + real - 1) > 1e-9:
                raise SettingError(
                    f"Graph, model {name!r}",
                    got=f"shares {row} and {real} real",
                    expected="shares >= 0 that add up to 1",
                    remedy="Divide them by their sum.",
                )

    def reached(self) -> tuple[bool, ...]:
        """Whether real data reaches each model, through however many others."""
        known = [share > 0 for share in self.real]
        for _ in self.names:
            known = [k or any(w > 0 and known[j] for j, w in enumerate(row)) for k, row in zip(known, self.shares)]
        return tuple(known)

    @property
    def collapses(self) -> bool:
        """Whether some model's error grows without bound. Decided by reachability, which no rounding touches."""
        return not all(self.reached())

    def closed(self) -> tuple[tuple[str, ...], ...]:
        """The closed classes, each in the order of the names."""
        m = len(self.names)
        hears = [[i == j or self.shares[i][j] > 0 for j in range(m)] for i in range(m)]
        for k in range(m):
            for i in range(m):
                hears[i] = [h or (hears[i][k] and hears[k][j]) for j, h in enumerate(hears[i])]
        found: list[tuple[str, ...]] = []
        for i in range(m):
            heard = [j for j in range(m) if hears[i][j]]
            if all(hears[j][i] and not self.real[j] for j in heard) and heard[0] == i:
                found.append(tuple(self.names[j] for j in heard))
        return tuple(found)

    def repair(self) -> tuple[str, ...]:
        """A smallest set of models that need real data in every round: one of each closed class."""
        return tuple(members[0] for members in self.closed())

    def fed(self, share: float, *names: str) -> Graph:
        """The graph in which some models, by default those of ``repair``, get this share of real data."""
        if missing := set(names) - set(self.names):
            raise unknown("Graph.fed", sorted(missing)[0], self.names)
        which = [name in (names or self.repair()) for name in self.names]
        rows = zip(which, self.shares, strict=True)
        shares = tuple(tuple(w * (1 - share) for w in row) if f else row for f, row in rows)
        real = tuple(r + share * (1 - r) if f else r for f, r in zip(which, self.real, strict=True))
        return replace(self, shares=shares, real=real)

    def matrix(self) -> Tensor:
        """W, Float64[m m]."""
        return torch.tensor(self.shares, dtype=torch.float64)

    def radius(self) -> float:
        """The spectral radius of W, a cross-check of ``collapses``: 1 where a closed class is, else below."""
        return float(torch.linalg.eigvals(self.matrix()).abs().max())

    def errors(self, noise: Sequence[float], rounds: int) -> Tensor:
        """Predicted squared errors after each round, Float64[rounds m]: ``diag S``, ``S <- W S W^T + diag(noise)``.

        Args:
            noise: What a model's own sampling adds in a round; least squares with d Gaussian regressors and n rows:
                ``sigma^2 d / (n - d - 1)``.
            rounds: T; before the first, every model is right.
        """
        weight, own = self.matrix(), torch.tensor(list(noise), dtype=torch.float64).diag()
        state, out = torch.zeros_like(weight), []
        for _ in range(rounds):
            state = weight @ state @ weight.T + own
            out.append(state.diag())
        return torch.stack(out)

    def steady(self, noise: Sequence[float]) -> Tensor:
        """What ``errors`` tends to, Float64[m]; infinite for a model that real data does not reach.

        A model that hears a closed class as well as real data is bounded by it no more than the class is: infinite too.
        """
        m, weight = len(self.names), self.matrix()
        if not self.collapses:
            own = torch.tensor(list(noise), dtype=torch.float64).diag().flatten()
            system = torch.eye(m * m, dtype=torch.float64) - torch.kron(weight, weight)
            return torch.linalg.solve(system, own).reshape(m, m).diag()
        lost = [not r for r in self.reached()]
        for _ in range(m):
            lost = [x or any(w > 0 and lost[j] for j, w in enumerate(row)) for x, row in zip(lost, self.shares)]
        kept = [i for i in range(m) if not lost[i]]
        out = torch.full((m,), torch.inf, dtype=torch.float64)
        if kept:
            part = Graph(
                tuple(self.names[i] for i in kept),
                tuple(tuple(self.shares[i][j] for j in kept) for i in kept),
                tuple(self.real[i] for i in kept),
            )
            out[kept] = part.steady([noise[i] for i in kept])
        return out
