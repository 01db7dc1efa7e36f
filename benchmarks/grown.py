"""What the curves measure: ``(device, points, repeats) -> [(seconds, bytes), ...]``, one pair a point."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.core import node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.core.signal import Read, Signal
from tutelage.core.term import Term, Update
from tutelage.core.workspace import Workspace
from tutelage.data.cached import Asked, Cache, Top
from tutelage.data.collate import Collate, split
from tutelage.data.live import Live
from tutelage.data.source import Corpus, Source
from tutelage.data.steps.ask import Ask
from tutelage.models.causal import Causal
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.match import Match
from tutelage.signals.match import Top as Kept
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics, Silent
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

from .common import ROOT, seconds
from .counted import Counted, counted
from .head import Says as Given

Points = list[tuple[float, int]]
WORDS, LENGTH, PROMPT = 4096, 128, 64


def least(work: Callable[[], Any], device: str, repeats: int) -> float:
    """The shortest of some calls after one: what else runs on the machine only ever lengthens them."""
    work()
    return min(seconds(work, device, repeats=1, warm=0) for _ in range(repeats))


# -- the loss ---------------------------------------------------------------------------------------------------------
def _loss(device: str, shape: tuple[int, int, int], repeats: int, signals: Sequence[Signal], teachers: int = 1) -> Any:
    """Seconds of loss and gradients, and the most bytes held beside the inputs."""
    count, size, words = shape
    g = torch.Generator().manual_seed(0)

    def draw(rows: int, scale: float) -> Tensor:
        return torch.randn(rows, size, generator=g).mul_(scale).to(device)

    voices = {
        name: Given(name, Lazy(draw(count, 1.0), Head(draw(words, size**-0.5))))
        for name in ("student", *(f"teacher {i}" for i in range(teachers)))
    }
    own = voices["student"].scores
    for tensor in (own.hidden, own.head.weight):
        tensor.requires_grad_()
    row = torch.zeros(count, dtype=torch.long, device=device)
    batch = Batch((), {"tokens": Units(row, torch.arange(count, device=device))}, {})
    coefficients = torch.full((len(signals), count), 1 / count, device=device)

    def work() -> None:
        ctx = Context(batch, voices, {}, frozenset({"student"}))
        node.total(ctx, "tokens", signals, coefficients)[0].backward()
        own.hidden.grad = own.head.weight.grad = None

    return least(work, device, repeats), counted(work)["peak"]


def _match(number: int = 0, **more: Any) -> Signal:
    return Match(kl_forward, p=Read(f"teacher {number}"), **more)


def positions(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against positions."""
    return [_loss(device, (x, 256, 16_384), repeats, [_match()]) for x in points]


def vocabulary(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against the vocabulary."""
    return [_loss(device, (256, 256, x), repeats, [_match()]) for x in points]


def hidden(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against the hidden size."""
    return [_loss(device, (256, x, 16_384), repeats, [_match()]) for x in points]


def top_k(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against k."""
    return [_loss(device, (256, 256, 16_384), repeats, [_match(on=Kept(x))]) for x in points]


def teachers(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against the number of teachers, each compared by itself."""
    return [_loss(device, (256, 256, 16_384), repeats, [_match(i) for i in range(x)], x) for x in points]


# -- the step ---------------------------------------------------------------------------------------------------------
class Clock(Silent):
    """Remembers when each step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Look at the clock."""
        self.times.append(perf_counter())


def model(name: str, layers: int, device: str) -> Causal:
    """A small Llama of random weights, over words that are numbers; none of them ends an answer."""
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=128, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(layers)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({str(i): i for i in range(WORDS)}, "0")))
    return Causal(name, LlamaForCausalLM(config).eval().to(device), words)


def row(number: int, length: int, prompt: int) -> Record:
    """A row of random tokens, of which the first are its prompt."""
    g = torch.Generator().manual_seed(number)
    ids = tuple(torch.randint(WORDS, (length,), generator=g).tolist())
    answer = (Piece("", part="answer", trains=True, ids=ids[prompt:]),) if length > prompt else ()
    return Record(f"r{number}", (Piece("", part="prompt", ids=ids[:prompt]), *answer))


def train(device: str, rows: Sequence[Record], source: Source, repeats: int, micro: int) -> tuple[float, int]:
    """The seconds of the shortest step after the first, and the most bytes that two steps hold."""
    times = steps(device, rows, source, 1 + repeats, micro)
    with Counted() as mode:
        steps(device, rows, source, 2, micro)
    return min(b - a for a, b in pairwise(times)), mode.peak


