"""Prompts, a tiny workspace, and chains of steps as stages have them."""

import pytest

from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.cached import Cache, Top
from tutelage.data.cached.answer import rows_of
from tutelage.data.collate import Collate
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.data.steps.pick import Best
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.grades.grade import Grade
from tutelage.signals.grades.text import Exact
from tutelage.signals.match import Match
from tutelage.signals.pools import RowMean


@pytest.fixture
def workspace(new_causal, new_tokenizer, tmp_path):
    def make(name="ws"):
        tokenizer = new_tokenizer()
        ws = Workspace(tmp_path / name, 3).within("write")
        ws.models["teacher"] = new_causal("teacher", seed=1, tokenizer=tokenizer)
        ws.models["student"] = new_causal("student", seed=2, tokenizer=tokenizer, num_hidden_layers=2)
        for number, model in enumerate(ws.models.values()):
            model.facts |= {"weights_sha256": f"w{number}", "tokenizer_sha256": "t"}
        return ws

    return make


@pytest.fixture
def prompts():
    return [Record(f"r{i}", (Piece(f"say {i}", "user"), Piece("ab", "assistant", trains=True))) for i in range(14)]


@pytest.fixture
def chains():
    """What is run elsewhere: the teacher's answers, its labels on them, grades, and the best of several answers."""
    ask = Ask("teacher", max_tokens=6)
    return {
        "generation": (ask,),
        "labelling": (Ask("student", max_tokens=6), Note("gap", Match(kl_reverse))),
        "scoring": (ask, Grade(Exact(), unfinished=None)),
        "groups": (Ask("student", max_tokens=5, times=3), Note("far", RowMean(Match(kl_forward))), Best(1, "far")),
    }


@pytest.fixture
def new_cache(tmp_path):
    """A cache of the tiny teacher, and the rows that a corpus asks it about."""

    def make(name, ws, form=None):
        size = ws.models["teacher"].head.num_categories
        records = [
            Record(f"c{i}", (Piece(f"say {i}", "user"), Piece("abc" * (1 + i % 5), "assistant", trains=True))) for i in range(23)
        ]
        asked = rows_of(Collate(ws.models["teacher"].tokenizer, 128)(records).views["main"])[0]
        return Cache(tmp_path / name, {"weights": "w", "tokenizer": "t"}, form or Top(num_kept=8, num_categories=size)), asked

    return make
