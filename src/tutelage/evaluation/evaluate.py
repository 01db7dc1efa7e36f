"""Evaluate: systems against their teacher on held-out records, as one JSON-ready result.

The result has the shape of ``evaluation.json`` (see ``report``), with one key for each system, so the results of
several calls over the same records merge into one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from ..core.batch import Batch
from ..core.errors import DataError, Diverged, SettingError, StoreError
from ..core.ledger import Ledger
from ..core.record import Record
from ..core.scores import Dense, Scores
from ..data.hashing import hash_records
from ..models.causal import Causal, resting
from ..models.sample import Sampling
from . import samples
from .metrics import cost
from .metrics.calibration import Calibration
from .metrics.fidelity import Fidelity, TokenClasses
from .metrics.loyalty import Loyalty
from .metrics.positions import chunk_rows, measure

RESERVED = ("held_out", "teacher", "samples", "ledger", "systems", "harness")


@dataclass
class Score:
    """The tallies of one system: against the teacher, and both models' on the data's targets."""

    fidelity: Fidelity = field(default_factory=Fidelity)
    loyalty: Loyalty = field(default_factory=Loyalty)
    student: Calibration = field(default_factory=Calibration)
    teacher: Calibration = field(default_factory=Calibration)


def evaluate(
    systems: Mapping[str, Causal],
    teacher: Causal,
    records: Sequence[Record],
    collate: Callable[[Sequence[Record]], Batch],
    *,
    batch_size: int = 8,
    num_samples: int = 4,
    sampling: Sampling | None = None,
    seed: int = 0,
    asked: Callable[[Record], Record] | None = None,
) -> dict[str, Any]:
    """Measure each system on held-out records and write a few answers.

    Modes, gradients and random states of all models are as before when it returns. Figures are means over trained
    positions; how the records are batched does not change them.

    Args:
        systems: Students by the name their results get (``before``, ``after`` ...).
        teacher: The reference p.
        records: Held-out rows; their trained pieces are the targets. Rows without a trained position count as rows.
        collate: Records to a batch with the view ``main`` and the units ``tokens``.
        batch_size: Rows a forward pass, >= 1; memory only.
        num_samples: Prompts that are answered, >= 0.
        sampling: How answers are written; greedy, 128 tokens, by default.
        seed: For draws, if ``sampling`` is not greedy.
        asked: How the systems' prompts are put where they differ from the data's (a task prefix); the teacher reads
            the data's. Trained pieces stay the same.

    Raises:
        SettingError: No system, a reserved name, a size below its range, or answers longer than the context.
        DataError: No record.
        Diverged: A model gives NaN.
    """
    _check(systems, records, batch_size, num_samples)
    ledger = Ledger()
    settings = sampling or Sampling(temperature=0.0)
    models = {"teacher": teacher, **systems}
    chosen = samples.choose(records, num_samples, list(models.values()), settings)
    with untouched(models.values()):
        put = asked or (lambda record: record)
        scores = _score(systems, teacher, records, collate, batch_size, ledger, put)
        answers = {}
        for name, model in models.items():
            charge = _charge(ledger, name, "sample")
            rows = chosen if model is teacher else [put(r) for r in chosen]
            answers[name] = samples.write(model, rows, settings, batch_size=batch_size, seed=seed, charge=charge)
        shown = samples.gather(systems, teacher, chosen, answers, collate, put)
    references = [samples.reference_of(r) for r in chosen]
    some = next(iter(scores.values()))
    positions = some.fidelity.by_record()["count"]
    out: dict[str, Any] = {
        "held_out": {
            "hash": hash_records(records), "num_records": len(records), "num_positions": sum(positions),
            "lengths": positions,
        },
        "teacher": _figures(some.teacher) | {
            "cost": _cost("teacher", teacher, ledger), "text": samples.figures(answers["teacher"], references),
        },
    }  # fmt: skip
    for name, score in scores.items():
        text = samples.figures(answers[name], references)
        text |= samples.loyal(answers[name], answers["teacher"], references)
        out[name] = _system(score) | {"cost": _cost(name, systems[name], ledger), "text": text}
    return plain({**out, "samples": shown, "ledger": ledger.state_dict()})


def merge(*results: Mapping[str, Any]) -> dict[str, Any]:
    """One result of several calls over the same held-out records; samples are joined by record id.

    Raises:
        StoreError: Their held-out records differ.
    """
    out: dict[str, Any] = {}
    for result in results:
        if out and out["held_out"]["hash"] != result["held_out"]["hash"]:
            raise StoreError(
                "merge",
                got=f"held-out records {result['held_out']['hash'][:12]} and {out['held_out']['hash'][:12]}",
                expected="the same held-out records in each result",
                remedy="Evaluate every system on the same records.",
            )
        known = {s["id"]: s for s in out.get("samples", [])}
        joined = []
        for s in result.get("samples", []):
            before = known.pop(s["id"], {"systems": {}})
            joined.append({**s, "systems": {**before["systems"], **s["systems"]}})
        ledger = {**out.get("ledger", {}), **result.get("ledger", {})}
        out = {**out, **result, "samples": [*joined, *known.values()], "ledger": ledger}
    return out


@contextmanager
def untouched(models: Iterable[Causal]) -> Iterator[None]:
    """No gradient and no dropout inside; modes and random states come back after it, errors included."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    state = random.getstate()
    with ExitStack() as stack:
        stack.callback(random.setstate, state)
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.no_grad())
        for causal in models:
            stack.enter_context(resting(causal.model))
        yield


