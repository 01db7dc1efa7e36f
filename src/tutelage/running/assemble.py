"""Assemble a run: data, models, agreement and needs, each checked before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.catalog import build
from ..core.describe import describe
from ..core.doubts import doubts, here
from ..core.errors import NeedError, SettingError, unknown
from ..core.needs import TEXT, needs, stages
from ..core.recipe import Change, Generate, Recipe, Train
from ..core.record import Record
from ..core.schedule import walk
from ..core.signal import Read
from ..core.workspace import Workspace
from ..data import corpus
from ..data.collate import Collate
from ..data.foreign import retold
from ..data.render import render, whole
from ..data.source import Corpus
from ..models.adapter import adapted
from ..models.agree import agree, align, same_tokens
from ..models.body import Body
from ..models.causal import Causal
from ..models.encoder import Encoder, same_words
from ..models.export import export
from ..models.load import load
from ..models.quantise import quantised
from ..surgery.shrink import Shrink
from ..training.settings import TrainSettings
from ..training.step import Plan
from ..voices.align import foreign_slots
from ..voices.cached import Stored
from . import apart, caching, far, rollouts
from .runfile import ModelSettings, RunFile, ShrinkSettings
from .work import engine_of

Say = Callable[[str], None]


def recipe_of(run: RunFile) -> Recipe:
    """The recipe of a run, checked against the run's names before anything loads.

    Raises:
        UnknownName: A recipe, argument, stage, data set or model slot that does not exist.
        NeedError: A model that the recipe needs and the run does not name.
    """
    recipe = build(run.recipe, run.args)
    names = [s.name for s in stages(recipe.stages)]
    for table in sorted(run.stage_tables() - set(names)):
        raise unknown("RunFile, stage of [train]", table, names, f"These are the stages of {run.recipe!r}.")
    if "train" not in run.data:
        raise SettingError(
            "RunFile, [data]",
            got=f"data sets {sorted(run.data)}",
            expected="a data set 'train'",
            remedy='Add: [data.train] path = "FILE.jsonl"',
        )
    known = set(run.data) | {s.into for s in generated(recipe)}
    for _, part in walk(recipe):
        name = part.name if isinstance(part, Corpus) else part.over if isinstance(part, Generate) else None
        if name is not None and name not in known:
            raise unknown(f"RunFile, data set of recipe {run.recipe!r}", name, known, "Name it under [data].")
    voices = {v for s in stages(recipe.stages) if isinstance(s, Train) for v in (*s.voices, *s.parts)}
    voices |= {s.into for s in stages(recipe.stages) if isinstance(s, Change)}
    made = {s.into for s in stages(recipe.stages) if isinstance(s, Change)}
    absent = (set(needs(recipe)) - voices | aligned(recipe)) - made - set(run.models)
    if absent:
        raise NeedError(
            f"recipe {run.recipe!r}",
            got=f"models {', '.join(sorted(run.models)) or 'none'}",
            expected=f"also {', '.join(sorted(absent))}",
            remedy="Name it under [models].",
        )
    caching.check(recipe, run)
    far.check_gives(recipe, run)
    rollouts.check(run, recipe)
    apart.check_split(run, recipe)
    engine_of(run)
    _check_slots(run, recipe)
    _check_splits(run, recipe)
    return recipe


def _check_splits(run: RunFile, recipe: Recipe) -> None:
    """Refuse micro-batches for terms that relate units of the whole batch, before anything is loaded."""
    for stage in (s for s in stages(recipe.stages) if isinstance(s, Train)):
        given = run.settings(stage.name)
        rows = given.batch_size * (here(stage, steps=given.steps, batch_size=given.batch_size).group or 1)
        for update in stage.updates:
            Plan.of(update, {}).refuse_split(-(-rows // (given.micro_batch_size or rows)))


def _check_slots(run: RunFile, recipe: Recipe) -> None:
    """Refuse slots that nothing reads, and cuts whose source is missing."""
    sources = {s.shrink.source for s in run.models.values() if s.shrink}
    tree = describe(recipe)
    for slot in run.models:
        if slot not in {"teacher", "student", *sources} and repr(slot) not in tree:
            raise SettingError(
                f"RunFile, models.{slot}",
                got=f"a model that nothing in recipe {run.recipe!r} reads",
                expected=f"slots that it reads: {', '.join(sorted({*needs(recipe), 'student'}))}",
                remedy="Leave it out, or name it in [args] where the recipe takes several models.",
            )
    for slot, settings in run.models.items():
        source = settings.shrink.source if settings.shrink else slot
        if source not in run.models or (settings.shrink and source == slot):
            raise unknown(f"RunFile, models.{slot}.shrink.source", source, set(run.models) - {slot})
        if run.models[source].shrink and settings.shrink:
            raise SettingError(
                f"RunFile, models.{slot}.shrink.source",
                got=f"{source!r}, which is cut out of another model itself",
                expected="a model that is loaded",
                remedy="Cut from the loaded model, with fewer layers.",
            )
        if settings.shrink and settings.shrink.rows not in run.data:
            raise unknown(f"RunFile, models.{slot}.shrink.rows", settings.shrink.rows, run.data)


def load_data(run: RunFile, workspace: Workspace, say: Say) -> None:
    """Read every data set; held-out records that are also training records are named."""
    for name, settings in run.data.items():
        workspace.data[name] = corpus.read(
            settings.path, columns=settings.columns, chat=settings.chat, limit=settings.limit, skip=settings.skip
        )
    held = run.evaluate.data
    if held in run.data:
        seen = {_content(r) for r in workspace.data["train"]}
        both = sum(_content(r) in seen for r in workspace.data[held])
        if both:
            of = len(workspace.data[held])
            say(f"{both} of {of} records of {held!r} are also in 'train': figures on them flatter the student.")
        workspace.data[held] = workspace.data[held][: run.evaluate.num_records]


def load_models(
    run: RunFile, recipe: Recipe, workspace: Workspace, folder: Path, say: Say, device: Any = "cpu"
) -> None:
    """Fill the model slots: loaded ones first, then those cut out of others; then check that they agree."""
    for slot, settings in run.models.items():
        if settings.load is not None:
            # what is split comes to the device part by part: the whole might not fit
            place = "cpu" if settings.shard else device
            workspace.models[slot] = load(
                settings.load, dtype=settings.dtype, device=place, trust_remote_code=settings.trust_remote_code
            )
    for slot, settings in run.models.items():
        if settings.shrink is not None:
            place = "cpu" if settings.shard else device
            workspace.models[slot] = _shrunk(slot, settings.shrink, workspace, folder, place)
    far.connect(run, workspace, folder)
    caching.stand_in(run, workspace)
    said: list[str] = []
    for slot, settings in run.models.items():
        if slot != "teacher" and "teacher" in workspace.models:
            said += _speak(recipe, workspace.models["teacher"], workspace.models[slot], settings.adopt)
    for text in dict.fromkeys(said):
        say(text)
    for _, part in walk(recipe):  # a block that a model does not have is refused now, not at the step that reads it
        if isinstance(part, Read) and isinstance(model := workspace.models.get(part.who), Body):
            model.refuse({part.what})
    for slot, settings in run.models.items():
        _trainable(slot, settings, run)
        if settings.bits:
            workspace.models[slot] = quantised(workspace.models[slot])
        if settings.lora is not None:
            lora = settings.lora
            workspace.models[slot] = adapted(
                workspace.models[slot], rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=run.seed
            )
    caching.connect(run, workspace, say)
    rollouts.connect(run, workspace.models, folder, say)


def build_parts(stage: Train, workspace: Workspace, device: Any = "cpu") -> None:
    """Make the modules that stand beside a stage's models, those that an earlier stage made excepted."""
    for slot, part in stage.parts.items():
        if slot not in workspace.models:
            with torch.random.fork_rng():
                torch.manual_seed(workspace.seed)
                workspace.models[slot] = part(workspace.models).to(device)


