"""The loop: source, updates, tallies, memories. It knows no method, no modality and no padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import DataError, Diverged, ServerError, unknown
from ..core.recipe import Train
from ..core.record import Record
from ..core.schedule import Progress, memories, walk
from ..core.seeds import derive
from ..core.term import Update
from ..core.workspace import Workspace
from . import checkpoint as store
from . import optim
from .distributed import Processes
from .interrupt import Interrupted, ctrl_c
from .log import Listener, Metrics, Silent
from .sampler import NAMES, Drawn, corrected, judged
from .settings import TrainSettings
from .shards import asked, clip
from .step import Outcome, Plan, run_update

Look = Callable[[Workspace], float]
Watcher = Callable[[Progress, Sequence[Record], Mapping[str, float]], Sequence[str]]


@dataclass
class Moving:
    """An update at work: its plan, what it moves, and its optimiser."""

    update: Update
    plan: Plan
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    wrapped: nn.Module
    parameters: list[nn.Parameter] = field(default_factory=list)


@dataclass
class Loop:
    """Runs a Train stage.

    Args:
        stage: The stage.
        settings: Its settings.
        workspace: Models, data and ledger.
        processes: This process among the run's.
        collate: Records to a micro-batch.
        split: Records to micro-batches of rows.
        voices: Every voice that may be asked.
        folder: Where its checkpoints go.
        metrics: The run's log.
        listener: Who follows.
        look: Held-out KL, for ``watch_every``; None to never look.
        watchers: Called each step with the step's records; what they return is said once.
    """

    stage: Train
    settings: TrainSettings
    workspace: Workspace
    processes: Processes
    collate: Callable[[Sequence[Record]], Batch]
    split: Callable[[Sequence[Record], int], list[list[Record]]]
    voices: Mapping[str, Any]
    folder: Path
    metrics: Metrics
    listener: Listener = field(default_factory=Silent)
    look: Look | None = None
    watchers: tuple[Watcher, ...] = ()

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the end.

        Raises:
            Diverged: When a loss or gradient is not finite; the last checkpoint stays.
            Interrupted: After Ctrl-C, once the step is finished and saved.
        """
        megabytes = self.settings.head_megabytes
        self.workspace.head_bytes = None if megabytes is None else megabytes * 10**6
        self._told = False
        self.drawn = Drawn.of(self.stage.source, [slot for u in self.stage.updates for slot in u.moves])
        self.moving = [self._moving(u) for u in self.stage.updates]
        self.memories = memories({"stage": self.stage, "watchers": self.watchers})
        for memory in self.memories.values():
            memory.reset()
        done = self._resume()
        self.best = math.inf if done == 0 else self.best
        self.listener.stage(self.stage.name, self.settings.steps, done)
        saved = perf_counter()
        with ctrl_c() as stopped:
            for step in range(done, self.settings.steps):
                with self._kept(step):
                    self._step(Progress(self.stage.name, step, self.settings.steps))
                last = step + 1 == self.settings.steps
                due = perf_counter() - saved > self.settings.checkpoint_seconds
                if self._agree(last or stopped.is_set() or due):
                    self._save(step + 1)
                    saved = perf_counter()
                if self._agree(stopped.is_set()) and not last:
                    raise Interrupted
        if self.settings.keep_best and math.isfinite(self.best):
            self._load_weights(store.load(store.steps(self.folder / "best")[-1], self.processes, self._split()))
        self._freeze()

    # -- one step -----------------------------------------------------------------------------------------------
    def _step(self, progress: Progress) -> None:
        start = perf_counter()
        # Dropout draws from the global generators: seeded by the step, they need not be saved.
        torch.manual_seed(derive(self.workspace.seed, progress.stage, progress.step, self.processes.rank))
        records = self._draw(progress, "")
        batches, idle = self._batches(records)
        row: dict[str, Any] = {"stage": progress.stage, "step": progress.step + 1}
        tracked: dict[str, float] = {}
        for i, moving in enumerate(self.moving):
            if (progress.step + 1) % moving.update.every:
                continue
            fresh = moving.update.fresh
            own = self._batches(self._draw(progress, f"update {i}")) if fresh else (batches, idle)
            outcome, norm = self._move(moving, *own, progress)
            tracked |= {n: t.mean for n, t in outcome.tallies.items()}
            row |= {"loss" if i == 0 else f"loss.{i}": outcome.loss, "grad_norm" if i == 0 else f"grad_norm.{i}": norm}
        for memory in self.memories.values():
            if hasattr(memory, "observe"):
                memory.observe(progress, tracked)
            row |= memory.figures() if hasattr(memory, "figures") else {}
        row |= tracked | self._counted(batches, perf_counter() - start)
        row["learning_rate"] = optim.learning_rate(self.settings, progress)
        row |= self._looked(progress)
        row["time"] = perf_counter() - start
        for watcher in (*self.watchers, *self.stage.alarms):
            for text in watcher(progress, records, tracked):
                self.listener.note(text)
        self.metrics.write(row)
        self.listener.step(row)

    def _move(
        self, moving: Moving, batches: Sequence[Batch], idle: Sequence[Batch], progress: Progress
    ) -> tuple[Outcome, float]:
        self._freeze()
        for parameter in moving.parameters:
            parameter.requires_grad_(True)
        for module in moving.modules.values():
            module.train()
        rate = optim.learning_rate(self.settings, progress) * moving.update.learning_rate
        for group in moving.optimizer.param_groups:
            group["lr"] = rate
        accelerator = self.processes.accelerator
        outcome = run_update(
            moving.plan,
            batches,
            self.workspace,
            progress,
            # DDP averages over processes; the counts are global already, so the sum is wanted.
            backward=lambda value: accelerator.backward(value * self.processes.world),
            reduce=self.processes.sum,
            inside=lambda function: self.processes.run(moving.wrapped, function),
            last_only=lambda: self.processes.alone(moving.wrapped),
            aside=self.processes.shards.quiet,
            peers=self.processes,
            idle=idle,
        )
        self.processes.shards.rest()
        self._judge(outcome, progress)
        norm = clip(moving.parameters, self.settings.clip_norm)
        if not math.isfinite(norm):
            raise Diverged(
                f"step {progress.step + 1} of stage {progress.stage!r}",
                got=f"a gradient of norm {norm}",
                expected="a finite gradient",
                remedy="The last checkpoint is good: lower the learning rate or clip_norm.",
            )
        moving.optimizer.step()
        moving.optimizer.zero_grad(set_to_none=True)
        return outcome, norm

    def _judge(self, outcome: Outcome, progress: Progress) -> None:
        """Look at how far the sampler is from the trainer, before anything moves."""
        gap = outcome.tallies.get(NAMES[0])
        told = judged(gap.mean, self.settings, progress) if gap is not None else ""
        if told and not self._told:
            self.listener.note(told)
            self._told = True

    def _draw(self, progress: Progress, name: str) -> list[Record]:
        stage = Progress(f"{progress.stage} {name}".strip(), progress.step, progress.num_steps)
        for module in {id(m): m for mv in self.moving for m in mv.modules.values()}.values():
            module.eval()
        source, ws, p = self.stage.source, self.workspace.within(stage.stage, progress.step), self.processes
        with torch.no_grad():
            return p.shards.whole(
                lambda: list(source.draw(stage, ws, self.settings.batch_size, p.rank, p.world)), asked(walk(source))
            )

    def _batches(self, records: Sequence[Record]) -> tuple[list[Batch], list[Batch]]:
        """This process's micro-batches, and idle ones where others have more than it can be out of step with."""
        size = self.settings.micro_batch_size or max(1, len(records))
        device = self.processes.accelerator.device
        batches = [self._collated(rows).to(device) for rows in self.split(records, size)]
        table = self.processes.table(sum(len(b.units["tokens"]) for b in batches), len(batches))
        if float(table[:, 0].sum()) == 0:
            raise DataError(
                f"stage {self.stage.name!r}",
                got=f"a batch of {len(records)} records without a trained position",
                expected="at least one",
                remedy="Check that answers are not empty, masked or cut away by max_length.",
            )
        # whole models exchange gradients once a step, split ones gather weights at every micro-batch
        most = int(table[:, 1].max()) if self.processes.shards else 1
        spare = batches[-1:]
        if float(table[:, 1].min()) == 0:  # a process without rows works along on a row of another
            lent = next(rows for rows in self.processes.gather(list(records[:1])) if rows)
            spare = spare or [self._collated(lent).to(device)]
        return batches, spare * (most - len(batches))

    def _collated(self, records: Sequence[Record]) -> Batch:
        return self.drawn.filled(self.collate(self.drawn.marked(records)))

    def _counted(self, batches: Sequence[Batch], seconds: float) -> dict[str, Any]:
        tokens = torch.tensor(
            [sum(int(_tokens(b)) for b in batches), sum(len(b.units["tokens"]) for b in batches)], dtype=torch.float64
        )
        tokens = self.processes.sum(tokens)
        lengths = [
            n for b in batches for n in torch.bincount(b.units["tokens"].row.cpu(), minlength=b.num_rows).tolist()
        ]
        return {
            "tokens": int(tokens[0]),
            "positions": int(tokens[1]),
            "tokens_per_second": float(tokens[0]) / seconds,
            "lengths": lengths,
        }

    def _looked(self, progress: Progress) -> dict[str, float]:
        every = self.settings.watch_every
        if self.look is None or not every or (progress.step + 1) % every:
            return {}
        self._freeze()
        look = self.look
        value = self.processes.shards.quiet(lambda: look(self.workspace))
        if self.settings.keep_best and value < self.best:
            self.best = value
            best = store.Checkpoint(progress.step + 1, self.weights(), {"held_out_kl": value})
            store.save(self.folder / "best", best, peers=self.processes)
        return {"held_out_kl": value}

    # -- state --------------------------------------------------------------------------------------------------
    def _moving(self, update: Update) -> Moving:
        modules = {slot: module_of(self.workspace.models[slot]) for slot in update.moves}
        shards = self.processes.shards
        if any(slot in shards for slot in modules):  # one update's gradients are of one kind: parts are split too
            for slot in (s for s in modules if s not in shards):
                shards.split(slot, self.workspace.models[slot])
        for module in modules.values():
            module.requires_grad_(True)
            recompute: Any = getattr(module, "gradient_checkpointing_enable", None)
            if self.settings.gradient_checkpointing and recompute is not None:
                recompute(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = optim.adamw(modules.items(), self.settings, update.learning_rate)
        drawn = self.drawn if self.drawn.slot in update.moves else Drawn()
        if self.settings.sampler_gap == "correct":
            update = corrected(update, drawn, self.settings.sampler_ratio_cap)
        plan = Plan.of(update, self.voices, drawn)
        wrapped = self.processes.wrap(modules, any("next" not in plan.wants.get(slot, ()) for slot in modules))
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        return Moving(update, plan, modules, optimizer, wrapped, parameters)

    def _freeze(self) -> None:
        for model in self.workspace.models.values():
            module_of(model).requires_grad_(False).eval()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The weights of every slot that moves."""
        return {f"slot-{slot}": module.state_dict() for m in self.moving for slot, module in m.modules.items()}

    def _split(self) -> dict[str, store.Like]:
        """How this process splits what a checkpoint holds."""
        likes: dict[str, store.Like] = {name: tensors.get for name, tensors in self.weights().items()}
        return likes | {f"optimizer-{i}": optim.like(m.optimizer) for i, m in enumerate(self.moving)}

    def _save(self, step: int) -> None:
        tensors = self.weights() | {f"optimizer-{i}": optim.to_tensors(m.optimizer) for i, m in enumerate(self.moving)}
        states = {path: store.split_state(memory.state_dict()) for path, memory in self.memories.items()}
        plain = {
            "best": self.best if math.isfinite(self.best) else None,
            "memories": self.processes.gather({path: values for path, (_, values) in states.items()}),
            "ledger": self.workspace.ledger.state_dict(),
        }
        own = {f"memory-{path}": some for path, (some, _) in states.items() if some}
        store.save(self.folder, store.Checkpoint(step, tensors, plain, own), self.settings.keep_last, self.processes)
        self.processes.wait()

    @contextmanager
    def _kept(self, step: int) -> Iterator[None]:
        """Where a server fails in a step, save what came before; several processes keep their last checkpoint."""
        alone = self.processes.world == 1 and any(map(_far, self.workspace.models.values()))
        states = {path: m.state_dict() for path, m in self.memories.items()} if alone else {}
        try:
            yield
        except ServerError:
            if alone and len(self.moving) == 1:  # its one update moves nothing before all answers are there
                for path, state in states.items():
                    self.memories[path].load_state_dict(state)
                self._save(step)
            raise

    def _resume(self) -> int:
        self.best = math.inf
        saved = store.latest(self.folder, peers=self.processes, split=self._split())
        self.metrics.rewind(self.stage.name, saved.step if saved else 0)
        if saved is None:
            return 0
        self._load_weights(saved)
        for i, moving in enumerate(self.moving):
            optim.from_tensors(moving.optimizer, saved.tensors[f"optimizer-{i}"])
        self.best = saved.plain["best"] if saved.plain["best"] is not None else math.inf
        self.workspace.ledger.load_state_dict(saved.plain["ledger"])
        self._remember(saved)
        return saved.step

    def _remember(self, saved: store.Checkpoint) -> None:
        """Memories go on: each process's with its own state, or with that of all where their number is another."""
        states = saved.plain["memories"]
        own = states[self.processes.rank % len(states)]
        for path, memory in self.memories.items():
            if path not in own:
                raise unknown(f"checkpoint of stage {self.stage.name!r}", path, own)
            plain = own[path]
            if len(states) != self.processes.world and hasattr(memory, "joined"):
                plain = memory.joined([state[path] for state in states])
            memory.load_state_dict({**plain, **saved.tensors.get(f"memory-{path}", {})})

    def _load_weights(self, saved: store.Checkpoint) -> None:
        for moving in self.moving:
            for slot, module in moving.modules.items():
                module.load_state_dict(saved.tensors[f"slot-{slot}"])

    def _agree(self, wish: bool) -> bool:
        """Whether any process wishes it: all save, or none."""
        return bool(self.processes.sum(torch.tensor([float(wish)]))[0] > 0)


def module_of(model: Any) -> nn.Module:
    """The module of a slot: a part is one, a model adapter holds one."""
    return model if isinstance(model, nn.Module) else model.model


def _far(model: Any) -> bool:
    """Whether a server speaks or writes for it."""
    return hasattr(model, "far") or getattr(getattr(model, "engine", None), "far", False)


def _tokens(batch: Batch) -> int:
    """Real tokens of a batch: each row has one at position 0, as padding has, and the rest beyond it."""
    view = batch.views.get("main")
    positions = None if view is None else view.inputs.get("position_ids")
    return len(batch.units["tokens"]) if positions is None else int((positions > 0).sum()) + batch.num_rows