def plain(value: Any) -> Any:
    """The same tree with numbers that JSON cannot hold (nan, infinity) as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(systems: Mapping[str, Causal], records: Sequence[Record], batch_size: int, num_samples: int) -> None:
    reserved = sorted(set(systems) & set(RESERVED))
    if not systems or reserved:
        raise SettingError(
            "evaluate: systems",
            got=f"the names {', '.join(map(repr, reserved))}" if reserved else "none",
            expected="at least one student under a name of its own",
            remedy=f"Use names such as 'before' and 'after', and none of {', '.join(RESERVED)}.",
        )
    if batch_size < 1 or num_samples < 0:
        raise SettingError(
            "evaluate",
            got=f"batch_size={batch_size}, num_samples={num_samples}",
            expected="batch_size >= 1 and num_samples >= 0",
            remedy="Lower batch_size saves memory; num_samples = 0 writes no answers.",
        )
    if not records:
        raise DataError("evaluate: records", got="none", expected="held-out records", remedy="Hold some records out.")


def _score(
    systems: Mapping[str, Causal],
    teacher: Causal,
    records: Sequence[Record],
    collate: Callable[[Sequence[Record]], Batch],
    batch_size: int,
    ledger: Ledger,
    put: Callable[[Record], Record],
) -> dict[str, Score]:
    scores = {name: Score() for name in systems}
    classes = TokenClasses(teacher.tokenizer)
    for start in range(0, len(records), batch_size):
        rows = records[start : start + batch_size]
        batch, theirs = collate(rows), collate([put(r) for r in rows])
        units = batch.units["tokens"]
        ids = [r.id for r in batch.records]
        if units.target is None or len(units) == 0:
            empty = measure_nothing()
            for score in scores.values():
                score.fidelity.add(empty, time=units.time, classes=units.time, row=units.row, ids=ids)
            continue
        _same_positions(batch, theirs)
        said = {"teacher": _predict(teacher, batch, "teacher", ledger)}
        said |= {n: _predict(m, theirs, n, ledger) for n, m in systems.items()}
        codes = classes(units.target.tolist())
        target = units.target.to(teacher.device)
        for name, values in _measured(said, target, ledger).items():
            broken = torch.stack([v.isnan() for v in values.values()]).any(0).cpu()
            where = units.row.cpu()[broken].tolist()
            if where:
                raise Diverged(
                    f"evaluation of {name!r}",
                    got=f"NaN at {len(where)} positions, first in record {ids[where[0]]!r}",
                    expected="log-probabilities",
                    remedy="Its weights or the teacher's are not finite: go back to the last good checkpoint.",
                )
            scores[name].fidelity.add(values, time=units.time, classes=codes, row=units.row, ids=ids)
            scores[name].loyalty += Loyalty.of(values)
            scores[name].student += Calibration.of(values, "student")
            scores[name].teacher += Calibration.of(values, "teacher")
    return scores


def _same_positions(batch: Batch, theirs: Batch) -> None:
    ours, others = batch.units["tokens"].target, theirs.units["tokens"].target
    if ours is None or others is None or not torch.equal(ours, others):
        raise DataError(
            f"held-out records {batch.records[0].id!r} to {batch.records[-1].id!r}",
            got="other trained tokens where the student is asked in its own way",
            expected="the same answers under both prompts",
            remedy="Leave more room for the longer prompt, or measure answers only (evaluate.trains).",
        )


def measure_nothing() -> dict[str, torch.Tensor]:
    """What ``measure`` gives for no unit."""
    none = Dense(torch.zeros(0, 1))
    return measure(none, none, torch.zeros(0, dtype=torch.long))


def _predict(causal: Causal, batch: Batch, name: str, ledger: Ledger) -> Scores:
    view = batch.views["main"].to(causal.device)
    with _charge(ledger, name, "predict")() as done:
        said = causal.predict(view, frozenset({"next"}))["next"]
        done(int((view.inputs["input_ids"]).numel()))
    assert isinstance(said, Scores)
    return said


def _measured(said: Mapping[str, Scores], target: torch.Tensor, ledger: Ledger) -> dict[str, dict[str, torch.Tensor]]:
    """``measure`` of every system, the teacher's head applied once a chunk for all of them."""
    parts: dict[str, list[dict[str, torch.Tensor]]] = {name: [] for name in said if name != "teacher"}
    step = chunk_rows(said["teacher"].num_categories)
    for start in range(0, len(target), step):
        chunk = slice(start, min(start + step, len(target)))
        p = _held(said["teacher"], chunk, "teacher", ledger)
        for name, own in parts.items():
            own.append(measure(_held(said[name], chunk, name, ledger), p, target[chunk]))
    return {name: {k: torch.cat([part[k] for part in own]) for k in own[0]} for name, own in parts.items()}


