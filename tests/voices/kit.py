"""Tokenizers of several kinds and tiny models of them: bytes, byte-level BPE, SentencePiece style."""

from __future__ import annotations

import random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.core.record import Piece, Record
from tutelage.models.causal import Causal

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TEXTS = [
    "Question: what is two and two? Answer: four.\n\tdef add(a, b):\n        return a + b  # the sum",
    "the cat sat on the mat, naïvely; für Élise — 日本語のテキスト 🙂👍🏽",
    "one two three four five six seven eight nine ten, then there in the end",
]


def _wrapped(inner, specials, template, **named):
    inner.add_special_tokens(specials)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    made.chat_template = template
    return made


def byte_tokenizer(template=CHATML):
    """One token a byte."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return _wrapped(inner, specials, template, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")


def bpe_tokenizer(size=400, template=TURNS):
    """Byte-level BPE with merges, other special tokens and another template."""
    specials = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(TEXTS * 3, trainer)
    return _wrapped(inner, specials, template, bos_token="<bos>", eos_token="<end_of_turn>", pad_token="<pad>")


def piece_tokenizer(prefix=True, template=None):
    """SentencePiece style: spaces as a mark, a space put in front, bytes for unknown characters."""
    specials = ["<unk>", "<s>", "</s>"]
    letters = sorted({c for text in TEXTS[:1] + TEXTS[2:] for c in text if c.isascii() and c.isprintable() and c != " "})
    words = ["\u2581", "\u2581the", "th", "er", "\u2581a", "on"]
    tokens = [*specials, *(f"<0x{b:02X}>" for b in range(256)), *words, *letters, "e", "r"]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    merges = [("t", "h"), ("e", "r"), ("o", "n"), ("\u2581", "a")]
    merges = [m for m in merges if m[0] in vocab and m[1] in vocab]
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("\u2581")] if prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrapped(inner, specials, template, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def rewriting_tokenizer():
    """Byte-level BPE that lower-cases what it reads."""
    made = bpe_tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


def shouting_tokenizer():
    """Reads every text as exclamation marks: nothing of it is left."""
    made = byte_tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Replace(Regex("[\\s\\S]"), "!")
    return made


def causal(name, tokenizer, *, seed=0, layers=2, **more):
    """A tiny Llama with random weights over a tokenizer."""
    settings = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **more})).eval()
    return Causal(name, model, tokenizer)


def text_row(name, prompt, answer):
    """A prompt and an answer that trains."""
    return Record(name, (Piece(prompt), Piece(answer, trains=True)))


ATOMS = [
    " ", "  ", "\n", "\t", "\r\n", "\x00", "\x07", "\x1b[0m", "\ufeff", "\u200d", "\u0301", "a", "the", " the", "cat", "é", "ß", "日本", "語",
    "🙂", "👍🏽", "👨‍👩‍👧", "def f(x):\n    return x", "{'a': [1, 2]}", "<|im_end|>", "<end_of_turn>", "<bos>", "<0x41>", "\u2581", "12345", "...",
]  # fmt: skip


def random_text(rng: random.Random) -> str:
    """Text of anything: words, code, emoji, marks, control characters, special tokens, any code point."""
    out = []
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.7:
            out.append(rng.choice(ATOMS))
        else:
            point = rng.randrange(0x110000)
            out.append(chr(point) if not 0xD800 <= point < 0xE000 else "?")
    return "".join(out)
