"""A model without its memory: what its passes hold, found by running them on tensors that are shapes alone."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from ..core.errors import ModelError
from .adapter import adapted, trains
from .build import bare_body
from .causal import Causal
from .encoder import Encoder
from .load import DTYPES, is_encoder
from .quiet import quiet

Places = tuple[int, int, bool]  # rows and width of a grid, and whether its rows are packed


@dataclass(frozen=True)
class Passes:
    """Bytes that the passes of a body over one grid hold beside its weights, before any head.

    Args:
        read: The most in a pass without gradient.
        kept: What a pass with gradient leaves for the backward pass.
        back: The most in the backward pass, the gradients that it makes included.
    """

    read: int
    kept: int
    back: int


class Shadow:
    """The modules of a configuration on tensors without storage: any architecture, counted and not assumed.

    Args:
        config: The configuration.
        dtype: Of its weights.
        bits: 8 counts the blocks' matrices as int8.
        rank: Of an adapter, which then is all that trains; 0 for none.
        targets: Ends of the names of modules that get one.
        freeze: Parameters whose names contain one of these do not train.

    Raises:
        ModelError: An architecture that is neither a causal model nor an encoder.
    """

    def __init__(
        self,
        config: Any,
        dtype: str = "float32",
        *,
        bits: int | None = None,
        rank: int = 0,
        targets: Sequence[str] = (),
        freeze: Sequence[str] = (),
    ) -> None:
        self.dtype, self._mode = DTYPES[dtype], FakeTensorMode()
        self._seen: dict[tuple[Any, ...], Passes] = {}
        with torch.device("meta"), quiet():
            body = _built(config, self.dtype)
            self.body = adapted(body, rank=rank, targets=targets) if rank else body  # type: ignore[arg-type]
        with self._mode:
            _replace(self.module)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(trains(self.module, name) and not any(part in name for part in freeze))
        self.weight_bytes = sum(p.numel() * p.element_size() for p in self.module.parameters())
        if bits == 8:
            matrices = [m.weight for b in body.layers for m in b.modules() if isinstance(m, nn.Linear)]
            self.weight_bytes -= sum(w.numel() * (w.element_size() - 1) - 4 * len(w) for w in matrices)

    @property
    def module(self) -> nn.Module:
        """The module."""
        return self.body.model

    @property
    def num_trained(self) -> int:
        """Parameters that train, once this model moves."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    @property
    def num_body(self) -> int:
        """Parameters that each token meets: all but embedding and head."""
        outside = {id(m.weight): m.weight for m in (self._embedding, self._head) if m is not None}
        return sum(p.numel() for p in self.module.parameters()) - sum(w.numel() for w in outside.values())

    @property
    def num_head(self) -> int:
        """Numbers in the head; 0 for an encoder."""
        return 0 if self._head is None else self._head.weight.numel()

    @property
    def num_categories(self) -> int:
        """Rows of the head; 0 for an encoder."""
        return 0 if self._head is None else len(self._head.weight)

    @property
    def head_trains(self) -> bool:
        """Whether the head gets a gradient of its own size."""
        return self._head is not None and self._head.weight.requires_grad

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self._head is not None and self._head.weight is self._embedding.weight

    @property
    def num_layers(self) -> int:
        """The number of blocks."""
        return self.body.num_layers

    @property
    def hidden_size(self) -> int:
        """The width of the stream."""
        return self.body.hidden_size

    @property
    def cache_values(self) -> int:
        """Numbers that are kept of one token while writing."""
        config = self.body.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return 2 * self.body.num_layers * groups * size

    def flops(self, rows: int, width: int, units: int, *, moves: bool = False, short: bool = False) -> int:
        """About how many operations its passes over a grid and its head over the trained positions are.

        A backward pass is two forward passes, and blocks that are computed again are one more; the loss node forms the
        head's gradient on the way, with two more products.
        """
        attention = 2 * self.num_layers * self.hidden_size * width
        body = rows * width * (2 * self.num_body + attention)
        return body * ((4 if short else 3) if moves else 1) + 2 * units * self.num_head * (3 if moves else 1)

    @property
    def _embedding(self) -> Any:
        return self.body.inner.get_input_embeddings()

    @property
    def _head(self) -> Any:
        return None if isinstance(self.body, Encoder) else self.body.inner.get_output_embeddings()

    def passes(
        self, grid: Places, *, moves: bool, again: bool = False, half: bool = False, short: bool = False
    ) -> Passes:
        """What its passes over a grid hold.

        Args:
            grid: Rows, width, and whether rows are packed.
            moves: Whether there is a backward pass.
            again: Whether gradients are there already, to which new ones are added.
            half: Whether bodies run in bfloat16 under autocast.
            short: Whether blocks are computed again in the backward pass (gradient checkpointing).
        """
        key = (grid, moves, again, half, short)
        if key not in self._seen:
            self._seen[key] = self._passes(*key)
        return self._seen[key]

    def _passes(self, grid: Places, moves: bool, again: bool, half: bool, short: bool) -> Passes:
        cast = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
        with self._mode, self._recomputing(moves and short), cast, quiet():
            inputs = _inputs(grid)
            if not moves:
                with torch.no_grad(), _Alive(self.module) as alive:
                    self.body.hidden(inputs)
                return Passes(alive.peak, 0, 0)
            for parameter in self.module.parameters():
                parameter.grad = torch.empty_like(parameter) if again and parameter.requires_grad else None
            with _Alive(self.module) as alive:
                hidden = self.body.hidden(inputs)
                kept, alive.peak = alive.now, alive.now
                hidden.backward(torch.empty_like(hidden))
            self.module.zero_grad()
        return Passes(0, kept, alive.peak)

    @contextmanager
    def _recomputing(self, wanted: bool) -> Iterator[None]:
        inner: Any = self.body.inner
        self.module.train(wanted)  # blocks are computed again in training mode alone
        if wanted:
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            yield
        finally:
            if wanted:
                inner.gradient_checkpointing_disable()


