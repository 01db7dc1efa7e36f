"""Teacher caches of a run: what they may be read for, how they are opened, and how they are filled before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..core.batch import View
from ..core.errors import ModelError, NeedError, SettingError
from ..core.needs import needs, stages
from ..core.recipe import Change, Recipe, Train
from ..core.schedule import Progress, walk
from ..core.scores import Scores
from ..core.signal import Signal
from ..core.voice import Says
from ..core.workspace import Workspace
from ..data.cached import FORMS, Asked, Cache, Form, form_of, opened, teacher_key
from ..data.cached.answer import rows_of, scores_of, store, view_of
from ..data.cached.fidelity import fidelity
from ..data.collate import by_group, split
from ..data.engines.look import looked
from ..data.manifest import NAME
from ..data.source import Corpus
from ..models.tokens import vocabulary, vocabulary_hash
from ..signals.divergences import cross_entropy, kl_forward
from ..signals.match import Match, whole
from ..training.log import Listener
from ..voices.cached import Cached, Stored
from .runfile import CacheSettings, RunFile
from .work import engine_of

LINEAR = (kl_forward, cross_entropy)
NEW = "top"
NUM_KEPT, NUM_DRAWS = 50, 50
MEASURED_POSITIONS = 1024
ROWS_AT_ONCE = 8


def cached_slots(run: RunFile) -> dict[str, CacheSettings]:
    """The slots that answer out of a cache."""
    return {slot: m.cache for slot, m in run.models.items() if m.cache is not None}


def gives(run: RunFile) -> dict[str, frozenset[str]]:
    """What each slot with a cache can be asked for."""
    out = {}
    for slot, settings in cached_slots(run).items():
        form = kind(settings)
        own = frozenset({"next"}) if settings.rest == "even" or form.linear else form.gives
        model = run.models[slot]
        writes = model.load is not None or model.shrink is not None or model.server is not None
        out[slot] = own | ({"sample", "text"} if writes else frozenset())
    return out


def kind(settings: CacheSettings) -> type[Form]:
    """The form that a cache has, or will have."""
    return FORMS[str(_facts(settings)["form"])]


def bytes_a_position(run: RunFile, slot: str, shadow: Any) -> float:
    """About how many bytes a slot's cache takes a position, of a model with these sizes."""
    facts = _facts(cached_slots(run)[slot]) | {"num_categories": shadow.num_categories}
    return form_of(
        facts | ({"num_features": shadow.hidden_size} if facts["form"] == "states" else {})
    ).bytes_a_position()


def check(recipe: Recipe, run: RunFile) -> None:
    """Refuse a cache of what moves, and objectives that read more of it than it holds without bias.

    Raises:
        SettingError: The slot trains, is made or split in the run.
        NeedError: Drawn ids under an objective that is not linear in the probabilities, or more ids than are kept.
    """
    made = {s.into for s in stages(recipe.stages) if isinstance(s, Change)}
    for slot, settings in cached_slots(run).items():
        moves = "weights" in needs(recipe).get(slot, ()) or slot in made
        if moves or run.models[slot].shard:
            raise SettingError(
                f"models.{slot}.cache",
                got="a model that changes in the run" if moves else "a model that is split over processes",
                expected="one that stays as it is, whole in each process",
                remedy="Leave the cache out.",
            )
        form = kind(settings)
        for signal in _readers(recipe, slot):
            if form.linear and not _is_linear(signal, slot):
                raise NeedError(
                    f"model {slot!r}, whose cache holds drawn ids",
                    got=f"a read by {type(signal).__name__}{_of(signal)}",
                    expected="kl_forward or cross_entropy over the whole vocabulary: any other value would be biased",
                    remedy="Keep states, dense or top scores instead (models."
                    f'{slot}.cache = {{ folder = "...", form = "top" }}).',
                )
            on: Any = getattr(signal, "on", None)
            num = _facts(settings).get("num_kept")
            if getattr(on, "k", 0) > (num or float("inf")) and settings.rest == "exact":
                raise NeedError(
                    f"model {slot!r}",
                    got=f"a cache of the {num} most probable tokens",
                    expected=f"the {on.k} that the objective compares",
                    remedy=f"Set models.{slot}.cache.num_kept = {on.k} and another folder.",
                )


