"""TRL's DistillationTrainer: it trains on the student's own answers."""

from __future__ import annotations

from datasets import Dataset
from torch import Tensor
from trl import DistillationConfig, DistillationTrainer
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from .. import tiny
from ..asked import IGNORED, Heads, NotOffered, Refused, Scene, Stepped
from .huggingface import one_step, read_by


class Distillation:
    """The loss function that its trainer calls, and the trainer."""

    name = "TRL DistillationTrainer"
    loss_is = (
        "the trainer's _chunked_divergence_loss; for weights kernels.chunked_divergence, which returns it by token"
    )
    step_is = "DistillationTrainer"
    temperature_power = 0
    half_is = "bfloat16 hidden states and heads"

    def loss(self, asked: Heads) -> Tensor:
        """Tiles of positions and vocabulary, float32 logits."""
        if asked.top_k:
            raise NotOffered("the whole vocabulary only; a server's top k is experimental and another trainer")
        if len(asked.weight) != len(asked.teacher_weight):
            raise NotOffered("a loss over heads of one size; see the step")
        kept = asked.labels != IGNORED
        if asked.token_weights is not None:
            each, _ = ChunkedDivergenceFunction.apply(
                asked.hidden, asked.weight, asked.bias, asked.teacher_hidden, asked.teacher_weight, None, asked.beta,
                asked.temperature,
            )  # fmt: skip
            return (each * asked.token_weights * kept).sum() / kept.sum()
        return _chunked_divergence_loss(
            asked.hidden[None], asked.teacher_hidden[None], asked.weight, asked.teacher_weight, kept[None], asked.beta,
            student_lm_head_bias=asked.bias, temperature=asked.temperature,
        )[0]  # fmt: skip

    def step(self, scene: Scene) -> Stepped:
        """Prompts as text; the answers are what the student wrote in that step."""
        if scene.prompt_trains:
            raise NotOffered("it trains the answers that the student writes")
        student, teacher = tiny.pair(scene)
        before = tiny.weights(teacher)
        rows = [{"prompt": tiny.spelled(row.prompt)} for row in scene.rows]
        settings = DistillationConfig(
            beta=scene.beta, temperature=scene.temperature, max_completion_length=scene.max_tokens, **one_step(scene)
        )
        try:
            trainer = DistillationTrainer(
                model=student, teacher_model=teacher, args=settings, train_dataset=Dataset.from_list(rows),
                processing_class=tiny.tokenizer(),
            )  # fmt: skip
        except ValueError as error:
            raise Refused(str(error)) from error
        with tiny.watched(student) as found, read_by(student, scene) as read:
            trainer.train()
        return Stepped(found, tuple(read), tiny.touched(teacher, before))


ADAPTERS = (Distillation(),)
