"""What every language model has: a body of blocks, whose states and attention can be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import View
from ..core.errors import ModelError, NeedError
from ..core.scores import Scores
from .attention import recorded_scores

BLOCKS = ("layers", "h", "blocks", "decoder.layers", "encoder.layer", "transformer.layer")


class Body:
    """A transformers model, its tokenizer and the facts of where it came from.

    Args:
        name: A short name for messages and tables.
        model: A transformers module, or a peft model around one.
        tokenizer: Its tokenizer, or None for a model that only reads ids.
        facts: What is known of it (source, hashes, licence).
        size: How many of a head's first ids are real; None means all. ``agree`` sets it for padded heads.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any = None,
        facts: Mapping[str, Any] | None = None,
        size: int | None = None,
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.facts: dict[str, Any] = dict(facts or {})
        self.size = size

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.name!r}, {self.num_layers} layers, {self.num_parameters / 1e6:.1f}M parameters)"

    @property
    def inner(self) -> Any:
        """The transformers model, without what is wrapped around it."""
        unwrap = getattr(self.model, "get_base_model", None)
        return self.model if unwrap is None else unwrap()

    @property
    def config(self) -> Any:
        """The text configuration."""
        return self.inner.config.get_text_config(decoder=True)

    @property
    def body(self) -> Any:
        """Everything before the head, final norm included."""
        return self.inner.base_model

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks, in order."""
        for path in BLOCKS:
            module: Any = self.body
            for part in path.split("."):
                module = getattr(module, part, None)
            if isinstance(module, nn.ModuleList):
                return module
        raise ModelError(
            f"model {self.name!r}",
            got=f"{type(self.body).__name__}, whose blocks are not in a known place",
            expected="a body with .layers or .h",
            remedy="Read only the fields 'next' and 'pooled' of this model.",
        )

    @property
    def num_layers(self) -> int:
        """The number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """The width of the stream."""
        return int(self.config.hidden_size)

    @property
    def max_positions(self) -> int | None:
        """The longest context, or None where the architecture sets none."""
        longest = getattr(self.config, "max_position_embeddings", None)
        return None if longest is None else int(longest)

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the first parameter is."""
        return next(self.model.parameters()).device

    def fields(self) -> frozenset[str]:
        """The fields that ``predict`` gives; a block may also be named by its depth, as in ``states.2/4``."""
        blocks = [f"{what}.{k}" for what in ("hidden", "states", "attention") for k in range(self.num_layers + 1)]
        return frozenset({"pooled", *blocks} - {"attention.0"})

    def predict(self, view: View, wants: frozenset[str]) -> dict[str, Scores | Tensor]:
        """Run the body once and gather what is asked.

        Args:
            view: The batch as this model reads it.
            wants: Some of ``fields()``. ``hidden.K`` is the stream after block K (0 is the embedding), before the final
                norm, at the trained units: Float[U D]; ``states.K`` the same at every real token: Float[P D];
                ``attention.K`` each real token's scores in block K over the keys of the grid, scaled and before the
                softmax, -inf at keys that it does not see: Float[P A T]; ``pooled`` the mean of the final hidden
                states over each row's real tokens: Float[R D]. ``K`` may be ``m/M``, the m-th of M even steps through
                the blocks.

        Raises:
            NeedError: A field that is not given, or one that packed rows do not allow.
        """
        numbers = {want: self._number(want) for want in wants if "." in want}
        self._check(view, wants)
        streams = sorted({k for want, k in numbers.items() if not want.startswith("attention.")})
        scored = sorted({k for want, k in numbers.items() if want.startswith("attention.")})
        real = real_places(view) if {w.partition(".")[0] for w in wants} & {"states", "attention"} else None
        with recorded_stream(self, streams) as stream, recorded_scores(self.inner, scored, real) as scores:
            hidden = self.hidden(view.inputs)
        out: dict[str, Scores | Tensor] = {}
        for want, k in numbers.items():
            what = want.partition(".")[0]
            at = self._units(view) if what == "hidden" else real
            out[want] = scores[k] if what == "attention" else gather(stream[k], at)  # type: ignore[arg-type]
        if "pooled" in wants:
            out["pooled"] = _pool(hidden, view)
        return out | self._scores(hidden, view, wants)

    def hidden(self, inputs: Mapping[str, Tensor], **settings: Any) -> Tensor:
        """Hidden states after the final norm, Float[B T D]; nothing is cached."""
        return self.body(**inputs, use_cache=False, return_dict=True, **settings).last_hidden_state

    def _scores(self, hidden: Tensor, view: View, wants: frozenset[str]) -> dict[str, Scores | Tensor]:
        """What a head adds."""
        return {}

    def _units(self, view: View) -> Tensor:
        """Where the states of the trained units are."""
        return view.at

    def _number(self, want: str) -> int:
        """The block that a field names; -1 if there is none."""
        what, _, number = want.partition(".")
        part, _, whole = number.partition("/")
        if not part.isdecimal() or (whole and not whole.isdecimal()) or what not in ("hidden", "states", "attention"):
            return -1
        of = int(whole) if whole else self.num_layers
        if not 0 < of <= self.num_layers or int(part) > of or (what == "attention" and int(part) == 0):
            return -1
        return (2 * int(part) * self.num_layers + of) // (2 * of)

    def refuse(self, wants: Iterable[str]) -> None:
        """Raise for fields that this model does not give, whatever the batch.

        Raises:
            NeedError: The unknown ones, and what it gives.
        """
        known = {f for f in self.fields() if "." not in f}
        foreign = sorted(w for w in wants if (self._number(w) < 0 if "." in w else w not in known))
        if foreign:
            raise NeedError(
                f"model {self.name!r}",
                got=f"a wish for {', '.join(map(repr, foreign))}",
                expected=f"{', '.join(map(repr, sorted(known)))}, 'hidden.K', 'states.K' or 'attention.K' with K up to "
                f"{self.num_layers}, or m/M with M up to {self.num_layers}",
                remedy="Ask for a field that this model gives; fewer steps through its blocks are a smaller M.",
            )

    def _check(self, view: View, wants: frozenset[str]) -> None:
        self.refuse(wants)
        mask = view.inputs.get("attention_mask")
        packed = mask is not None and mask.dim() == 4
        window = getattr(self.config, "sliding_window", None)
        slides = bool(window) and "sliding_attention" in (getattr(self.config, "layer_types", None) or ())
        wrong = "pooled" if packed and "pooled" in wants and view.row is None else ""
        if packed and slides and mask is not None and mask.shape[-1] > int(window or 0):
            wrong = f"rows longer than its attention window of {window}"
        if wrong:
            raise NeedError(
                f"model {self.name!r}",
                got=f"packed rows and {wrong}",
                expected="one record a row",
                remedy="Collate with pack=False.",
            )


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block; every module's own mode comes back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def recorded_stream(body: Body, numbers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the stream after the given blocks; 0 is what enters the first."""
    found: dict[int, Tensor] = {}
    hooks = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[0] = args[0] if args else kwargs["hidden_states"]

    def leave(number: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    for number in numbers:
        if number == 0:
            hooks.append(body.layers[0].register_forward_pre_hook(enter, with_kwargs=True))
        else:
            hooks.append(body.layers[number - 1].register_forward_hook(leave(number)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def gather(grid: Tensor, at: Tensor) -> Tensor:
    """Places of a flattened grid Float[B T D]: Float[U D]."""
    return grid.flatten(0, 1).index_select(0, at)


def real_places(view: View) -> Tensor:
    """Int[P], the places of the tokens that are no padding, row by row.

    Raises:
        NeedError: Rows packed by hand do not say where they are.
    """
    if view.real is not None:
        return view.real
    ids, mask = view.inputs["input_ids"], view.inputs.get("attention_mask")
    if mask is not None and mask.dim() == 4:
        raise NeedError(
            "a view", got="packed rows without places", expected="View.real", remedy="Build batches with Collate."
        )
    return torch.arange(ids.numel(), device=ids.device) if mask is None else mask.flatten().nonzero().squeeze(-1)


def _pool(hidden: Tensor, view: View) -> Tensor:
    if view.row is not None:
        states, row = gather(hidden, real_places(view)), view.row
        total = torch.zeros(int(row.max()) + 1, states.shape[1], dtype=states.dtype, device=states.device)
        return total.index_add(0, row, states) / torch.bincount(row).unsqueeze(-1).to(states.dtype)
    mask = view.inputs.get("attention_mask")
    if mask is None:
        return hidden.mean(1)
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