def connect(run: RunFile, workspace: Workspace, say: Callable[[str], None]) -> None:
    """Open the caches of the models that are loaded; what a cache says of itself was checked against them."""
    for slot, settings in cached_slots(run).items():
        model = workspace.models[slot]
        if isinstance(model, Stored):
            workspace.caches[slot] = model.cache
            continue
        facts = _facts(settings) | {"num_categories": _size(model)}
        if facts["form"] == "states":
            facts |= {"num_features": model.hidden_size}
        key = teacher_key(model)
        if getattr(model, "tokenizer", None) is not None:
            key["tokenizer"] = vocabulary_hash(model.tokenizer)
        cache = workspace.caches[slot] = Cache(settings.folder, key, form_of(facts))
        say(f"{slot} answers out of {cache.folder} ({cache.form.name}, {cache.log.num_positions} positions so far)")


def stand_in(run: RunFile, workspace: Workspace) -> None:
    """Fill the slots that a cache alone stands for.

    Raises:
        StoreError: There is no cache.
        ModelError: It was made with other tokens than the student's.
    """
    for slot, settings in cached_slots(run).items():
        model, student = run.models[slot], workspace.models.get("student")
        if model.load is not None or model.shrink is not None or model.server is not None:
            continue
        cache = opened(settings.folder)
        if settings.given():
            cache = opened(settings.folder, form_of(cache.form.facts() | settings.given()))
        tokenizer = getattr(student, "tokenizer", None)
        if tokenizer is not None and cache.key.get("tokenizer") != vocabulary_hash(tokenizer):
            raise ModelError(
                f"models.{slot}.cache {settings.folder}",
                got="answers about the tokens of another vocabulary",
                expected="the student's",
                remedy="Use a cache of a teacher with the student's tokens; another tokenizer needs the teacher itself "
                "and a recipe that aligns by bytes (alm).",
            )
        workspace.models[slot] = Stored(slot, cache, tokenizer)


def agree(stored: Stored, student: Any) -> tuple[str, ...]:
    """Give the student as many categories as the cache has; what to note.

    Raises:
        ModelError: Its head is shorter, or its vocabulary longer.
    """
    width = student.head.weight.shape[0]
    known = len(vocabulary(student.tokenizer)) if student.tokenizer is not None else stored.size
    if not known <= stored.size <= width:
        raise ModelError(
            f"head of model {student.name!r}",
            got=f"{width} ids for a vocabulary of {known}",
            expected=f"the {stored.size} categories of the cache {stored.cache.folder}",
            remedy="Use the student that the cache was made for, or make another cache.",
        )
    student.size = stored.size
    return (f"{stored.name} is {stored.facts['spec']}; it gives {stored.facts['gives']}",)


def through(voices: Mapping[str, Any], caches: Mapping[str, Cache]) -> dict[str, Any]:
    """The voices, those of cached slots answering out of their caches."""
    cached = {n: Cached(v, caches[v.slot]) for n, v in voices.items() if isinstance(v, Says) and v.slot in caches}
    return {**voices, **cached}


# -- filling --------------------------------------------------------------------------------------------------------
def fill(
    recipe: Recipe, run: RunFile, workspace: Workspace, collate_for: Callable[..., Any], listener: Listener
) -> dict[str, dict[str, Any]]:
    """Write what the teachers say of all stored data that the recipe trains on; by slot, what the cache then is.

    Rows that are there are not asked again, so a command that was stopped goes on. What is asked of rollouts is kept by
    the run itself.
    """
    out = {}
    for slot, cache in workspace.caches.items():
        model = workspace.models[slot]
        rows = {row.whole: row for row in _asked(recipe, run, workspace, slot, collate_for)}
        missing = [row for row in rows.values() if cache.find(row) is None]
        num = sum(len(row.places) for row in missing)
        about = num * cache.form.bytes_a_position()
        listener.note(f"{slot}: {len(rows)} rows, {len(missing)} to write: {num} positions, about {about / 1e6:.1f} MB")
        if missing and isinstance(model, Stored):
            store(cache, missing[:1], _nobody(cache), torch.device("cpu"))
        listener.stage(f"cache {slot}", len(missing), 0)
        if missing:
            _measure(cache, model, missing, workspace.models.get("student"))
        for done in looked(cache, slot, missing, workspace, engine_of(run)):
            listener.step({"stage": f"cache {slot}", "step": done})
        out[slot] = cache.report()
    return out


