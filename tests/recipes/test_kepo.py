"""KEPO, check by check of its card; check 7 is tests/behaviour/test_kepo.py."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import DataError, SettingError
from tutelage.core.signal import Noted, Still
from tutelage.core.term import Term, Update, per_row, per_token
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.aside import Aside
from tutelage.data.steps.hints import WITH_HINT, by_hint
from tutelage.data.steps.parse import Parse
from tutelage.data.steps.rescue import AtMost, Rescue, Solved
from tutelage.recipes.kepo import kepo
from tutelage.signals.divergences import Jensen
from tutelage.signals.grades import Grade
from tutelage.signals.match import Match
from tutelage.signals.policy import Clipped, ScoreFunction
from tutelage.signals.pools import GroupNorm
from tutelage.signals.readouts import LogProb

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, stage, size = (KIT[n] for n in ("world", "worst", "stage", "size"))
rollouts, context, limit = KIT["rollouts"], KIT["context"], KIT["limit"]
RIGHT = Noted("right", "rows")


def rows_of(world, right=(1, 0, 1, 1, 0), form=(0,) * 5, rescued=(0,) * 5):
    """Graded rows with the notes that the recipe's steps write."""
    rows = rollouts(world, right)
    return [
        replace(r, notes={**r.notes, "form": float(f), "rescued": float(s)}) for r, f, s in zip(rows, form, rescued, strict=True)
    ]


def update(**arguments) -> Update:
    return stage("kepo", max_tokens=6, **{"verifier": "exact", **arguments}).updates[0]


def policy(advantage=None):
    return Term("policy", Clipped(advantage or GroupNorm(RIGHT, epsilon=1e-4), Still(LogProb())), per=per_row)


@limit("kepo", "tau=None and injected=0: GRPO, whatever the teacher.")
def test_1_without_gate_and_hints_it_is_grpo(world):
    rows = rows_of(world)
    want, told = world.gradients(Update((policy(),)), rows=rows)
    got, same = world.gradients(update(tau=None, injected=0), rows=rows)
    assert worst(got, want) < 1e-6 and same.loss == pytest.approx(told.loss, abs=1e-6) and size(want) > 1e-4
    with torch.no_grad():
        world.pair.teacher.model.model.norm.weight *= 3
    assert worst(world.gradients(update(tau=None, injected=0), rows=rows)[0], want) == 0


@limit("kepo", "tau=-infinity and injected=0: GRPO and jensen on every answer.")
def test_1_with_an_open_gate_it_is_grpo_and_uniform_distillation(world):
    rows = rows_of(world)
    uniform = Update((policy(), Term("jensen", Match(Jensen(0.5)), per=per_token)))
    want, told = world.gradients(uniform, rows=rows)
    got, same = world.gradients(update(tau=-math.inf, injected=0), rows=rows)
    assert worst(got, want) < 1e-6 and same.tallies["jensen"].mean == pytest.approx(told.tallies["jensen"].mean, rel=1e-5)
    closed, _ = world.gradients(update(injected=0), rows=rows)
    assert worst(closed, want) > 1e-3


def test_2_the_teacher_on_answers_under_tau_moves_nothing(world):
    rows = rows_of(world)
    passed = [r for r in rows if r.notes["right"]]
    only = lambda u: replace(u, objective=tuple(t for t in u.objective if t.name == "jensen"))
    want, told = world.gradients(only(update()), rows=passed)
    got, same = world.gradients(only(update()), rows=rows)
    assert worst(got, want) < 2e-6 and same.loss == pytest.approx(told.loss, rel=1e-5)
    assert same.tallies["jensen"].count == told.tallies["jensen"].count == sum(len(r.pieces[-1].ids) for r in passed)


def test_2_where_nothing_passes_the_distillation_is_0_and_finite(world):
    rows = rows_of(world, (0,) * 5)
    grads, told = world.gradients(update(), rows=rows)
    assert told.tallies["jensen"].count == 0 and told.loss == 0 and size(grads) == 0
    assert all(bool(torch.isfinite(g).all()) for g in grads.values())


@pytest.mark.parametrize("gate_on_right", [False, True])
def test_3_the_gate_is_at_least_so_a_wrong_answer_of_the_right_form_passes_at_1_unless_gated_on_right(world, gate_on_right, tmp_path):
    rule = tmp_path / "tidy.py"
    rule.write_text("def tidy(record):\n    return 1.0\n")
    rows = rows_of(world, (1, 0, 0, 0, 1), (1, 1, 0, 1, 0))
    _, told = world.gradients(update(form=str(rule), gate_on_right=gate_on_right), rows=rows)
    passes = (0, 4) if gate_on_right else (0, 1, 3, 4)
    assert told.tallies["jensen"].count == sum(2 + i for i in passes)
    _, strict = world.gradients(update(form=str(rule), tau=1.5), rows=rows)
    assert strict.tallies["jensen"].count == 2, "right and of the right form"


