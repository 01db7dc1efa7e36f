"""Log-probabilities of a prompt in few bytes: what is kept of a server's answers, 5 to 10 times smaller than its JSON.

The token that is there keeps its log-probability in float32. The others are rounded to a ``Ladder`` and scaled to the
mass that the exactly kept rest leaves, as in the form ``Top`` of a teacher cache. Ranks and texts of tokens are
dropped.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.cached.code import Code, Decoder, Encoder, Ranked, ordered, put_lists, take_lists
from ...data.cached.levels import NUM_TAILS, Ladder, log_sum, tail_level, tail_value

Fields = Mapping[str, NDArray[Any]]

LADDER = Ladder(0.5, 0.04)
FRONT = struct.Struct("<II")  # positions, most entries
TAIL_BITS = 6
FITTED = (256, 4)
"""When codes are fitted: earlier than in a cache, as answers come one by one."""


def numbers_of(answer: Any) -> Fields | None:
    """The log-probabilities of an answer as arrays; None for an answer without, or in another shape.

    ``ids`` Int[T W], the token's own first, filled up with -1; ``log_probs`` Float[T W].
    """
    try:
        said = answer["choices"][0]["prompt_logprobs"]
        rows = [{int(k): float(v["logprob"]) for k, v in at.items()} for at in said[1:]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    good = len(answer["choices"]) == 1 and said[0] is None and rows and all(rows)
    if not good or not all(math.isfinite(x) and x < 1e-3 for row in rows for x in row.values()):
        return None
    width = max(map(len, rows))
    ids, values = np.full((len(rows), width), -1), np.full((len(rows), width), -np.inf)
    for at, row in enumerate(rows):
        ids[at, : len(row)], values[at, : len(row)] = list(row), list(row.values())
    return rounded(ids, values)


def rounded(ids: NDArray[Any], values: NDArray[Any]) -> Fields:
    """What is kept of log-probabilities Float[T W], -inf where a row is shorter."""
    values = np.minimum(values, 0.0)
    with np.errstate(divide="ignore"):
        rest = np.log(np.maximum(-np.expm1(np.minimum(log_sum(values), 0.0)), 0.0))
    levels = np.where(ids >= 0, np.maximum(LADDER.level(values), 1), 0)
    return {"ids": ids, "levels": levels, "tail": tail_level(rest), "own": values[:, 0].astype("<f4")}


def put(out: Encoder, row: Fields) -> None:
    """Code all but the tokens' own log-probabilities."""
    real = row["ids"] >= 0
    lengths = real.sum(1)
    lists = ordered(Ranked(lengths, row["ids"][real], row["levels"][real]), out.code)
    begin = np.cumsum(lengths) - lengths
    own = np.flatnonzero(lists.ids == np.repeat(row["ids"][:, 0], lengths)) - begin
    out.put("length", row["ids"].shape[1] - lengths, row["ids"].shape[1])
    put_lists(out, lists, LADDER.size)
    out.put("own", own, row["ids"].shape[1])
    out.put("tail", row["tail"] >> TAIL_BITS, (NUM_TAILS >> TAIL_BITS) + 1)
    out.put_even(row["tail"] & ((1 << TAIL_BITS) - 1), np.full(len(lengths), 1 << TAIL_BITS))


def pack(row: Fields, code: Code) -> bytes:
    """A row as bytes."""
    out = Encoder(code)
    put(out, row)
    return FRONT.pack(*row["ids"].shape) + row["own"].tobytes() + out.done()


def unpack(data: bytes, code: Code) -> list[dict[str, dict[str, float]] | None]:
    """The answer's ``prompt_logprobs`` as it is read back, the tokens' own first."""
    num, width = FRONT.unpack_from(data)
    exact = np.frombuffer(data, "<f4", num, FRONT.size).astype(np.float64)
    source = Decoder(code, data[FRONT.size + 4 * num :])
    lengths = width - source.take("length", num, width)
    lists = take_lists(source, lengths, LADDER.size)
    own = source.take("own", num, width)
    tail = source.take("tail", num, (NUM_TAILS >> TAIL_BITS) + 1) << TAIL_BITS
    tail = tail + source.take_even(np.full(num, 1 << TAIL_BITS))
    real = np.arange(width) < lengths[:, None]
    ids, levels = np.full((num, width), -1), np.zeros((num, width), np.int64)
    ids[real], levels[real] = lists.ids, lists.levels
    values = _scaled(LADDER.value(levels), own, exact, tail_value(tail)[1])
    first = np.argsort(np.arange(width) != own[:, None], 1, kind="stable")
    ids, values = (np.take_along_axis(x, first, 1) for x in (ids, values))
    return [None, *({str(i): {"logprob": v} for i, v in zip(a, b, strict=True) if i >= 0} for a, b in zip(
        ids.tolist(), values.tolist(), strict=True))]  # fmt: skip


def _scaled(values: NDArray[Any], own: NDArray[Any], exact: NDArray[Any], kept: NDArray[Any]) -> NDArray[Any]:
    """The tokens' own log-probabilities put in, the others scaled to what these leave of the kept mass."""
    values = values.copy()
    rows = np.arange(len(values))
    values[rows, own] = -np.inf
    others = log_sum(values)
    left = np.exp(kept) - np.exp(exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where((left > 0) & np.isfinite(others), np.log(left) - others, 0.0)
    values += shift[:, None]
    values[rows, own] = exact
    return values