def _asked(recipe: Recipe, run: RunFile, ws: Workspace, slot: str, collate_for: Callable[..., Any]) -> Iterator[Asked]:
    """The rows that a slot will be asked about: those of stored data, in the views that its voices read."""
    for stage in (s for s in stages(recipe.stages) if isinstance(s, Train)):
        voices = {name: Says(name) for name in ws.models} | dict(stage.voices)
        views = {v.sees for v in voices.values() if isinstance(v, Says) and v.slot == slot}
        collate = collate_for(stage, run.settings(stage.name), ws)
        for corpus in {part for _, part in walk(stage.source) if isinstance(part, Corpus)}:
            num = len(by_group(ws.data.get(corpus.name, ())))  # 0 for data that a stage of the run writes
            groups = corpus.take(Progress(stage.name, 0, 1), ws, num, range(num)) if num else ()
            for some in split([row for group in groups for row in group], ROWS_AT_ONCE):
                batch = collate(some)
                yield from (row for name in sorted(views & set(batch.views)) for row in rows_of(batch.views[name])[0])


def _measure(cache: Cache, model: Any, missing: list[Asked], student: Any) -> None:
    """Keep the fidelity report of the first rows, against the live teacher; the student's gradient is the run's own."""
    some: list[Asked] = []
    for row in missing:
        if sum(len(r.places) for r in some) < MEASURED_POSITIONS:
            some.append(row)
    if len(some) >= ROWS_AT_ONCE:  # a code is fitted on the first rows that are written
        store(cache, some, lambda view: _said(model, view), model.device)
    view = view_of(some, model.device)
    if student is None or not hasattr(student, "head") or not hasattr(model, "head"):
        return
    found = [cache.find(row) for row in some]
    if any(one is None for one in found):
        found = store(cache, some, lambda v: _said(model, v), model.device)
    decoded = scores_of(cache, [one for one in found if one is not None])
    cache.report(fidelity=dict(fidelity(_said(model, view), decoded, _said(student, view))))


@torch.no_grad()
def _said(model: Any, view: View) -> Scores:
    return model.predict(view, frozenset({"next"}))["next"]


def _nobody(cache: Cache) -> Callable[[View], Scores]:
    def ask(view: View) -> Scores:
        raise SettingError(
            f"teacher cache {cache.folder}",
            got="rows to write and no teacher",
            expected="the teacher's weights, or its server",
            remedy="Name them beside the cache: models.SLOT.load, or url and model.",
        )

    return ask


# -- settings and readers -------------------------------------------------------------------------------------------
def _facts(settings: CacheSettings) -> dict[str, Any]:
    """Form and settings: what the folder holds already, else what is asked for."""
    folder = Path(settings.folder)
    given = settings.given()
    if (folder / NAME).is_file():
        held = opened(folder).form.facts()
        return held | given if given.get("form", held["form"]) == held["form"] else given
    name = given.get("form", NEW)
    usual = {"num_kept": NUM_KEPT, "num_draws": NUM_DRAWS}
    known = {f.name for f in fields(FORMS[name])}  # type: ignore[arg-type]
    return {"form": name} | {k: v for k, v in usual.items() if k in known} | given


def _size(model: Any) -> int:
    size = getattr(model, "size", None)
    return int(size if size is not None else model.head.num_categories)


def _readers(recipe: Recipe, slot: str) -> Iterable[Any]:
    """The parts that read a slot's scores: signals, and voices that ask it."""
    for stage in (s for s in stages(recipe.stages) if isinstance(s, Train)):
        for _, part in walk(stage):
            asks = getattr(part, "asks", None)
            reads = {r.who for r in part.own_reads()} if isinstance(part, Signal) else set()
            reads |= {who for who, _ in asks()} if asks is not None else set()
            if slot in reads:
                yield part


def _is_linear(signal: Any, slot: str) -> bool:
    return (
        isinstance(signal, Match)
        and signal.compare in LINEAR
        and signal.on == whole
        and signal.p.who == slot != signal.q.who
        and not signal.p.through
    )


def _of(signal: Any) -> str:
    compare = getattr(signal, "compare", None)
    return f" of {getattr(compare, '__name__', compare)}" if compare is not None else ""
