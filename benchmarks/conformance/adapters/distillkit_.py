"""DistillKit: its loss classes over logits, and its trainer with the teacher at hand."""

from __future__ import annotations

import torch
from datasets import Dataset
from distillkit.configuration import DistillationRunConfig
from distillkit.lossfuncs.jsd import JSDLoss
from distillkit.lossfuncs.kl import KLDLoss
from distillkit.missing_probability import MissingProbabilityHandling
from distillkit.signals import DenseSignal, OnlineSignalSource, SparseSignal
from distillkit.trainer import DistillationTrainer
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTConfig

from .. import tiny
from ..asked import IGNORED, Heads, NotOffered, Scene, Stepped
from .huggingface import one_step, read_by

LOSSES = {0.0: ("kl", KLDLoss), 0.5: ("jsd", JSDLoss)}


class DistillKit:
    """Its losses take the model's logits."""

    name = "DistillKit"
    loss_is = "lossfuncs.KLDLoss and JSDLoss over logits; top k with missing_probability_handling=symmetric_uniform"
    step_is = (
        "trainer.DistillationTrainer with OnlineSignalSource, under TRL 1.16 (it pins 0.25), on rows with labels "
        "(its own pipeline makes rows of text, which train whole)"
    )
    temperature_power = 2
    half_is = "bfloat16 logits, softmax in float32"

    def loss(self, asked: Heads) -> Tensor:
        """Logits of a linear head; labels make its mask."""
        if asked.token_weights is not None:
            raise NotOffered("the mask is documented as boolean")
        if len(asked.weight) != len(asked.teacher_weight):
            raise NotOffered("a loss over logits of one shape; see the step")
        _, kind = _loss(asked.beta)
        logits = torch.nn.functional.linear(asked.hidden, asked.weight, asked.bias)[None]
        teacher = torch.nn.functional.linear(asked.teacher_hidden, asked.teacher_weight)[None].detach()
        mask = (asked.labels != IGNORED)[None, :, None]
        shared = {"generation_temperature": 1.0, "hidden_states": None, "vocab_size": teacher.shape[-1]}
        if not asked.top_k:
            loss = kind(temperature=asked.temperature)
            return loss(CausalLMOutput(logits=logits), DenseSignal(logits=teacher, **shared), mask=mask)
        kept, ids = teacher.log_softmax(-1).topk(asked.top_k)
        signal = SparseSignal(sparse_ids=ids, sparse_values=kept, log_values=True, **shared)
        loss = kind(asked.temperature, MissingProbabilityHandling.SYMMETRIC_UNIFORM)
        return loss(CausalLMOutput(logits=logits), signal, mask=mask)

    def step(self, scene: Scene) -> Stepped:
        """Rows as token ids with labels, -100 where a token does not train."""
        name, _ = _loss(scene.beta)
        student, teacher = tiny.pair(scene)
        before = tiny.weights(teacher)
        rows = [
            {
                "input_ids": list(row.prompt + row.answer),
                "labels": [*(row.prompt if scene.prompt_trains else [IGNORED] * len(row.prompt)), *row.answer],
            }
            for row in scene.rows
        ]
        config = DistillationRunConfig.model_validate(
            {
                "project_name": "", "model": "student", "output_path": "out", "sequence_length": 64,
                "dataset": {"train_dataset": {"repo_id": "rows", "split": "train"}},
                "teacher": {"kind": "hf", "path": "teacher"}, "training_args": {},
                "loss_functions": [{"function": name, "weight": 1.0, "temperature": scene.temperature}],
            }
        )  # fmt: skip
        trainer = DistillationTrainer(
            model=student, config=config, signal_source=OnlineSignalSource(teacher, vocab_size=tiny.SIZE),
            true_vocab_size=tiny.SIZE, train_dataset=Dataset.from_list(rows), processing_class=tiny.tokenizer(),
            args=SFTConfig(max_length=64, dataset_kwargs={"skip_prepare_dataset": True}, **one_step(scene)),
        )  # fmt: skip
        with tiny.watched(student) as found, read_by(student, scene) as read:
            trainer.train()
        return Stepped(found, tuple(read), tiny.touched(teacher, before))


def _loss(beta: float) -> tuple[str, type]:
    if beta not in LOSSES:
        raise NotOffered("KL(teacher, student) and the even Jensen-Shannon divergence only")
    return LOSSES[beta]


ADAPTERS = (DistillKit(),)