class _Alive(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still there; those of a module's weights do not count."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            for known in (tensor, tensor.grad):
                if known is not None:
                    self._note(known, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._note(made, made.untyped_storage().nbytes())
        return out

    def _note(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self.now += size
            self.peak = max(self.peak, self.now)
            self._known[key] = weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size


def _built(config: Any, dtype: torch.dtype) -> Causal | Encoder:
    if is_encoder(config):
        return Encoder("", AutoModel.from_config(config, dtype=dtype, **bare_body(MODEL_MAPPING[type(config)])).eval())
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            "plan",
            got=f"a configuration of {config.model_type!r}",
            expected="a causal language model (decoder only), or an encoder of the BERT family",
            remedy="Choose a model whose config names a ...ForCausalLM architecture that transformers knows.",
        )
    return Causal("", AutoModelForCausalLM.from_config(config, dtype=dtype).eval())


def _replace(module: nn.Module) -> None:
    """Tensors of the processor, as the passes choose their routines by it; shared ones stay shared."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and id(tensor) not in made:
                    fresh = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    made[id(tensor)] = nn.Parameter(fresh) if isinstance(tensor, nn.Parameter) else fresh
                held[name] = None if tensor is None else made[id(tensor)]


def _inputs(grid: Places) -> dict[str, Tensor]:
    rows, width, packed = grid
    ids = torch.zeros(rows, width, dtype=torch.long)
    # of a row alone that is not packed the library leaves the mask out, but not of shapes: 4 T^2 bytes a block too many
    shape = (rows, 1, width, width) if packed else (rows, width)
    mask = torch.ones(shape, dtype=torch.bool if packed else torch.long)
    return {"input_ids": ids, "position_ids": torch.zeros_like(ids), "attention_mask": mask}


def grown(length: int, room: int, step: int) -> int:
    """Positions of a key-value buffer that holds ``length`` tokens and was read ``room`` more, one by one."""
    held = length + max(step, length // 4)
    while held < length + room:
        held = held + 1 + max(step, (held + 1) // 4)
    return math.ceil(held)
