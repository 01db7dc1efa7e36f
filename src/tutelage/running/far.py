"""Models behind a server: what they may be asked, checked before anything loads, and how they enter a slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import ModelError, NeedError, SettingError
from ..core.needs import LOG_PROBS, STATES, TEXT, WHITE_BOX, check, needs, stages
from ..core.recipe import Recipe, Train
from ..core.schedule import walk
from ..core.workspace import Workspace
from ..models.load import load_tokenizer, reads_both_ways
from ..models.tokens import vocabulary
from ..voices.remote import Remote, Server
from . import caching
from .runfile import RunFile, ServerSettings


def is_far(model: Any) -> bool:
    """Whether a model is behind a server."""
    return bool(getattr(model, "far", False))


def check_gives(recipe: Recipe, run: RunFile) -> None:
    """Refuse an objective that reads more of a slot than it gives.

    Raises:
        NeedError: States, whole distributions, or more categories than a server gives; or a server's weights.
    """
    servers = {slot: m.server for slot, m in run.models.items() if m.server is not None}
    gives = {slot: STATES if _is_encoder(run, slot) else WHITE_BOX for slot in run.models}
    gives |= {slot: LOG_PROBS if server.top_k else TEXT for slot, server in servers.items()}
    gives |= caching.gives(run)
    check(recipe, gives)
    for slot, server in servers.items():
        if "weights" in needs(recipe).get(slot, ()):
            raise _needs(slot, "a model behind a server", "weights that can be trained", "Load the model here.")
        widest = max((k for s in stages(recipe.stages) for k in _tops(s, slot)), default=0)
        if widest > server.top_k:
            raise _needs(
                slot,
                f"the {server.top_k} most probable tokens",
                f"the {widest} most probable, which the objective compares",
                f"Set models.{slot}.top_k = {widest}, and start the server with --max-logprobs {widest} or more.",
            )
    for settings in run.models.values():
        if settings.shrink and settings.shrink.source in servers:
            raise _needs(settings.shrink.source, "a server", "weights to cut a student from", "Load the model here.")


def _is_encoder(run: RunFile, slot: str) -> bool:
    settings = run.models[slot]
    source = run.models.get(settings.shrink.source, settings) if settings.shrink else settings
    return source.load is not None and reads_both_ways(source.load)


def _tops(stage: Any, slot: str) -> list[int]:
    """How many categories the signals of a stage compare with a slot's most probable ones."""
    if not isinstance(stage, Train):
        return []
    parts = [part for _, part in walk(stage) if hasattr(part, "own_reads")]
    return [p.on.k for p in parts if hasattr(getattr(p, "on", None), "k") and slot in {r.who for r in p.own_reads()}]


def connect(run: RunFile, workspace: Workspace, folder: Path) -> None:
    """Fill the slots of models behind a server; the student is there already, if there is one."""
    for slot, settings in run.models.items():
        server = settings.server
        if server is None:
            continue
        own = getattr(workspace.models.get("student"), "tokenizer", None)
        tokenizer = load_tokenizer(server.tokenizer) if server.tokenizer else own
        if tokenizer is None:
            raise SettingError(
                f"models.{slot}.tokenizer",
                got="no tokenizer, and no student to take it from",
                expected="a model's folder",
                remedy="Name a model with the server's tokenizer.",
            )
        workspace.models[slot] = _remote(slot, server, tokenizer, folder)


def agree_far(far: Any, student: Any) -> tuple[str, ...]:
    """Give a model behind a server, and a student of the same tokens, one number of categories; what to note of it."""
    known, width = len(vocabulary(student.tokenizer)), student.head.weight.shape[0]
    if known > width:
        raise ModelError(
            f"head of model {student.name!r}",
            got=f"{width} ids for a vocabulary of {known}",
            expected="a score for each token",
            remedy="Load the tokenizer that belongs to the model.",
        )
    student.size = far.size = known
    return (f"{far.name} is {far.server.model!r} at {far.server.root}; it gives {far.facts['gives']}",)


def _remote(slot: str, s: ServerSettings, tokenizer: Any, folder: Path) -> Remote:
    server = Server(s.url, s.model, s.api_key_env, s.timeout_seconds, s.retry_seconds, s.concurrency, s.also)
    kept: dict[str, Any] = {"folder": folder / "answers", "rounded": s.rounded}
    return Remote(slot, server, tokenizer, top_k=s.top_k, watch_seconds=s.watch_seconds, **kept)


def _needs(slot: str, got: str, expected: str, remedy: str) -> NeedError:
    return NeedError(f"model {slot!r}", got=got, expected=expected, remedy=remedy)
