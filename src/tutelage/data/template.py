"""Chat templates: which text a template writes before, in and after each turn.

A template is a program; nothing says that it writes turns one after another. So each boundary that matters is measured
by rendering the conversation up to it, and a template that rewrites what came before is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import DataError

MARK = "\u2042turn\u2042"  # stands for a turn's content while its borders are measured


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, made of one or more pieces.

    Args:
        role: The template's role.
        indices: The pieces.
        contents: Their texts.
        own: For each, whether its tokens stand on their own.
        exact: For each, whether its ids are given.
    """

    role: str
    indices: tuple[int, ...]
    contents: tuple[str, ...]
    own: tuple[bool, ...]
    exact: tuple[bool, ...]

    @property
    def content(self) -> str:
        """The whole text of the turn."""
        return "".join(self.contents)


@dataclass(frozen=True)
class Place:
    """Where a turn lies: ``before`` + contents + ``end`` + ``after``.

    Args:
        before: Template text since the turn before.
        contents: The texts as the template writes them (some strip outer white space).
        end: Through the end-of-turn token.
        after: Template text behind that, before the next turn's.
    """

    before: str
    contents: tuple[str, ...]
    end: str
    after: str


def layout(name: str, turns: Sequence[Turn], tokenizer: Any) -> list[Place]:
    """The place of each turn; a turn without own tokens is one text with what surrounds it.

    Args:
        name: The record's id, for messages.
        turns: The conversation.
        tokenizer: Holds the template.

    Raises:
        DataError: No template, a refused conversation, or rewritten turns.
    """
    say = _Template(name, tokenizer)
    places: list[Place] = []
    done = ""  # the text of all turns so far
    for number, turn in enumerate(turns):
        last = number == len(turns) - 1
        if any(turn.own):
            place, done = _measured(say, turns[: number + 1], done, last)
            places.append(place)
        else:  # part of the stretch before the next own tokens, or of the last one
            text = say.since(say(turns), done) if last else ""
            places.append(Place(text, ("",) * len(turn.contents), "", ""))
    return places


def _measured(say: _Template, turns: Sequence[Turn], done: str, last: bool) -> tuple[Place, str]:
    """The place of the last of some turns, and the text of all of them."""
    *earlier, turn = turns
    marked = say([*earlier, Turn(turn.role, (0,), (MARK,), (True,), (False,))])
    head, _, tail = marked.rpartition(MARK)
    before = head
    if turn.role == "assistant":
        before = say(earlier, prompts=True) if turn.exact[0] else head
        say.since(head, say(earlier, prompts=True))
    contents, whole = turn.contents, before
    if not (last and all(turn.exact)):
        whole = say(turns)
        contents = contents if any(turn.exact) else _as_written(say, turn, whole, head, tail)
    end, after = _split_end(tail, say.tokenizer, last)
    if last and turn.own[-1]:
        after = ""
        end = "" if turn.exact[-1] else end
    return Place(say.since(before, done), contents, end, after), whole


def _as_written(say: _Template, turn: Turn, whole: str, head: str, tail: str) -> tuple[str, ...]:
    """The turn's contents as the template writes them: as they are, or without outer white space."""
    inner = whole[len(head) : len(whole) - len(tail)]
    if whole != head + inner + tail or inner not in (turn.content, turn.content.strip()):
        raise say.error(
            f"a template that changes the content of a turn by {turn.role}",
            "each content written as it is, or stripped",
            "Remove from the content what the template treats specially, or use another template.",
        )
    if inner == turn.content:
        return turn.contents
    first, *rest = turn.contents
    out = [first.lstrip(), *rest]
    out[-1] = out[-1].rstrip()
    return tuple(out)


def _split_end(tail: str, tokenizer: Any, last: bool) -> tuple[str, str]:
    """The text through the first special token after a turn, and the rest; a last turn without one ends in EOS."""
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}.union(tokenizer.all_special_tokens)
    found = [(tail.find(token), token) for token in special if token and token in tail]
    if found:
        at, token = min(found, key=lambda f: (f[0], -len(f[1])))  # the first, and of those the longest
        return tail[: at + len(token)], tail[at + len(token) :]
    eos = tokenizer.eos_token
    return (eos if last and eos else ""), tail


class _Template:
    """Renders the turns of one record, and speaks of it when that fails."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise self.error(
                "a tokenizer without a chat template",
                "a template, because the record has chat roles",
                "Read the data with chat=False, or use a model with a chat template.",
            )

    def __call__(self, turns: Sequence[Turn], prompts: bool = False) -> str:
        if not turns and not prompts:
            return ""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompts)
        except Exception as error:  # a template is foreign code: it may raise anything
            raise self.error(
                f"a template that refuses it: {error}",
                "roles in an order that the template knows",
                "Change the roles of the record's pieces, or use another template.",
            ) from error

    def since(self, text: str, done: str) -> str:
        """What a text adds to an earlier one."""
        if not text.startswith(done):
            raise self.error(
                "a template that rewrites earlier turns when a later one is added",
                "each turn to stay as it was generated",
                "Train only the last turn (one record a turn), or use a template that keeps earlier turns.",
            )
        return text[len(done) :]

    def error(self, got: str, expected: str, remedy: str) -> DataError:
        """A data error about this record."""
        return DataError(f"record {self.name!r}", got=got, expected=expected, remedy=remedy)
