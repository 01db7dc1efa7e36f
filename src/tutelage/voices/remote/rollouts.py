"""A vLLM server that writes in a student's place, with the student's weights from a folder that both see."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...core.errors import ServerError, SettingError, StoreError
from ...models.adapter import merged
from ...models.causal import Causal
from ...models.draw import Sampling
from ...models.engine import Engine, write_weights
from ...models.export import export
from ...models.sample import Sample
from .answers import entries, written
from .identity import listed, tokenized
from .server import SAME_RUN, Line, Server

COMPLETIONS = "/v1/completions"
DEV = "VLLM_SERVER_DEV_MODE=1"
# What the server's own defaults, often those of the model's generation config, would otherwise add.
PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class Served(Engine):
    """A vLLM server, started in its development mode, whose weights follow a model of this process.

    The weights go to a new folder below ``folder``, complete before it has its name; the server reads them from there,
    and forgets the prompts that it had read. Several processes that train one model share folder and server: the first
    of them hands each round's weights over.

    Args:
        server: Where it is; one address.
        folder: Where weights go, for both to see; a folder in memory (``/dev/shm``) is the fastest.
        there: The same folder as the server sees it; empty where it sees the same path.
        dtype: The precision of what is handed over.
        tolerance_nats: See ``Engine``.
        ahead: Rounds that are written before they are trained on, while others are; 0 or 1.
        say: Told once how the server is started, where it does not answer.

    Raises:
        SettingError: Several addresses.
    """

    far = True
    fault = ServerError

    def __init__(
        self,
        server: Server,
        folder: Path,
        *,
        there: str = "",
        dtype: torch.dtype = torch.float32,
        tolerance_nats: float = 0.1,
        ahead: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if server.also:
            raise SettingError(
                "rollouts.also", got=server.places, expected="one address", remedy="Weights follow at one server."
            )
        super().__init__(tolerance_nats)
        self.server, self.folder, self.there = server, folder.absolute(), there or str(folder.absolute())
        self.dtype, self.ahead, self.say, self.line = dtype, ahead, say, Line(server)

    def __repr__(self) -> str:
        return f"the server {self.server.root}"

    # -- weights ------------------------------------------------------------------------------------------------
    def connect(self, causal: Causal) -> None:
        """See that the server is there, holds a model of the same tokens, and takes weights; then give it the model's.

        Where it does not answer, a model folder to start it from is written, the command is said, and it is waited for.

        Raises:
            ServerError: It does not answer in ``retry_seconds``, or cannot be given weights.
            ModelError: Its tokenizer is another one.
        """
        try:
            self._look(Line(replace(self.server, retry_seconds=0.0)), causal)
        except ServerError as error:
            if not error.passing:
                raise
            self._make(lambda: export(merged(causal), self.folder / "start", card={"objective": "none: to start from"}))
            self.say(f"Waiting for {self}. Start it with: {self.command}")
            self._look(self.line, causal)
        self.follow(causal)

    @property
    def command(self) -> str:
        """How a server for this model is started, once ``connect`` has written the folder to start from."""
        port = self.server.root.rpartition(":")[2]
        name, model = shlex.quote(self.server.model), shlex.quote(f"{self.there}/start")
        return f"{DEV} vllm serve {model} --served-model-name {name} --port {port if port.isdecimal() else 443}"

    def _look(self, line: Line, causal: Causal) -> None:
        listed(line)
        tokenized(line, causal.tokenizer)
        if line.has("/reset_prefix_cache", {}) is None:
            raise self._deaf()

    def _take(self, causal: Causal, now: str) -> None:
        with self._alone() as current:
            if current == now:  # another process gave them, or this one did before it was stopped
                self.probe = self._compared(causal)
                if self.probe.apart <= self.tolerance_nats:
                    return
            super()._take(causal, now)
            self._make(lambda: (self.folder / "current.json").write_text(json.dumps({"weights": now})))

    def _give(self, causal: Causal, now: str) -> None:
        name = f"weights-{now}"
        self._make(lambda: self._write_folder(causal, name))
        body = {"method": "reload_weights", "kwargs": {"weights_path": f"{self.there}/{name}"}}
        if self.line.has("/collective_rpc", body) is None:
            raise self._deaf()
        # what was read with other weights must not be gone on from
        answer = self.line.ask("/reset_prefix_cache", {})
        if not answer.get("success", False):
            raise self._faulty("prompts that it still works on", "a server that serves this run alone", SAME_RUN)
        for old in self.folder.glob("weights-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def _write_folder(self, causal: Causal, name: str) -> None:
        if (self.folder / name).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix=".weights-"))
        try:
            write_weights(causal, work, self.dtype)
            work.chmod(0o755)  # the server may run as somebody else
            work.rename(self.folder / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[str]:
        """One process at a time; what the server was given last, as far as the folder says."""
        import fcntl

        file = self._make(lambda: self._locked())
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = self.folder / "current.json"
            yield json.loads(held.read_text())["weights"] if held.exists() else ""

    def _locked(self) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        return (self.folder / "lock").open("a")

    def _make(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OSError as error:
            raise StoreError(
                f"rollouts.weights {str(self.folder)!r}",
                got=f"{type(error).__name__}: {error.strerror or error}",
                expected="a folder that can be written, with room for the weights twice",
                remedy="Free space or choose another folder.",
            ) from error

    def _deaf(self) -> ServerError:
        return ServerError(
            f"rollouts by {self}",
            got="a server that takes no weights",
            expected="a vLLM server in development mode",
            remedy=f"Start it with {DEV} in its environment, reachable from this run alone. {SAME_RUN}",
        )

    def _advice(self) -> str:
        return (
            f"See that it can read {self.there} and serves the student's architecture. {super()._advice()} {SAME_RUN}"
        )

    # -- texts --------------------------------------------------------------------------------------------------
    def _read(self, ids: list[int]) -> list[float]:
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, **PLAIN}
        said = entries(self._ask(body), ids, f"server {self.server.root}{COMPLETIONS}")
        return [at[i] for i, at in zip(ids[1:], said[1:], strict=True)]

    def _write(
        self, causal: Causal, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> list[Sample]:
        with ThreadPoolExecutor(self.line.concurrency) as pool:
            pairs = zip(prompts, seeds, strict=True)
            jobs = [pool.submit(self._continue, causal, list(p), settings, seed) for p, seed in pairs]
            done, rest = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in rest:
                job.cancel()
            failed = next((job.exception() for job in done if job.exception() is not None), None)
        if failed is not None:
            self._given = ""  # it may have been started anew since
            raise failed
        return [job.result() for job in jobs]

    def _continue(self, causal: Causal, ids: list[int], settings: Sampling, seed: int) -> Sample:
        body: dict[str, Any] = {
            "prompt": ids,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "seed": seed & 0x7FFFFFFF,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": list(causal.stop_ids),
            "ignore_eos": not causal.stop_ids,
            **PLAIN,
        }
        body |= {"stop": list(settings.stop)} if settings.stop else {}
        where = f"server {self.server.root}{COMPLETIONS}"
        said = written(self._ask(body), causal.tokenizer, causal.stop_ids, settings, where)
        if not said.ids or any(x != x for x in said.log_probs):
            raise self._faulty(
                "an answer without its token ids and their log-probabilities", "both", "Use a newer vLLM server."
            )
        return said

    def _ask(self, body: dict[str, Any]) -> Any:
        return self.line.ask(COMPLETIONS, {"model": self.server.model, **body})
