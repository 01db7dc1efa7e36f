"""An encoder as the system sees it: every token sees every other, and nothing is predicted of what comes next."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.batch import View
from ..core.errors import ModelError, NeedError
from .body import Body
from .tokens import merges, vocabulary

REMEDY = (
    "An encoder scores no next token: choose an objective over states, attention or classes (ernie_tiny with label and "
    "classes), or causal models."
)


class Encoder(Body):
    """A bidirectional model without a head (the BERT family): its states, its attention and their mean.

    Its rows are text in the frame that its tokenizer adds (``[CLS]`` and ``[SEP]``), which counts as real tokens.
    ``hidden.K`` are the states of the trained tokens themselves, not of those before them.
    """

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """None: an encoder writes nothing."""
        return ()

    def hidden(self, inputs: Mapping[str, Tensor], **settings: Any) -> Tensor:
        """Final hidden states, Float[B T D]; rows that share a line do not see each other."""
        inputs, mask = dict(inputs), inputs.get("attention_mask")
        position = inputs.pop("position_ids", None)
        packed = mask is not None and mask.dim() == 4
        if mask is not None and packed:
            # collate's mask lets a token see what came before it in its row: here also what comes after
            inputs["attention_mask"] = mask | mask.mT
        if "position_ids" in inspect.signature(self.body.forward).parameters:
            if position is not None:
                inputs["position_ids"] = position + self._first_position
        elif packed:
            raise NeedError(
                f"model {self.name!r}",
                got="packed rows, and no way to number their positions",
                expected="one record a row",
                remedy="Set train.pack = false.",
            )
        return self.body(**inputs, return_dict=True, **settings).last_hidden_state

    @property
    def _first_position(self) -> int:
        """The number of a row's first position: RoBERTa counts from behind its pad id."""
        embeddings: Any = getattr(self.body, "embeddings", None)
        return int(embeddings.padding_idx) + 1 if hasattr(embeddings, "create_position_ids_from_input_ids") else 0

    def _units(self, view: View) -> Tensor:
        return view.at + 1

    def refuse(self, wants: Iterable[str]) -> None:
        """Raise for fields that an encoder does not give; the next token is none of them."""
        wants = set(wants)
        if wants & {"next"}:
            raise NeedError(
                f"encoder {self.name!r}", got="a wish for 'next'", expected="states or 'pooled'", remedy=REMEDY
            )
        super().refuse(wants)


def same_words(teacher: Body, student: Body) -> tuple[str, ...]:
    """Check that an id means the same to both; what is worth a note.

    Raises:
        ModelError: Their vocabularies differ, or one is an encoder and the other is not.
    """
    if isinstance(teacher, Encoder) != isinstance(student, Encoder):
        raise ModelError(
            f"teacher {teacher.name!r} and student {student.name!r}",
            got="an encoder and a causal model",
            expected="two models of one sort: the one sees what the other may not",
            remedy="Choose a student of the teacher's sort.",
        )
    one, other = teacher.tokenizer, student.tokenizer
    if one is not other and (vocabulary(one) != vocabulary(other) or merges(one) != merges(other)):
        raise ModelError(
            f"vocabulary of teacher {teacher.name!r} and student {student.name!r}",
            got="other tokens",
            expected="the same token for each id",
            remedy="Their states stand for other tokens: cut the student out of the teacher, or choose its kin.",
        )
    return (f"{teacher.name} and {student.name} are encoders: states, attention and classes can be compared",)


@torch.no_grad()
def check_body(encoder: Encoder) -> None:
    """Run a few ids, so that a body that cannot be read fails when it is loaded."""
    size = encoder.inner.get_input_embeddings().weight.shape[0]
    ids = torch.arange(min(4, size), device=encoder.device)[None]
    if encoder.hidden({"input_ids": ids}).shape[-1] != encoder.hidden_size:
        raise ModelError(
            f"encoder {encoder.name!r}",
            got="states of another width than its configuration says",
            expected=f"{encoder.hidden_size} features",
            remedy="This architecture is not known here; choose one of the BERT family.",
        )
