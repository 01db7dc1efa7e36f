"""Refit: the ridge solution, against a plain float64 computation, and what it is for."""

from __future__ import annotations

import pytest
import torch

from tutelage.models.causal import Causal
from tutelage.surgery import refit as module
from tutelage.surgery.refit import refit
from tutelage.surgery.shrink import cut


def rows(seed: int, count: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 262, (int(torch.randint(5, 40, (), generator=g)),), generator=g).tolist()
            for _ in range(count)]  # fmt: skip


def stream(causal: Causal, row: list[int], inputs: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
    """Streams after each block (first the embedding), and what enters each ``down_proj``."""
    hidden = causal.body.embed_tokens(torch.tensor([row]))
    out, place = [hidden[0]], torch.arange(len(row))[None]
    for block in causal.layers:
        seen: list[torch.Tensor] = []
        hook = block.mlp.down_proj.register_forward_pre_hook(lambda _, a, seen=seen: seen.append(a[0][0]))
        hidden = block(
            hidden,
            position_embeddings=causal.body.rotary_emb(hidden, place),
            position_ids=place,
            attention_mask=None,
        )
        hook.remove()
        if inputs is not None:
            inputs.append(seen[0])
        out.append(hidden[0])
    return out


@torch.no_grad()
def test_equals_the_normal_equations(new_causal) -> None:
    teacher, data, keep, ridge = new_causal(seed=5), rows(0, 40), (0, 2), 0.05
    student = cut(teacher, keep)
    ours = cut(teacher, keep)
    refit(teacher, ours, keep, data, ridge=ridge)
    targets = [stream(teacher, row) for row in data]
    for number, end in enumerate((2, 4)):
        inputs, residuals = [], []
        for row, target in zip(data, targets, strict=True):
            seen: list[torch.Tensor] = []
            given = stream(student, row, seen)
            inputs.append(seen[number])
            residuals.append(target[end] - given[number + 1])
        u, d = torch.cat(inputs).double(), torch.cat(residuals).double()
        w = 1 / (d.norm(dim=1, keepdim=True) + 1e-6)
        w = (w / w.mean()).clamp(max=5)
        gram = (u * w).T @ (u * w)
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        change = torch.linalg.solve(gram, (u * w).T @ (d * w)).T
        student.layers[number].mlp.down_proj.weight += change.float()
        torch.testing.assert_close(
            ours.layers[number].mlp.down_proj.weight, student.layers[number].mlp.down_proj.weight, atol=2e-4, rtol=1e-3
        )


def test_batches_and_padding_do_not_matter(new_causal, monkeypatch) -> None:
    teacher, data, keep = new_causal(seed=5), rows(0, 40), (0, 2)
    whole, split = cut(teacher, keep), cut(teacher, keep)
    refit(teacher, whole, keep, data)
    monkeypatch.setattr(module, "POSITIONS", 60)
    refit(teacher, split, keep, data[::-1])
    for a, b in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_nothing_to_repair_changes_nothing(new_causal) -> None:
    teacher = new_causal(seed=5)
    student = cut(teacher, range(4))
    refit(teacher, student, range(4), rows(0, 10))
    for a, b in zip(teacher.model.parameters(), student.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_brings_the_student_nearer_on_unseen_rows(new_causal) -> None:
    for seed in range(3):
        teacher = new_causal(seed=seed, initializer_range=0.1)
        plain, better = cut(teacher, (0, 2)), cut(teacher, (0, 2))
        refit(teacher, better, (0, 2), rows(1, 60))
        gaps = []
        for student in (plain, better):
            total = 0.0
            for row in rows(2, 20):
                p = teacher.model(torch.tensor([row])).logits[0].log_softmax(-1)
                q = student.model(torch.tensor([row])).logits[0].log_softmax(-1)
                total += float((p.exp() * (p - q)).sum(-1).mean())
            gaps.append(total)
        assert gaps[1] < 0.8 * gaps[0]


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_stay(new_causal, training: bool) -> None:
    teacher = new_causal()
    student = cut(teacher, (0, 2))
    student.model.train(training)
    refit(teacher, student, (0, 2), rows(0, 3))
    assert student.model.training == training
    assert all(p.requires_grad and p.grad is None for p in student.model.parameters())
