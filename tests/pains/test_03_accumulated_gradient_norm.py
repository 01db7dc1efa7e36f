"""Pain 3: the accumulated gradient's norm was exactly 4.0 times the reference at 4 micro-batches; here the ratio is 1."""

import json
import runpy
from pathlib import Path

import pytest

from tutelage.core.recipe import Train
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate, split
from tutelage.data.source import Corpus
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

world = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))["world"]


@pytest.mark.parametrize("num_micro_batches", [2, 4])
def test_the_logged_norm_does_not_depend_on_the_split(num_micro_batches, world, tmp_path):
    world.ws.data["train"] = world.records[:4]
    start = {k: v.clone() for k, v in world.pair.student.model.state_dict().items()}
    rows = {}
    for micro in (4, 4 // num_micro_batches):
        world.pair.student.model.load_state_dict(start)
        stage = Train("train", Corpus("train"), (Update((Term("kl", Match(kl_forward)),)),))
        settings = TrainSettings(steps=2, batch_size=4, micro_batch_size=micro, learning_rate=1e-3)
        processes, home = Processes.start(), tmp_path / str(micro)
        home.mkdir()
        voices = {slot: Says(slot) for slot in world.ws.models}
        Loop(
            stage, settings, world.ws, processes, Collate(world.tokenizer, 128), split, voices, home / "c",
            Metrics(home / "m.jsonl", processes),
        ).run()  # fmt: skip
        rows[micro] = [json.loads(x) for x in (home / "m.jsonl").read_text().splitlines()]
    for whole, parts in zip(rows[4], rows[4 // num_micro_batches], strict=True):
        assert parts["grad_norm"] / whole["grad_norm"] == pytest.approx(1, rel=1e-5)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
