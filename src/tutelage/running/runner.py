"""The runner: one stage after another, each finished one remembered, so that the same command goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..core.batch import Batch
from ..core.describe import describe
from ..core.errors import StoreError
from ..core.gradual import told
from ..core.needs import stages
from ..core.recipe import Change, Evaluate, Generate, Recipe, Repeat, Stage, Train
from ..core.record import Record
from ..core.workspace import Slots, Workspace
from ..data.collate import Collate, split
from ..data.store import RowStore, generate, row_key
from ..evaluation.evaluate import evaluate, merge
from ..evaluation.metrics.collapse import CollapseWatch
from ..evaluation.report import report
from ..evaluation.systems import measure_systems
from ..models.adapter import merged
from ..models.causal import Causal
from ..models.export import export
from ..models.sample import Sampling
from ..surgery import slot
from ..training import checkpoint as store
from ..training.distributed import Processes
from ..training.log import Listener, Metrics, Silent, check_trackers
from ..training.loop import Loop, module_of
from ..voices.says import Says
from . import apart, assemble, bits, caching
from .facts import card, first_difference, read_json, recipe_hash, same_run, versions
from .runfile import RunFile
from .watchers import Cuts, Flat, Rounds, Telling
from .work import engine_of

GENERATE_BATCH = 32
# What a run makes; before the first of them its settings may still be mended.
BEGUN = ("state.json", "slots", "evaluations", "data", "checkpoints")
LOOKED_AT = 2000  # records whose length is checked before the first step


@dataclass
class Runner:
    """A run in its folder.

    Args:
        run: What to run.
        listener: Who follows.
        command: How it was started, for the report.
    """

    run: RunFile
    listener: Listener = field(default_factory=Silent)
    command: str = ""
    notes: list[str] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def __call__(self) -> Path:
        """Run to the end, or go on; returns the run's folder.

        Raises:
            TutelageError: Something cannot work; what was made so far is kept.
        """
        recipe = self.recipe = assemble.recipe_of(self.run)
        check_trackers(self.run.settings("").log)
        settings = self.run.settings("")
        self.folder = self.run.folder
        self.processes = Processes.start(settings.precision, settings.log, str(self.folder))
        self._identify(recipe)
        if (self.folder / "notes.json").exists():
            self.notes = json.loads((self.folder / "notes.json").read_text())
        self.workspace = Workspace(self.folder, self.run.seed)
        if (self.folder / "ledger.json").exists():
            self.workspace.ledger.load_state_dict(json.loads((self.folder / "ledger.json").read_text()))
        self.metrics = Metrics(self.folder / "metrics.jsonl", self.processes)
        if settings.log:
            self.processes.accelerator.init_trackers(self.run.name, config=json.loads(self.run.model_dump_json()))
        assemble.load_data(self.run, self.workspace, self.say)
        for text in apart.load(self.run, self.workspace, self.processes, lambda: self._load_models(recipe)):
            self.say(text)
        self._describe(recipe)
        student = self.workspace.models.get("student")
        categories = student.head.num_categories if isinstance(student, Causal) else None
        for text in assemble.doubted(self.run, recipe, categories):
            self.say(text)
        self._fits(recipe)
        self._measure("before")
        self._stages(recipe.stages, ())
        self._measure("after")
        self._finish()
        if settings.log:
            self.processes.accelerator.end_training()
        return self.folder

    def say(self, text: str) -> None:
        """Say something once, and keep it at once for the report: a run that goes on may not say it again."""
        new, kept = text not in self._said, text in self.notes
        self._said.add(text)
        self.notes += [] if kept else [text]
        if new and self.processes.main:
            self.listener.note(text)
        if not kept and self.processes.main:
            store.write_text(self.folder / "notes.json", json.dumps(self.notes, indent=1))

    def _fits(self, recipe: Recipe) -> None:
        """Refuse prompts that are too long now, not at the step that draws them; long data is looked at in part."""
        for stage in (s for s in stages(recipe.stages) if isinstance(s, Train)):
            collate = assemble.collate_for(stage, self.run.settings(stage.name), self.workspace)
            for record in self.workspace.data["train"][:LOOKED_AT]:
                collate.row(record) if collate.foreign else replace(collate, views={}).fit(record)

    @property
    def device(self) -> torch.device:
        """Where models and batches live."""
        return self.processes.accelerator.device

    # -- stages -------------------------------------------------------------------------------------------------
    def _stages(self, some: Sequence[Stage], path: tuple[str, ...]) -> None:
        for stage in some:
            at = (*path, stage.name)
            match stage:
                case Generate():
                    self._generate(stage, at)
                case Train():
                    self._train(stage, at)
                case Change():
                    self._change(stage, at)
                case Evaluate():
                    self._systems(stage, at) if stage.systems else self._measure(_name(at))
                case Repeat():
                    self._repeat(stage, at)

    def _generate(self, stage: Generate, at: tuple[str, ...]) -> None:
        prompts = self.workspace.data[stage.over]
        ws = self.workspace.within(*at)
        rows = RowStore(self.folder / "data" / _name(at), row_key(stage.steps, prompts, ws, GENERATE_BATCH))

        def work() -> None:
            total = -(-len(prompts) // GENERATE_BATCH)
            self.listener.stage(stage.name, total, rows.manifest.num_done)
            for done in generate(stage.steps, prompts, ws, rows, GENERATE_BATCH, engine_of(self.run)):
                account = ws.ledger.get(getattr(stage.steps[0], "who", "teacher"), "sample")
                self._account()
                rate = account.tokens / account.seconds if account.seconds else 0.0
                self.listener.step({"stage": stage.name, "step": done, "tokens_per_second": rate, "rows": len(rows)})
            self._remember(at)

        if self.processes.main and not rows.complete:
            work()
        self.processes.wait()
        if not self.processes.main:
            rows = RowStore(self.folder / "data" / _name(at), row_key(stage.steps, prompts, ws, GENERATE_BATCH))
        self.workspace.data[stage.into] = assemble.read_again(rows.records(), self.workspace)

    def _train(self, stage: Train, at: tuple[str, ...]) -> None:
        assemble.build_parts(stage, self.workspace, self.device)
        folder = self.folder / "checkpoints" / _name(at)
        if self._done(at) and (folder / "final").exists():
            self._load_slots(folder / "final")
            return
        settings = self.run.settings(stage.name)
        if sum(isinstance(s, Train) for s in stages(self.recipe.stages)) > 1:
            self.say(told(stage, self.workspace.models))
        collate = assemble.collate_for(stage, settings, self.workspace)
        loop = Loop(
            # A stage inside Repeat draws anew each time, and its steps in the log are its own.
            replace(stage, name=_name(at)),
            settings,
            self.workspace,
            self.processes,
            collate,
            split,
            self._voices(stage),
            folder,
            self.metrics,
            Telling(self.listener, self.say),
            look=self._look(),
            watchers=(Cuts(collate, self.say), Rounds(CollapseWatch()), Flat()),
        )
        loop.run()
        weights = store.Checkpoint(settings.steps, loop.weights())
        final = store.save(folder / "final-parts", weights, peers=self.processes)
        if self.processes.main:
            shutil.rmtree(folder / "final", ignore_errors=True)
            final.rename(folder / "final")
            self._remember(at)
            for old in (*store.steps(folder), folder / "final-parts"):
                shutil.rmtree(old, ignore_errors=True)
        self.processes.wait()

    def _change(self, stage: Change, at: tuple[str, ...]) -> None:
        kept = self.folder / "slots" / _name(at)
        if self.processes.main and not self._done(at):
            slot.keep(stage.by(self.workspace), kept)
            self._remember(at)
        self.processes.wait()
        self.workspace.models[stage.into] = slot.fetch(kept, self.device)

    def _repeat(self, stage: Repeat, at: tuple[str, ...]) -> None:
        for number in range(stage.times):
            self._stages(stage.stages, (*at, str(number)))
            if stage.until is not None and stage.until(self.workspace):
                return

    def _voices(self, stage: Train) -> Mapping[str, Any]:
        plain = {slot: Says(slot) for slot in self.workspace.models}
        return Slots("voice", caching.through(plain | dict(stage.voices), self.workspace.caches))

    # -- measuring ----------------------------------------------------------------------------------------------
    def _measure(self, name: str) -> None:
        file = self.folder / "evaluations" / f"{name}.json"
        held, shards = self._held_out(), self.processes.shards
        # the first process measures; where models are split, all of them do, and it writes what they found
        if not held or self.processes.gather(file.exists())[0] or not (self.processes.main or shards):
            return
        models = self.workspace.models
        if not bits.comparable(models["teacher"], models["student"]):
            self.say("Distributions are not compared: the teacher is a server, or has another tokenizer.")
            self.say(shards.quiet(lambda: bits.keep(self.folder, name, models, held, self._held_length())))
            return
        self.listener.stage(f"measure {name}", 1, 0)
        result = shards.quiet(lambda: self._compare(name, held))
        if not self.processes.main:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(file, json.dumps(result))
        self.listener.step({"stage": f"measure {name}", "step": 1, "result": result[name]})

    def _compare(self, name: str, held: Sequence[Record]) -> dict[str, Any]:
        settings, models = self.run.evaluate, self.workspace.models
        if self.processes.shards and settings.num_samples:
            self.say("No answers are shown: models that are split write none while they are measured.")
        return evaluate(
            {name: models["student"]},
            models["teacher"],
            held,
            self._held_collate(),
            batch_size=settings.batch_size,
            num_samples=0 if self.processes.shards else settings.num_samples,
            sampling=Sampling(max_tokens=settings.max_tokens, temperature=0.0),
            seed=self.run.seed,
            asked=self.recipe.asked,
        )

    def _systems(self, stage: Evaluate, at: tuple[str, ...]) -> None:
        file = self.folder / "systems" / f"{_name(at)}.json"
        held = self.workspace.data.get(self.run.evaluate.data)
        if not held:
            self.say(f"Stage {stage.name!r} measures nothing: there is no data set {self.run.evaluate.data!r}.")
        elif self.processes.main and not file.exists():
            named, ws = replace(stage, name=_name(at)), self.workspace.within(*at)
            self.listener.stage(stage.name, len(stage.systems), 0)
            result = measure_systems(named, held, ws, self.folder / "data", engine_of(self.run))
            file.parent.mkdir(parents=True, exist_ok=True)
            store.write_text(file, json.dumps(result))
            self._account()
        self.processes.wait()

    def _held_out(self) -> list[Record]:
        models = self.workspace.models
        if self.run.evaluate.data not in self.workspace.data:
            self.say(f"Nothing is measured: there is no data set {self.run.evaluate.data!r}.")
            return []
        if why := bits.unmeasured(models):
            self.say(why)
            return []
        return self.workspace.data[self.run.evaluate.data]

    def _held_collate(self) -> Callable[[Sequence[Record]], Batch]:
        collate = Collate(assemble.tokenizer_of(self.workspace), self._held_length())
        if self.run.evaluate.trains == "answer" or self.recipe.asked:  # a prompt put in another way is not compared
            return collate
        tokenizer, everything = assemble.tokenizer_of(self.workspace), self.run.evaluate.trains == "whole"
        return lambda records: collate([assemble.prompts_too(r, tokenizer if everything else None) for r in records])

    def _held_length(self) -> int:
        return max(self.run.settings("").max_length, 1024)

    def _look(self) -> Any:
        held, models = self._held_out(), self.workspace.models
        if not held or not bits.comparable(models["teacher"], models["student"]):
            return None
        collate, size = self._held_collate(), self.run.evaluate.batch_size

        def look(workspace: Workspace) -> float:
            models = workspace.models
            result = evaluate(
                {"now": models["student"]},
                models["teacher"],
                held,
                collate,
                batch_size=size,
                num_samples=0,
                asked=self.recipe.asked,
            )
            return float(result["now"]["fidelity"]["kl"])

        return look

    # -- what is remembered -------------------------------------------------------------------------------------
    def _identify(self, recipe: Recipe) -> None:
        """Refuse a folder that holds another run; otherwise write the resolved run."""
        text, file = self.run.to_toml(), self.folder / "run.toml"
        begun = any((self.folder / part).exists() for part in BEGUN)
        if begun and file.exists() and not same_run(file.read_text(), text):
            raise StoreError(
                f"run folder {self.folder}",
                got=f"a run with other settings: {first_difference(file.read_text(), text)}",
                expected="the same settings, to go on",
                remedy="Choose another name, or delete the folder to start anew.",
            )
        if self.processes.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            store.write_text(file, text)
        self.processes.wait()
        state = self.folder / "state.json"
        self._state: list[str] = read_json(state)["done"] if state.exists() else []

    def _account(self) -> None:
        """Keep what was spent, so that a run that goes on knows the cost of what it does not repeat."""
        store.write_text(self.folder / "ledger.json", json.dumps(self.workspace.ledger.state_dict()))

    def _done(self, at: Sequence[str]) -> bool:
        return _name(at) in self._state

    def _remember(self, at: Sequence[str]) -> None:
        self._account()
        if not self._done(at):
            self._state.append(_name(at))
        store.write_text(self.folder / "state.json", json.dumps({"done": self._state}))

    def _load_slots(self, path: Path) -> None:
        split = {
            f"slot-{slot}": module_of(model).state_dict().get
            for slot, model in self.workspace.models.items()
            if slot in self.processes.shards
        }
        for name, tensors in store.load(path, self.processes, split).tensors.items():
            module_of(self.workspace.models[name.removeprefix("slot-")]).load_state_dict(tensors)

    def _load_models(self, recipe: Recipe) -> None:
        assemble.load_models(self.run, recipe, self.workspace, self.folder, self.say, self.device)

    def _describe(self, recipe: Recipe) -> None:
        if not self.processes.main:
            return
        facts = {slot: getattr(m, "facts", {}) for slot, m in self.workspace.models.items()}
        table = {
            "name": self.run.name,
            "recipe": self.run.recipe,
            "recipe_hash": recipe_hash(self.run, recipe),
            "resolved": describe(recipe),
            "seed": self.run.seed,
            "versions": versions(),
            "facts": facts,
            "notes": self.notes,
            "command": self.command or f"tutelage run {self.folder / 'run.toml'}",
            "processes": self.processes.world,
        }
        store.write_text(self.folder / "run.json", json.dumps(table, default=str, indent=1))

    def _finish(self) -> None:
        student = self.workspace.models.get("student")
        student = None if student is None else self.processes.shards.gathered("student", student)
        if not self.processes.main:
            return
        parts = [read_json(p) for p in sorted((self.folder / "evaluations").glob("*.json"))]
        systems = {p.stem: read_json(p) for p in sorted((self.folder / "systems").glob("*.json"))}
        if parts or systems:
            result = merge(*parts) | {"ledger": self.workspace.ledger.state_dict()}
            result |= {"systems": systems} if systems else {}
            store.write_text(self.folder / "evaluation.json", json.dumps(result))
        table = json.loads((self.folder / "run.json").read_text())
        table["notes"] = self.notes
        store.write_text(self.folder / "run.json", json.dumps(table, indent=1))
        if student is not None:
            export(merged(student), self.folder / "student", card=card(self.run, self.recipe, table))
        report(self.folder)


def _name(at: Sequence[str]) -> str:
    return "-".join(at)
