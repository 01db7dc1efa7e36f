"""One optimiser step's mathematics: counts over the whole global batch, weights before the split, then gradients.

``collate`` already shifted, masked and padded; the signals know the formulas; this file alone divides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core import node
from ..core.batch import Batch
from ..core.context import Context, Voice
from ..core.errors import Diverged, NeedError
from ..core.joined import Alone, Joined, Peers, couples, readable
from ..core.schedule import Progress, value_at
from ..core.signal import Couples, Read, Signal, Still
from ..core.term import Tally, Term, Update
from ..core.workspace import Workspace
from .sampler import NAMES, Drawn, tallies

AllReduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """What a Train stage's update needs at each step, worked out once.

    Args:
        update: The update.
        voices: Every voice that may be asked, by name.
        wants: Fields that each voice is asked for.
        drawn: Which tokens a slot that moves has drawn itself.
    """

    update: Update
    voices: Mapping[str, Voice]
    wants: Mapping[str, frozenset[str]]
    drawn: Drawn = Drawn()

    @classmethod
    def of(cls, update: Update, voices: Mapping[str, Voice], drawn: Drawn | None = None) -> Plan:
        """Collect the reads of an update's terms, and what voices ask of other voices."""
        signals = [s for t in update.objective for s in (t.loss, t.weight)] + [s for _, s in update.watch]
        reads = _with_lenses(r for s in signals for r in s.reads())
        wants: dict[str, set[str]] = {}
        for read in reads:
            wants.setdefault(read.who, set()).add(read.what)
        for who in list(wants):
            upstream = getattr(voices.get(who), "upstream", None)
            for other, fields_ in (upstream() if upstream else {}).items():
                wants.setdefault(other, set()).update(fields_)
        return cls(update, voices, {w: frozenset(f) for w, f in wants.items()}, drawn or Drawn())

    def context(self, batch: Batch, workspace: Workspace | None, progress: Progress) -> Context:
        """The context of a micro-batch."""
        return Context(batch, self.voices, self.wants, frozenset(self.update.moves), workspace, progress)

    def reads_weights(self) -> bool:
        """Whether some weight reads what a voice says."""
        return any(t.weight.reads() for t in self.update.objective)

    def refuse_split(self, num_micro_batches: int, num_processes: int = 1) -> None:
        """Refuse a split for a loss that couples the batch: its parts would not add up to the whole.

        A weight may: it is computed for the whole round, unless it reads through a lens that does.
        """
        for term in self.update.objective:
            coupled = _couples(term.loss) or _through_batch(term.weight)
            if coupled and (num_micro_batches > 1 or num_processes > 1):
                raise NeedError(
                    f"term {term.name!r}",
                    got=f"{num_processes} processes" if num_processes > 1 else f"{num_micro_batches} micro-batches",
                    expected="the whole batch at once",
                    remedy="This term relates units across the batch: use one process, and set micro_batch_size to "
                    "batch_size.",
                )


@dataclass
class Outcome:
    """What a step gave: tallies of each term and watched signal, and the loss, global after ``reduced``."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    loss: float = 0.0

    def add(self, name: str, tally: Tally) -> None:
        """Add to a tally."""
        self.tallies[name] = self.tallies.get(name, Tally()) + tally


@dataclass(frozen=True)
class Prepared:
    """A micro-batch with each term's coefficients ``weight * share`` Float[U], before scale and count.

    ``said`` is what frozen voices already said of it for the weights. An idle one has no weight and is in no figure: it
    keeps a process in step with others that have more.
    """

    batch: Batch
    coefficients: tuple[Tensor, ...]
    said: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    idle: bool = False


def prepare(
    plan: Plan,
    batches: Sequence[Batch],
    workspace: Workspace | None,
    progress: Progress,
    peers: Peers | None = None,
    idle: Sequence[Batch] = (),
) -> tuple[list[Prepared], Tensor]:
    """Weights and shares of every micro-batch, and the local part of each term's denominator: Float64[terms].

    Weights that read scores cost a pass without gradient over the whole round, so that selection and counts do not
    depend on how it is split.
    """
    peers = peers or Alone()
    plan.refuse_split(len(batches), peers.world)
    objective = plan.update.objective
    counts = torch.zeros(len(objective), dtype=torch.float64)
    with torch.no_grad():
        contexts = [plan.context(batch, workspace, progress) for batch in batches]
        others = [plan.context(batch, workspace, progress) for batch in idle]
        weights = _weights(contexts, objective, peers, others)
        prepared = []
        for ctx, some in zip(contexts, weights, strict=True):
            coefficients = []
            for i, (term, weight) in enumerate(zip(objective, some, strict=True)):
                share, count = term.per(weight, ctx.batch, term.over)
                coefficients.append(weight * share)
                counts[i] += count.cpu()
            prepared.append(Prepared(ctx.batch, tuple(coefficients), ctx.lasting()))
        for ctx in others:
            none = tuple(torch.zeros(len(ctx.units(t.over)), device=ctx.units(t.over).row.device) for t in objective)
            prepared.append(Prepared(ctx.batch, none, ctx.lasting(), idle=True))
    return prepared, counts


def _weights(
    contexts: Sequence[Context], objective: Sequence[Term], peers: Peers, idle: Sequence[Context]
) -> list[list[Tensor]]:
    """Each term's weights Float[U] by micro-batch; what relates units across the round is computed on all of it."""
    out: list[list[Tensor]] = []
    for ctx in (*contexts, *idle):
        ctx.prepare([w for t in objective for w in readable(t.weight)])
    for ctx in idle:  # asked as often as the others, so that split models are gathered as often
        _ = [ctx.still(w) for t in objective for w in readable(t.weight)]
    parted = len(contexts) > 1 or peers.world > 1
    related = parted and any(couples(t.weight) for t in objective)
    whole = Joined(contexts, peers, (*contexts, *idle)[0]) if related else None
    parts = {
        t.name: whole.split(whole.spread(t.weight, t.over).expand(len(whole.units(t.over))), t.over)
        for t in objective
        if whole is not None and couples(t.weight)
    }
    for i, ctx in enumerate(contexts):
        some = []
        for term in objective:
            units = ctx.units(term.over)
            weight = parts[term.name][i] if term.name in parts else ctx.spread(term.weight, term.over)
            some.append(weight.to(units.row.device).float().expand(len(units)))
        out.append(some)
    return out