def aligned(recipe: Recipe) -> set[str]:
    """The slots whose tokenizer may be another one: those that voices align by bytes."""
    return {slot for s in stages(recipe.stages) if isinstance(s, Train) for slot in foreign_slots(s).values()}


def tells(recipe: Recipe) -> bool:
    """Whether the teacher is asked for stored text alone, which any tokenizer can read."""
    live = {who for s in stages(recipe.stages) if isinstance(s, Train) for who in needs(Recipe((s,)))}
    return needs(recipe).get("teacher") == TEXT and "teacher" not in live


def _speak(recipe: Recipe, teacher: Any, other: Any, adopt: bool) -> Sequence[str]:
    """Check that two models can work together in a recipe; what is worth a note."""
    if far.is_far(other):
        return ()
    if isinstance(teacher, Stored):
        return caching.agree(teacher, other)
    if isinstance(teacher, Encoder) or isinstance(other, Encoder):
        return same_words(teacher, other)
    if far.is_far(teacher) and same_tokens(teacher, other):
        return far.agree_far(teacher, other)
    if teacher.tokenizer is None or other.tokenizer is None or same_tokens(teacher, other):
        return agree(teacher, other, adopt=adopt).notes
    if "teacher" in aligned(recipe):
        return align(teacher, other).notes
    if tells(recipe):
        return (f"{teacher.name} has another tokenizer than {other.name}: what it writes is read again as text",)
    return agree(teacher, other, adopt=adopt).notes


