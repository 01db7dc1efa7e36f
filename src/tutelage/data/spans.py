"""Spans: the byte ranges that two tokenisations of one text share.

Both lists of tokens are walked by the number of bytes they have covered; wherever both stand at the same byte a span
ends. Offsets are bytes, because a character may be split over tokens. Where the two spell other bytes (a tokenizer that
rewrites what it reads), what they agree on from the front and from the back is kept and the rest belongs to no span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

NOWHERE = -1


@dataclass(frozen=True)
class Spans:
    """Spans that two token lists share.

    Args:
        one: For each token of the first list, its span; ``NOWHERE`` for none.
        other: The same for the second list.
        places: By span, its place in the text; a gap between two of them is text that belongs to no span.
    """

    one: list[int]
    other: list[int]
    places: list[int]


def align(one: Sequence[bytes], other: Sequence[bytes]) -> Spans:
    """The finest spans that are unions of tokens on both sides.

    Args:
        one: The bytes of each token.
        other: The bytes of the other list's tokens; a single space in front of them, or of ``one``, that the other side
            lacks (a tokenizer that begins every text with a space) counts for nothing.
    """
    ends = [list(accumulate(map(len, tokens))) for tokens in (one, other)]
    texts = [b"".join(tokens) for tokens in (one, other)]
    for here, there in ((0, 1), (1, 0)):
        if texts[here] == b" " + texts[there]:
            texts[here] = texts[there]
            ends[here] = [max(0, end - 1) for end in ends[here]]
    front, back = _agreement(*texts)
    length = len(texts[0])
    # behind what differs, ends are counted from the back and one higher: where one text is all agreement, its front
    # ends where its back begins, and the other text has something between the two
    begin = length - back + 1
    keys, found = [], []
    for side, text in zip(ends, texts, strict=True):
        late = [end + length - len(text) + 1 if back else 0 for end in side]
        keys.append([end if end <= front else k if k >= begin else -1 for end, k in zip(side, late, strict=True)])
        found.append({end for end in side if 0 < end <= front} | {k for k in late if k >= begin})
    cuts = sorted(found[0] & found[1])
    kept = {cut: n for n, (start, cut) in enumerate(pairwise([0, *cuts])) if cut <= front or start >= begin}
    number = {cut: count for count, cut in enumerate(kept)}
    return Spans(_homes(keys[0], cuts, number), _homes(keys[1], cuts, number), list(kept.values()))


def _agreement(one: bytes, other: bytes) -> tuple[int, int]:
    """How many bytes agree from the front, and how many of the others from the back."""
    if one == other:
        return len(one), 0
    shorter = min(len(one), len(other))
    front = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    left = shorter - front
    back = next((i for i in range(left) if one[-1 - i] != other[-1 - i]), left)
    return front, back


def _homes(keys: Sequence[int], cuts: Sequence[int], number: dict[int, int]) -> list[int]:
    """The span of each token: that of the first cut at or after its end; one without bytes goes with the one before."""
    out, at = [], 0
    for key in keys:
        if key < 0:
            out.append(NOWHERE)
            continue
        while at < len(cuts) and cuts[at] < key:
            at += 1
        out.append(number.get(cuts[at], NOWHERE) if at < len(cuts) else NOWHERE)
    return out
