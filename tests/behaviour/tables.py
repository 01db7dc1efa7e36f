"""Tables: models whose next symbol depends on the prompt and the position alone, so every figure is exact.

A prompt is one token, an answer ``length`` symbols. A prompt may be preceded by hints, one symbol a position; a model
with a ``lift`` adds it to the logit of the hinted symbol: it reads the solution and explains it, as far as it can.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tutelage.core.catalog import build
from tutelage.core.recipe import Change, Evaluate, Generate, Recipe, Train
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.live import Live
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.through import Through
from tutelage.models.causal import Causal
from tutelage.running.assemble import build_parts
from tutelage.training import optim
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says


class Body(nn.Module):
    """Logits Float[P T V] as hidden states; with a cache, the tokens are its keys."""

    def __init__(self, logits: Tensor, lift: float) -> None:
        super().__init__()
        self.table, self.lift = nn.Parameter(logits.clone()), lift
        self.layers = nn.ModuleList([nn.Identity()])

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **ignored: Any) -> Any:
        prompts, length, size = self.table.shape
        seen = input_ids
        if past_key_values is not None:
            key = input_ids[:, None, :, None].to(self.table.dtype)
            seen = past_key_values.update(key, key, 0)[0][:, 0, :, 0].long()
        asked = (seen >= size) & (seen < size + prompts)
        start = asked.int().argmax(1)
        # a stretch of hints alone, which several prompts share, is read before any prompt: what it says is not used
        prompt = (seen.gather(1, start[:, None]).squeeze(1) - size).clamp(0, prompts - 1)
        places = torch.arange(seen.shape[1] - input_ids.shape[1], seen.shape[1])
        time = (places[None] - start[:, None]).clamp(0, length - 1)
        hidden = self.table[prompt[:, None], time]
        if self.lift and int(start.min()) > 0:
            hint = seen.gather(1, (start[:, None] - length + time).clamp_min(0)) - size - prompts
            hidden = hidden + self.lift * nn.functional.one_hot(hint.clamp_min(0), size)
        return SimpleNamespace(last_hidden_state=hidden)


class Table(nn.Module):
    """A table with the interface of a causal model of transformers; its head is the identity."""

    def __init__(self, logits: Tensor, lift: float = 0.0) -> None:
        super().__init__()
        self.base_model, self.head = Body(logits, lift), nn.Module()
        self.head.register_buffer("weight", torch.eye(logits.shape[2]))
        self.config = SimpleNamespace(num_hidden_layers=1, hidden_size=logits.shape[2], max_position_embeddings=None)
        self.config.get_text_config = lambda decoder=True: self.config

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def table(name: str, logits: Tensor, lift: float = 0.0) -> Causal:
    """Logits Float[P T V] as a model."""
    prompts, _, size = logits.shape
    words = [f"s{i}" for i in range(size)] + [f"p{i}" for i in range(prompts)] + [f"h{i}" for i in range(size)]
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, "s0"))
    return Causal(name, Table(logits, lift).eval(), PreTrainedTokenizerFast(tokenizer_object=backend))


def ended(name: str, logits: Tensor, lift: float = 0.0) -> Causal:
    """The same with one more symbol, which ends every answer after the last position and stands nowhere else."""
    never = torch.full((*logits.shape[:2], 1), -30.0)
    last = torch.cat([torch.full((len(logits), 1, logits.shape[2]), -30.0), torch.full((len(logits), 1, 1), 30.0)], 2)
    model = table(name, torch.cat([torch.cat([logits, never], 2), last], 1), lift)
    model.config.eos_token_id = logits.shape[2]
    return model


def log_probs(model: Causal) -> Tensor:
    """Float64[P T V]."""
    return model.model.base_model.table.detach().double().log_softmax(-1)


def prompts(count: int, size: int, **fields: Sequence[Any]) -> list[Record]:
    """Prompts, in order, with fields of their own."""
    return [
        Record(f"p{i}", (Piece(f"p{i}", part="prompt", ids=(size + i,)),), {k: v[i] for k, v in fields.items()})
        for i in range(count)
    ]


def hinted(size: int, count: int) -> Any:
    """The view in which the hint stands before the prompt."""

    def view(record: Record) -> Record:
        ids = tuple(size + count + s for s in record.fields["solution"])
        hint = Piece(" ".join(f"h{i}" for i in record.fields["solution"]), part="hint", ids=ids)
        return Record(record.id, (hint, *record.pieces), record.fields, record.notes, record.group)

    return view


def hinting(recipe: Recipe, view: Any) -> Recipe:
    """The recipe with another view in the steps that write through one."""

    def seen(stage: Any) -> Any:
        steps = tuple(replace(s, view=view) if isinstance(s, Through) else s for s in stage.source.steps)
        return replace(stage, source=Live(*steps, prompts=stage.source.prompts, reuse=stage.source.reuse))

    return replace(recipe, stages=tuple(seen(s) if isinstance(s, Train) else s for s in recipe.stages))


def train(
    recipe: str | Recipe,
    models: Mapping[str, Causal],
    data: Sequence[Record],
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    views: Mapping[str, Any] | None = None,
    plain: bool = False,
    hint: Any = None,
    held: Sequence[Record] = (),
    slots: Sequence[str] = (),
    **arguments: Any,
) -> Any:
    """Run a recipe of Train stages and give the student; the models are left as they are.

    With ``slots``, give what is in these at the end; ``held`` are the rows of the data set ``held_out``.

    ``plain`` takes plain gradient steps, whose size is the gradient's: Adam's would hide what a denominator does. With
    ``hint``, steps that write ``Through`` a view take that one.
    """
    made = build(recipe, arguments) if isinstance(recipe, str) else recipe
    made = made if hint is None else hinting(made, hint)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ws = Workspace(Path(name), seed)
        ws.models.update({slot: copy.deepcopy(model) for slot, model in models.items()})
        ws.data |= {"train": list(data), **({"held_out": list(held)} if held else {})}
        settings = TrainSettings(
            steps=steps, batch_size=batch_size, learning_rate=learning_rate, schedule="constant", warmup_share=0.0,
            clip_norm=1e3, max_length=64, pack=False,
        )  # fmt: skip
        processes = Processes.start()
        for stage in made.stages:
            if isinstance(stage, Generate):
                rows = run_steps(stage.steps, ws.data[stage.over], ws.within(stage.name))
                ws.data[stage.into] = list(rows)
                continue
            if isinstance(stage, Evaluate):
                continue  # the tests measure by themselves
            if isinstance(stage, Change):
                ws.models[stage.into] = copy.deepcopy(stage.by(ws))
                continue
            build_parts(stage, ws)
            collate = Collate(ws.models["student"].tokenizer, 64, {**stage.views, **(views or {})})
            voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
            log = Metrics(ws.folder / "metrics.jsonl", processes)
            loop = Loop(stage, settings, ws, processes, collate, split, voices, ws.folder / stage.name, log)
            with _descent(plain):
                loop.run()
        return [ws.models[slot] for slot in slots] if slots else ws.models["student"]


@contextmanager
def _descent(plain: bool) -> Iterator[None]:
    usual = optim.adamw
    if plain:
        optim.adamw = lambda modules, settings, factor=1.0: torch.optim.SGD(  # type: ignore[assignment]
            [p for _, module in modules for p in module.parameters()], lr=settings.learning_rate * factor
        )
    try:
        yield
    finally:
        optim.adamw = usual


def finding(lab: Any, caption: str, arms: Mapping[str, Sequence[Mapping[str, float]]], claims: Sequence[Any]) -> dict[str, Any]:
    """What the tier keeps, over figures of any names."""
    names = list(next(iter(arms.values()))[0])
    told = " ".join(f"{c.text}: {c.verdict}{'' if c.expected else ', so this is not claimed here'}." for c in claims)
    return {
        "caption": f"{caption} {told}",
        "columns": ["", *names],
        "rows": [[arm, *(lab._span([seed[n] for seed in seeds]) for n in names)] for arm, seeds in arms.items()],
        "seeds": list(range(len(next(iter(arms.values()))))),
        "figures": {a: [{n: round(seed[n], 3) for n in names} for seed in seeds] for a, seeds in arms.items()},
        "claims": [{"text": c.text, "held": list(c.held), "expected": c.expected} for c in claims],
        "verdict": "as claimed" if all(all(c.held) for c in claims) else "not all as claimed",
    }
