"""A model behind a server, in a model slot: it says the log-probabilities of a few tokens, and it writes text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from ...core.batch import View
from ...core.errors import NeedError, SettingError
from ...models.draw import Sampling
from ...models.sample import Sample
from ...models.tokens import tokenizer_hash, vocabulary
from .answers import Entries, entries, kept, rows_of, written
from .fleet import Fleet
from .identity import Identity, identify
from .memo import Memo, request_key
from .server import Line, Server

COMPLETIONS = "/v1/completions"


class Remote:
    """A model that answers over HTTP; what it is like is checked when it is made, and watched while it is used.

    Args:
        slot: Its slot, for messages.
        server: Where it is.
        tokenizer: The tokenizer whose ids it reads; usually the student's.
        top_k: How many most probable tokens it gives a position; 0 for a server that gives text alone.
        watch_seconds: How often it is asked whether it is still the same; 0 for each batch.
        folder: Where its answers are kept, so that none is asked for twice; None keeps nothing.
        rounded: Keep them in few bytes (see ``packed``).

    Raises:
        ServerError: It cannot be reached, refuses, or does not give what is needed.
        ModelError: It has another tokenizer.
    """

    far = True

    def __init__(
        self,
        slot: str,
        server: Server,
        tokenizer: Any,
        *,
        top_k: int = 20,
        watch_seconds: float = 60.0,
        folder: Path | None = None,
        rounded: bool = False,
    ) -> None:
        if top_k < 0 or watch_seconds < 0:
            raise SettingError(
                f"models.{slot}",
                got=f"top_k={top_k}, watch_seconds={watch_seconds}",
                expected="top_k >= 0 and watch_seconds >= 0",
                remedy="20 and 60 are usual.",
            )
        self.name, self.server, self.tokenizer = slot, server, tokenizer
        self.top_k, self.watch_seconds = top_k, watch_seconds
        self.line: Line | Fleet = Fleet(server, self._other) if server.also else Line(server)
        self.model = torch.nn.Module()
        self.size = len(vocabulary(tokenizer))
        self.memo = Memo(folder / f"{slot}.sqlite" if folder is not None else None, rounded)
        (_, first), *others = self.line.each(self._identify)
        for where, one in others:
            first.compare(one, where)
        self.identity: Identity = self.memo.known(first)
        self._seen = time.monotonic()
        self.facts: dict[str, Any] = {
            "spec": f"{server.root} {server.model}",
            "server": self.identity.build,
            "weights_sha256": self.identity.digest,
            "tokenizer_sha256": tokenizer_hash(tokenizer),
            "gives": f"the {top_k} most probable tokens and the one that is there" if top_k else "text",
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is connected anew; answers are kept by this one alone."""
        return _connected, (self.name, self.server, self.tokenizer, self.top_k, self.watch_seconds)

    def __repr__(self) -> str:
        return f"Remote({self.server.model!r} at {self.server.places}, top {self.top_k})"

    @property
    def device(self) -> torch.device:
        """Where its answers arrive."""
        return torch.device("cpu")

    @property
    def max_positions(self) -> int | None:
        """The longest context that the server takes, if it says so."""
        return self.identity.max_positions

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokenizer's end of an answer."""
        end = self.tokenizer.eos_token_id
        return () if end is None else (int(end),)

    def fields(self) -> frozenset[str]:
        """The fields that ``predict`` gives."""
        return frozenset({"next"} if self.top_k else ())

    def predict(self, view: View, wants: frozenset[str]) -> Mapping[str, Any]:
        """``next``: for each unit the most probable tokens, the token that is there, and the mass of the rest.

        Raises:
            NeedError: Something else is wanted.
            ServerError: No answer came, or the model is no longer the same.
        """
        if wants - self.fields():
            raise NeedError(
                f"model {self.name!r} behind a server",
                got=f"a wish for {', '.join(sorted(wants - self.fields()))}",
                expected="'next' alone" if self.top_k else "its text alone, as top_k is 0",
                remedy="What a server does not give needs a model in this process.",
            )
        self.watch()
        rows, places = rows_of(view)
        said = self._each([lambda row=row: self._read(row) for row in rows])
        target = [rows[row][at] for row, at in places]
        scores = kept(places, said, target, self.top_k, self.size)
        device = view.at.device
        return {"next": type(scores)(scores.ids.to(device), scores.log_probs.to(device), scores.num_categories)}

    def write(self, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]) -> list[Sample]:
        """Continue each prompt; a row's draw depends on its seed as far as the server keeps to it.

        Raises:
            ServerError: No answer came, or the model is no longer the same.
        """
        self.watch()
        pairs = zip(prompts, seeds, strict=True)
        return self._each([lambda p=p, s=s: self._continue(list(p), settings, s) for p, s in pairs])

    def watch(self) -> None:
        """Ask whether it is still the model that was checked, if that was not asked for a while.

        Raises:
            ServerError: It is another one.
        """
        if time.monotonic() - self._seen >= self.watch_seconds:
            for where, now in self.line.each(self._identify):
                self.identity.compare(now, where)
            self._seen = time.monotonic()

    def _identify(self, line: Line) -> Identity:
        return identify(line, self.tokenizer, self.top_k)

    def _other(self, line: Line) -> str:
        """What is different at a server that may come back; empty if it holds the model that is used."""
        return self.identity.difference(self._identify(line))

    def _read(self, ids: list[int]) -> Entries:
        body = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": self.top_k, "prompt": ids}
        return entries(self._ask(body), ids, f"server {self.server.places}{COMPLETIONS}")

    def _continue(self, ids: list[int], settings: Sampling, seed: int) -> Sample:
        # a server whose ids are not known to be ours reads the prompt as text
        known = bool(self.top_k or self.identity.tokens)
        body: dict[str, Any] = {
            "prompt": ids if known else self.tokenizer.decode(ids),
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": seed & 0x7FFFFFFF,
            "logprobs": 1,
            "return_token_ids": True,
        }
        body |= {"top_k": settings.top_k} if settings.top_k else {}
        body |= {"stop": list(settings.stop)} if settings.stop else {}
        where = f"server {self.server.places}{COMPLETIONS}"
        return written(self._ask(body), self.tokenizer, self.stop_ids, settings, where)

    def _ask(self, body: dict[str, Any]) -> Any:
        body = {"model": self.server.model, **body}
        key = request_key(self.identity.digest, COMPLETIONS, body)
        answer = self.memo.get(key)
        if answer is None:
            answer = self.line.ask(COMPLETIONS, body)
            self.identity.same_build(answer, self.server)
            answer = self.memo.put(key, answer)
        return answer

    def _each(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """All answers, a few at a time; the first failure stops what has not begun."""
        with ThreadPoolExecutor(self.line.concurrency) as pool:
            jobs = [pool.submit(job) for job in work]
            done, rest = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in rest:
                job.cancel()
            failed = next((job.exception() for job in done if job.exception() is not None), None)
        if failed is not None:
            raise failed
        return [job.result() for job in jobs]


def _connected(slot: str, server: Server, tokenizer: Any, top_k: int, watch_seconds: float) -> Remote:
    return Remote(slot, server, tokenizer, top_k=top_k, watch_seconds=watch_seconds)
