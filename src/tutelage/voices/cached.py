"""A voice that answers out of a cache, and the model slot of a teacher of which nothing else is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..core.batch import View
from ..core.context import Context
from ..core.errors import NeedError
from ..core.scores import Scores
from ..core.voice import Says
from ..data.cached import Cache, answer


@dataclass(frozen=True, eq=False)
class Cached:
    """What a voice said of a text before; where it never did, it is asked, and what it says is kept.

    Args:
        voice: The voice whose scores are kept: a slot and the view that it reads.
        cache: Where they are.
    """

    voice: Says
    cache: Cache

    def slots(self) -> frozenset[str]:
        """The slot its answer depends on."""
        return self.voice.slots()

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """``next`` over the batch's units.

        Raises:
            NeedError: Another field is wanted.
            StoreError: Rows are missing and there is no teacher, or the cache is damaged.
        """
        only_scores(self.voice.slot, wants)
        slot, view = self.voice.slot, ctx.batch.views[self.voice.sees]
        model = ctx.workspace.models[slot]

        def ask(some: View) -> Scores:
            with torch.no_grad(), ctx.workspace.ledger.timed(slot, "predict", int(some.inputs["input_ids"].numel())):
                return model.predict(some, frozenset({"next"}))["next"]

        return {"next": answer(self.cache, view, None if isinstance(model, Stored) else ask)}


class Stored:
    """A model slot that holds a cache and no weights: it says what was stored, and of anything else nothing.

    Args:
        slot: Its slot, for messages.
        cache: Where its answers are.
        tokenizer: The tokenizer whose ids it was asked in.
    """

    far = True

    def __init__(self, slot: str, cache: Cache, tokenizer: Any) -> None:
        self.name, self.cache, self.tokenizer = slot, cache, tokenizer
        self.model = torch.nn.Module()
        self.size = cache.form.num_categories
        self.facts: dict[str, Any] = {
            "spec": f"the cache {cache.folder}",
            "weights_sha256": cache.key.get("weights", ""),
            "tokenizer_sha256": cache.key.get("tokenizer", ""),
            "gives": f"what was stored of {cache.log.num_positions} positions, in the form {cache.form.name!r}",
        }

    def __repr__(self) -> str:
        return f"Stored({str(self.cache.folder)!r}, {self.cache.form})"

    @property
    def device(self) -> torch.device:
        """Where its answers arrive."""
        return torch.device("cpu")

    def fields(self) -> frozenset[str]:
        """What it says of any text: nothing."""
        return frozenset()

    def predict(self, view: View, wants: frozenset[str]) -> Mapping[str, Any]:
        """``next`` over the view's units.

        Raises:
            NeedError: Another field is wanted.
            StoreError: Rows are missing, or the cache is damaged.
        """
        only_scores(self.name, wants)
        return {"next": answer(self.cache, view, None)}


def only_scores(slot: str, wants: frozenset[str]) -> None:
    """Refuse fields that no cache holds.

    Raises:
        NeedError: Which.
    """
    if wants - {"next"}:
        raise NeedError(
            f"model {slot!r}, which answers out of a cache",
            got=f"a wish for {', '.join(sorted(wants - {'next'}))}",
            expected="'next' alone",
            remedy="Leave the cache out: what else this recipe reads needs a model in this process.",
        )
