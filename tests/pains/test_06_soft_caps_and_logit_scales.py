"""Pain 6: the fused path forgot Gemma 2's soft cap and Cohere's logit scale, and so trained another objective."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from tutelage.core.batch import Batch, Units, View
from tutelage.core.context import Context
from tutelage.core.node import total
from tutelage.core.workspace import Workspace
from tutelage.models.causal import Causal
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Targets, Top
from tutelage.voices.says import Says

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "soft cap": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 3.0, "head_dim": 8, "query_pre_attn_scalar": 8}, "final_logit_softcapping"),
    "logit scale": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.25}, "logit_scale"),
    "logit divisor": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 4.0}, "logits_scaling"),
}  # fmt: skip


def pair(family):
    made, config, extra, _ = FAMILIES[family]
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(made(config(**SIZES, **extra)).eval())
    return models


def step(student, teacher, signal):
    ids = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    units = Units(at // 6, at % 6, ids.flatten()[at + 1])
    batch = Batch((), {"tokens": units}, {"main": View({"input_ids": ids}, at)})
    ws = Workspace(None)
    ws.models.update(student=Causal("student", student), teacher=Causal("teacher", teacher))
    ctx = Context(batch, {s: Says(s) for s in ws.models}, {}, frozenset({"student"}), ws)
    teacher.requires_grad_(False)
    student.zero_grad()
    value, _ = total(ctx, "tokens", [signal], torch.ones(1, len(at)))
    value.backward()
    return float(value.detach()), {n: p.grad.clone() for n, p in student.named_parameters()}, ids, at


def dense(student, teacher, ids, at, form):
    student.zero_grad()
    q = student(ids).logits.flatten(0, 1)[at].log_softmax(-1)
    with torch.no_grad():
        p = teacher(ids).logits.flatten(0, 1)[at].log_softmax(-1)
    value = form(q, p, ids.flatten()[at + 1]).sum()
    value.backward()
    return float(value.detach()), {n: p.grad.clone() for n, p in student.named_parameters()}


FORMS = {
    "kl": (Match(kl_forward), lambda q, p, y: (p.exp() * (p - q)).sum(-1)),
    "labels": (Targets(), lambda q, p, y: -q.gather(-1, y[:, None])[:, 0]),
    "top, all kept": (Match(kl_forward, on=Top(40)), lambda q, p, y: (p.exp() * (p - q)).sum(-1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_over_the_models_own_logits(family, form):
    student, teacher = pair(family)
    signal, by_hand = FORMS[form]
    value, grads, ids, at = step(student, teacher, signal)
    want, right = dense(student, teacher, ids, at, by_hand)
    assert value == pytest.approx(want, rel=1e-5)
    scale = max(float(g.abs().max()) for g in right.values())
    assert max(float((grads[n] - right[n]).abs().max()) for n in right) < 1e-5 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_forgetting_it_would_be_seen(family):
    student, teacher = pair(family)
    value, *_ = step(student, teacher, FORMS["kl"][0])
    setting, neutral = FAMILIES[family][3], None if family == "soft cap" else 1.0
    for model in (student, teacher):
        setattr(model.config, setting, neutral)
    forgotten, *_ = step(student, teacher, FORMS["kl"][0])
    assert abs(forgotten - value) > 0.05 * value