def loss_of(
    plan: Plan, part: Prepared, counts: Tensor, workspace: Workspace | None, progress: Progress, outcome: Outcome
) -> Tensor:
    """One micro-batch's part of ``sum_terms scale * sum_u(coefficient * loss) / count``, with its gradient attached.

    ``counts`` are global. Parts of all micro-batches and processes add up to the loss of the global batch.
    """
    ctx = plan.context(part.batch, workspace, progress)
    ctx.recall(part.said)
    total: Tensor | None = None
    factors = {
        t.name: value_at(t.scale, progress) / max(float(c), 1e-30) if c > 0 else 0.0
        for t, c in zip(plan.update.objective, counts, strict=True)
    }
    pairs = list(zip(plan.update.objective, part.coefficients, strict=True))
    for term, _ in pairs:
        ctx.settle(term.loss)
    compared = False
    for over, some in _together(ctx, pairs).items():
        losses, weights = [t.loss for t, _ in some], torch.stack([c * factors[t.name] for t, c in some])
        beside = plan.drawn.beside(over, losses)
        value, values = node.total(ctx, over, losses, weights, beside)
        total = value if total is None else total + value
        if beside:
            compared = True
            _compare(outcome, values[-1], part.batch, (weights != 0).any(0))
        for (term, coefficient), said in zip(some, values, strict=False):
            # A term of scale 0 is skipped by the node; it is computed below without gradient, for the log.
            _record(outcome, term, said if factors[term.name] else ctx.still(term.loss), coefficient, counts, plan)
    apart = [t.loss for t, _ in pairs if not ctx.local(t.loss) or not ctx.costly(t.loss)]
    asides = [] if compared else [Still(signal) for signal in plan.drawn.beside("tokens", apart)]
    ctx.prepare([*apart, *asides])
    for aside in asides:
        _compare(outcome, ctx(aside), part.batch, _used(pairs, ctx))
    for term, coefficient in pairs:
        if ctx.costly(term.loss) and ctx.local(term.loss):
            continue
        said = ctx(term.loss).expand(coefficient.shape)
        part_of = (torch.where(coefficient != 0, said, torch.zeros_like(said)) * coefficient).sum() * factors[term.name]
        total = part_of if total is None else total + part_of
        _record(outcome, term, said.detach(), coefficient, counts, plan)
    _watch(plan, ctx, Outcome() if part.idle else outcome)
    assert total is not None
    return total


def run_update(
    plan: Plan,
    batches: Sequence[Batch],
    workspace: Workspace,
    progress: Progress,
    *,
    backward: Callable[[Tensor], None],
    reduce: AllReduce,
    inside: Callable[[Callable[[], Tensor]], Tensor],
    last_only: Callable[[], AbstractContextManager[None]] = nullcontext,
    aside: Callable[[Callable[[], Any]], Any] = lambda function: function(),
    peers: Peers | None = None,
    idle: Sequence[Batch] = (),
) -> Outcome:
    """Gradients of one update over its micro-batches.

    Args:
        plan: The update, worked out.
        batches: This process's micro-batches.
        workspace: Models and ledger.
        progress: Where the stage stands.
        backward: Runs the backward pass of a part of the loss.
        reduce: Sums a tensor over processes.
        inside: Runs a function inside the wrapped module's forward, where gradient hooks are armed.
        last_only: A context that holds back gradient exchange; used for all micro-batches but the last.
        aside: Runs a function without gradients where split models can be asked.
        peers: The processes, for weights that relate the whole round.
        idle: Micro-batches of no weight, that keep this process in step with others.

    Raises:
        Diverged: When a term's loss is not finite, before the optimiser moves anything.
    """
    prepared, counts = aside(lambda: prepare(plan, batches, workspace, progress, peers, idle))
    counts = reduce(counts)
    outcome = Outcome()
    for i, part in enumerate(prepared):
        with last_only() if i + 1 < len(prepared) else nullcontext():
            value = inside(lambda part=part: loss_of(plan, part, counts, workspace, progress, outcome))
            _finite(value, part.batch, outcome, progress)
            backward(value)
    return _reduced(plan, outcome, counts, reduce, progress)


