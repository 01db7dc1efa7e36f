"""The settings of a Train stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainSettings(BaseModel):
    """How a stage optimises; every field can be set for one stage under ``[train.STAGE]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(100, ge=1, description="Optimiser steps of the stage.")
    batch_size: int = Field(8, ge=1, description="Rows (prompts, for rollouts) an optimiser step, over all processes.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows a forward pass; smaller saves memory, the result is the same."
    )
    max_length: int = Field(
        512, ge=2, description="Tokens a row; a longer answer is cut at its end, and the cuts are counted."
    )
    pack: bool = Field(True, description="Put several short rows into one line instead of padding.")
    learning_rate: float = Field(3e-4, gt=0, description="Peak of the schedule.")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="Fall after the warm-up.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    final_share: float = Field(0.0, ge=0, le=1, description="Share of the peak that is left at the end.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, on matrices only.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's memory of gradients.")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's memory of their squares.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the whole gradient.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 runs bodies under autocast; heads stay float32."
    )
    head_megabytes: int | None = Field(
        None, ge=1, description="Memory for logits in a loss, all models together; smaller is slower, not different."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, a third more time.")
    sampler_gap: Literal["warn", "correct", "refuse"] = Field(
        "warn",
        description="What is done where the sampler of rollouts and the trainer are too far apart; correct multiplies "
        "each drawn token's loss by how much likelier the trainer finds it.",
    )
    sampler_gap_nats: float = Field(
        0.1, gt=0, description="The bound: mean difference of their log-probabilities of the drawn tokens."
    )
    sampler_ratio_cap: float = Field(2.0, gt=0, description="The largest factor of a correction.")
    freeze: tuple[str, ...] = Field((), description="Parameters whose names contain one of these do not train.")
    checkpoint_seconds: float = Field(
        120.0, gt=0, description="Time between checkpoints; one is always written at a stage's end."
    )
    keep_last: int = Field(1, ge=1, description="Checkpoints kept.")
    watch_every: int = Field(0, ge=0, description="Steps between looks at held-out KL; 0 looks only before and after.")
    keep_best: bool = Field(False, description="Also keep the weights with the lowest held-out KL; needs watch_every.")
    log: tuple[Literal["trackio", "tensorboard", "wandb"], ...] = Field(
        (), description="Trackers besides metrics.jsonl."
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if self.keep_best and not self.watch_every:
            raise ValueError("keep_best needs watch_every >= 1: the best is chosen by held-out KL")
        return self
