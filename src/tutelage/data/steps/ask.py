"""Ask: have a model write the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter
from typing import Any, ClassVar, Protocol

from ...core.errors import DataError, SettingError
from ...core.record import Piece, Record
from ...core.seeds import derive
from ...core.workspace import Workspace
from ...models.sample import Elsewhere, Sample, Sampling, sample
from ..render import prompt_ids

WINDOW = 8  # batches' worth of answers that one call may write


class Writer(Protocol):
    """Several slots that write one text together; the first one's tokenizer and stop ids are used."""

    @property
    def voices(self) -> tuple[str, ...]:
        """The slots."""
        ...

    def sample(
        self, ws: Workspace, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> list[Sample]:
        """Continue each prompt."""
        ...


@dataclass(frozen=True)
class Ask:
    """A prompt becomes a record whose answer a model wrote, with the exact ids and two notes a token.

    Notes: ``log_prob``, the writer's own log-probability at temperature 1, and ``drawn``, the one under the
    distribution it was drawn from; both in nats. An answer that the record has is dropped and kept in
    ``fields["reference"]``. With ``times`` above 1 the rows are a group named by the prompt's id, and their ids are
    ``<id>#<k>``.

    The draws of a row are seeded by the run's seed, the workspace's path, the record's id and k, so they do not depend
    on what else is asked; the batches are fixed by order, so a chain run again gives the same rows.

    Args:
        who: The model slot that writes, or several that write together (``voices.blend.Blend``).
        times: Answers a prompt.
        max_tokens: The longest answer.
        temperature: 0 takes the most probable token; 1 samples the model as it is.
        top_p: Sample from the smallest set with this probability.
        batch_size: Answers written at once.
        author: The name on the answers; the slot's by default, the first one's of several.
    """

    who: str | Writer = "student"
    times: int = 1
    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32
    author: str | None = None
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        for name in ("times", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingError(
                    f"Ask.{name}", got=str(getattr(self, name)), expected="at least 1", remedy="Change this setting."
                )
        self.settings()

    @property
    def writers(self) -> tuple[str, ...]:
        """The slots that write, in order."""
        return (self.who,) if isinstance(self.who, str) else self.who.voices

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        return frozenset(self.writers)

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom: text, and scores where several write together."""
        return tuple((slot, "text" if isinstance(self.who, str) else "next") for slot in self.writers)

    def settings(self) -> Sampling:
        """How it samples."""
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The answered records, in order."""
        requests = self._requests(records)
        while batch := list(islice(requests, self._window(ws))):
            yield from self._answer(batch, ws)

    def _window(self, ws: Workspace) -> int:
        """Answers asked for at once: more than are written at once where those that wait take the places of ended."""
        model = ws.models[self.writers[0]]
        here = isinstance(self.who, str) and not isinstance(model, Elsewhere) and getattr(model, "engine", None) is None
        return self.batch_size * (WINDOW if here else 1)

    def _requests(self, records: Iterable[Record]) -> Iterator[tuple[Record, int]]:
        for record in records:
            for k in range(self.times):
                yield record, k

    def _answer(self, batch: list[tuple[Record, int]], ws: Workspace) -> Iterator[Record]:
        model = ws.models[self.writers[0]]
        prompts = [_prompt(record, model.tokenizer) for record, _ in batch]
        seeds = [derive(ws.seed, *ws.path, record.id, k) for record, k in batch]
        start = perf_counter()
        if isinstance(self.who, str):
            samples = sample(model, prompts, self.settings(), seeds, places=self.batch_size)
        else:
            samples = self.who.sample(ws, prompts, self.settings(), seeds)
        ws.ledger.add(
            "+".join(self.writers),
            "sample",
            calls=len(batch),
            tokens=sum(len(s.ids) for s in samples),
            seconds=perf_counter() - start,
        )
        for (record, k), said in zip(batch, samples, strict=True):
            yield self._answered(record, k, said, model.tokenizer)

    def _answered(self, record: Record, k: int, said: Sample, tokenizer: Any) -> Record:
        prompt = record.without_answer()
        chat = any(piece.role != "text" for piece in prompt.pieces)
        written = said.ids[:-1] if said.stop == "eos" else said.ids
        piece = Piece(
            content=tokenizer.decode(list(written), skip_special_tokens=True),
            role="assistant" if chat else "text",
            author=self.author or self.writers[0],
            part="answer",
            trains=True,
            ids=tuple(said.ids),
            notes={"log_prob": tuple(said.log_probs), "drawn": tuple(said.drawn)},
            stop=said.stop,
        )
        out = replace(prompt, pieces=(*prompt.pieces, piece), fields=with_reference(record))
        return out if self.times == 1 else replace(out, id=f"{record.id}#{k}", group=record.id)


def _prompt(record: Record, tokenizer: Any) -> list[int]:
    ids = prompt_ids(record, tokenizer)
    if not ids:
        raise DataError(
            f"record {record.id!r}",
            got="no prompt to answer",
            expected="a piece that does not train before the answer",
            remedy="Use prompt/completion or chat data, or a tokenizer that begins texts with BOS.",
        )
    return ids


def with_reference(record: Record) -> dict[str, Any]:
    """The record's fields and, unless one is there, its dropped answer as the reference."""
    answer = "".join(piece.content for piece in record.trained())
    return {**({"reference": answer} if answer else {}), **record.fields}
