"""Teacher caches of SmolLM2-135M: bytes a position, what is lost and speed, beside other layouts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from tutelage.core.errors import StoreError
from tutelage.core.record import Piece, Record
from tutelage.core.scores import Dense as Whole
from tutelage.core.scores import Kept, Scores
from tutelage.data.cached import Asked, Cache, Drawn, Exact, Top, form_of
from tutelage.data.cached.answer import rows_of, scores_of
from tutelage.data.cached.code import Code
from tutelage.data.cached.coding import Coding
from tutelage.data.cached.fidelity import fidelity
from tutelage.data.cached.form import most_probable
from tutelage.data.cached.levels import log_sum
from tutelage.data.collate import Collate
from tutelage.running.assemble import prompts_too
from tutelage.voices.remote import packed

from . import peers
from .common import Result, fresh
from .pair import pair, problems

K, WIDE, MEASURED, POSITIONS = 50, 100, 512, 8_000
ROW_TOKENS = 220
LEAST_REST = 1e-6
COLUMNS = (
    "text", "layout", "run for real", "bytes a position", "KL(teacher, decoded)", "KL over kept and rest",
    "mass kept", "cosine of the student's gradient", "written, positions/s", "read, positions/s",
)  # fmt: skip


def prose(tokenizer: Any) -> list[Record]:
    """Stretches of the language reference that ships with Python."""
    from pydoc_data.topics import topics

    ids = tokenizer("\n\n".join(topics[name] for name in sorted(topics)))["input_ids"]
    starts = range(0, len(ids) - ROW_TOKENS, 1400)
    texts = [tokenizer.decode(ids[s : s + ROW_TOKENS]) for s in starts]
    return [Record(str(i), (Piece(text, trains=True),)) for i, text in enumerate(texts)]


def chats(tokenizer: Any) -> list[Record]:
    """GSM8K problems and answers as chats, every content token trained."""
    return [prompts_too(row) for row in problems(400)]


TEXTS = {"GSM8K chats": chats, "prose": prose}


def collect(folder: str, device: str, positions: int, measured: int) -> dict[str, Any]:
    """Keep real distributions: the largest of every position, and whole ones of the first, teacher's and student's."""
    teacher, student = pair(device)
    collate, out = Collate(teacher.tokenizer, 512), {}
    for name, make in TEXTS.items():
        rows: list[dict[str, Any]] = []
        whole: list[torch.Tensor] = []
        for record in make(teacher.tokenizer):
            if sum(len(r["drawn"]["ids"]) for r in rows) >= positions:
                break
            view = collate([record]).to(torch.device(device)).views["main"]
            (asked,) = rows_of(view)[0]
            with torch.no_grad():
                said = teacher.predict(view, frozenset({"next"}))["next"]
                log_probs = said.at(slice(None)).cpu()  # type: ignore[union-attr]
                if sum(map(len, whole)) < measured:
                    own = student.predict(view, frozenset({"next"}))["next"]
                    whole.append(torch.stack([log_probs, own.at(slice(None)).cpu()], 1))  # type: ignore[union-attr]
            top = most_probable(Whole(log_probs), asked.targets, WIDE)
            draws = torch.Generator().manual_seed(asked.whole >> 1)
            drawn = Drawn(K, log_probs.shape[1]).of(Whole(log_probs), asked.targets, draws)
            rows.append({"top": top, "drawn": drawn, "asked": (asked.tokens, asked.places)})
        file = Path(folder) / f"{name}.pt"
        torch.save({"rows": rows, "whole": torch.cat(whole)[:measured]}, file)
        out[name] = str(file)
    return out


def ours(file: str) -> dict[str, Any]:
    """Each of our forms."""
    torch.set_num_threads(1)
    kept = torch.load(file, weights_only=False)
    found = {name: _ours(kept, facts) for name, facts in arms(kept["whole"].shape[2])}
    return found | {"ours: a server's answers, top 100, as kept": _answers(kept)}


def _ours(kept: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Write a real cache, row after row, and read it back: everything in the folder counts."""
    made = form_of(facts)
    rows = [(Asked(*row["asked"]), row) for row in kept["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder) / "c", {"weights": "w", "tokenizer": "t"}, made)
        fields = [_fields(made, asked, row) for asked, row in rows]
        start = perf_counter()
        for at in range(0, len(rows), 8):
            cache.add([(asked, f) for (asked, _), f in zip(rows[at : at + 8], fields[at : at + 8], strict=True)])
        written = perf_counter() - start
        num, size = cache.log.num_positions, cache.num_bytes
        again = Cache(Path(folder) / "c", cache.key, made)
        start = perf_counter()
        for asked, _ in rows:
            scores_of(again, [_found(again, asked)])
        taken = perf_counter() - start
        told = _measured(kept["whole"], lambda: _first(again, rows, len(kept["whole"])))
    return {"bytes": size / num, "positions": num, "written": num / written, "read": num / taken, **told}


def _answers(kept: dict[str, Any]) -> dict[str, Any]:
    """Answers of a server with the token that is there and the 100 most probable, as the memo's file keeps them."""
    rows = []
    for row in kept["rows"]:
        asked, ids, values = Asked(*row["asked"]), row["top"]["ids"], row["top"]["log_probs"]
        own = ids == asked.targets[:, None]
        ids = np.concatenate([asked.targets[:, None], np.where(own, -1, ids)], 1)
        values = np.concatenate([row["top"]["target"][:, None], np.where(own, -np.inf, values)], 1)
        last = np.argsort(ids < 0, 1, kind="stable")
        rows.append(packed.rounded(*(np.take_along_axis(x, last, 1) for x in (ids, values))))
    coding, size, blobs, codes = Coding(Code(kept["whole"].shape[2]), packed.put, *packed.FITTED), 0, [], set()
    start = perf_counter()
    for row in rows:
        code = coding.see([row], len(row["own"]))
        blobs.append((packed.pack(row, code), code))
        codes.add(code.data)
    written = perf_counter() - start
    size = sum(len(data) for data, _ in blobs) + sum(map(len, codes))
    start = perf_counter()
    said = [at for data, code in blobs for at in packed.unpack(data, code)[1:] if at is not None]
    taken = perf_counter() - start
    first = said[: len(kept["whole"])]
    pairs = [sorted(((float(v["logprob"]), int(k)) for k, v in at.items()), reverse=True)[:WIDE] for at in first]
    ids, values = (np.array([[p[i] for p in some] for some in pairs]) for i in (1, 0))
    made = _with_rest(ids, values, kept["whole"].shape[2])
    told = _measured(kept["whole"], lambda: made)
    return {"bytes": size / len(said), "written": len(said) / written, "read": len(said) / taken, **told}


def _with_rest(ids: np.ndarray, values: np.ndarray, size: int) -> Kept:
    """Kept ids as scores, a little mass left for the rest where rounding left none."""
    over = np.maximum(log_sum(values.astype(np.float64)) - np.log1p(-LEAST_REST), 0.0)
    return Kept(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(values - over[:, None]).float(), size)


def layouts(file: str) -> dict[str, Any]:
    """Each layout that is restated here."""
    torch.set_num_threads(1)
    kept = torch.load(file, weights_only=False)
    return {name: _layout(kept, *how) for name, how in LAYOUTS.items()}


def _layout(kept: dict[str, Any], write: Callable[..., bytes], read: Callable[[bytes], Any]) -> dict[str, Any]:
    """Its bytes, and what they decode to."""
    ids, values = (np.concatenate([row["top"][n][:, :K] for row in kept["rows"]]) for n in ("ids", "log_probs"))
    start = perf_counter()
    blobs = [write(ids[at : at + ROW_TOKENS], values[at : at + ROW_TOKENS]) for at in range(0, len(ids), ROW_TOKENS)]
    middle = perf_counter()
    back = [read(blob) for blob in blobs]
    end = perf_counter()
    size = sum(map(len, blobs)) / len(ids)
    one, other = (np.concatenate([b[i] for b in back])[: len(kept["whole"])] for i in (0, 1))
    made = _with_rest(one, other, kept["whole"].shape[2])
    told = _measured(kept["whole"], lambda: made)
    return {"bytes": size, "written": len(ids) / (middle - start), "read": len(ids) / (end - middle), **told}


def distillkit(file: str) -> dict[str, Any]:
    """Each setting of DistillKit."""
    torch.set_num_threads(1)
    kept = torch.load(file, weights_only=False)
    return {name: _distillkit(kept, config) for name, config in DISTILLKIT.items()}


def _distillkit(kept: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """DistillKit's own compressor on the same arrays, decoded by its own code, its rest spread by its own rule."""
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor  # type: ignore
    from distillkit.compression.densify import densify  # type: ignore
    from distillkit.missing_probability import MissingProbabilityHandling  # type: ignore

    size = kept["whole"].shape[2]
    packer = LogprobCompressor(config=DistributionQuantizationConfig(d=size, k=K, **config))
    ids, values = ([torch.from_numpy(row["top"][n][None, :, :K]) for row in kept["rows"]] for n in ("ids", "log_probs"))
    values = [v.float() for v in values]
    start = perf_counter()
    packed = [packer.compress_from_sparse(i, v) for i, v in zip(ids, values, strict=True)]
    middle = perf_counter()
    back = [packer.decompress_to_sparse(row) for row in packed]
    end = perf_counter()
    num = sum(i.shape[1] for i in ids)
    first = len(kept["whole"])
    one, other = (torch.cat([b[i][0] for b in back])[:first] for i in (0, 1))
    rule = MissingProbabilityHandling.SYMMETRIC_UNIFORM
    whole = densify(one, other.float(), size, missing=rule, renormalize=True)
    told = _measured(kept["whole"], lambda: _Same(one, whole.gather(1, one), size, whole))
    num_bytes = sum(t.numel() * t.element_size() for row in packed for t in row.values())
    return {"bytes": num_bytes / num, "written": num / (middle - start), "read": num / (end - middle), **told}


class _Same(Kept):
    """Kept ids whose whole distribution is given."""

    def __init__(self, ids: torch.Tensor, log_probs: torch.Tensor, size: int, whole: torch.Tensor) -> None:
        super().__init__(ids, log_probs, size)
        object.__setattr__(self, "whole", whole)

    def at(self, rows: slice) -> torch.Tensor:
        return self.whole[rows]  # type: ignore[attr-defined]


def _measured(whole: torch.Tensor, decoded: Callable[[], Scores]) -> dict[str, Any]:
    return dict(fidelity(Whole(whole[:, 0]), decoded(), Whole(whole[:, 1])))


def _fields(form: Any, asked: Asked, row: dict[str, Any]) -> Any:
    """What a form keeps."""
    if isinstance(form, Drawn):
        return row["drawn"]
    top = {name: value if name == "target" else value[:, : form.num_kept] for name, value in row["top"].items()}
    return form.rounded(top, asked.targets) if isinstance(form, Top) else top


def _found(cache: Cache, asked: Asked) -> Any:
    found = cache.find(asked)
    assert found is not None
    return found


def _first(cache: Cache, rows: list[Any], num: int) -> Scores:
    found = [_found(cache, asked) for asked, _ in rows[: 1 + num // 8]]
    scores = scores_of(cache, found)
    return scores.held(slice(0, num))


def _pairs(ids: np.ndarray, values: np.ndarray) -> bytes:
    rows = [dict(zip(map(str, i), v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
    return json.dumps(rows, separators=(",", ":")).encode()


def _unpaired(blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    rows = json.loads(blob)
    ids = np.array([[int(k) for k in row] for row in rows])
    return ids, np.array([list(row.values()) for row in rows], np.float32)


def _flat(id_type: str, flag: bool) -> tuple[Callable[..., bytes], Callable[[bytes], Any]]:
    entry = np.dtype([("value", "<f2"), ("id", id_type), *([("flag", "?")] if flag else [])])

    def write(ids: np.ndarray, values: np.ndarray) -> bytes:
        out = np.zeros(ids.shape, entry)
        out["value"], out["id"] = values, ids
        return out.tobytes()

    def read(blob: bytes) -> Any:
        rows = np.frombuffer(blob, entry).reshape(-1, K)
        return rows["id"].astype(np.int64), rows["value"].astype(np.float32)

    return write, read


LAYOUTS: dict[str, tuple[Callable[..., bytes], Callable[[bytes], Any]]] = {
    "Megatron-LM: fp16, uint16 and a flag": _flat("<u2", True),
    "fp16 and int32": _flat("<i4", False),
    "JSON rows, as servers answer": (_pairs, _unpaired),
}
BUDGET = {
    "exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"], "term_dtype": "float32",
    "residual_bins": [], "delta_encoding": False, "error_diffusion": False,
}  # fmt: skip
DISTILLKIT = {
    "DistillKit, its budget pick of k = 50": BUDGET,
    "DistillKit, the same with deltas": BUDGET | {"delta_encoding": True},
    "DistillKit, all 50 in bfloat16": BUDGET | {"exact_k": 50, "polynomial_terms": []},
}


def arms(size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Our forms."""
    yield "ours: top 50", Top(K, size).facts()
    yield "ours: top 50, steps twice as wide", Top(K, size, 0.25, 0.02).facts()
    yield "ours: top 50, exact", Exact(K, size).facts()
    yield "ours: top 100, steps twice as wide", Top(WIDE, size, 0.25, 0.02).facts()
    yield "ours: 50 draws", Drawn(K, size).facts()


def run(device: str, quick: bool) -> Result:
    """The table."""
    rows, positions = [], 600 if quick else POSITIONS
    with tempfile.TemporaryDirectory() as folder:
        files = fresh(
            "benchmarks.cache:collect", folder=folder, device=device, positions=positions,
            measured=64 if quick else MEASURED,
        )  # fmt: skip
        for text, file in files.items():
            found = {"yes": fresh("benchmarks.cache:ours", file=file)}
            if _has_peer():
                found["yes"] |= peers.fresh("benchmarks.cache:distillkit", file=file)
            found["restated"] = fresh("benchmarks.cache:layouts", file=file)
            rows += [_row(text, name, real, got) for real, some in found.items() for name, got in some.items()]
    return Result(
        "cache",
        "One thread. Ours: every byte in the cache's folder (rows, token ids, index, codes, manifest), written to the "
        "disk 8 rows at a time, read row by row. Others: their payload alone. The rest's mass is spread evenly over "
        "ids that were not kept, DistillKit's by its own rule; where rounding leaves no rest, it is 1e-6. "
        "Student: 15 of 30 layers, not refitted.",
        {"teacher": "SmolLM2-135M-Instruct", "positions": positions, "measured": MEASURED, "vocabulary": 49_152},
        COLUMNS,
        tuple(rows),
    )


def _has_peer() -> bool:
    try:
        peers.interpreter()
    except StoreError as error:
        print(f"without DistillKit: {error}")
        return False
    return True


def _row(text: str, name: str, real: str, got: dict[str, Any]) -> tuple[Any, ...]:
    shown = ("bytes", "kl", "kl_kept", "mass_kept", "gradient_cosine", "written", "read")
    return (text, name, real, *("none" if got[k] is None else got[k] for k in shown))
