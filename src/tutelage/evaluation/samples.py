"""Samples: what teacher and students write for the same prompts, and where along the text they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from ..core.batch import Batch
from ..core.errors import SettingError
from ..core.record import Piece, Record
from ..core.scores import Scores
from ..core.seeds import derive
from ..data.render import prompt_ids
from ..models.causal import Causal
from ..models.sample import Sample, Sampling, sample
from .metrics.loyalty import answer_loyalty
from .metrics.positions import TILE_ELEMENTS, measure
from .metrics.text import distinct, exact_match, last_number, length_stats, numeric_match, repetition_share, self_bleu

NUM_SHOWN = 3  # alternatives shown for each token


@dataclass(frozen=True)
class Answer:
    """One written answer: its text, its exact ids (stop token included) and why it ended."""

    text: str
    ids: tuple[int, ...]
    stop: str

    @property
    def num_tokens(self) -> int:
        """Tokens written."""
        return len(self.ids)


def choose(records: Sequence[Record], num: int, models: Sequence[Causal], settings: Sampling) -> list[Record]:
    """``num`` records spread evenly over those whose prompt, and the longest answer to it, fit every model's context.

    Raises:
        SettingError: There are prompts, and none fits.
    """
    limits = [m.max_positions for m in models if m.max_positions is not None]
    room = min(limits, default=None)
    asks = [r for r in records if any(True for _ in r.trained())] if num > 0 else []
    sizes = [len(prompt_ids(r, models[0].tokenizer)) for r in asks]
    able = [r for r, n in zip(asks, sizes, strict=True) if n and (room is None or n + settings.max_tokens <= room)]
    if any(sizes) and not able:
        raise SettingError(
            "evaluate: sampling.max_tokens",
            got=f"{settings.max_tokens}, and prompts from {min(n for n in sizes if n)} tokens",
            expected=f"prompt and answer within {room} positions",
            remedy="Lower max_tokens, hold out shorter prompts, or set num_samples = 0.",
        )
    return [able[i * len(able) // num] for i in range(num)] if len(able) > num else able


def reference_of(record: Record) -> str:
    """The answer that the data gives: the field ``reference`` if it is a text, else the first trained piece."""
    kept = record.fields.get("reference")
    return kept if isinstance(kept, str) else next((p.content for p in record.trained()), "")


def write(
    causal: Causal,
    records: Sequence[Record],
    settings: Sampling,
    *,
    batch_size: int,
    seed: int,
    charge: Callable[..., Any],
) -> list[Answer]:
    """A model's answers to the records' prompts; a row's draws depend on the seed and its id alone.

    Args:
        causal: The model.
        records: Rows with a prompt.
        settings: How it writes.
        batch_size: Rows written together.
        seed: The run's seed.
        charge: Makes a context manager that times its block and gives a function to be called with the tokens written.
    """
    answers: list[Answer] = []
    for start in range(0, len(records), batch_size):
        rows = records[start : start + batch_size]
        prompts = [prompt_ids(r, causal.tokenizer) for r in rows]
        with charge() as done:
            said: list[Sample] = sample(causal, prompts, settings, [derive(seed, "evaluate", r.id) for r in rows])
            done(sum(len(s.ids) for s in said))
        answers += [Answer(causal.tokenizer.decode(s.ids, skip_special_tokens=True), s.ids, s.stop) for s in said]
    return answers


def answered(record: Record, answer: Answer, author: str) -> Record:
    """The record with this answer in place of the data's."""
    prompt = record.without_answer()
    role = "assistant" if any(p.role != "text" for p in prompt.pieces) else "text"
    piece = Piece(answer.text, role, author, "answer", trains=True, ids=answer.ids, stop=answer.stop)
    return replace(prompt, pieces=(*prompt.pieces, piece))


def figures(answers: Sequence[Answer], references: Sequence[str]) -> dict[str, Any]:
    """Text figures of a model's answers: lengths, diversity, and the shares that are right.

    ``numeric_share`` and ``exact_share`` count only references that state a final number (``#### 18``, or nothing but a
    number); they are left out if there is none.
    """
    if not answers:
        return {}
    ids = [a.ids for a in answers]
    lengths = [a.num_tokens for a in answers]
    out: dict[str, Any] = {
        "lengths": lengths,
        "length": length_stats(lengths),
        "cut_share": fmean(float(a.stop == "length") for a in answers),
        "distinct_2": distinct(ids, 2),
        "self_bleu": self_bleu(ids),
        "repetition_share": fmean(repetition_share(i) for i in ids),
    }
    graded = [(a, r) for a, r in zip(answers, references, strict=True) if states_number(r)]
    if graded:
        out["num_graded"] = len(graded)
        out["numeric_share"] = fmean(float(numeric_match(a.text, r)) for a, r in graded)
        out["exact_share"] = fmean(float(exact_match(a.text, r)) for a, r in graded)
    return out


