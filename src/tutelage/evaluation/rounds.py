"""Simulators of models that learn from each other, round by round, to hold a graph's predictions against."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import SettingError
from ..core.seeds import generator
from .interaction import Graph


def regressions(
    graph: Graph,
    *,
    rows: int = 60,
    features: int = 3,
    sigma: float = 1.0,
    rounds: int = 40,
    runs: int = 40,
    accumulate: bool = False,
    seed: int = 0,
) -> Tensor:
    """Mean squared error ``|theta_i(t) - theta|^2`` after each round over runs, Float64[rounds m].

    Each round every model is fitted by least squares to Gaussian regressors whose labels come, by its shares, from the
    truth or from the models of the round before, with noise ``sigma``.

    Args:
        graph: Who learns from whom.
        rows: n, a model's rows a round; more than ``features + 1``.
        features: d.
        sigma: Of the labels' noise.
        rounds: T.
        runs: Independent repetitions, at once.
        accumulate: Keep the rows of all past rounds instead of replacing them.
        seed: Of the draws.
    """
    if rows <= features + 1 or min(features, rounds, runs) < 1:
        raise SettingError(
            "regressions",
            got=f"rows={rows}, features={features}, rounds={rounds}, runs={runs}",
            expected="more rows than features + 1, and 1 or more of the others",
            remedy="60 rows of 3 features are quick.",
        )
    g, m = generator(seed, "regressions"), len(graph.names)
    draw = {"generator": g, "dtype": torch.float64}
    truth = torch.randn(features, **draw)
    theta = truth.expand(runs, m, features)
    givers = torch.stack([_givers(graph, i, rows) for i in range(m)])
    gram, cross, out = 0.0, 0.0, []
    for _ in range(rounds):
        x = torch.randn(runs, m, rows, features, **draw)
        known = torch.cat([truth.expand(runs, 1, features), theta], 1)
        y = (x * known[:, givers]).sum(-1) + sigma * torch.randn(runs, m, rows, **draw)
        kept = float(accumulate)
        gram, cross = kept * gram + x.mT @ x, kept * cross + x.mT @ y.unsqueeze(-1)
        theta = torch.linalg.solve(gram, cross).squeeze(-1)
        out.append((theta - truth).square().sum(-1).mean(0))
    return torch.stack(out)


def categoricals(
    graph: Graph, probabilities: Tensor, *, samples: int = 200, rounds: int = 60, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Support sizes Float64[rounds m] and entropies in nats of models that count draws: what dies stays dead.

    Args:
        graph: Who learns from whom.
        probabilities: Float[V], the real distribution, which every model begins as.
        samples: A model's draws a round.
        rounds: T.
        seed: Of the draws.
    """
    g, real = generator(seed, "categoricals"), probabilities.double()
    models = real.expand(len(graph.names), -1)
    support, entropy = [], []
    for _ in range(rounds):
        known, made = torch.cat([real[None], models]), []
        for i in range(len(graph.names)):
            counts = torch.bincount(_givers(graph, i, samples), minlength=len(known)).tolist()
            drawn = [torch.multinomial(p, n, True, generator=g) for p, n in zip(known, counts, strict=True) if n]
            made.append(torch.bincount(torch.cat(drawn), minlength=len(real)).double() / samples)
        models = torch.stack(made)
        support.append((models > 0).sum(-1).double())
        entropy.append(torch.special.entr(models).sum(-1))
    return torch.stack(support), torch.stack(entropy)


def _givers(graph: Graph, model: int, rows: int) -> Tensor:
    """Who labels each of a model's rows, Int[rows]: 0 the truth, 1 + j model j; the largest remainders round up."""
    shares = [graph.real[model], *graph.shares[model]]
    counts = [int(rows * share) for share in shares]
    order = sorted(range(len(shares)), key=lambda k: (counts[k] - rows * shares[k], k))
    for k in order[: rows - sum(counts)]:
        counts[k] += 1
    return torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(counts))
