"""Forward KL against stored scores: no teacher is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tutelage.core.context import Context
from tutelage.core.recipe import Recipe, Train, recipe
from tutelage.core.scores import Kept
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate
from tutelage.data.saying import TopScores
from tutelage.data.source import Corpus
from tutelage.data.tensors import TensorStore
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top


@lru_cache
def opened(folder: str, holds: TopScores) -> TensorStore:
    """The store, opened once."""
    key = json.loads((Path(folder) / "manifest.json").read_text())["key"]
    return TensorStore(folder, key, holds)


@dataclass(frozen=True)
class Cached:
    """A voice that says what was stored."""

    folder: str
    holds: TopScores
    max_length: int = 512

    def slots(self) -> frozenset[str]:
        return frozenset()

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        store = opened(self.folder, self.holds)
        collate = Collate(ctx.workspace.models["student"].tokenizer, self.max_length)
        said = [store.get(r.id, collate.row(r).ids["main"]) for r in ctx.batch.records]
        ids, log_probs = (torch.cat([s[name] for s in said]) for name in ("ids", "log_probs"))
        return {"next": Kept(ids, log_probs, self.holds.num_categories)}


@recipe(paper="none", family="objectives", formula="KL(p || q) over the stored tokens and one bucket for the rest")
def from_cache(*, folder: str = "scores", num_kept: int = 64, num_categories: int = 49152) -> Recipe:
    """Match stored teacher scores.

    Args:
        folder: The store.
        num_kept: Tokens stored a position.
        num_categories: Size of the vocabulary.

    Limits:
        num_kept = num_categories: forward_kl.
    """
    term = Term("kl", Match(kl_forward, on=Top(num_kept)))
    voice = Cached(folder, TopScores(num_kept, num_categories))
    return Recipe((Train("train", Corpus("train"), (Update((term,)),), voices={"teacher": voice}),))
