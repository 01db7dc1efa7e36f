"""Markov chains of letters that two tokenizers cut differently: models over letters and merged pairs, every figure exact."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.core.workspace import Workspace
from tutelage.data.collate import split
from tutelage.models.causal import Causal
from tutelage.running.assemble import collate_for
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says


class Chain(nn.Module):
    """Logits over the last token, with the interface of a causal model of transformers; its head is the identity."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.base_model, self.head = nn.Module(), nn.Module()
        self.base_model.table = nn.Parameter(logits.float().clone())
        self.base_model.layers = nn.ModuleList([nn.Identity()])
        self.base_model.forward = self.read
        self.head.register_buffer("weight", torch.eye(len(logits)))
        self.config = SimpleNamespace(num_hidden_layers=1, hidden_size=len(logits), max_position_embeddings=None)
        self.config.get_text_config = lambda decoder=True: self.config

    def read(self, input_ids: Tensor, past_key_values: Any = None, **ignored: Any) -> Any:
        """The table's rows; a cache is told of the tokens, so that it counts them."""
        if past_key_values is not None:
            key = input_ids[:, None, :, None].to(self.base_model.table.dtype)
            past_key_values.update(key, key, 0)
        return SimpleNamespace(last_hidden_state=self.base_model.table[input_ids])

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def tokenizer(letters: str, pairs: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Letters, and pairs that are always merged."""
    vocab = {t: i for i, t in enumerate((*letters, *pairs))}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab=vocab, merges=[tuple(p) for p in pairs])))


def model(name: str, logits: Tensor, letters: str, pairs: Sequence[str] = ()) -> Causal:
    """A chain over the tokens of a tokenizer."""
    return Causal(name, Chain(logits).eval(), tokenizer(letters, pairs))


def over_pairs(source: Tensor, letters: str, pairs: Sequence[str]) -> Tensor:
    """The same source over letters and pairs, exactly: ``log P(token | last token)``, Float64[T T].

    No letter may end one pair and begin another: then the last token says all.
    """
    first, second = ([letters.index(p[i]) for p in pairs] for i in (0, 1))
    merged = source[first, second]  # P(second | first)
    size = len(letters) + len(pairs)
    out = torch.zeros(size, size, dtype=torch.float64)
    for token in range(size):
        letter = token if token < len(letters) else second[token - len(letters)]
        after = source[letter].clone()
        if token in first:  # a letter that did not merge is not followed by its partner
            after[second[first.index(token)]] = 0
        after = after / after.sum()
        out[token, len(letters) :] = after[first] * merged
        after[first] *= 1 - merged
        out[token, : len(letters)] = after
    return out.log().clamp_min(-60)


def nll(log_q: Tensor, source: Tensor, letters: str, pairs: Sequence[str] = ()) -> float:
    """The source's NLL a letter of endless text that a chain over letters and pairs writes, exactly."""
    said = [[letters.index(c) for c in token] for token in (*letters, *pairs)]
    q = log_q.double().softmax(-1)
    still = torch.linalg.matrix_power(q, 300)[0]
    total = length = 0.0
    for before, mass in zip(said, still.tolist(), strict=True):
        for token, share in zip(said, q[said.index(before)].tolist(), strict=True):
            places = [before[-1], *token]
            total -= mass * share * sum(float(source[a, b].log()) for a, b in pairwise(places))
            length += mass * share * len(token)
    return total / length


def texts(source: Tensor, letters: str, seed: int, *, count: int, length: int) -> list[Record]:
    """Rows of the source's text, each after the last letter."""
    draw = generator(seed, "texts")
    state, out = torch.full((count,), len(letters) - 1), []
    for _ in range(length):
        state = torch.multinomial(source[state], 1, generator=draw).squeeze(1)
        out.append(state)
    said = ["".join(letters[i] for i in row) for row in torch.stack(out, 1).tolist()]
    return [Record(f"t{i}", (Piece(letters[-1], part="prompt"), Piece(text, part="answer", trains=True))) for i, text in enumerate(said)]


def train(stage: Train, models: dict[str, Causal], data: list[Record], folder: Path, seed: int, **settings: Any) -> Tensor:
    """Run a stage to its end; returns the student's logits."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ws = Workspace(Path(name), seed)
        ws.models.update(models)
        ws.data["train"] = data
        given = TrainSettings(**{"warmup_share": 0.0, "clip_norm": 1e3, "pack": False, **settings})
        collate = collate_for(stage, given, ws)
        known: dict[Any, Any] = {}

        def once(rows):  # the same rows each step are collated once
            key = tuple(sorted((r.id, r.pieces[-1].ids or "") for r in rows))
            return known[key] if key in known else known.setdefault(key, collate(rows))

        voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
        processes = Processes.start()
        Loop(stage, given, ws, processes, once, split, voices, ws.folder / "train", Metrics(ws.folder / "m.jsonl", processes)).run()
        return ws.models["student"].model.base_model.table.detach()
