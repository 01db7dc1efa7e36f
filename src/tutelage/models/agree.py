"""Do two models speak the same language? Asked before the first step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..core.errors import ModelError
from .causal import Causal
from .spelling import spelling
from .tokens import merges, vocabulary

TALK = (
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "2 + 3 = 5."},
    {"role": "user", "content": "And 10 more, naïvely?"},
    {"role": "assistant", "content": "15."},
)
PROBE = "Plain text, 12 digits:\n\tnaïve — done."


@dataclass(frozen=True)
class Agreement:
    """What holds for both models.

    Args:
        size: The ids that both heads score; ids beyond it have probability 0.
        stop_ids: The ids that end an answer.
        notes: One line each for the log.
    """

    size: int
    stop_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


def agree(teacher: Causal, student: Causal, *, adopt: bool = False) -> Agreement:
    """Check that ids, stops and chat turns mean the same to both, and give padded heads one size.

    Args:
        teacher: The model that is followed.
        student: The model that follows. Heads of unequal length get the tokenizer's true size on both sides.
        adopt: Give the student the teacher's tokenizer settings, chat template and generation config (for a base
            student of a chat teacher). The vocabulary must be the same all the same.

    Raises:
        ModelError: They differ; the message names the first difference and the remedy.
    """
    pair = f"teacher {teacher.name!r} and student {student.name!r}"
    notes: list[str] = []
    if teacher.tokenizer is not None or student.tokenizer is not None:
        _same_vocabulary(pair, teacher, student)
        if adopt:
            _adopt(teacher, student)
            notes.append(f"{student.name} takes chat template, special tokens and generation config of {teacher.name}")
        _same_stops(pair, teacher, student)
        _same_specials(pair, teacher, student, notes)
        _same_turns(pair, teacher, student)
    size = _common_size(pair, teacher, student, notes)
    return Agreement(size, student.stop_ids, tuple(notes))


def same_tokens(teacher: Any, student: Any) -> bool:
    """Whether an id is the same token to both, and a text the same ids."""
    return same_tokenizer(teacher.tokenizer, student.tokenizer)


@lru_cache(maxsize=16)
def same_tokenizer(one: Any, other: Any) -> bool:
    """The same of two tokenizers, either of which may be None."""
    if one is None or other is None:
        return one is other
    return one is other or (vocabulary(one) == vocabulary(other) and merges(one) == merges(other))


def align(teacher: Any, student: Causal) -> Agreement:
    """What must hold of two models whose ids are not compared, only the bytes that they stand for.

    Each keeps its own template, special tokens and stops. Padded heads get their own tokenizer's true size.

    Raises:
        ModelError: One has no tokenizer, or the two spell nothing alike.
    """
    pair = f"teacher {teacher.name!r} and student {student.name!r}"
    notes = [f"{teacher.name} reads each text in its own tokens; it is aligned with {student.name} by bytes"]
    for model in (teacher, student):
        if getattr(model, "far", False):  # a server says nothing of its head
            continue
        if model.tokenizer is None:
            raise _differ(
                pair, "tokenizer", f"none for {model.name!r}", "two tokenizers", "Load it with its tokenizer."
            )
        known, width = len(vocabulary(model.tokenizer)), model.head.weight.shape[0]
        if known > width:
            got = f"{width} ids for a vocabulary of {known}"
            raise _differ(
                pair, f"head of {model.name!r}", got, "a score for each token", "Load the matching tokenizer."
            )
        model.size = known
        if not _spells(model.tokenizer):
            notes.append(f"{model.name} rewrites some of what it reads: that part of a text belongs to no chunk")
    if not {t for t in spelling(teacher.tokenizer) if t} & {t for t in spelling(student.tokenizer) if t}:
        raise _differ(
            pair,
            "alignment",
            "no token that both spell alike",
            "bytes in common",
            "Let the teacher write text instead (seqkd), or choose another teacher.",
        )
    return Agreement(student.head.num_categories, student.stop_ids, tuple(notes))


def _spells(tokenizer: Any) -> bool:
    """Whether the tokens of a text have its bytes."""
    table = spelling(tokenizer)
    said = b"".join(table[i] for i in tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    return said.removeprefix(b" ") == PROBE.encode()


def _differ(pair: str, what: str, got: str, expected: str, remedy: str) -> ModelError:
    return ModelError(f"{what} of {pair}", got=got, expected=expected, remedy=remedy)


def _same_vocabulary(pair: str, teacher: Causal, student: Causal) -> None:
    if teacher.tokenizer is None or student.tokenizer is None:
        raise _differ(pair, "tokenizer", "one without a tokenizer", "two tokenizers", "Load both with their tokenizer.")
    if teacher.tokenizer is student.tokenizer:
        return
    p, q = vocabulary(teacher.tokenizer), vocabulary(student.tokenizer)
    if p != q:
        apart = [i for i in range(min(len(p), len(q))) if p[i] != q[i]] or [min(len(p), len(q))]
        shown = "; ".join(f"id {i} is {_at(p, i)} to the teacher, {_at(q, i)} to the student" for i in apart[:3])
        raise _differ(
            pair,
            "vocabulary",
            f"{len(p)} and {len(q)} tokens, {shown}",
            "the same token for each id",
            "Ids of one mean nothing to the other, and this objective compares them: align the vocabularies (a recipe "
            "that aligns by bytes: alm), let the teacher write text instead (seqkd), or choose a student of the same "
            "family.",
        )
    if merges(teacher.tokenizer) != merges(student.tokenizer):
        raise _differ(
            pair,
            "tokenizer",
            "the same tokens with other merge rules",
            "the same ids for the same text",
            "Give the student the teacher's tokenizer files.",
        )


def _at(table: list[str], index: int) -> str:
    return repr(table[index]) if index < len(table) else "nothing"


def _adopt(teacher: Causal, student: Causal) -> None:
    student.tokenizer = copy.deepcopy(teacher.tokenizer)
    student.inner.generation_config = copy.deepcopy(teacher.inner.generation_config)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(student.config, name, copy.deepcopy(getattr(teacher.config, name, None)))
    student.facts["adopted"] = teacher.name


def _same_stops(pair: str, teacher: Causal, student: Causal) -> None:
    p, q = sorted(set(teacher.stop_ids)), sorted(set(student.stop_ids))
    own = student.tokenizer.eos_token_id, teacher.tokenizer.eos_token_id
    if p != q or own[0] != own[1]:
        raise _differ(
            pair,
            "end of answer",
            f"stop ids {_named(teacher, p)} and {_named(student, q)}; EOS {own[1]} and {own[0]}",
            "the same ids to end an answer",
            "A student that never sees its own stop id never stops. Use adopt=True to take the teacher's, or set "
            f"eos_token_id to {p[0] if len(p) == 1 else p} in the student's generation config and tokenizer.",
        )


def _named(causal: Causal, ids: list[int]) -> str:
    return ", ".join(f"{i} {causal.tokenizer.convert_ids_to_tokens(i)!r}" for i in ids) or "none"


def _same_specials(pair: str, teacher: Causal, student: Causal, notes: list[str]) -> None:
    for name in ("bos", "pad"):
        p, q = (getattr(m.tokenizer, f"{name}_token_id") for m in (teacher, student))
        if p != q and not (name == "pad" and None in (p, q)):
            raise _differ(
                pair,
                f"{name.upper()} token",
                f"ids {p} and {q}",
                "the same id",
                f"Set the student tokenizer's {name}_token to the teacher's, or use adopt=True.",
            )
    pad = student.tokenizer.pad_token_id
    if pad is not None and pad in student.stop_ids:
        notes.append(f"pad and EOS are both id {pad}: fine, since masks come from places and not from ids")


def _same_turns(pair: str, teacher: Causal, student: Causal) -> None:
    has_p, has_q = (bool(m.tokenizer.chat_template) for m in (teacher, student))
    if has_p != has_q:
        lacks, other = ("student", "teacher") if has_p else ("teacher", "student")
        remedy = (
            "Use adopt=True: the student takes the teacher's template, EOS and generation config."
            if has_p
            else "Choose the chat version of the teacher, or remove the student's template to train on plain text."
        )
        raise _differ(pair, "chat template", f"none for the {lacks}, one for the {other}", "the same template", remedy)
    renders: dict[str, Callable[[Any], Any]] = {"plain text": lambda t: list(t(PROBE)["input_ids"])}
    if has_p:
        renders["a chat"] = lambda t: _rendered(t, TALK, False)
        renders["a chat prompt"] = lambda t: _rendered(t, TALK[:1], True)
    for what, render in renders.items():
        p, q = render(teacher.tokenizer), render(student.tokenizer)
        if p != q:
            place = next((i for i, (a, b) in enumerate(zip(p, q, strict=False)) if a != b), min(len(p), len(q)))
            raise _differ(
                pair,
                f"rendering of {what}",
                f"{len(p)} and {len(q)} ids, apart from place {place} on: "
                f"{teacher.tokenizer.decode(p[place : place + 5])!r} and "
                f"{student.tokenizer.decode(q[place : place + 5])!r}",
                "the same ids",
                "The teacher would be asked about text it never saw in this form. Use adopt=True, or give both the "
                "same chat template and BOS settings.",
            )


def _rendered(tokenizer: Any, turns: tuple[dict[str, str], ...], ask: bool) -> list[int]:
    text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=ask)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _common_size(pair: str, teacher: Causal, student: Causal, notes: list[str]) -> int:
    p, q = (m.head.weight.shape[0] for m in (teacher, student))
    known = len(vocabulary(student.tokenizer)) if student.tokenizer is not None else None
    if known is None and p != q:
        raise _differ(
            pair, "heads", f"{p} and {q} ids and no tokenizer", "heads of one size", "Give both their tokenizer."
        )
    if known is not None and known > min(p, q):
        raise _differ(
            pair,
            "heads",
            f"{p} and {q} ids for a vocabulary of {known}",
            "a score for each token",
            "Resize the shorter head with resize_token_embeddings and train it, or choose the matching tokenizer.",
        )
    if p == q or known is None:
        return min(student.head.num_categories, teacher.head.num_categories)
    teacher.size = student.size = known
    notes.append(f"heads of {p} and {q} ids share a vocabulary of {known}; ids beyond it have probability 0")
    return known
