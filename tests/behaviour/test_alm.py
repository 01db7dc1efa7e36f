"""A teacher of merged pairs teaches a student of single letters: chunks carry what the teacher knows, ranks do not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import nn
from transformers import PreTrainedTokenizerFast

from tutelage.core.catalog import build
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

pytestmark = pytest.mark.behaviour

LETTERS = "abcdefghijkl"
PAIRS = ("ab", "cd", "ef", "gh")  # no letter ends one pair and begins another, so the last token says all
NUM_TEXTS, LENGTH, STEPS, RATE = 40, 64, 70, 0.15


class Chain(nn.Module):
    """Logits over the last token, with the interface of a causal model of transformers; its head is the identity."""

    def __init__(self, logits):
        super().__init__()
        self.base_model, self.head = nn.Module(), nn.Module()
        self.base_model.table = nn.Parameter(logits.float().clone())
        self.base_model.forward = lambda input_ids, **ignored: SimpleNamespace(last_hidden_state=self.base_model.table[input_ids])
        self.head.register_buffer("weight", torch.eye(len(logits)))
        self.config = SimpleNamespace(num_hidden_layers=1, hidden_size=len(logits), max_position_embeddings=None)
        self.config.get_text_config = lambda decoder=True: self.config

    def get_output_embeddings(self):
        return self.head


def tokenizer(pairs=()):
    """Letters, and pairs that are always merged."""
    vocab = {t: i for i, t in enumerate((*LETTERS, *pairs))}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab=vocab, merges=[tuple(p) for p in pairs])))


def over_pairs(source):
    """The same source over letters and pairs, exactly: ``log P(token | last token)``, Float64[16 16]."""
    first, second = ([LETTERS.index(p[i]) for p in PAIRS] for i in (0, 1))
    merged = source[first, second]  # P(second | first)
    out = torch.zeros(len(LETTERS) + len(PAIRS), len(LETTERS) + len(PAIRS), dtype=torch.float64)
    for token in range(len(out)):
        letter = token if token < len(LETTERS) else second[token - len(LETTERS)]
        after = source[letter].clone()
        if token in first:  # a letter that did not merge is not followed by its partner
            after[second[first.index(token)]] = 0
        after = after / after.sum()
        out[token, len(LETTERS) :] = after[first] * merged
        after[first] *= 1 - merged
        out[token, : len(LETTERS)] = after
    return out.log().clamp_min(-60)


def texts(source, seed):
    draw = generator(seed, "texts")
    state, out = torch.full((NUM_TEXTS,), LETTERS.index("l")), []
    for _ in range(LENGTH):
        state = torch.multinomial(source[state], 1, generator=draw).squeeze(1)
        out.append(state)
    said = ["".join(LETTERS[i] for i in row) for row in torch.stack(out, 1).tolist()]
    return [Record(f"t{i}", (Piece("l", part="prompt"), Piece(text, part="answer", trains=True))) for i, text in enumerate(said)]


def train(recipe, models, data, folder, seed, **arguments):
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ws = Workspace(Path(name), seed)
        ws.models.update(models, student=Causal("student", Chain(torch.zeros(len(LETTERS), len(LETTERS))).eval(), tokenizer()))
        ws.data["train"] = data
        (stage,) = build(recipe, arguments).stages
        settings = TrainSettings(steps=STEPS, batch_size=len(data), learning_rate=RATE, warmup_share=0.0, clip_norm=1e3, max_length=LENGTH + 4, pack=False)
        collate = collate_for(stage, settings, ws)
        known = {}
        once = lambda rows: known.setdefault(tuple(sorted(r.id for r in rows)), collate(rows))  # the same rows each step
        voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
        processes = Processes.start()
        Loop(stage, settings, ws, processes, once, split, voices, ws.folder / "train", Metrics(ws.folder / "m.jsonl", processes)).run()
        return ws.models["student"].model.base_model.table.detach().double().log_softmax(-1)


def sorted_probabilities(teacher, data):
    """The baseline of sorted probabilities (ULD): place by place, as far as the shorter of the two goes."""
    table = torch.zeros(len(LETTERS), len(LETTERS), requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=RATE)
    said = ["l" + r.pieces[1].content for r in data]
    mine, theirs = ([t(s)["input_ids"] for s in said] for t in (tokenizer(), tokenizer(PAIRS)))
    width = min(map(len, theirs))
    mine, theirs = (torch.tensor([row[:width] for row in rows]) for rows in (mine, theirs))
    p = teacher.exp()[theirs].sort(-1, descending=True).values.float()
    for _ in range(STEPS):
        q = nn.functional.pad(table.softmax(-1), (0, len(PAIRS)))[mine].sort(-1, descending=True).values
        optimizer.zero_grad()
        (q - p).abs().sum(-1).mean().backward()
        optimizer.step()
    return table.detach().double().log_softmax(-1)


def worth(source, log_q):
    """KL(source || student) a letter, over the source's stationary distribution, exactly."""
    still = torch.linalg.matrix_power(source, 200)[0]
    return {"kl": float((still[:, None] * source * (source.log() - log_q)).sum())}


def test_alm(lab, told, tmp_path):
    figures = {}
    for seed in range(3):
        source = torch.randn(len(LETTERS), len(LETTERS), generator=generator(seed, "source"), dtype=torch.float64).mul(1.2).softmax(-1)
        teacher, data = over_pairs(source), texts(source, seed)
        models = {"teacher": Causal("teacher", Chain(teacher).eval(), tokenizer(PAIRS))}
        arms = {
            "supervised": train("supervised", {}, data, tmp_path, seed),
            "alm, T = 100": train("alm", models, data, tmp_path, seed, merge_above=0.0),
            "alm, T = 1": train("alm", models, data, tmp_path, seed, merge_above=0.0, temperature=1.0),
            "sorted probabilities (ULD)": sorted_probabilities(teacher, data),
            "no training": torch.zeros(len(LETTERS), len(LETTERS)).log_softmax(-1),
        }
        for arm, log_q in arms.items():
            figures.setdefault(arm, []).append(worth(source, log_q))
    sft, alm, cold, ranks, none = figures
    told(
        f"{STEPS} steps of Adam on {NUM_TEXTS} texts of {LENGTH} letters from a random chain; the teacher is that chain over "
        "letters and four merged pairs. Nats a letter, mean over seeds (range).",
        figures,
        lab.claim("At T = 100 the student comes at least as near the source as by the text alone", figures, lambda f: f[alm]["kl"] <= f[sft]["kl"]),
        lab.claim("At T = 1 it stays behind that of T = 100", figures, lambda f: f[cold]["kl"] > f[alm]["kl"]),
        lab.claim("Sorted probabilities leave it more than ten times as far", figures, lambda f: f[ranks]["kl"] > 10 * f[alm]["kl"]),
        lab.claim("Sorted probabilities leave it farther than no training does", figures, lambda f: f[ranks]["kl"] > f[none]["kl"]),
    )  # fmt: skip
