"""The graph of who learns from whom, read off a recipe: a check before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..core.errors import SettingError
from ..core.recipe import Change, Generate, Recipe, Repeat, Stage, Train
from ..core.schedule import Progress, value_at, walk
from ..core.signal import Noted
from ..core.term import Term, Update
from ..data.live import Live
from ..data.source import Beside, Corpus, Mixture
from .interaction import Graph

Givers = dict[str, float]
REAL: Givers = {"": 1.0}
HALFWAY = Progress("", 1, 2)


def learning_graph(recipe: Recipe) -> Graph:
    """Who gives the labels that each trained model learns from, in the stages that come round again.

    A term that reads a note (a reward, a verdict) is told from outside; another that reads other voices gets its labels
    from them, and one that reads the data's tokens from whoever wrote these. Stages inside ``Repeat``, and sources that
    write anew, come round; what happens once counts as real, as do models that no stage trains. Shares are those of
    terms (by scale), of pools and mixtures; a schedule counts with its value at half time, and several things without
    shares count alike.
    """
    every = list(_stages(recipe.stages, False))
    moved = dict.fromkeys(s for stage, _ in every if isinstance(stage, Train) for s in _trained(stage))
    if not moved:
        raise SettingError(
            "learning_graph", got="no Train stage", expected="a recipe that trains", remedy="Give another recipe."
        )
    copies = {s.into: s.by.slot for s, again in every if again and isinstance(s, Change) and _copied(s)}
    wrote: dict[str, Givers] = {}
    found: dict[str, list[Givers]] = {slot: [] for slot in moved}
    for stage, _ in every:
        if isinstance(stage, Generate):
            wrote[stage.into] = _writers(stage.steps) or wrote.get(stage.over, REAL)
    for stage, again in every:
        if isinstance(stage, Train) and (again or any(isinstance(p, Live) for _, p in walk(stage.source))):
            for update in stage.updates:
                givers = _labels(stage, update, wrote, again)
                for slot in set(update.moves) & set(moved):
                    found[slot].append(givers)
    names = tuple(moved)
    rows = [_mean([_followed(g, copies) for g in found[slot]] or [REAL]) for slot in names]
    shares = tuple(tuple(row.get(name, 0.0) for name in names) for row in rows)
    return Graph(names, shares, tuple(1 - sum(row) for row in shares))


def bounded(recipe: Recipe) -> Recipe:
    """The recipe, unless some of its models would hear only themselves.

    Raises:
        SettingError: With the models that do.
    """
    graph = learning_graph(recipe)
    if graph.collapses:
        classes = "; ".join(" and ".join(members) for members in graph.closed())
        raise SettingError(
            "the recipe's graph of who learns from whom",
            got=f"models that learn only from themselves, round after round: {classes}",
            expected="real data, or a model that does not train, for each such set in every round",
            remedy=f"Give real data to {', '.join(graph.repair())}, or allow the collapse to watch it.",
        )
    return recipe


def _stages(some: Iterable[Stage], again: bool) -> Iterator[tuple[Any, bool]]:
    for stage in some:
        if isinstance(stage, Repeat):
            yield from _stages(stage.stages, True)
        else:
            yield stage, again


def _trained(stage: Train) -> tuple[str, ...]:
    return tuple(slot for update in stage.updates for slot in update.moves if slot not in stage.parts)


def _copied(stage: Change) -> bool:
    return type(stage.by).__name__ == "Copy"


def _labels(stage: Train, update: Update, wrote: Mapping[str, Givers], again: bool) -> Givers:
    written = _authors(stage.source, wrote)
    terms = [(t, abs(value_at(t.scale, HALFWAY))) for t in update.objective]
    counted = [(t, s) for t, s in terms if s]
    return _mean([_givers(t, stage, update, written, again) for t, _ in counted], [s for _, s in counted])


def _givers(term: Term, stage: Train, update: Update, written: Givers, again: bool) -> Givers:
    if any(isinstance(part, Noted) for _, part in walk(term.loss)):
        return REAL
    others = sorted({r.who for r in term.loss.reads()} - set(update.moves) - set(stage.parts))
    if others:
        return _mean([_speakers(who, stage, again) for who in others])
    reads_tokens = any(getattr(part, "of_target", False) for _, part in walk(term.loss))
    return written if reads_tokens else REAL


def _speakers(who: str, stage: Train, again: bool) -> Givers:
    """The slots that a voice speaks with, by share; a slot held still within the one stage is real."""
    voice = stage.voices.get(who)
    if voice is None:
        return {who: 1.0}
    if hasattr(voice, "voices"):
        shares = [1.0 if callable(s) else float(s) for s in getattr(voice, "shares", ())]
        below = [_speakers(name, stage, again) for name in voice.voices]
        return _mean(below, shares if len(shares) == len(below) else None)
    shadow = getattr(voice, "shadow", None)
    held = shadow is not None and not shadow.rate and not again
    slot = getattr(voice, "slot", None)
    return REAL if held or slot is None else {slot: 1.0}


def _authors(source: Any, wrote: Mapping[str, Givers]) -> Givers:
    """Who wrote the tokens that a source gives."""
    if isinstance(source, str):
        return wrote.get(source, REAL)
    if isinstance(source, Corpus):
        return wrote.get(source.name, REAL)
    if isinstance(source, Live):
        return _writers(source.steps) or _authors(source.prompts, wrote)
    if isinstance(source, Mixture):
        shares = [value_at(share, HALFWAY) for _, share in source.parts]
        return _mean([_authors(part, wrote) for part, _ in source.parts], shares)
    if isinstance(source, Beside):
        return _mean([_authors(part, wrote) for part in source.parts])
    return _authors(source.source, wrote) if hasattr(source, "source") else REAL


def _writers(steps: Any) -> Givers | None:
    """Who wrote last in a chain; None where nobody did."""
    asks = [part for _, part in walk(steps) if hasattr(part, "writers")]
    if not asks:
        return None
    shares = getattr(asks[-1].who, "shares", None)
    plain = shares if shares is not None and not any(map(callable, shares)) else None
    return _mean([{slot: 1.0} for slot in asks[-1].writers], plain)


def _followed(givers: Givers, copies: Mapping[str, str]) -> Givers:
    """With copies that are made anew each round put down to what they are copies of."""
    out: Givers = {}
    for slot, share in givers.items():
        for _ in copies:
            slot = copies.get(slot, slot)
        out[slot] = out.get(slot, 0.0) + share
    return out


def _mean(several: list[Givers], shares: Iterable[float] | None = None) -> Givers:
    """Their average; without a share that counts, all count alike; nothing at all is real."""
    if not several:
        return REAL
    by = list(shares) if shares is not None else []
    by = by if sum(by) > 0 else [1.0] * len(several)
    out: Givers = {}
    for givers, weight in zip(several, by, strict=True):
        for slot, share in givers.items():
            out[slot] = out.get(slot, 0.0) + share * weight / sum(by)
    return out
