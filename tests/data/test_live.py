import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from tutelage.core.errors import SettingError
from tutelage.core.record import Piece
from tutelage.core.schedule import Progress, memories
from tutelage.core.seeds import derive
from tutelage.data.live import Live, Replay
from tutelage.data.source import Corpus, Mixture


@dataclass(frozen=True)
class Write:
    """Answers with a number that depends on path and id alone, ``times`` rows a prompt."""

    times: int = 2
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        ws.ledger.add("student", "sample")
        for row in records:
            for k in range(self.times):
                answer = Piece(str(derive(ws.seed, *ws.path, row.id, k)), trains=True, author="student")
                pieces = (*row.without_answer().pieces, answer)
                yield replace(row, id=f"{row.id}#{k}", group=row.id, pieces=pieces)


@pytest.fixture
def data(kit, ws):
    ws.data["prompts"] = [kit.text(f"p{n}", "Q", "A") for n in range(6)]
    ws.data["train"] = [kit.text(f"t{n}", "Q", "A") for n in range(5)]
    return ws


def draw(source, ws, step, size=4, rank=0, world=1):
    return source.draw(Progress("one", step, 20), ws, size, rank, world)


def test_a_round_is_generated_once_for_its_steps(data):
    live = Live(Write(), reuse=3)
    steps = [draw(live, data, step) for step in range(6)]
    assert steps[0] == steps[1] == steps[2] != steps[3] == steps[5]
    assert len(steps[0]) == 8 and data.ledger.get("student", "sample").calls == 2


def test_groups_never_part_and_processes_give_the_rows_of_one(data):
    alone = draw(Live(Write()), data, 1)
    shared = [draw(Live(Write()), data, 1, rank=rank, world=2) for rank in range(2)]
    assert [*shared[0], *shared[1]] == alone
    assert not {r.group for r in shared[0]} & {r.group for r in shared[1]}


def test_rounds_draw_new_numbers_and_their_own_prompts(data):
    live = Live(Write(1), reuse=2)
    prompts = [r.group for step in (0, 2, 4) for r in draw(live, data, step)]
    assert len(set(prompts[:6])) == 6  # rounds go on where the last one stopped
    one, two = draw(Live(Write(1)), data, 0, size=6), draw(Live(Write(1)), data, 1, size=6)
    assert {r.group for r in one} == {r.group for r in two}
    assert not {r.pieces[-1].content for r in one} & {r.pieces[-1].content for r in two}


def test_a_prompt_drawn_twice_gets_two_names_on_every_process(data):
    alone = draw(Live(Write()), data, 0, size=9)
    assert len({r.id for r in alone}) == 18 and len({r.pieces[-1].content for r in alone}) == 18
    assert sum("~1" in r.group for r in alone) == 6
    shared = [r for rank in range(3) for r in draw(Live(Write()), data, 0, 9, rank, 3)]
    assert shared == alone


def test_repeat_makes_groups(data):
    rows = draw(Live(repeat=3), data, 0, size=2)
    assert [r.id.split("#")[1] for r in rows] == ["0", "1", "2"] * 2
    assert all(r.group == r.id.split("#")[0] for r in rows)


def test_a_saved_round_goes_on(data):
    live = Live(Write(), reuse=2)
    first = draw(live, data, 0)
    state = json.loads(json.dumps(live.state_dict()))
    data.seed = 99  # the student moved: running the chain again would give another round
    other = Live(Write(), reuse=2)
    other.load_state_dict(state)
    assert draw(other, data, 1) == first
    other.reset()
    assert draw(other, data, 1) != first


@dataclass(frozen=True)
class DropAll:
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        yield from (row for row in records if False)


def test_a_round_may_come_out_empty(data):
    assert draw(Live(DropAll()), data, 0) == []


def test_prompts_may_be_a_mixture(data):
    mixed = Mixture(((Corpus("prompts"), 1), (Corpus("train"), 1)), by="row")
    rows = draw(Live(Write(1), prompts=mixed), data, 0, size=12)
    assert {r.group[0] for r in rows} == {"p", "t"} and len(rows) == 12


def test_the_checkpoint_finds_memories_in_a_mixture():
    live = Live(Write())
    replay = Replay(Corpus(), 4)
    found = memories(Mixture(((live, 0.5), (replay, 0.5))))
    assert list(found.values()) == [live, replay]


def test_replay_gives_back_what_it_saw(data):
    replay = Replay(Live(Write()), capacity=5, share=0.5)
    seen: set[str] = set()
    num_old = 0
    for step in range(30):
        rows = draw(replay, data, step)
        contents = {r.pieces[-1].content for r in rows}
        num_old += len(contents & seen)
        seen |= contents
        assert len(rows) == 8
    assert num_old == pytest.approx(30 * 8 * 0.5, rel=0.3)
    assert len(replay.state_dict()["past"]) == 5


def test_replay_goes_on_from_its_state(data):
    replay = Replay(Corpus(), capacity=8, share=0.5)
    for step in range(5):
        draw(replay, data, step)
    other = Replay(Corpus(), capacity=8, share=0.5)
    other.load_state_dict(json.loads(json.dumps(replay.state_dict())))
    assert [draw(replay, data, s) for s in range(5, 9)] == [draw(other, data, s) for s in range(5, 9)]


def test_replay_limits(data):
    assert [draw(Replay(Corpus(), 4, 0.0), data, s) for s in range(4)] == [draw(Corpus(), data, s) for s in range(4)]
    always = Replay(Corpus(), 4, 1.0)
    first = {r.id for r in draw(always, data, 0)}
    assert {r.id for s in range(1, 9) for r in draw(always, data, s)} <= first


def test_bad_settings():
    with pytest.raises(SettingError, match="reuse"):
        Live(reuse=0)
    with pytest.raises(SettingError, match="reads"):
        Live(lambda records, ws: records)
    with pytest.raises(SettingError, match="Replay"):
        Replay(Corpus(), 0)
    with pytest.raises(SettingError, match="reuse=2"):
        Mixture(((Live(reuse=2), 1),), by="row")
