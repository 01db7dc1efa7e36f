"""What a model costs, from its configuration alone: parameters, bytes, FLOPs and cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.errors import ModelError, unknown

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# gated MLP with bias-free RMS norms; a bias on queries, keys and values is told apart by the family's name
BIASED = frozenset({"qwen2"})
HEAD_NORMS = frozenset({"qwen3"})
ENCODERS = frozenset({"bert"})
KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})


@dataclass(frozen=True)
class Cost:
    """Counts of a causal model.

    Args:
        num_body_parameters: Embedding, blocks and norms.
        num_head_parameters: The head's own; 0 when it is tied to the embedding.
        body_flops: For one position, without attention over earlier ones: two a weight of the blocks.
        attention_flops: For one position and each earlier one it attends to.
        head_flops: For one position.
        cache_values: Numbers kept in the key-value cache for one token.
    """

    num_body_parameters: int
    num_head_parameters: int
    body_flops: int
    attention_flops: int
    head_flops: int
    cache_values: int

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.num_body_parameters + self.num_head_parameters

    def weight_bytes(self, dtype: str = "float32") -> int:
        """Bytes of the weights."""
        return self.num_parameters * _width(dtype)

    def cache_bytes(self, dtype: str = "float32") -> int:
        """Bytes of the key-value cache for one token."""
        return self.cache_values * _width(dtype)

    def flops(self, length: int, scored: int | None = None) -> int:
        """FLOPs of reading a row of ``length`` tokens with the head at ``scored`` of them (all by default)."""
        pairs = length * (length + 1) // 2
        heads = length if scored is None else scored
        return length * self.body_flops + pairs * self.attention_flops + heads * self.head_flops


def cost(config: Any) -> Cost:
    """The cost of a model with this configuration; no weights are needed.

    Raises:
        ModelError: A family whose blocks are not known here.
    """
    config = config.get_text_config(decoder=True)
    family = config.model_type
    if family in ENCODERS:
        return _encoder(config)
    if family not in KNOWN:
        raise ModelError(
            "cost",
            got=f"a configuration of family {family!r}",
            expected=f"one of {', '.join(sorted(KNOWN | ENCODERS))}",
            remedy="Load the model and count its parameters instead.",
        )
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or width // heads
    attention, mlp = 2 * width * heads * size + 2 * width * groups * size, 3 * width * inner
    small = 2 * width  # norms
    if family in BIASED or getattr(config, "attention_bias", False):
        small += (heads + 2 * groups) * size
    if getattr(config, "attention_bias", False) and family not in BIASED:
        small += width
    if getattr(config, "mlp_bias", False):
        small += 2 * inner + width
    if family in HEAD_NORMS:
        small += 2 * size
    vocabulary = config.vocab_size * width
    return Cost(
        num_body_parameters=vocabulary + layers * (attention + mlp + small) + width,
        num_head_parameters=0 if config.tie_word_embeddings else vocabulary,
        body_flops=2 * layers * (attention + mlp),
        attention_flops=4 * layers * heads * size,
        head_flops=2 * vocabulary,
        cache_values=2 * layers * groups * size,
    )


def _encoder(config: Any) -> Cost:
    """An encoder without pooler and head; a position attends to later ones too, so each pair counts twice."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    matrices = 4 * width * width + 2 * width * inner
    vectors = 4 * width + inner + width + 4 * width  # biases, and the two norms of a block
    words = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    return Cost(
        num_body_parameters=words * width + 2 * width + layers * (matrices + vectors),
        num_head_parameters=0,
        body_flops=2 * layers * matrices,
        attention_flops=8 * layers * width,
        head_flops=0,
        cache_values=0,
    )


def _width(dtype: str) -> int:
    if dtype not in BYTES:
        raise unknown("dtype", dtype, BYTES)
    return BYTES[dtype]
