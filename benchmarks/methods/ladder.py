"""The teacher and the students that arms start from: trained once by `supervised`, kept in the work folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tutelage

from . import tasks
from .sizes import Shape, Sizes, fingerprint

ROWS = 64
TEACHER_SEED = 1000


def prepared(work: Path, sizes: Sizes, seeds: int) -> Path:
    """The folder of results, in that of data, teacher and starts; what is there already is not made again."""
    base = work / sizes.base_key
    folder, data = base / sizes.key, base / "data"
    if not (data / "ready").exists():
        tasks.write(data, dict(sizes.splits), seed=0)
        (data / "ready").touch()
    _trained(base / "teacher", sizes.teacher, sizes, data, TEACHER_SEED)
    for seed in range(seeds):
        _trained(start(base, sizes, seed), sizes.student, sizes, data, seed)
    return folder


def start(base: Path, sizes: Sizes, seed: int) -> Path:
    """Where the student is that every arm of a seed starts from."""
    return base / f"start-{sizes.start_key}-{seed}"


def _trained(folder: Path, shape: Shape, sizes: Sizes, data: Path, seed: int) -> None:
    """A model from scratch after its updates on the data's answers."""
    if (folder / "config.json").exists():
        return
    blank = folder.with_name(folder.name + "-blank")
    build(blank, shape, sizes, data, seed)
    done = tutelage.run({
        "recipe": "supervised",
        "name": folder.name,
        "output": str(folder.parent / "made"),
        "seed": seed,
        "models": {"student": str(blank)},
        "data": {"train": str(data / f"{shape.rows}.jsonl")},
        "train": {"steps": shape.steps, "batch_size": min(ROWS, 2 * dict(sizes.splits)[shape.rows]),
                  "max_length": 160, "learning_rate": shape.learning_rate},
    })  # fmt: skip
    shutil.copytree(done.student, folder)
    shutil.rmtree(blank)


def build(folder: Path, shape: Shape, sizes: Sizes, data: Path, seed: int) -> None:
    """Random weights and the tokenizer, as a folder of transformers."""
    texts = [r["prompt"] + r["completion"] for r in map(json.loads, (data / "teach.jsonl").open(encoding="utf-8"))]
    tokenizer = tasks.tokenizer(texts, sizes.vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=int(8 * shape.width / 3),
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 32,
        num_key_value_heads=shape.width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(int(fingerprint([seed, "weights"]), 16) % 2**31)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
