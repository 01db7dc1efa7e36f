"""A smaller model out of a larger one: fewer blocks, narrower blocks, repaired in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import SettingError, unknown
from ..models.body import Body
from ..models.build import build, changed_config, weights_of
from .choose import CHOOSERS, Chooser
from .narrow import narrow
from .refit import check_refit, refit

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Shrink:
    """Cut a model of the workspace down to a student.

    Args:
        source: The slot of the model to cut.
        layers: How many blocks stay, or which; None keeps all.
        by: How blocks are chosen when ``layers`` is a number: ``even`` (both ends stay), ``influence`` (those that turn
            the stream most), or a function of model, calibration rows and number.
        width: The share of attention groups, MLP channels and stream channels that stay, in (0, 1]; None keeps all.
        refit: Re-solve what is left on the calibration rows (see ``refit``). A plain cut of half the blocks forgets
            nearly everything; the refit brings most of it back in seconds.
        ridge: See ``refit``.

    Raises:
        SettingError: A setting is out of range.
    """

    source: str = "teacher"
    layers: int | tuple[int, ...] | None = None
    by: str | Chooser = "even"
    width: float | None = None
    refit: bool = True
    ridge: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.by, str) and self.by not in CHOOSERS:
            raise unknown("Shrink.by", self.by, CHOOSERS)
        if self.width is not None and not 0 < self.width <= 1:
            raise SettingError(
                "Shrink.width", got=repr(self.width), expected="a share in (0, 1]", remedy="0.5 halves the width."
            )
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))

    def __call__(self, workspace: Any, rows: Rows) -> Body:
        """The student; the source is left as it was.

        Args:
            workspace: Anything whose ``models[source]`` is the model to cut.
            rows: Calibration token ids. Only the plain even cut does without.
        """
        teacher: Body = workspace.models[self.source]
        if self.refit:
            check_refit(teacher, rows, self.ridge)
        keep = self._kept(teacher, rows)
        student = cut(teacher, keep)
        channels: Tensor | None = None
        if self.width is not None and self.width < 1:
            student, channels = narrow(teacher, student, keep, rows, self.width)
        if self.refit and (len(keep) < teacher.num_layers or channels is not None):
            refit(teacher, student, keep, rows, channels=channels, ridge=self.ridge)
        student.facts.update(
            made_by="shrink",
            made_from=teacher.facts.get("spec", teacher.name),
            kept_layers=list(keep),
            width=self.width,
            refit=self.refit,
            num_parameters=student.num_parameters,
        )
        return student

    def _kept(self, teacher: Body, rows: Rows) -> tuple[int, ...]:
        total = teacher.num_layers
        if self.layers is None:
            return tuple(range(total))
        if isinstance(self.layers, int):
            if not 1 <= self.layers <= total:
                raise SettingError(
                    "Shrink.layers",
                    got=str(self.layers),
                    expected=f"a number from 1 to {total}, the blocks of {teacher.name!r}",
                    remedy="Ask for fewer blocks than the source has.",
                )
            chooser = CHOOSERS[self.by] if isinstance(self.by, str) else self.by
            return chooser(teacher, rows, self.layers)
        keep = self.layers
        if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= total:
            raise SettingError(
                "Shrink.layers",
                got=repr(keep),
                expected=f"rising block numbers from 0 to {total - 1}",
                remedy="Name each block that stays once, in order.",
            )
        return keep


@torch.no_grad()
def cut(causal: Body, keep: Sequence[int], name: str = "student") -> Body:
    """A copy with only some blocks, in their order."""
    total = causal.num_layers
    fields = causal.config.to_dict()
    changes: dict[str, Any] = {"num_hidden_layers": len(keep)}
    # a list as long as the model is deep says something of each block (its sort of attention, say)
    changes |= {k: [v[i] for i in keep] for k, v in fields.items() if isinstance(v, list) and len(v) == total}
    prefix = next(n for n, m in causal.inner.named_modules() if m is causal.layers) + "."
    places = {old: new for new, old in enumerate(keep)}
    weights: dict[str, Tensor] = {}
    for key, value in weights_of(causal).items():
        if not key.startswith(prefix):
            weights[key] = value
            continue
        number, _, rest = key[len(prefix) :].partition(".")
        if int(number) in places:
            weights[f"{prefix}{places[int(number)]}.{rest}"] = value
    config = changed_config(causal, changes)
    return build(name, causal, config, weights, _facts(causal))


def _facts(causal: Body) -> dict[str, Any]:
    kept = ("architecture", "tokenizer_sha256", "licence")
    return {k: causal.facts[k] for k in kept if k in causal.facts}
