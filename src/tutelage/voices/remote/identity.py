"""Which model a server holds: its name, its tokenizer and what it says of a fixed text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...core.describe import digest
from ...core.errors import ModelError, ServerError
from .answers import Entries, entries
from .server import SAME_RUN, Line, Server

TEXTS = (
    "The quick brown fox jumps over 12 lazy dogs, and nothing in there is the end of it.",
    "naïve — 日本語, für Élise 🙂\n\n    def add(a, b):\n\t return a + b  # 1,234.5\n",
)
SURE_NATS = 0.5
MOVED_NATS = 0.2


@dataclass(frozen=True)
class Identity:
    """What is compared while a model is used.

    Args:
        name: The model's name.
        build: The server's own mark of itself, empty if it has none.
        max_positions: The longest context, if the server says so.
        log_probs: Log-probabilities of a fixed text's tokens.
        sure: By position of that text, the most probable token where it leads clearly, else -1.
        tokens: The server's ids of two fixed texts, if it tokenises.
    """

    name: str
    build: str
    max_positions: int | None
    log_probs: tuple[float, ...]
    sure: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """A name for the model as it was first seen."""
        return digest(self.to_json())

    def to_json(self) -> str:
        """All of it as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Identity:
        """The inverse of ``to_json``."""
        table = json.loads(text)
        lists: dict[str, Any] = {k: tuple(table.pop(k)) for k in ("log_probs", "sure")}
        tokens = tuple(map(tuple, table.pop("tokens")))
        return cls(**table, **lists, tokens=tokens)

    def difference(self, now: Identity) -> str:
        """What differs beyond rounding; empty for the same model."""
        apart = [abs(a - b) for a, b in zip(self.log_probs, now.log_probs, strict=False)]
        moved = sum(apart) / max(1, len(apart))
        clear = [(a, b) for a, b in zip(self.sure, now.sure, strict=False) if a >= 0 and b >= 0]
        if self.tokens != now.tokens or len(self.log_probs) != len(now.log_probs):
            return "another tokenizer than before"
        if self.name != now.name:
            return f"{now.name!r} instead of {self.name!r}"
        if moved > MOVED_NATS or any(a != b for a, b in clear):
            return f"log-probabilities of a fixed text that moved by {moved:.2g} nats a token"
        return ""

    def compare(self, now: Identity, server: Server) -> None:
        """Refuse a server that holds another model than before.

        Raises:
            ServerError: What differs.
        """
        if difference := self.difference(now):
            raise _changed(server, difference)

    def same_build(self, answer: Any, server: Server) -> None:
        """Refuse an answer of another model than was checked, as far as the answer says what it is of.

        Raises:
            ServerError: It names another model.
        """
        said = answer.get("model") if isinstance(answer, Mapping) else None
        if said is not None and said != server.model:
            raise _changed(server, f"an answer of {said!r} instead of {server.model!r}")


def identify(line: Line, tokenizer: Any, top_k: int) -> Identity:
    """Ask a server what it holds; with ``top_k=0`` it is asked for text alone, and nothing is known of its weights.

    Raises:
        ServerError: It cannot be asked, does not have the model, or gives fewer log-probabilities.
        ModelError: Its tokenizer is another one.
    """
    server = line.server
    name, longest = listed(line)
    tokens = tokenized(line, tokenizer)
    if not top_k:
        return Identity(name, "", longest, (), (), tokens)
    ids = list(tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    body = {"model": server.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": top_k}
    answer = line.ask("/v1/completions", body)
    said = entries(answer, ids, f"server {server.root}/v1/completions")
    if not tokens:
        _decoded(answer, ids, tokenizer, server)
    short = min(len(at) for at in said[1:])
    if short < min(top_k, len(tokenizer)):
        raise ServerError(
            f"server {server.root}",
            got=f"{short} log-probabilities a position",
            expected=f"top_k={top_k}",
            remedy="Lower top_k, or start the server with a larger --max-logprobs.",
        )
    own = tuple(at[i] for i, at in zip(ids[1:], said[1:], strict=True))
    build = str(answer.get("system_fingerprint") or "")
    return Identity(name, build, longest, own, _sure(said), tokens)


def _sure(said: Entries) -> tuple[int, ...]:
    out = []
    for at in said[1:]:
        (best, first), *others = sorted(at.items(), key=lambda pair: -pair[1])
        out.append(best if not others or first - others[0][1] > SURE_NATS else -1)
    return tuple(out)


def listed(line: Line) -> tuple[str, int | None]:
    """The model's name, which the server must list, and its longest context."""
    server, answer = line.server, line.ask("/v1/models")
    models = {str(m.get("id")): m for m in answer.get("data", ())} if isinstance(answer, dict) else {}
    if server.model not in models:
        raise ServerError(
            f"server {server.root}",
            got=f"models {', '.join(map(repr, models)) or 'none'}",
            expected=repr(server.model),
            remedy=f"Name one that it serves in model, or start it with this one. {SAME_RUN}",
        )
    return server.model, models[server.model].get("max_model_len")


def tokenized(line: Line, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """The server's ids of fixed texts, equal to the tokenizer's; empty where the server does not tokenise."""
    out = []
    for text in TEXTS:
        body = {"model": line.server.model, "prompt": text, "add_special_tokens": False}
        answer = line.has("/tokenize", body)
        if not isinstance(answer, dict) or "tokens" not in answer:
            return ()
        said, own = list(answer["tokens"]), list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if said != own:
            raise _other_tokenizer(line.server, f"ids {said[:6]} for {text[:16]!r}", f"{own[:6]}")
        out.append(tuple(said))
    return tuple(out)


def _decoded(answer: Any, ids: list[int], tokenizer: Any, server: Server) -> None:
    """Compare the texts of the tokens where the server gives them."""
    for index, at in zip(ids[1:], answer["choices"][0]["prompt_logprobs"][1:], strict=True):
        said = at.get(str(index), {}).get("decoded_token")
        if said is not None and said.strip() != tokenizer.decode([index]).strip():
            raise _other_tokenizer(server, f"{said!r} for id {index}", repr(tokenizer.decode([index])))


def _other_tokenizer(server: Server, got: str, expected: str) -> ModelError:
    return ModelError(
        f"tokenizer of the server {server.root}",
        got=got,
        expected=expected,
        remedy="Name the server's own tokenizer (tokenizer = a model's folder) and use a recipe that aligns by bytes "
        "(alm) or reads text alone (seqkd), or serve a model with the student's tokenizer.",
    )


def _changed(server: Server, got: str) -> ServerError:
    return ServerError(
        f"model {server.model!r} at {server.root}",
        got=got,
        expected="the model that the run began with",
        remedy=f"Serve the first one again, or start a new run under another name. {SAME_RUN}",
    )
