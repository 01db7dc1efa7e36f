"""A training process for the loop's tests: `worker.py FOLDER SOURCE [interrupt=STEP] [dropout=SHARE]`."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import torch

from tutelage.core.errors import TutelageError
from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.live import Live
from tutelage.data.source import Corpus, Mixture
from tutelage.data.steps.ask import Ask
from tutelage.signals.divergences import Jensen, kl_reverse
from tutelage.signals.match import Match
from tutelage.training.distributed import Processes
from tutelage.training.interrupt import Interrupted
from tutelage.training.log import Metrics, Silent
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.itself import Ema
from tutelage.voices.says import Says

PROMPTS = ["one", "what is two and two", "tell me", "a", "the end of the day", "so", "which is it", "now then"]


def main(folder: Path, source: str, *settings: str) -> None:
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parents[1] / "conftest.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    given = dict(s.split("=") for s in settings)
    dropout, stop = float(given.get("dropout", 0.1)), given.get("interrupt")
    tokenizer = kit.make_tokenizer()
    ws = Workspace(folder, 11)
    ws.models["teacher"] = kit.make_causal("teacher", seed=1, tokenizer=tokenizer)
    ws.models["student"] = kit.make_causal("student", seed=2, tokenizer=tokenizer, num_hidden_layers=2, attention_dropout=dropout)
    ws.data["train"] = [
        Record(f"r{i}", (Piece(p, "user"), Piece(p[::-1] * (1 + i % 3), "assistant", trains=True))) for i, p in enumerate(PROMPTS)
    ]
    live = Live(Ask("student", max_tokens=7), prompts="train", reuse=2)
    sources = {"corpus": Corpus("train"), "live": live, "mixture": Mixture(((live, 0.5), (Corpus("train"), 0.5)))}
    terms = (Term("kl", Match(kl_reverse)), Term("slow", Match(Jensen(0.5), p=Read("slow")), scale=0.3))
    stage = Train("t", sources[source], (Update(terms),), voices={"slow": Ema("student", 0.2)})
    processes = Processes.start()

    class Told(Silent):
        def step(self, metrics):
            if processes.main:
                print("step", metrics["step"], flush=True)
            if stop and metrics["step"] == int(stop):
                os.kill(os.getpid(), signal.SIGINT)

    folder.mkdir(parents=True, exist_ok=True)
    settings_ = TrainSettings(steps=7, batch_size=4, micro_batch_size=1, learning_rate=1e-2, max_length=64, checkpoint_seconds=1e-9)
    voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
    loop = Loop(stage, settings_, ws, processes, Collate(tokenizer, 64, pack=True), split, voices, folder / "c", Metrics(folder / "metrics.jsonl", processes), Told())
    try:
        loop.run()
    except Interrupted:
        print("interrupted", flush=True)
        return
    if processes.main:
        state = ws.models["student"].model.state_dict()
        (folder / "weights.json").write_text(json.dumps({k: v.double().tolist() for k, v in state.items()}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except TutelageError as error:
        sys.exit(str(error))
