"""The plan for many GPUs, against counts of real modules."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.core.errors import SettingError
from tutelage.running.scale import Machines, Role, estimate
from tutelage.training.settings import TrainSettings

TINY = LlamaConfig(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=500,
    tie_word_embeddings=False,
)  # fmt: skip
SETTINGS = TrainSettings(batch_size=16, micro_batch_size=2, max_length=32)


@pytest.mark.parametrize("tied", [False, True])
def test_blocks_and_what_stands_around_them_are_all_there_is(tied):
    config = LlamaConfig(**{**TINY.to_dict(), "tie_word_embeddings": tied})
    model, role = LlamaForCausalLM(config), Role.of(config)
    assert role.block == sum(p.numel() for p in model.model.layers[0].parameters())
    assert role.block * 3 + role.around == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("recompute", [False, True])
def test_computing_is_what_is_counted(recompute):
    """Against torch's own counter over a whole row: forward, backward, and what is computed again."""
    model = LlamaForCausalLM(TINY).train()
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with FlopCounterMode(display=False) as counter:
        states = model.model(input_ids=torch.arange(32)[None]).last_hidden_state
        states.sum().backward()
    settings = SETTINGS.model_copy(update={"batch_size": 1, "micro_batch_size": 1, "gradient_checkpointing": recompute})
    made = estimate({"student": Role.of(TINY, moves=True)}, settings, Machines(1, flops=1e12, utilisation=1.0))
    head = 3 * 32 * 2 * 64 * 500
    # the counter takes attention over all pairs, the estimate over those that a causal model has
    assert made.computing_seconds * 1e12 - head == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_what_is_split_shrinks_with_the_number_and_what_is_whole_does_not():
    roles = {"teacher": Role.of(TINY, "bfloat16", split=False), "student": Role.of(TINY, moves=True)}
    two, four = (estimate(roles, SETTINGS, Machines(n)).memory for n in (2, 4))
    num = sum(p.numel() for p in LlamaForCausalLM(TINY).parameters())
    assert two["weights of teacher"] == four["weights of teacher"] == 2 * num
    for name, each in (("weights", 4), ("gradients", 4), ("optimiser", 8)):
        assert two[f"{name} of student"] == pytest.approx(each * num / 2, abs=8)
        assert four[f"{name} of student"] == pytest.approx(each * num / 4, abs=8)
    assert "gathered of teacher" not in two and two["gathered of student"] == four["gathered of student"] > 0


def test_time_and_exchange():
    whole, split = ({"student": Role.of(TINY, moves=True, split=s)} for s in (False, True))
    num = Role.of(TINY).cost.num_parameters
    for n in (1, 2, 8):
        machines = Machines(n, bandwidth=1e6)
        assert estimate(whole, SETTINGS, machines).exchanging_seconds == pytest.approx(2 * 4 * num * (n - 1) / n / 1e6)
        micro = -(-16 // n) // 2
        # weights twice and gradients once, at every micro-batch
        assert estimate(split, SETTINGS, machines).exchanging_seconds == pytest.approx(micro * 12 * num * (n - 1) / n / 1e6)
    one, two = (estimate(split, SETTINGS, Machines(n)) for n in (1, 2))
    assert one.computing_seconds == pytest.approx(2 * two.computing_seconds) and one.positions == two.positions == 512


def test_what_does_not_fit_is_said_and_what_cannot_be_is_refused():
    roles = {"student": Role.of(TINY, moves=True)}
    need = estimate(roles, SETTINGS, Machines(2)).memory_bytes
    assert estimate(roles, SETTINGS, Machines(2, memory_bytes=need * 1.2)).fits
    assert not estimate(roles, SETTINGS, Machines(2, memory_bytes=need)).fits, "a tenth is spared"
    with pytest.raises(SettingError, match="16 rows for 32 GPUs"):
        estimate(roles, SETTINGS, Machines(32))
    with pytest.raises(SettingError, match="utilisation=2"):
        Machines(2, utilisation=2.0)


def test_the_command_line_says_it(new_run, tmp_path):
    import tomli_w

    table = new_run(recipe="forward_kl", args={}, train={"steps": 2, "batch_size": 8, "max_length": 96})
    table["models"]["teacher"] = {"load": table["models"]["teacher"], "shard": True}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(table))
    command = [sys.executable, "-m", "tutelage", "plan", str(tmp_path / "run.toml"), "--no-timed", "--gpus", "4"]
    said = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    took = said["machines"]["train"]
    assert took["fits"] and took["positions"] == 8 * 96 and took["micro_batches"] == 1
    assert "gathered of teacher" in took["memory"] and "gathered of student" not in took["memory"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "on each GPU" in shown and "positions/s" in shown
    failed = subprocess.run([*command, "--utilisation", "3"], capture_output=True, text=True)
    assert failed.returncode == 2 and "utilisation=3" in failed.stdout + failed.stderr