def prompts(world, **fields):
    return [replace(r, fields={"reference": "blue", **fields}, group="", notes={}) for r in world.records]


class Writes:
    """A step that counts its calls, gives each prompt ``times`` answers with given texts, and keeps what it was shown."""

    reads = "row"

    def __init__(self, texts, times=1):
        self.texts, self.times, self.shown, self.calls = list(texts), times, [], 0

    def __call__(self, records, ws):
        from tutelage.core.record import Piece

        for record in records:
            self.calls += 1
            self.shown.append("".join(p.content for p in record.pieces))
            for k in range(self.times):
                text = self.texts.pop(0) if self.texts else "wrong"
                ids = tuple(5 + ord(c) % 20 for c in text) or (5,)
                piece = Piece(text, "assistant", "student", "answer", True, ids, {}, "eos")
                named = {} if self.times == 1 else {"id": f"{record.id}#{k}", "group": record.id}
                yield replace(record, pieces=(*record.without_answer().pieces, piece), **named)


def right(record):
    return float("blue" in record.pieces[-1].content)


def rescued(world, first, found, hint="<hint>think of the sky</hint>", tries=5, most=2, failed=None, unsaid=("hint",)):
    """A group of answers of given texts, rescued by answers of given texts."""
    from tutelage.data.steps.through import Through

    hinter, again = Writes([hint]), Writes(found, most)
    helped = (Aside(lambda r: r, hinter, "hint"), Parse(r"<hint>(?P<hint>.+?)</hint>", of="hint", whole="hint"))
    step = Rescue(failed or AtMost(), Solved(unsaid=unsaid), helped, (Through(WITH_HINT, again), Grade(right)), tries, most)
    start = Writes(first, len(first))
    rows = list(run_steps((start, Grade(right), step), prompts(world)[:1], world.ws.within("t")))
    return rows, hinter, again


def test_4_no_hint_where_an_answer_is_right(world):
    rows, hinter, again = rescued(world, ["red", "blue", "red"], [])
    assert hinter.calls == again.calls == 0 and [r.pieces[-1].content for r in rows] == ["red", "blue", "red"]
    assert [r.notes["rescued"] for r in rows] == [0, 0, 0]


def test_4_the_student_is_asked_five_times_at_most_and_no_more_once_two_are_found(world):
    rows, hinter, again = rescued(world, ["red"] * 8, [])
    assert hinter.calls == 1 and again.calls == 5 and all(r.notes["rescued"] == 0 for r in rows), "nothing found: unchanged"
    rows, hinter, again = rescued(world, ["red"] * 8, ["no", "blue", "no", "light blue", "dark blue", "blue"])
    assert again.calls == 2 and sorted(r.pieces[-1].content for r in rows if r.notes["right"]) == ["blue", "light blue"]
    assert all("think of the sky" in text and "<hint>" not in text for text in again.shown)
    _, _, three = rescued(world, ["red"] * 4, [], tries=3)
    assert three.calls == 3


def test_4_an_injected_answer_stands_behind_the_plain_prompt_and_is_read_there(world):
    rows, _, _ = rescued(world, ["red"] * 8, ["blue", "blue sky"])
    plain = prompts(world)[0]
    assert all(r.without_answer().pieces == plain.without_answer().pieces and "hint" not in r.fields for r in rows)
    assert sorted(r.id for r in rows) == sorted(f"{plain.id}#{k}" for k in range(8)) and {r.group for r in rows} == {plain.id}
    put = [r for r in rows if r.notes["rescued"]]
    assert len(put) == 2
    with torch.no_grad():
        ctx = context(world, put)
        told = context(world, [WITH_HINT(replace(r, fields={"hint": "think of the sky"})) for r in put])
        alone = context(world, [replace(plain.without_answer(), pieces=(*plain.without_answer().pieces, r.pieces[-1])) for r in put])
        assert torch.equal(ctx(LogProb()), alone(LogProb())) and not torch.allclose(ctx(LogProb()), told(LogProb()))


def test_4_the_trigger_is_rightness_or_the_total(world):
    tidy = lambda notes: AtMost(notes, 0.0)
    assert AtMost()(replace(prompts(world)[0], notes={"right": 0.0, "form": 1.0}))
    assert not tidy(("right", "form"))(replace(prompts(world)[0], notes={"right": 0.0, "form": 1.0}))
    with pytest.raises(DataError, match="a note 'right'"):
        AtMost()(prompts(world)[0])
    made = stage("kepo", trigger_on_total=True, form="exact").source.steps[-1]
    assert made.failed == AtMost(("right", "form"), 0.0) and stage("kepo").source.steps[-1].failed == AtMost()


