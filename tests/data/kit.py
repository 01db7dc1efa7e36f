"""Small real tokenizers, templates and a model, for the tests of data and of its pains."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tutelage.core.record import Piece, Record

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# BOS in the template, content stripped (Llama 3)
TRIMS = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|sep|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|sep|>\n\n{% endif %}"
)
# spaces around, EOS only behind answers (Llama 2, Mistral)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# thinking is taken out of all turns but the last (Qwen 3, DeepSeek R1)
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if '</think>' in m['content'] and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# an empty thought is put before a finished last answer (Qwen 3 without thinking)
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "trims": TRIMS, "inst": INST, "forgets": FORGETS, "thinks": THINKS}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|bos|>", "<|pad|>", "<|start|>", "<|sep|>", "<|eot|>"]
TEXTS = [
    "Question: what is two and two? Answer: four.",
    "the cat sat on the mat",
    "assistant user system",
    "1234567890",
]


def make_tokenizer(template=CHATML, eos="<|im_end|>", pad="<|im_end|>", adds_bos=False):
    """A byte-level BPE tokenizer of about 320 tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS * 3, trainer)
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", inner.token_to_id("<|bos|>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, pad_token=pad, bos_token="<|bos|>", additional_special_tokens=SPECIAL
    )
    tokenizer.chat_template = template
    return tokenizer


def make_causal(tokenizer, name="tiny", seed=0, num_layers=2):
    """A Llama of random weights, and what a cache is keyed by."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tutelage.models.causal import Causal

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    return Causal(name, model, tokenizer, {"weights_sha256": f"w{seed}", "tokenizer_sha256": "t0"})


def chat(name, *contents, system=None, trains=None):
    """A chat record: user and assistant in turn, assistants train unless ``trains`` says otherwise."""
    pieces = [] if system is None else [Piece(system, "system")]
    for number, content in enumerate(contents):
        role = "assistant" if number % 2 else "user"
        does = number % 2 == 1 if trains is None else trains[number]
        pieces.append(Piece(content, role, part="answer" if number % 2 else "prompt", trains=does))
    return Record(name, tuple(pieces))


def text(name, prompt, answer, **more):
    """A prompt/completion record."""
    return Record(name, (Piece(prompt, part="prompt"), Piece(answer, part="answer", trains=True, **more)))


def flat(segments):
    """Ids and trained flags of segments."""
    return [i for s in segments for i in s.ids], [s.trains for s in segments for _ in s.ids]
