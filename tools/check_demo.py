"""Check what a run of the demo left behind: `python tools/check_demo.py runs/demo`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path


def problems(folder: Path) -> list[str]:
    """What is missing or wrong."""
    found = []
    for name in ("run.toml", "run.json", "metrics.jsonl", "evaluation.json", "report.html", "student/model.safetensors",
                 "student/tokenizer.json", "student/generation_config.json", "student/README.md"):  # fmt: skip
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
    if found:
        return found
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    stages = [r["stage"] for r in rows]
    if list(dict.fromkeys(stages)) != ["imitate", "correct"]:
        found.append(f"stages {list(dict.fromkeys(stages))}")
    if not all(math.isfinite(r["loss"]) for r in rows):
        found.append("a loss is not finite")
    result = json.loads((folder / "evaluation.json").read_text())
    for name in ("before", "after"):
        kl, top1 = result[name]["fidelity"]["kl"], result[name]["fidelity"]["top1"]
        if not (math.isfinite(kl) and 0 <= top1 <= 1):
            found.append(f"{name}: KL {kl}, top-1 {top1}")
    # a handful of steps need not help, but must not break what the refit gave
    if result["after"]["fidelity"]["kl"] > 1.5 * result["before"]["fidelity"]["kl"]:
        found.append("training made the KL much worse")
    page = (folder / "report.html").read_text()
    if "http://" in page.split("<body", 1)[-1][:2000] or len(page) < 100_000:
        found.append("report.html is not whole")
    if not result["samples"]:
        found.append("no samples")
    return found


def loads(folder: Path) -> list[str]:
    """Whether plain transformers loads and runs the student."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    return [] if out.shape[1] > prompt["input_ids"].shape[1] else ["the student writes nothing"]


if __name__ == "__main__":
    run = Path(sys.argv[1])
    wrong = problems(run) or loads(run)
    print("\n".join(wrong) or f"{run}: everything is there")
    sys.exit(1 if wrong else 0)
