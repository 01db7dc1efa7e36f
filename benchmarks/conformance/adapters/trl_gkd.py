"""TRL's GKDTrainer (experimental), off-policy: `lmbda=0`."""

from __future__ import annotations

import torch
from datasets import Dataset
from torch import Tensor
from trl.experimental.gkd import GKDConfig, GKDTrainer

from .. import tiny
from ..asked import ByChoice, Heads, NotOffered, Refused, Scene, Stepped
from .huggingface import one_step, read_by


class Gkd:
    """Its public loss function over logits, and its trainer."""

    name = "TRL GKDTrainer"
    loss_is = "experimental.gkd.GKDTrainer.generalized_jsd_loss over logits"
    step_is = "experimental.gkd.GKDTrainer(lmbda=0)"
    temperature_power = 0
    half_is = "bfloat16 logits, softmax in float32, as under autocast, its trainer's default"

    def loss(self, asked: Heads) -> Tensor:
        """Logits of a linear head; the softmax is in float32, as an accelerator's autocast has it."""
        if asked.top_k:
            raise NotOffered("no loss over a part of the vocabulary")
        if asked.token_weights is not None:
            raise NotOffered("labels say which tokens count; it takes no weights")
        if len(asked.weight) != len(asked.teacher_weight):
            raise NotOffered("a loss over logits of one shape; see the step")
        student = torch.nn.functional.linear(asked.hidden, asked.weight, asked.bias).float()
        teacher = torch.nn.functional.linear(asked.teacher_hidden, asked.teacher_weight).float()
        return GKDTrainer.generalized_jsd_loss(
            student[None], teacher.detach()[None], asked.labels[None], beta=asked.beta, temperature=asked.temperature
        )

    def step(self, scene: Scene) -> Stepped:
        """Chats of one question and one answer through its own collator."""
        if scene.prompt_trains:
            raise NotOffered("its collator trains the last answer")
        if scene.temperature != 1:
            raise ByChoice("GKDConfig.temperature is documented as that of sampling; the trainer gives the loss none")
        student, teacher = tiny.pair(scene)
        before = tiny.weights(teacher)
        rows = [
            {
                "messages": [
                    {"role": "user", "content": tiny.spelled(row.prompt)},
                    {"role": "assistant", "content": tiny.spelled(row.answer[:-1])},
                ]
            }
            for row in scene.rows
        ]
        try:
            trainer = GKDTrainer(
                model=student, teacher_model=teacher, args=GKDConfig(lmbda=0.0, beta=scene.beta, **one_step(scene)),
                train_dataset=Dataset.from_list(rows), processing_class=tiny.tokenizer(),
            )  # fmt: skip
        except ValueError as error:
            raise Refused(str(error)) from error
        with tiny.watched(student) as found, read_by(student, scene) as read:
            trainer.train()
        return Stepped(found, tuple(read), tiny.touched(teacher, before))


ADAPTERS = (Gkd(),)
