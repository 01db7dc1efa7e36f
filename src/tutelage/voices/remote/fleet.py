"""Several servers of one model as one: the least busy is asked, those that fail are left out until they are well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...core.errors import ServerError, TutelageError
from .server import BACK_OFF_SECONDS, LONGEST_WAIT_SECONDS, SAME_RUN, Line, Passing, Server

Found = TypeVar("Found")


@dataclass
class Endpoint:
    """One of the servers, and how it does.

    Args:
        line: The line to it.
        probe: A line that tries once, for checks.
        busy: Requests that it is working on.
        answered: Requests that it has answered.
        failures: Failures in a row.
        why: Why it is left out; empty while it is in.
        until: When it is looked at again, in seconds of the monotonic clock.
        checking: Whether it is being looked at.
    """

    line: Line
    probe: Line
    busy: int = 0
    answered: int = 0
    failures: int = 0
    why: str = ""
    until: float = 0.0
    checking: bool = False


class Fleet:
    """Lines to several servers of one model, used as one line; safe for several threads.

    Each request goes to the server with the fewest requests under way; none has more than ``server.concurrency`` of
    them, and a request that finds all of them full waits. A server that breaks off, is late or says that it is
    overloaded is left out, and its request goes to another; after a pause, which grows with each failure, it is
    checked, and is back if it still is the same model. A request fails when no server was in for
    ``server.retry_seconds``.

    Args:
        server: The first address, and the others in ``also``.
        same: What is wrong with the model behind a line, compared with the one that is used; empty if nothing is.
    """

    def __init__(self, server: Server, same: Callable[[Line], str]) -> None:
        self.server, self._same = server, same
        lines = [replace(server, url=url, also=()) for url in (server.url, *server.also)]
        self.endpoints = [Endpoint(Line(s), Line(replace(s, retry_seconds=0.0))) for s in lines]
        self._changed = threading.Condition()

    @property
    def concurrency(self) -> int:
        """Requests at once, over all servers."""
        return self.server.concurrency * len(self.endpoints)

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON answer to a GET, or to a POST of ``body``, of whichever server is free.

        Raises:
            ServerError: No server was in for ``retry_seconds``, or one gave an answer that no other would mend.
        """
        while True:
            endpoint = self._take(path)
            try:
                answer = endpoint.line.once(path, body)
            except Passing as error:
                self._back(endpoint)
                self._leave(endpoint, str(error), error.after)
                continue
            except BaseException:
                self._back(endpoint)
                raise
            self._back(endpoint, answered=1)
            return answer

    def each(self, find: Callable[[Line], Found]) -> list[tuple[Server, Found]]:
        """What is found at each server that is in; one that cannot be asked is left out from now on.

        Raises:
            ServerError: None could be asked, or one refused.
        """
        found = []
        for endpoint in [e for e in self.endpoints if not e.why]:
            try:
                found.append((endpoint.probe.server, find(endpoint.probe)))
            except ServerError as error:
                if not error.passing:
                    raise
                self._leave(endpoint, error.got)
        return found or [(self.server, find(self.endpoints[0].line))]

    def states(self) -> list[dict[str, Any]]:
        """By server: its address, how many requests it answered, and why it is left out, if it is."""
        return [{"url": e.line.server.root, "answered": e.answered, "left_out": e.why} for e in self.endpoints]

    def _take(self, path: str) -> Endpoint:
        """The least busy server with room; waits for one."""
        lost: float | None = None  # since when none was in
        with self._changed:
            while True:
                now = time.monotonic()
                self._look_again(now)
                there = [e for e in self.endpoints if not e.why]
                free = [e for e in there if e.busy < self.server.concurrency]
                if free:
                    best = min(free, key=lambda e: (e.busy, e.answered))
                    best.busy += 1
                    return best
                lost = None if there else lost or now
                if lost is not None and now - lost >= self.server.retry_seconds:
                    raise self._gone(path)
                self._changed.wait(0.05 if lost is not None else 0.5)

    def _look_again(self, now: float) -> None:
        """Check those whose pause is over, each in a thread of its own: a dead one holds nobody up."""
        for endpoint in self.endpoints:
            if endpoint.why and not endpoint.checking and now >= endpoint.until:
                endpoint.checking = True
                threading.Thread(target=self._check, args=(endpoint,), daemon=True).start()

    def _check(self, endpoint: Endpoint) -> None:
        try:
            why = self._same(endpoint.probe)
        except TutelageError as error:
            why = error.got
        with self._changed:
            endpoint.checking = False
            if why:
                self._pause(endpoint, why)
            else:
                endpoint.why, endpoint.failures = "", 0
            self._changed.notify_all()

    def _back(self, endpoint: Endpoint, answered: int = 0) -> None:
        with self._changed:
            endpoint.busy -= 1
            endpoint.answered += answered
            endpoint.failures = 0 if answered else endpoint.failures
            self._changed.notify_all()

    def _leave(self, endpoint: Endpoint, why: str, after: float = 0.0) -> None:
        with self._changed:
            if not endpoint.why:  # others of its requests fail at the same time: that is one failure
                self._pause(endpoint, why, after)
            self._changed.notify_all()

    def _pause(self, endpoint: Endpoint, why: str, after: float = 0.0) -> None:
        grown = BACK_OFF_SECONDS * 2**endpoint.failures
        endpoint.failures += 1
        endpoint.why = why
        endpoint.until = time.monotonic() + min(LONGEST_WAIT_SECONDS, max(grown, after))

    def _gone(self, path: str) -> ServerError:
        said = "; ".join(f"{e.line.server.root}: {e.why}" for e in self.endpoints)
        return ServerError(
            f"servers of model {self.server.model!r}, {path}",
            got=f"none of {len(self.endpoints)} that answers for {self.server.retry_seconds:g} s ({said})",
            expected=f"an answer of one of them within {self.server.timeout_seconds:g} s",
            remedy=f"See that they run and are reached; raise timeout_seconds or lower concurrency if they are slow. "
            f"{SAME_RUN}",
        )
