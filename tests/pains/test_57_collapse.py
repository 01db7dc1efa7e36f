"""Elsewhere people build collapse detectors by hand (distinct-n, self-BLEU, entropy) after a run went to waste.

Here the rounds of answers are watched, and a warning names the figure, its values and its limit.
"""

import json
import random

import pytest

from tutelage.core.errors import SettingError
from tutelage.core.schedule import memories
from tutelage.evaluation.metrics.collapse import CollapseWatch, Limits, figures


def answers(rng, size=40, words=400):
    return [[rng.randrange(words) for _ in range(size)] for _ in range(8)]


def healthy(rng, **changed):
    values = {"said": answers(rng), "cut": [False] * 8, "entropy_nats": 1.0 + rng.gauss(0, 0.02), **changed}
    return figures(values["said"], cut=values["cut"], entropy_nats=values["entropy_nats"])


def heard(rounds, **settings):
    watch = CollapseWatch(**settings)
    return [text for values in rounds for text in watch.see(values)]


def test_a_healthy_run_is_quiet():
    rng = random.Random(0)
    assert heard([healthy(rng) for _ in range(30)]) == []


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("distinct_2", {"said": [[1, 2] * 20] * 8}),
        ("self_bleu", {"said": [list(range(40))] * 8}),
        ("entropy_nats", {"entropy_nats": 0.1}),
        ("length", {"said": [[i, i + 1, i + 2] for i in range(0, 80, 10)]}),
        ("length", {"said": [list(range(200 * i, 200 * i + 200)) for i in range(8)]}),
        ("cut_share", {"cut": [True] * 6 + [False] * 2}),
    ],
)
def test_each_collapse_is_named_once_with_its_limit(name, changed):
    rng = random.Random(1)
    found = heard([healthy(rng) for _ in range(4)] + [healthy(rng, **changed) for _ in range(6)])
    mine = [text for text in found if f"{name} " in text]
    assert len(mine) == 1 and "the limit is" in mine[0] and "last 3 rounds" in mine[0]


def test_answers_that_never_end_are_named_from_the_start():
    rng = random.Random(2)
    found = heard([healthy(rng, cut=[True] * 8) for _ in range(3)])
    assert len(found) == 1 and "cut_share is 1.00; the limit is 0.50" in found[0]


def test_a_figure_that_recovers_may_warn_again():
    rng = random.Random(3)
    bad, good = {"entropy_nats": 0.05}, {}
    plan = [good] * 3 + [bad] * 4 + [good] * 4 + [bad] * 4
    assert len([t for t in heard([healthy(rng, **p) for p in plan]) if "entropy" in t]) == 2


def test_state_goes_through_json_and_goes_on_alike():
    rng = random.Random(4)
    rounds = [healthy(rng) for _ in range(4)] + [healthy(rng, entropy_nats=e) for e in (None, 0.2, 0.1, 0.1, 0.1)]
    straight, stopped = CollapseWatch(), CollapseWatch()
    expected = [straight.see(r) for r in rounds]
    got = [stopped.see(r) for r in rounds[:5]]
    again = CollapseWatch()
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict(), allow_nan=False)))
    got += [again.see(r) for r in rounds[5:]]
    assert got == expected and sum(map(len, got)) == 1
    assert again.state_dict() == straight.state_dict()
    again.reset()
    assert again.state_dict() == CollapseWatch().state_dict()


def test_a_checkpoint_finds_the_watch():
    watch = CollapseWatch()
    assert memories((watch,)) == {"0": watch}


def test_bad_settings_are_refused():
    with pytest.raises(SettingError, match="window"):
        CollapseWatch(window=0)
    with pytest.raises(SettingError, match="cut_share"):
        CollapseWatch(Limits(cut_share=-0.1))
    assert all(v != v or v >= 0 for v in figures([], cut=[]).values())
