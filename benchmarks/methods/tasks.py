"""The problems of the bench: arithmetic and logic of reasoning-gym with exact verifiers, and a tokenizer for them.

An answer is the work, a line end and the result between tags. The work of a sum is its partial sums, that of a
syllogism its three statements as formulas. No question stands in two splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tutelage.core.record import Record
from tutelage.data.tasks import read_tasks

END, TAGS = "<|end|>", ("<answer>", "</answer>")
PROMPT_END = "\n"


def partial_sums(question: str) -> str:
    """Each step of a chain of sums and differences: ``4 + 13 = 17, 17 - 7 = 10``."""
    first, *rest = question.partition(": ")[2].removesuffix("=").split()
    value, steps = int(first), []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        after = value + int(number) if sign == "+" else value - int(number)
        steps.append(f"{value} {sign} {number} = {after}")
        value = after
    return ", ".join(steps)


STATEMENT = re.compile(r"(All|No|Some) (\w+) are (not )?(\w+)")
SIGNS = {"All": "<", "No": "|", "Some": "&", "Some not": "-"}


def formulas(question: str) -> str:
    """Premises and conclusion as formulas: ``reptiles - butterflies, butterflies | children: children | reptiles``."""
    found = [f"{one} {SIGNS[f'{word} {no}'.strip()]} {other}" for word, one, no, other in STATEMENT.findall(question)]
    return f"{', '.join(found[:-1])}: {found[-1]}"


@dataclass(frozen=True)
class Family:
    """One kind of problem.

    Args:
        name: The name of its data sets.
        source: What ``read_tasks`` reads, without seed and size.
        work: From the question to what is written before the result.
    """

    name: str
    source: str
    work: Callable[[str], str]


FAMILIES = (
    Family("sums", "tasks:chain_sum?min_terms=3&max_terms=5&min_digits=1&max_digits=1", partial_sums),
    Family("syllogisms", "tasks:syllogism?invalid_ratio=0.5", formulas),
)


def row(family: Family, problem: Record) -> dict[str, Any]:
    """A problem as a row of prompt and completion, with what its verifier needs."""
    question, answer = problem.pieces[0].content, problem.fields["reference"]
    said = f"{family.work(question)}\n<answer>{answer}</answer>"
    fields = {"task": problem.fields["task"], "family": family.name}
    return {"id": problem.id, "prompt": question + PROMPT_END, "completion": said, **fields}


def split(family: Family, sizes: Mapping[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split, every question once over all of them."""
    wanted = sum(sizes.values())
    join = "&" if "?" in family.source else "?"
    problems = read_tasks(f"{family.source}{join}seed={seed}&size={2 * wanted}")
    rows = list({r["prompt"]: r for r in (row(family, p) for p in problems)}.values())
    if len(rows) < wanted:
        raise ValueError(f"{family.name}: {len(rows)} different questions of {wanted} wanted")
    out, start = {}, 0
    for name, size in sizes.items():
        out[name], start = rows[start : start + size], start + size
    return out


def write(folder: Path, sizes: Mapping[str, int], seed: int) -> None:
    """``SPLIT.jsonl`` over all families, in turns, and ``SPLIT-FAMILY.jsonl`` for each."""
    parts = {family.name: split(family, sizes, seed) for family in FAMILIES}
    folder.mkdir(parents=True, exist_ok=True)
    for name in sizes:
        for family, splits in parts.items():
            _lines(folder / f"{name}-{family}.jsonl", splits[name])
        _lines(folder / f"{name}.jsonl", [r for some in zip(*(s[name] for s in parts.values())) for r in some])


def _lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Byte pairs over the texts; digits stand alone."""
    backend = Tokenizer(BPE())
    split_digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split_digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens(list(TAGS))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
