"""Tiny encoders with a tokenizer that frames its rows, for tests that need a bidirectional pair."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tutelage.models.encoder import Encoder

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnop"]


def framed() -> PreTrainedTokenizerFast:
    """Letters as words; ``[CLS]`` before and ``[SEP]`` after, as BERT's tokenizer adds them."""
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def make_encoder(name: str = "tiny", *, seed: int = 0, dropout: float = 0.0, **config: object) -> Encoder:
    """A tiny BERT without a pooler."""
    settings: dict[str, object] = {
        "vocab_size": len(WORDS),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(BertConfig(**{**settings, **config}), add_pooling_layer=False).eval()  # type: ignore[arg-type]
    return Encoder(name, model, framed(), {"weights_sha256": str(seed), "tokenizer_sha256": "framed"})