def _held(scores: Scores, chunk: slice, name: str, ledger: Ledger) -> Scores:
    start = perf_counter()
    held = scores.held(chunk)
    ledger.add(name, "predict", calls=0, seconds=perf_counter() - start)
    return held


def _charge(ledger: Ledger, name: str, deed: str) -> Callable[..., Any]:
    @contextmanager
    def block() -> Iterator[Callable[[int], None]]:
        count: list[int] = []
        start = perf_counter()
        yield count.append
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # kernels run on after their launch, and their time belongs to this account
        ledger.add(name, deed, tokens=sum(count), seconds=perf_counter() - start)

    return block


def _figures(calibration: Calibration) -> dict[str, Any]:
    return {"calibration": calibration.result(), "perplexity": calibration.perplexity, "nll": calibration.nll.mean}


def _system(score: Score) -> dict[str, Any]:
    return {
        "fidelity": score.fidelity.overall(),
        "by_position": score.fidelity.by_position(),
        "by_class": score.fidelity.by_class(),
        "loyalty": score.loyalty.result(),
        "records": score.fidelity.by_record(),
        **_figures(score.student),
    }


def _cost(name: str, causal: Causal, ledger: Ledger) -> dict[str, Any]:
    return {
        "num_parameters": cost.num_parameters(causal.model),
        "num_bytes": cost.num_bytes(causal.model),
        "predict_tokens_per_second": cost.tokens_per_second(ledger, name, "predict"),
        "sample_tokens_per_second": cost.tokens_per_second(ledger, name, "sample"),
        "peak_memory_bytes": cost.peak_memory_bytes(),
    }
