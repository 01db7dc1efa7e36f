"""Memory by component follows from what is there at one moment; grids are those that the run draws."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

import tutelage
from tutelage.core import node
from tutelage.models.shadow import Shadow
from tutelage.running import peak
from tutelage.running.grids import Grid
from tutelage.running.peak import Writing, head_elements
from tutelage.training.settings import TrainSettings

SIZES = dict(vocab_size=500, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2)
GRID = Grid(2, 30, False, 20)


@pytest.fixture(scope="module")
def shadows():
    def made(layers, **how):
        return Shadow(LlamaConfig(**SIZES, num_hidden_layers=layers, tie_word_embeddings=True), **how)

    return {"teacher": made(4), "student": made(2)}


def settings(**how):
    return TrainSettings(**{"batch_size": 2, "micro_batch_size": 2, **how})


def test_the_greatest_moment_is_the_sum_of_what_is_there(shadows):
    student, teacher = shadows["student"], shadows["teacher"]
    found = peak.training(shadows, ("student",), settings(), [GRID])
    kept = student.passes((2, 30, False), moves=True).kept
    head = 4 * 500 * 32
    # one micro-batch: no gradient stands when the loss's buffers do
    assert "gradients of student" not in found
    assert found["activations"] == kept + 2 * 4 * 20 * 32
    assert found["loss buffers"] == head + 2 * 4 * 20 * 500
    assert found["optimiser of student"] == 8 * student.num_trained
    assert found["weights of teacher"] == teacher.weight_bytes
    two = peak.training(shadows, ("student",), settings(micro_batch_size=1), [GRID])
    assert two["gradients of student"] == 4 * student.num_trained
    # recomputing: the gradients that grow on the way back are what is left
    short = peak.training(shadows, ("student",), settings(gradient_checkpointing=True), [Grid(2, 30, False, 1)])
    assert short["gradients of student"] == 4 * student.num_trained and short["loss buffers"] == head


def test_buffers_keep_to_the_budget(shadows):
    assert 990_000 < peak._buffers(shadows, settings(head_megabytes=1), 6000) <= 1_000_000
    assert peak._buffers(shadows, settings(head_megabytes=1), 100) == 2 * 4 * 100 * 500
    assert peak._buffers(shadows, settings(), 6000) == 2 * 4 * 6000 * 500
    assert head_elements(settings(), 2) == node.CHUNK_ELEMENTS
    assert head_elements(settings(), 2, accelerated=True) == node.ACCELERATOR_ELEMENTS


def test_writing_keeps_keys_and_values(shadows):
    few = [Writing("student", 4, 10, 20)]
    found = peak.training(shadows, (), settings(), (), few)
    # 10 and 64 more positions of 2 blocks, keys and values of 2 groups of 8 numbers; a block's twice while it grows
    assert found["keys and values"] == 4 * 74 * (2 * 2 * 2 * 8) * 4 * 3 // 2
    assert "optimiser of student" not in found


def test_a_teacher_in_half_precision_has_a_copy_of_its_head(shadows):
    half = {**shadows, "teacher": Shadow(shadows["teacher"].body.config, "bfloat16")}
    plain, found = (peak.training(s, ("student",), settings(), [GRID]) for s in (shadows, half))
    assert found["loss buffers"] == plain["loss buffers"] + 4 * 500 * 32
    assert found["weights of teacher"] == plain["weights of teacher"] // 2


@pytest.mark.parametrize("pack", [False, True])
def test_grids_are_those_of_the_run(pack, new_run):
    train = {"steps": 3, "batch_size": 4, "micro_batch_size": 2, "max_length": 96, "pack": pack}
    table = new_run(recipe="forward_kl", args={}, train=train, data__held_out=None)
    run = tutelage.RunFile(**table)
    made = tutelage.plan(run, timed=False)
    seen = []
    original = torch.nn.Embedding.forward

    def forward(self, ids):
        if torch.is_grad_enabled():  # what trains, not what is cut or measured
            seen.append(tuple(ids.shape))
        return original(self, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Embedding, "forward", forward)
        tutelage.run(table)
    widest = max(seen, key=lambda s: s[0] * s[1])
    shadow = Shadow(tutelage.running.plan._config(run, "student"))
    kept = shadow.passes((*widest, pack), moves=True, again=True).kept
    assert kept <= made.memory["activations"] <= 2 * kept


def test_a_trial_fills_no_cache(new_run, tmp_path):
    table = new_run(recipe="forward_kl", args={}, train={"steps": 2, "batch_size": 2, "max_length": 96})
    table["models"]["teacher"] = {"load": table["models"]["teacher"], "cache": {"folder": str(tmp_path / "said"), "rest": "even"}}
    made = tutelage.plan(tutelage.RunFile(**table))
    assert not (tmp_path / "said").exists() and not Path(table["output"]).exists()
    assert 0 < made.disk["cache of teacher"] == made.memory["cache of teacher"] < 100_000
    trained = next(s for s in made.stages if s.name == "train")
    assert 0 < trained.step_seconds <= trained.seconds
    tutelage.run(table)
    written = sum(f.stat().st_size for f in (tmp_path / "said").iterdir())
    assert written > 0 and json.loads(json.dumps(made.to_dict()))["total"]["disk"] > written
