"""Where a server is and how it is asked; the one place that knows HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...core.errors import MissingExtra, ServerError, SettingError, missing_extra

Found = TypeVar("Found")
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Answers that another try may mend."""

BACK_OFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0
SAME_RUN = "Nothing is lost: mend it and run the same command again, it goes on."


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server.

    Args:
        url: ``http://HOST:PORT`` or ``https://...``, with or without ``/v1``; never a name or password in it.
        model: The model's name there.
        api_key_env: The environment variable that holds the key; empty for none. The key is read when a request is made
            and is never stored, printed or logged.
        timeout_seconds: How long one request may take, > 0.
        retry_seconds: How long a request is tried again, with growing pauses, before the run stops, >= 0.
        concurrency: Requests at once at one address, >= 1.
        also: Other addresses of the same model.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout_seconds: float = 60.0
    retry_seconds: float = 120.0
    concurrency: int = 8
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        every = [urlsplit(url) for url in (self.url, *self.also)]
        parts = next((p for p in every if p.username or p.password), every[0])
        wrong = {
            "url": any(p.scheme not in ("http", "https") or not p.hostname or p.username or p.password for p in every),
            "also": len({url.rstrip("/") for url in (self.url, *self.also)}) < len(every),
            "model": not self.model,
            "timeout_seconds": self.timeout_seconds <= 0,
            "retry_seconds": self.retry_seconds < 0,
            "concurrency": self.concurrency < 1,
        }
        hides = bool(parts.username or parts.password)
        for name in (n for n, is_wrong in wrong.items() if is_wrong):
            raise SettingError(
                f"server, {name}",
                got="an address with a password in it" if name == "url" and hides else repr(getattr(self, name)),
                expected="http://HOST:PORT or https://..." if name == "url" else "a name, or a number in its range",
                remedy="Keys come from the environment alone: name the variable in api_key_env."
                if hides
                else "Mend it; each address stands once.",
            )

    @property
    def root(self) -> str:
        """The address without a trailing ``/v1``."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def places(self) -> str:
        """All addresses, for messages."""
        return ", ".join(url.rstrip("/").removesuffix("/v1") for url in (self.url, *self.also))

    def headers(self) -> dict[str, str]:
        """What each request carries.

        Raises:
            SettingError: The named variable is not set.
        """
        if not self.api_key_env:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise SettingError(
                f"server {self.root}, api_key_env",
                got=f"no environment variable {self.api_key_env!r}",
                expected="a variable that holds the key",
                remedy=f"export {self.api_key_env}=...",
            )
        return {"Authorization": f"Bearer {key}"}


class Passing(Exception):
    """A failure that another try may mend; ``after`` is how long the server asks to wait."""

    def __init__(self, text: str, after: float = 0.0) -> None:
        super().__init__(text)
        self.after = after


class Line:
    """A line to a server: JSON in, JSON out, tried again with growing pauses; safe for several threads."""

    def __init__(self, server: Server) -> None:
        try:
            import httpx
            import tenacity
        except ImportError as error:
            raise _missing(error) from None
        self.server, self._httpx, self._tenacity = server, httpx, tenacity
        limits = httpx.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency)
        self._client = httpx.Client(base_url=server.root, timeout=server.timeout_seconds, limits=limits)

    @property
    def concurrency(self) -> int:
        """Requests at once."""
        return self.server.concurrency

    def each(self, find: Callable[[Line], Found]) -> list[tuple[Server, Found]]:
        """What is found at the server."""
        return [(self.server, find(self))]

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON answer to a GET, or to a POST of ``body``.

        Raises:
            ServerError: No good answer came in ``retry_seconds``, or one that no other try would mend.
        """
        return self._again(lambda: self.once(path, body), path)

    def has(self, path: str, body: Any) -> Any:
        """The same, or None where the server does not know the path."""
        try:
            return self.ask(path, body)
        except ServerError as error:
            if error.status in (404, 405, 501):
                return None
            raise

    def _again(self, once: Callable[[], Any], path: str) -> Any:
        tries = self._tenacity.Retrying(
            retry=self._tenacity.retry_if_exception_type(Passing),
            stop=self._tenacity.stop_after_delay(self.server.retry_seconds),
            wait=_pause,
            reraise=True,
        )
        try:
            return tries(once)
        except Passing as error:
            num = tries.statistics.get("attempt_number", 1)
            failed = ServerError(
                f"server {self.server.root}{path}",
                got=f"{error}, after {num} {'try' if num == 1 else 'tries'} in {self.server.retry_seconds:g} s",
                expected=f"an answer within {self.server.timeout_seconds:g} s",
                remedy=f"See that it runs and is reached; raise timeout_seconds or lower concurrency if it is slow. "
                f"{SAME_RUN}",
            )
            failed.passing = True
            raise failed from None

    def once(self, path: str, body: Any = None) -> Any:
        """The answer to one try.

        Raises:
            Passing: None came, or one that another try may mend.
            ServerError: One that no other try would mend.
        """
        headers = self.server.headers()
        try:
            if body is None:
                answer = self._client.get(path, headers=headers)
            else:
                answer = self._client.post(path, json=body, headers=headers)
        except self._httpx.TimeoutException as error:
            raise Passing(f"no answer in time ({type(error).__name__})") from None
        except self._httpx.TransportError as error:
            raise Passing(f"no connection, or one that broke ({type(error).__name__})") from None
        if answer.status_code in PASSING:
            raise Passing(f"status {answer.status_code}", _seconds(answer.headers.get("Retry-After", "")))
        if answer.status_code != 200:
            raise self._refused(path, answer)
        try:
            return answer.json()
        except ValueError:
            raise Passing("an answer that was cut off, or is no JSON") from None

    def _hidden(self, text: str) -> str:
        """The text without the key, which some servers repeat."""
        key = self.server.headers().get("Authorization", "").removeprefix("Bearer ")
        return text.replace(key, "***") if key else text

    def _refused(self, path: str, answer: Any) -> ServerError:
        told = {
            401: "Put a valid key into the variable that api_key_env names.",
            403: "Put a key that may use this model into the variable that api_key_env names.",
            404: "Check url and model.",
        }
        if 300 <= answer.status_code < 400:
            told[answer.status_code] = "Give the address that it redirects to: keys are not sent elsewhere."
        error = ServerError(
            f"server {self.server.root}{path}",
            got=f"status {answer.status_code}: {self._hidden(_reason(answer))}",
            expected="status 200",
            remedy=f"{told.get(answer.status_code, 'Change what the message names.')} {SAME_RUN}",
        )
        error.status = answer.status_code
        return error


def _pause(state: Any) -> float:
    """Half a second, doubled each time, or what the server asks for."""
    grown = min(LONGEST_WAIT_SECONDS, BACK_OFF_SECONDS * 2 ** (state.attempt_number - 1))
    error = state.outcome.exception() if state.outcome is not None else None
    return max(grown, min(LONGEST_WAIT_SECONDS, getattr(error, "after", 0.0)))


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0


def _reason(answer: Any) -> str:
    """What the server says went wrong, in one line."""
    text = answer.text
    try:
        table = json.loads(text)
        inner = table.get("error", table) if isinstance(table, dict) else table
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except ValueError:
        pass
    return " ".join(text.split())[:300] or "no reason"


def _missing(error: ImportError) -> MissingExtra:
    return missing_extra("a model behind a server", str(error.name), "remote")
