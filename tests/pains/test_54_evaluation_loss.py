"""Elsewhere evaluation crashed during distillation, and then its loss was 1,000 times the training loss.

Here the evaluated KL is the training loss of the same batch, in one batch or many, and evaluating in the middle of a
step changes neither the loss nor its gradient.
"""

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.node import total
from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.evaluation.evaluate import evaluate
from tutelage.models.causal import Causal
from tutelage.models.sample import Sampling
from tutelage.signals.divergences.kl import kl_forward
from tutelage.signals.match import Match, Targets


class Says:
    """A voice that is one model."""

    def __init__(self, causal, slot):
        self.causal, self.slot = causal, slot

    def slots(self):
        return frozenset({self.slot})

    def predict(self, ctx, wants):
        return self.causal.predict(ctx.batch.views["main"], wants)


@pytest.fixture
def world():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    torch.manual_seed(0)
    pair = []
    for name in ("teacher", "student"):
        config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                             num_attention_heads=2, max_position_embeddings=64, initializer_range=0.3)  # fmt: skip
        pair.append(Causal(name, LlamaForCausalLM(config).train(), tokenizer))
    records = [
        Record(f"r{i}", (Piece("ask " * i), Piece(f"answer {i}" * (1 + i % 3), trains=True))) for i in range(1, 7)
    ]
    return *pair, records, Collate(tokenizer, 64)


def train_loss(teacher, student, batch, signal):
    ctx = Context(batch, {"teacher": Says(teacher, "teacher"), "student": Says(student, "student")},
                  {"teacher": frozenset({"next"}), "student": frozenset({"next"})}, frozenset({"student"}))  # fmt: skip
    count = len(batch.units["tokens"])
    return total(ctx, "tokens", [signal], torch.full((1, count), 1.0 / count))[0]


def test_the_evaluated_loss_is_the_training_loss(world):
    teacher, student, records, collate = world
    kl = float(train_loss(teacher, student, collate(records), Match(kl_forward)).detach())
    nll = float(train_loss(teacher, student, collate(records), Targets()).detach())
    for batch_size in (1, 4, 6):
        result = evaluate({"now": student}, teacher, records, collate, batch_size=batch_size, num_samples=0)["now"]
        assert result["fidelity"]["kl"] == pytest.approx(kl, rel=1e-5)
        assert result["nll"] == pytest.approx(nll, rel=1e-5)


def test_evaluating_between_loss_and_backward_changes_no_gradient(world):
    teacher, student, records, collate = world

    def gradient(between):
        student.model.zero_grad()
        torch.manual_seed(3)
        loss = train_loss(teacher, student, collate(records), Match(kl_forward))
        between()
        loss.backward()
        draw = torch.rand(3)
        return [p.grad.clone() for p in student.model.parameters() if p.grad is not None], draw

    plain, one = gradient(lambda: None)
    with_evaluation, other = gradient(
        lambda: evaluate(
            {"now": student}, teacher, records, collate, batch_size=2, num_samples=1, sampling=Sampling(max_tokens=5)
        )
    )
    assert len(plain) > 10 and torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(plain, with_evaluation, strict=True))
    assert student.model.training and teacher.model.training