def loyal(answers: Sequence[Answer], taught: Sequence[Answer], references: Sequence[str]) -> dict[str, Any]:
    """``{loyalty: answer_loyalty}`` over the references that state a final number; empty if there is none."""
    rows = [(a.text, t.text, r) for a, t, r in zip(answers, taught, references, strict=True) if states_number(r)]
    return {"loyalty": answer_loyalty(*zip(*rows, strict=True))} if rows else {}


def states_number(reference: str) -> bool:
    """True if a reference answer names its final number: after ``####``, or by being a number."""
    final = reference.rsplit("####", 1)[-1].strip()
    return last_number(final) is not None and ("####" in reference or not any(c.isalpha() for c in final))


def trace(
    student: Causal,
    teacher: Causal,
    records: Sequence[Record],
    collate: Callable[[Sequence[Record]], Batch],
    put: Callable[[Record], Record],
) -> list[list[dict[str, Any]]]:
    """For each record, its trained tokens as ``{text, kl, top: {student, teacher}}``.

    ``kl`` is KL(p_teacher || q_student) in nats where the token was chosen; each ``top`` lists the most probable tokens
    as ``[text, probability]``. ``put`` is how the student is asked.
    """
    batch = collate(records)
    units = batch.units["tokens"]
    if units.target is None or len(units) == 0:
        return [[] for _ in records]
    views = [collate([put(r) for r in records]).views["main"], batch.views["main"]]
    said = [m.predict(v.to(m.device), frozenset({"next"})) for m, v in zip((student, teacher), views, strict=True)]
    q, p = (fields["next"] for fields in said)
    assert isinstance(q, Scores) and isinstance(p, Scores)
    target = units.target.to(student.device)
    kl = measure(q, p, target)["kl"].tolist()
    tops = [_top(scores, teacher.tokenizer) for scores in (q, p)]
    out: list[list[dict[str, Any]]] = []
    for row in range(len(records)):
        where = (units.row == row).nonzero().squeeze(1).tolist()
        texts = token_texts([int(target[u]) for u in where], teacher.tokenizer)
        out.append(
            [
                {"text": text, "kl": round(kl[u], 4), "top": {"student": tops[0][u], "teacher": tops[1][u]}}
                for text, u in zip(texts, where, strict=True)
            ]
        )
    return out


def _top(scores: Scores, tokenizer: Any) -> list[list[list[Any]]]:
    step = max(1, TILE_ELEMENTS // scores.num_categories)
    rows: list[list[list[Any]]] = []
    for start in range(0, len(scores), step):
        best = scores.at(slice(start, start + step)).topk(min(NUM_SHOWN, scores.num_categories))
        for ids, logs in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            probs = torch.tensor(logs).exp().tolist()
            rows.append([[tokenizer.decode([i]), round(v, 4)] for i, v in zip(ids, probs, strict=True)])
    return rows


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text that each token adds to those before it; joined they are the whole text.

    A token that ends inside a character adds nothing, and the one that completes it adds the character.
    """
    texts, shown = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False)
        whole = text if end == len(ids) else text.rstrip("\ufffd")
        texts.append(whole[len(shown) :] if whole.startswith(shown) else "")
        shown = whole if whole.startswith(shown) else shown
    return texts


def gather(
    systems: Mapping[str, Causal],
    teacher: Causal,
    records: Sequence[Record],
    answers: Mapping[str, Sequence[Answer]],
    collate: Callable[[Sequence[Record]], Batch],
    put: Callable[[Record], Record],
) -> list[dict[str, Any]]:
    """The samples of ``evaluation.json``: prompt, reference, the teacher's answer, and for each system its own answer.

    For each system both answers come as tokens coloured by its KL from the teacher, one record at a time so that
    memory does not grow with their number. ``put`` is how the systems are asked.
    """
    out = []
    for i, record in enumerate(records):
        said = answers["teacher"][i]
        entry: dict[str, Any] = {
            "id": record.id,
            "prompt": "\n\n".join(p.content for p in record.without_answer().pieces if p.role != "system"),
            "reference": reference_of(record),
            "teacher": {"text": said.text, "stop": said.stop, "num_tokens": said.num_tokens},
            "systems": {},
        }
        for name, causal in systems.items():
            own = answers[name][i]
            along = [answered(record, own, name), answered(record, said, "teacher")]
            mine, theirs = (trace(causal, teacher, [r], collate, put)[0] for r in along)
            entry["systems"][name] = {
                "text": own.text, "stop": own.stop, "num_tokens": own.num_tokens,
                "tokens": mine, "along_teacher": theirs,
            }  # fmt: skip
        out.append(entry)
    return out