def steps(device: str, rows: Sequence[Record], source: Source, count: int, micro: int) -> list[float]:
    """Reverse KL by the training loop; when each step was done."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.models.update(teacher=model("teacher", 4, device), student=model("student", 2, device))
        workspace.data["train"] = list(rows)
        stage = Train("t", source, (Update((Term("kl", Match(kl_reverse)),)),))
        settings = TrainSettings(
            steps=count, batch_size=len(rows), micro_batch_size=micro, max_length=LENGTH, pack=False,
            checkpoint_seconds=1e9,
        )  # fmt: skip
        processes, clock = Processes.start(), Clock()
        log = Metrics(Path(folder) / "metrics.jsonl", processes)
        collate = Collate(workspace.models["student"].tokenizer, LENGTH)
        voices = {slot: Says(slot) for slot in workspace.models}
        where = Path(folder) / "steps"
        Loop(stage, settings, workspace, processes, collate, split, voices, where, log, clock).run()
    return clock.times


def step(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against the trained positions of a step, off-policy."""
    return [train(device, [row(i, LENGTH, 0) for i in range(x // LENGTH)], Corpus("train"), repeats, 4) for x in points]


def rollouts(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against the answers that the student writes to each prompt."""
    rows = [row(i, PROMPT, PROMPT) for i in range(4)]
    return [
        train(device, rows, Live(Ask("student", max_tokens=32, times=x), prompts="train"), repeats, 4) for x in points
    ]


def processes(device: str, points: Sequence[int], repeats: int) -> Points:
    """Against processes that share a step."""
    return [_together(device, x, repeats) for x in points]


def one_process(device: str, repeats: int) -> dict[str, Any]:
    """This process's part of the steps."""
    rows = [row(i, LENGTH, 0) for i in range(16)]
    return {"found": train(device, rows, Corpus("train"), repeats, 2)}


def _together(device: str, count: int, repeats: int) -> tuple[float, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    running = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
        asked = ["benchmarks.grown:one_process", json.dumps({"device": device, "repeats": repeats})]
        command = [sys.executable, "-m", "benchmarks.common", *asked]
        env = os.environ | {"OMP_NUM_THREADS": "1"} | ({**where, **own} if count > 1 else {})
        running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"{count} processes: one of them failed")
    taken, size = json.loads(said[0].splitlines()[-1])["found"]
    return taken, size


# -- the cache --------------------------------------------------------------------------------------------------------
def cache(device: str, points: Sequence[int], repeats: int) -> Points:
    """Reading some rows, against what is stored; bytes are those of the folder."""
    found: Points = []
    with tempfile.TemporaryDirectory() as folder:
        store = Cache(Path(folder) / "cache", {"weights": "0", "tokenizer": "0"}, Top(50, WORDS))
        generator, done = torch.Generator().manual_seed(0), 0
        for x in points:
            for start in range(done, x // PROMPT, 32):
                store.add([_told(i, store, generator) for i in range(start, min(start + 32, x // PROMPT))])
            done = x // PROMPT
            asked = [_asked(int(i)) for i in np.linspace(0, done - 1, 32)]
            again = Cache(store.folder, store.key, store.form)
            found.append((least(_reading(again, asked), "cpu", repeats), store.num_bytes))
    return found


def _reading(store: Cache, asked: Sequence[Asked]) -> Callable[[], None]:
    def work() -> None:
        if any(store.find(one) is None for one in asked):
            raise RuntimeError("a stored row is not found")

    return work


def _asked(number: int) -> Asked:
    tokens = np.random.default_rng(number).integers(0, WORDS, PROMPT + 1)
    return Asked(tokens, np.arange(1, PROMPT + 1))


def _told(number: int, store: Cache, generator: torch.Generator) -> tuple[Asked, Any]:
    """A row with distributions that fall as those of language do: log-probability by rank, at random tokens."""
    asked = _asked(number)
    falls = -1.2 * torch.log(torch.arange(1.0, WORDS + 1)) + 0.3 * torch.randn(PROMPT, WORDS, generator=generator)
    order = torch.randint(WORDS, (PROMPT, 1), generator=generator) + torch.arange(WORDS) * 61
    scores = Dense(torch.zeros_like(falls).scatter_(1, order % WORDS, falls).log_softmax(-1))
    return asked, store.form.of(scores, asked.targets, generator)
