"""What the report page shows, made from a run's folder: headline cards, tables, plots and samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .run_folder import RunFolder, curves

RESERVED = ("held_out", "teacher", "samples", "ledger", "systems", "harness")
KL_EDGES = (0.05, 0.2, 0.5, 1.0, 2.0)  # nats; the colour of a token changes at each


def percent(value: float) -> str:
    """0.734 -> 73.4 %."""
    return f"{100 * value:.1f}\u2009%"


def fixed(digits: int, unit: str = "") -> Callable[[float], str]:
    """A format with that many decimals."""
    return lambda value: f"{value:,.{digits}f}{unit}"


def scaled(value: float, unit: str = "") -> str:
    """134515008 -> 134.5 M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}\u2009{letter}{unit}"
    return f"{value:.0f}{unit and chr(0x2009) + unit}"


def in_bytes(value: float) -> str:
    """Bytes with a decimal prefix."""
    return scaled(value, "B")


@dataclass(frozen=True)
class Row:
    """A figure of the page: its label, where it lies in a system's result, its format, and which way is better.

    Args:
        label: For readers.
        path: Keys into the result.
        show: Number to text.
        better: 1 if more is better, -1 if less is, 0 if neither.
        about: One line that explains it.
    """

    label: str
    path: tuple[str, ...]
    show: Callable[[float], str]
    better: int = 0
    about: str = ""

    def of(self, result: Mapping[str, Any] | None) -> float | None:
        """The number in a result, None if it is not there."""
        value: Any = result
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


CARDS = (
    Row("KL to the teacher", ("fidelity", "kl"), fixed(3), -1, "nats a token, mean of KL(teacher \u2016 student)"),
    Row("Top-1 agreement", ("fidelity", "top1"), percent, 1, "both name the same next token"),
    Row("Perplexity", ("perplexity",), fixed(2), -1, "on the held-out text itself"),
    Row("Calibration error", ("calibration", "ece"), fixed(3), -1, "ECE, 15 bins"),
)
AGAINST_TEACHER = (
    Row("Parameters", ("cost", "num_parameters"), scaled, -1, "of the teacher"),
    Row("Speed", ("cost", "sample_tokens_per_second"), fixed(0, " tok/s"), 1, "of the teacher, writing answers"),
)
FIGURES = (
    *CARDS[:2],
    Row("Top-5 agreement", ("fidelity", "top5"), percent, 1),
    Row("Agreement where the teacher is right", ("loyalty", "on_right"), percent, 1),
    Row("Agreement where the teacher is wrong", ("loyalty", "on_wrong"), percent, 1),
    Row("Probability loyalty", ("loyalty", "probability"), fixed(3), 1),
    Row("Consistency of right and wrong", ("loyalty", "consistency"), fixed(3), 1),
    Row("Reverse KL", ("fidelity", "reverse_kl"), fixed(3), -1),
    Row("Jensen divergence", ("fidelity", "jensen"), fixed(3), -1),
    Row("Total variation", ("fidelity", "total_variation"), fixed(3), -1),
    *CARDS[2:],
    Row("Brier score", ("calibration", "brier"), fixed(3), -1),
    Row("Entropy", ("fidelity", "student_entropy"), fixed(3)),
    Row("Right final number", ("text", "numeric_share"), percent, 1),
    Row("The teacher\u2019s final number", ("text", "loyalty", "label"), percent, 1),
    Row("The same where it is wrong", ("text", "loyalty", "on_wrong"), percent, 1),
    Row("Mean answer length, tokens", ("text", "length", "mean"), fixed(0)),
    Row("Answers cut at the limit", ("text", "cut_share"), percent, -1),
    Row("Repetition", ("text", "repetition_share"), percent, -1),
    Row("Distinct bigrams", ("text", "distinct_2"), percent, 1),
)
COSTS = (
    Row("Parameters", ("cost", "num_parameters"), scaled, -1),
    Row("Weights", ("cost", "num_bytes"), in_bytes, -1),
    Row("Reading, tokens/s", ("cost", "predict_tokens_per_second"), fixed(0), 1),
    Row("Writing, tokens/s", ("cost", "sample_tokens_per_second"), fixed(0), 1),
    Row("Peak memory", ("cost", "peak_memory_bytes"), in_bytes),
)

SYSTEMS = (
    Row("Prompts", ("num_prompts",), fixed(0)),
    Row("Answers that came out", ("num_rows",), fixed(0)),
    Row("Right final number", ("text", "numeric_share"), percent, 1),
    Row("Mean answer length, tokens", ("text", "length", "mean"), fixed(0)),
    Row("Model calls", ("cost", "total", "calls"), fixed(0), -1),
    Row("Tokens read and written", ("cost", "total", "tokens"), scaled, -1),
    Row("Seconds", ("cost", "total", "seconds"), fixed(1), -1),
    Row("Money, $", ("cost", "total", "money"), fixed(2), -1),
)


