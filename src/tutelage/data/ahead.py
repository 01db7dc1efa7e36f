"""Rounds that an engine writes while another one trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from ..core.errors import NeedError
from ..core.schedule import walk
from ..core.signal import Read
from ..core.workspace import Workspace
from .steps.ask import Ask

Made = TypeVar("Made")


class Pending(Generic[Made]):
    """Work that goes on in a thread of its own; its result, or its error, comes when it is asked for.

    Args:
        key: What it is of.
        work: Called once, in the thread.
        engines: They keep the weights that they have until it is done.
    """

    def __init__(self, key: list[Any], work: Callable[[], Made], engines: Sequence[Any] = ()) -> None:
        self.key = key
        self._made: list[Made] = []
        self._error: BaseException | None = None
        for engine in engines:
            engine.hold()
        self._thread = threading.Thread(target=self._run, args=(work, tuple(engines)), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Made], engines: Sequence[Any]) -> None:
        try:
            with ExitStack() as stack:
                for engine in engines:
                    stack.enter_context(engine.held())
                self._made.append(work())
        except BaseException as error:  # told where the result is asked for
            self._error = error

    def result(self) -> Made:
        """What was made, waited for."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._made[0]

    def kept(self) -> Made | None:
        """The same, or None where it failed."""
        self._thread.join()
        return self._made[0] if self._made else None


def engines_of(steps: Iterable[Any], ws: Workspace) -> list[Any]:
    """The engines that write ahead for the models which steps ask for text; none where no model has one."""
    asked = {slot for _, part in walk(tuple(steps)) if isinstance(part, Ask) for slot in part.writers}
    found = [getattr(ws.models[slot], "engine", None) for slot in sorted(asked) if slot in ws.models]
    return [engine for engine in found if engine is not None and engine.ahead]


def refuse(steps: Iterable[Any], elsewhere: Iterable[str]) -> None:
    """Refuse steps that ask a model in this process, whose weights move, or are used, while the round is written.

    Args:
        steps: The chain.
        elsewhere: The slots that write, or answer, in another process.

    Raises:
        NeedError: A step, and whom it asks.
    """
    far = set(elsewhere)
    for _, part in walk(tuple(steps)):
        named = {part.who} if isinstance(part, Read) else set(_slots(part))
        here = sorted(named - far if isinstance(part, Ask) and isinstance(part.who, str) else named)
        if here:
            raise NeedError(
                f"a step that asks {', '.join(map(repr, here))} ({type(part).__name__}), with rollouts.ahead = 1",
                got="a model in this process",
                expected="steps that ask only for text, of models that write in another process",
                remedy="Set ahead = 0, or put that model behind a server.",
            )


def _slots(part: Any) -> frozenset[str]:
    slots: Callable[[], frozenset[str]] | None = getattr(part, "slots", None)
    return frozenset() if slots is None or isinstance(part, type) else slots()