def collate_for(stage: Train, settings: TrainSettings, workspace: Workspace) -> Collate:
    """How a stage's records become batches: in the run's tokenizer, and in those that aligned voices read."""
    tokenizers = {view: workspace.models[slot].tokenizer for view, slot in foreign_slots(stage).items()}
    own = tokenizer_of(workspace)
    return Collate(own, settings.max_length, stage.views, pack=settings.pack, foreign=tokenizers)


def doubted(run: RunFile, recipe: Recipe, categories: int | None) -> Iterator[str]:
    """What settings of the run's stages cannot do here.

    Args:
        run: The run.
        recipe: Its recipe.
        categories: The ids that the student's head scores; None where that is not known.
    """
    for stage in (s for s in stages(recipe.stages) if isinstance(s, Train)):
        given = run.settings(stage.name)
        at = here(stage, steps=given.steps, batch_size=given.batch_size, categories=categories)
        yield from doubts(stage, at)


def read_again(records: Iterable[Record], workspace: Workspace) -> list[Record]:
    """What models with another tokenizer wrote, as text: their ids and the notes on these mean nothing here."""
    own = workspace.models.get("student")
    others = {s: m for s, m in workspace.models.items() if s != "student" and hasattr(m, "tokenizer")}
    foreign = {s: m.tokenizer for s, m in others.items() if own is not None and not same_tokens(m, own)}
    out = []
    for record in records:
        for slot, tokenizer in foreign.items():
            record = retold(record, tokenizer, slot)
        out.append(record)
    return out


def _shrunk(slot: str, settings: ShrinkSettings, workspace: Workspace, folder: Path, device: Any) -> Causal:
    """Cut a student, once a run: it is kept in the run's folder, so going on costs no second calibration."""
    kept = folder / "slots" / f"{slot}-start"
    if not (kept / "config.json").exists():
        source: Causal = workspace.models[settings.source]
        shrink = Shrink(settings.source, settings.layers, settings.by, settings.width, settings.refit, settings.ridge)
        rows = [_ids(r, source.tokenizer) for r in workspace.data[settings.rows][: settings.num_records]]
        student = shrink(workspace, rows)
        student.tokenizer = student.tokenizer or source.tokenizer
        shutil.rmtree(kept, ignore_errors=True)
        export(
            student,
            kept,
            card={"teacher": source.facts.get("spec", source.name), "objective": "none: cut out, not trained"},
        )
        workspace.results[f"{slot}.made"] = dict(student.facts)
    model = load(str(kept), device=device)
    model.name = slot
    return model


def _trainable(slot: str, settings: ModelSettings, run: RunFile) -> None:
    if settings.bits and (slot == "student" or settings.lora or settings.server):
        raise SettingError(
            f"models.{slot}.bits",
            got="8, on a model that trains or lies behind a server",
            expected="a model in this process that only speaks, such as the teacher",
            remedy="Leave bits out.",
        )
    if slot == "student" and settings.dtype != "float32":
        raise SettingError(
            f"models.{slot}.dtype",
            got=settings.dtype,
            expected="float32: small updates are lost in half precision",
            remedy='Keep the weights in float32 and set train.precision = "bfloat16".',
        )


def tokenizer_of(workspace: Workspace) -> Any:
    """The run's tokenizer: the student's."""
    models: Mapping[str, Causal] = workspace.models
    return models["student" if "student" in models else next(iter(models))].tokenizer


def generated(recipe: Recipe) -> list[Generate]:
    """The Generate stages."""
    return [s for s in stages(recipe.stages) if isinstance(s, Generate)]


def _ids(record: Record, tokenizer: Any) -> list[int]:
    return [i for segment in render(record, tokenizer) for i in segment.ids]


def _content(record: Record) -> tuple[str, ...]:
    return tuple(p.content for p in record.pieces)


def prompts_too(record: Record, tokenizer: Any = None) -> Record:
    """A data row whose every piece is measured, with a tokenizer the template too; a model's answer stands alone."""
    if any(p.ids for p in record.pieces):
        return record
    if tokenizer is not None:
        return whole(record, tokenizer)
    return replace(record, pieces=tuple(replace(p, trains=True) for p in record.pieces))