def systems_of(evaluation: Mapping[str, Any]) -> list[str]:
    """The evaluated students: ``before``, ``after``, then others by name."""
    names = [k for k, v in evaluation.items() if k not in RESERVED and isinstance(v, Mapping)]
    return sorted(names, key=lambda n: ({"before": 0, "after": 1}.get(n, 2), n))


def main_of(systems: Sequence[str]) -> str:
    """The system that the page is about: ``after``, else the last."""
    return "after" if "after" in systems else (systems[-1] if systems else "")


def cards(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline: before -> after, and size and speed against the teacher."""
    main = main_of(systems_of(evaluation))
    after, before, teacher = evaluation.get(main), evaluation.get("before"), evaluation.get("teacher")
    before = None if main == "before" else before
    out = [_card(row, after, before, "was ", teacher) for row in CARDS]
    out += [_card(row, after, teacher, "teacher ", None) for row in AGAINST_TEACHER]
    return [c for c in out if c]


def _card(row: Row, now: Any, then: Any, word: str, teacher: Any) -> dict[str, Any] | None:
    value, base = row.of(now), row.of(then)
    if value is None:
        return None
    card = {"label": row.label, "value": row.show(value), "about": row.about, "was": "", "change": "", "mood": "same"}
    if base is not None:
        card["was"] = word + row.show(base)
        card["change"], card["mood"] = change(row, base, value)
    target = row.of(teacher)
    card["teacher"] = f"teacher {row.show(target)}" if target is not None else ""
    return card


def change(row: Row, base: float, value: float) -> tuple[str, str]:
    """The change as text, and whether it is ``good``, ``bad`` or the ``same``."""
    if row.show is percent:
        text = f"{100 * (value - base):+.1f} points"
    elif base and abs(value / base) >= 2:
        text = f"\u00d7\u2009{value / base:.1f}"
    else:
        text = f"{100 * (value - base) / abs(base):+.0f}\u2009%" if base else ""
    text = text.replace("-", "\u2212")
    moved = (value - base) * row.better
    return text, "good" if moved > 0 else "bad" if moved < 0 else "same"


def table(rows: Sequence[Row], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """A table of figures, a column for each system, the best student's value marked."""
    systems = systems_of(evaluation)
    columns = [*systems, *(["teacher"] if isinstance(evaluation.get("teacher"), Mapping) else [])]
    body = []
    for row in rows:
        values = [row.of(evaluation.get(name)) for name in columns]
        if row.path == ("fidelity", "student_entropy") and systems and "teacher" in columns:
            values[-1] = Row("", ("fidelity", "teacher_entropy"), row.show).of(evaluation[systems[-1]])
        if any(v is not None for v in values):
            known = [v for v in values[: len(systems)] if v is not None]
            best = max(known, key=lambda v: v * row.better) if row.better and len(set(known)) > 1 else None
            cells = [
                {
                    "text": "\u2013" if v is None else row.show(v),
                    "best": i < len(systems) and v is not None and v == best,
                }
                for i, v in enumerate(values)
            ]
            body.append({"label": row.label, "cells": cells})
    return {"columns": columns, "rows": body}


def chains(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The evaluated systems that are chains of steps, by stage and name."""
    stages = evaluation.get("systems") or {}
    return {f"{stage}: {name}": found for stage, systems in stages.items() for name, found in systems.items()}


def traces(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the sentences of each system come from: what ``Profiles`` found, and a table of it."""
    out = []
    for name, found in chains(evaluation).items():
        for profile in (v for v in found.values() if isinstance(v, Mapping) and "by_position" in v):
            shares, num = profile.get("shares") or {}, profile.get("num_records") or {}
            sides = [s for s in ("right", "wrong") if num.get(s)] if num.get("wrong") else []
            heads = ["all", *sides, *(["area", "lead"] if len(sides) == 2 else [])]
            rows = [
                {"label": label, "cells": [_share(shares, profile, head, label) for head in heads]}
                for label in profile.get("labels") or []
            ]
            out.append(
                {**profile, "name": name, "table": {"columns": heads, "rows": rows}, "sides": sides or ["right"]}
            )
    return out


def _share(shares: Mapping[str, Any], profile: Mapping[str, Any], head: str, label: str) -> dict[str, Any]:
    value = ((profile if head in ("area", "lead") else shares).get(head) or {}).get(label)
    text = "\u2013" if value is None else fixed(2)(value) if head in ("area", "lead") else percent(value)
    return {"text": text, "best": False}


def ledger(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """What every model call cost, one row an account."""
    rows = []
    for key, account in (evaluation.get("ledger") or {}).items():
        slot, _, deed = str(key).partition("/")
        tokens, seconds = account.get("tokens", 0), account.get("seconds", 0.0)
        rows.append({
            "slot": slot, "deed": deed, "calls": f"{account.get('calls', 0):,}", "tokens": f"{tokens:,}",
            "seconds": f"{seconds:,.1f}", "speed": f"{tokens / seconds:,.0f}" if tokens and seconds else "\u2013",
            "money": f"${account['money']:,.2f}" if account.get("money") else "\u2013",
        })  # fmt: skip
    return rows


def plots(run: RunFolder) -> dict[str, Any]:
    """The data of all plots, JSON-ready."""
    e = run.evaluation
    systems = systems_of(e)
    lengths = {
        n: (e[n].get("text") or {}).get("lengths") or [] for n in (*systems, "teacher") if isinstance(e.get(n), Mapping)
    }
    rounds = [row for row in run.metrics if isinstance(row.get("lengths"), list) and row["lengths"]]
    return {
        "training": curves(run.metrics),
        "systems": systems,
        "main": main_of(systems),
        "position": {n: e[n].get("by_position") or [] for n in systems},
        "class": {n: e[n].get("by_class") or [] for n in systems},
        "provenance": traces(e),
        "bins": {n: (e[n].get("calibration") or {}).get("bins") or [] for n in lengths},
        "lengths": {
            **{n: v for n, v in lengths.items() if v},
            **({"data": e["held_out"]["lengths"]} if (e.get("held_out") or {}).get("lengths") else {}),
            **({"training": [n for row in rounds[-8:] for n in row["lengths"]]} if rounds else {}),
        },
    }


def samples(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers side by side, the main system's tokens with their colour step and what to show on hover."""
    main = main_of(systems_of(evaluation))
    out = []
    for s in evaluation.get("samples") or []:
        own = (s.get("systems") or {}).get(main) or {}
        teacher = s.get("teacher") or {}
        out.append({
            "id": s.get("id", ""), "prompt": s.get("prompt", ""), "reference": s.get("reference", ""),
            "teacher": {**teacher, "tokens": [_token(t) for t in own.get("along_teacher") or []]},
            "student": {**own, "tokens": [_token(t) for t in own.get("tokens") or []]},
            "others": {n: v.get("text", "") for n, v in (s.get("systems") or {}).items() if n != main},
            "mean_kl": _mean_kl(own.get("tokens")), "teacher_kl": _mean_kl(own.get("along_teacher")),
        })  # fmt: skip
    return out


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    kl = token.get("kl")
    step = 0 if kl is None else sum(kl >= edge for edge in KL_EDGES)
    text = str(token.get("text", ""))
    tip = {
        "t": text,
        "k": kl,
        "s": (token.get("top") or {}).get("student"),
        "p": (token.get("top") or {}).get("teacher"),
    }
    return {"text": text, "step": step, "tip": json.dumps(tip, ensure_ascii=False)}


def _mean_kl(tokens: Any) -> str:
    known = [t["kl"] for t in tokens or [] if t.get("kl") is not None]
    return f"{sum(known) / len(known):.2f}" if known else ""


def warnings(run: RunFolder) -> list[dict[str, str]]:
    """Notes of the run, warnings of its stages, and what could not be read, each once."""
    found: dict[str, str] = {}
    for text in run.problems:
        found[text] = "this page"
    for row in run.metrics:
        for text in row.get("warnings") or []:
            found.setdefault(
                str(text), f"{row['stage']}, step {row['step']}" if row["stage"] else f"step {row['step']}"
            )
    for note in run.info.get("notes") or []:
        found.setdefault(str(note.get("text", note) if isinstance(note, Mapping) else note), "")
    return [{"text": text, "where": where} for text, where in found.items()]


def summary(run: RunFolder) -> str:
    """The result in one sentence, empty without an evaluation."""
    e = run.evaluation
    main = main_of(systems_of(e))
    kl, top1 = (row.of(e.get(main)) for row in CARDS[:2])
    before = CARDS[0].of(e.get("before")) if main != "before" else None
    if kl is None:
        return ""
    size, full = (AGAINST_TEACHER[0].of(e.get(n)) for n in (main, "teacher"))
    small = f" with {100 * size / full:.0f}\u2009% of its parameters" if size and full else ""
    agree = (
        f"; it names the teacher\u2019s next token {100 * top1:.0f}\u2009% of the time{small}"
        if top1 is not None
        else ""
    )
    if before is None:
        return f"The student is {kl:.2f} nats a token from its teacher{agree}."
    verb = "came closer to" if kl < before else "moved away from"
    return f"The student {verb} its teacher: {before:.2f} \u2192 {kl:.2f} nats a token{agree}."