def _together(ctx: Context, pairs: Iterable[tuple[Term, Tensor]]) -> dict[str, list[tuple[Term, Tensor]]]:
    """The terms whose gradient can be formed in the forward pass, by unit list: one sweep each."""
    groups: dict[str, list[tuple[Term, Tensor]]] = {}
    for term, coefficient in pairs:
        if ctx.costly(term.loss) and ctx.local(term.loss):
            groups.setdefault(term.over, []).append((term, coefficient))
    return groups


def _compare(outcome: Outcome, log_q: Tensor, batch: Batch, used: Tensor) -> None:
    for name, tally in tallies(log_q, batch, used).items():
        outcome.add(name, tally)


def _used(pairs: Iterable[tuple[Term, Tensor]], ctx: Context) -> Tensor:
    """The tokens on which some loss over tokens is weighed; all of them where losses are over other units."""
    found = [c != 0 for t, c in pairs if t.over == "tokens"]
    size = len(ctx.units("tokens"))
    return (
        torch.stack(found).any(0)
        if found
        else torch.ones(size, dtype=torch.bool, device=ctx.units("tokens").row.device)
    )


def _record(outcome: Outcome, term: Term, values: Tensor, coefficient: Tensor, counts: Tensor, plan: Plan) -> None:
    kept = torch.where(coefficient != 0, values, torch.zeros_like(values))
    index = plan.update.objective.index(term)
    outcome.add(term.name, Tally(float((kept.double() * coefficient.double()).sum()), 0.0))
    outcome.tallies[term.name].count = float(counts[index])


def _watch(plan: Plan, ctx: Context, outcome: Outcome) -> None:
    with torch.no_grad():
        ctx.quiet.prepare([s for _, s in plan.update.watch])
        for name, signal in plan.update.watch:
            num = len(ctx.batch.units[signal.over or "tokens"])
            value = ctx.still(signal).expand(num)
            outcome.add(name, Tally(float(value.double().sum()), num))


def _reduced(plan: Plan, outcome: Outcome, counts: Tensor, reduce: AllReduce, progress: Progress) -> Outcome:
    watching = [n for n, _ in plan.update.watch] + list(NAMES if plan.drawn.slot else ())
    names = [t.name for t in plan.update.objective] + watching
    sums = reduce(torch.tensor([outcome.tallies.get(n, Tally()).sum for n in names], dtype=torch.float64))
    watched = reduce(torch.tensor([outcome.tallies.get(n, Tally()).count for n in watching], dtype=torch.float64))
    all_counts = torch.cat([counts, watched])
    result = Outcome({n: Tally(float(s), float(c)) for n, s, c in zip(names, sums, all_counts, strict=True)})
    result.loss = sum(
        value_at(t.scale, progress) * result.tallies[t.name].mean
        for t, c in zip(plan.update.objective, counts, strict=True)
        if c > 0
    )
    return result


def _finite(value: Tensor, batch: Batch, outcome: Outcome, progress: Progress) -> None:
    if bool(torch.isfinite(value.detach()).all()):
        return
    bad = [n for n, t in outcome.tallies.items() if not torch.isfinite(torch.tensor(t.sum))]
    rows = ", ".join(r.id for r in batch.records[:4])
    raise Diverged(
        f"step {progress.step + 1} of stage {progress.stage!r}, term {', '.join(bad) or 'sum'}",
        got=f"a loss of {float(value.detach())} on records {rows}{' ...' if batch.num_rows > 4 else ''}",
        expected="a finite loss",
        remedy="Nothing was updated, the last checkpoint is good: lower the learning rate or look at these records.",
    )


def _couples(signal: Signal) -> bool:
    return couples(signal) or _through_batch(signal)


def _through_batch(signal: Signal) -> bool:
    """Whether a read of the tree passes a lens that relates the units of a batch."""
    return any(getattr(lens, "couples", Couples.NOTHING) is Couples.BATCH for r in signal.reads() for lens in r.through)


def _with_lenses(reads: Iterable[Read]) -> set[Read]:
    """Reads, and those inside their lenses (the classes of an in-batch head, what a temperature is made of)."""
    found = set(reads)
    inner = {lens.other for r in found for lens in r.through if isinstance(getattr(lens, "other", None), Read)}
    inner = inner.union(*(lens.reads() for r in found for lens in r.through if hasattr(lens, "reads")))
    return found | (_with_lenses(inner) if inner else set())
