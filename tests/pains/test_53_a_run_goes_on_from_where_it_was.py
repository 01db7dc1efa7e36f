"""Pain 53: prompt positions, optimisers and teacher weights were not restored, so a resumed run was another run.

Here the position in the prompts, the round in use, the moving average and the optimiser all come back, and a checkpoint
that lacks one of them is refused.
"""

import json
import shutil

import pytest
import torch

from tutelage.core.errors import StoreError, TutelageError
from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.live import Live, Replay
from tutelage.data.source import Corpus, Mixture
from tutelage.data.steps.ask import Ask
from tutelage.signals.divergences import Jensen, kl_reverse
from tutelage.signals.match import Match
from tutelage.training import checkpoint as store
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics, Silent
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.itself import Ema
from tutelage.voices.says import Says


class Stopped(Exception):
    """Power is cut."""


@pytest.fixture
def run(tmp_path, new_causal, new_tokenizer):
    def go(name, stop=None, more=None):
        tokenizer, folder = new_tokenizer(), tmp_path / name
        folder.mkdir(exist_ok=True)
        ws = Workspace(folder, 4)
        ws.models["teacher"] = new_causal("teacher", seed=1, tokenizer=tokenizer)
        ws.models["student"] = new_causal("student", seed=2, tokenizer=tokenizer, num_hidden_layers=2)
        ws.data["train"] = [Record(f"r{i}", (Piece(f"ask {i}", "user"), Piece(f"{i} " * (1 + i % 3), "assistant", trains=True))) for i in range(7)]
        live = Live(Ask("student", max_tokens=5), prompts="train", reuse=2)
        source = Mixture(((live, 0.6), (Replay(Corpus("train"), 4, 0.5), 0.4)))
        terms = (Term("kl", Match(kl_reverse)), Term("slow", Match(Jensen(0.5), p=Read("slow")), scale=0.3))
        ema = Ema("student", 0.2)
        stage = Train("t", source, (Update(terms),), voices={"slow": ema, **(more or {})})
        drawn = []

        def watch(progress, records, means):
            drawn.append((progress.step, [(r.id, r.pieces[-1].ids or r.pieces[-1].content) for r in records]))
            return ()

        class Told(Silent):
            def step(self, metrics):
                if metrics["step"] == stop:
                    raise Stopped

        processes = Processes.start()
        settings = TrainSettings(steps=8, batch_size=3, learning_rate=1e-2, max_length=64, checkpoint_seconds=1e-9)
        voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
        loop = Loop(stage, settings, ws, processes, Collate(tokenizer, 64), split, voices, folder / "c",
                    Metrics(folder / "m.jsonl", processes), Told(), watchers=(watch,))  # fmt: skip
        try:
            loop.run()
        except Stopped:
            return drawn, None
        state = store.latest(folder / "c")
        return drawn, state

    return go


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_everything_comes_back(stop, run):
    drawn, whole = run("whole")
    run("part", stop)
    later, state = run("part")
    # the step that was under way when the power went is taken again, on the same prompts with the same answers
    assert later == drawn[stop - 1 :]
    assert state.tensors.keys() == whole.tensors.keys()
    assert any("slow" in name for name in state.tensors) and "optimizer-0" in state.tensors
    for name, tensors in whole.tensors.items():
        assert tensors.keys() == state.tensors[name].keys()
        assert all(torch.equal(tensors[k], state.tensors[name][k]) for k in tensors), name
    assert state.plain["memories"] == whole.plain["memories"]


def test_a_checkpoint_that_lacks_a_memory_is_refused(run, tmp_path):
    run("part", 4)
    with pytest.raises(TutelageError, match="other"):
        run("part", more={"other": Ema("student", 0.1)})


def test_an_optimiser_of_another_shape_is_refused(run, tmp_path):
    run("part", 4)
    (path,) = store.steps(tmp_path / "part" / "c")
    saved = store.load(path)
    saved.tensors["optimizer-0"] = {k: v[..., :1].clone() if v.dim() else v for k, v in saved.tensors["optimizer-0"].items()}
    shutil.rmtree(path)
    store.save(path.parent, saved)
    with pytest.raises(StoreError, match="optimiser state"):
        run("part")


def test_the_log_has_each_step_once(run, tmp_path):
    run("part", 4)
    run("part", 6)
    run("part")
    rows = [json.loads(x) for x in (tmp_path / "part" / "m.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 9))
