"""Pain 24: what the teacher says kept its autograd state: large activations alive, and a gradient on the teacher."""

from __future__ import annotations

import torch

from tutelage.core.batch import View
from tutelage.models.sample import Sampling, sample

GRID = torch.tensor([[5, 6, 7, 8]])
WANTS = frozenset({"next", "hidden.1", "pooled"})


def test_a_frozen_teacher_keeps_no_graph_and_gets_no_gradient(tiny_pair) -> None:
    teacher, student = tiny_pair.teacher, tiny_pair.student
    teacher.model.requires_grad_(False)
    saved: list[int] = []
    view = View({"input_ids": GRID}, torch.arange(4))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        found = teacher.predict(view, WANTS)
        log_p = found["next"].at(slice(None))
    assert not saved
    assert not any(t.requires_grad for t in (log_p, found["hidden.1"], found["pooled"]))
    log_q = student.predict(view, WANTS)["next"].at(slice(None))
    (log_p.exp() * (log_p - log_q)).sum().backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    assert any(p.grad is not None for p in student.model.parameters())


def test_sampling_keeps_no_graph(tiny_pair) -> None:
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        sample(tiny_pair.student, [[5, 6]], Sampling(4), [0])
    assert not saved


def test_no_hook_stays_behind(tiny_pair) -> None:
    causal = tiny_pair.teacher
    causal.predict(View({"input_ids": GRID}, torch.arange(4)), WANTS | {"hidden.0"})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in causal.layers)