def test_5_advantages_are_of_the_group_after_injection(world):
    rows, _, _ = rescued(world, ["red"] * 8, ["blue", "blue sky"])
    assert sum(r.notes["right"] for r in rows) == 2
    advantage = update().objective[0].loss.advantage
    with torch.no_grad():
        a = context(world, rows)(advantage)
    assert float(a.sum()) == pytest.approx(0, abs=1e-5)
    for row, value in zip(rows, a.tolist(), strict=True):
        assert (value > 0) == bool(row.notes["right"]) and value != 0


def test_the_places_are_drawn_and_the_same_for_the_same_seed(world):
    places = lambda rows: [i for i, r in enumerate(rows) if r.notes["rescued"]]
    one, two = (rescued(world, ["red"] * 8, ["blue", "blue"])[0] for _ in range(2))
    assert places(one) == places(two)
    seen = set()
    for seed in range(6):
        world.ws.seed = seed
        seen.add(tuple(places(rescued(world, ["red"] * 8, ["blue", "blue"])[0])))
    assert len(seen) > 2


def test_answers_that_mention_the_hint_and_empty_hints_are_not_used(world):
    rows, _, again = rescued(world, ["red"] * 4, ["the Hint says blue", "blue by the hint"] * 5)
    assert again.calls == 5 and all(r.notes["rescued"] == 0 for r in rows)
    rows, _, again = rescued(world, ["red"] * 4, ["blue", "blue"], hint="  ")
    assert again.calls == 0 and all(r.notes["right"] == 0 for r in rows)
    rows, _, again = rescued(world, ["red"] * 4, ["blue", "blue"], hint="no tags here")
    assert "no tags here" in again.shown[0] and sum(r.notes["right"] for r in rows) == 2
    ledger = world.ws.ledger.state_dict()
    assert ledger["rescue/called"]["calls"] == 3 and ledger["rescue/found"]["calls"] == 2


def test_6_the_value_is_minus_the_mean_advantage_and_the_gradient_is_reinforce(world):
    rows = rows_of(world)
    got, told = world.gradients(update(tau=None, injected=0), rows=rows)
    a = GroupNorm(RIGHT, epsilon=1e-4)
    want, _ = world.gradients(Update((Term("policy", ScoreFunction(a), per=per_row),)), rows=rows)
    assert worst(got, want) < 2e-6
    with torch.no_grad():
        mean = float(context(world, rows)(a).mean())
    assert told.loss == pytest.approx(-mean, abs=1e-5)
    skewed = rows_of(world, (1, 0, 1, 1, 1))
    assert world.gradients(update(tau=None, injected=0), rows=skewed)[1].loss == pytest.approx(0, abs=1e-5)


def test_the_gradient_does_not_depend_on_micro_batches(world):
    rows = rows_of(world)
    want, told = world.gradients(update(), rows=rows)
    for how in ({"size": 2}, {"size": 2, "pack": True}, {"padding": "left"}):
        got, same = world.gradients(update(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and same.loss == pytest.approx(told.loss, rel=1e-4, abs=1e-6)


def test_the_chain_of_the_recipe_writes_graded_groups_with_a_tiny_pair(world):
    made = stage("kepo", max_tokens=4, rollouts=3, verifier="exact", injected=1, tries=2)
    done = list(run_steps(made.source.steps, prompts(world), world.ws.within("t")))
    assert len(done) == 15 and all({"right", "rescued"} <= r.notes.keys() for r in done)
    assert made.source.steps[-1].slots() == {"teacher", "student"}
    ledger = world.ws.ledger.state_dict()
    assert ledger["rescue/called"]["calls"] == 5 and ledger["rescue/tried"]["calls"] <= 10


def test_settings_are_checked_and_pieces_say_what_they_cannot_do(world):
    for wrong in ({"scale": -1.0}, {"rollouts": 1}, {"injected": 9}, {"injected": -1}, {"tries": 0}):
        with pytest.raises(SettingError, match="kepo"):
            kepo(**wrong)
    with pytest.raises(SettingError, match="Rescue"):
        Rescue(AtMost(), Solved(), (), (), 5, 2)
    with pytest.raises(DataError, match="answers about"):
        list(Aside(lambda r: r, Writes(["a", "b"], 2), "hint")(iter(prompts(world)[:1]), world.ws))
    assert by_hint("student", stage("kepo").source.steps[0]).slots() == {"student"}
