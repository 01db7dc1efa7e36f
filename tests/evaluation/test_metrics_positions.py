"""Figures a position, and their tallies, against float64 loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import NeedError
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.evaluation.metrics import positions
from tutelage.evaluation.metrics.calibration import NUM_BINS, Calibration
from tutelage.evaluation.metrics.fidelity import CLASSES, EDGES, Fidelity, TokenClasses, bucket_label, class_of
from tutelage.evaluation.metrics.positions import measure


def log_probs(num, width, seed, scale=3.0):
    raw = torch.randn(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return raw.log_softmax(-1)


def values(num=50, width=11, seed=0):
    target = torch.randint(width, (num,), generator=torch.Generator().manual_seed(seed + 9))
    return measure(Dense(log_probs(num, width, seed)), Dense(log_probs(num, width, seed + 1)), target)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(2, 30), st.integers(0, 999))
def test_each_figure_equals_a_loop(num, width, seed):
    lq, lp = log_probs(num, width, seed), log_probs(num, width, seed + 1)
    target = torch.randint(width, (num,), generator=torch.Generator().manual_seed(seed))
    got = measure(Dense(lq), Dense(lp), target)
    for u in range(num):
        q, p, y = lq[u].exp().tolist(), lp[u].exp().tolist(), int(target[u])
        m = [(a + b) / 2 for a, b in zip(q, p, strict=True)]

        def kl(a, b):
            return sum(x * math.log(x / z) for x, z in zip(a, b, strict=True))

        k = min(5, width)
        best = [sorted(range(width), key=lambda c, d=d: -d[c])[:k] for d in (q, p)]
        expected = {
            "kl": kl(p, q), "reverse_kl": kl(q, p), "jensen": (kl(p, m) + kl(q, m)) / 2,
            "total_variation": sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
            "top1": float(best[0][0] == best[1][0]), "top5": len(set(best[0]) & set(best[1])) / k,
            "student_nll": -math.log(q[y]), "teacher_nll": -math.log(p[y]),
            "student_entropy": -sum(x * math.log(x) for x in q), "teacher_entropy": -sum(x * math.log(x) for x in p),
            "student_confidence": max(q), "student_correct": float(best[0][0] == y),
            "teacher_brier": sum((x - (c == y)) ** 2 for c, x in enumerate(p)),
            "student_brier": sum((x - (c == y)) ** 2 for c, x in enumerate(q)),
        }  # fmt: skip
        for name, value in expected.items():
            assert float(got[name][u]) == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_lazy_scores_in_small_tiles_equal_dense_ones(monkeypatch):
    gen = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(23, 6, generator=gen), torch.randn(17, 6, generator=gen)
    other, target = torch.randn(17, 6, generator=gen), torch.randint(15, (23,), generator=gen)
    lazy = [Lazy(hidden, Head(w, cap=4.0, size=15)) for w in (weight, other)]
    whole = measure(*(Dense(s.at(slice(None))) for s in lazy), target)
    monkeypatch.setattr(positions, "TILE_ELEMENTS", 50)
    monkeypatch.setattr(positions, "CHUNK_ELEMENTS", 120)
    tiled = measure(*lazy, target)
    for name, value in whole.items():
        assert tiled[name].dtype == torch.float64
        assert torch.allclose(tiled[name], value, atol=2e-6), name


def test_no_tensor_of_all_units_and_categories_is_built(monkeypatch):
    biggest = []

    class Spy(Lazy):
        def held(self, index):
            out = super().held(index)
            biggest.append(out.raw.numel())
            return out

    monkeypatch.setattr(positions, "CHUNK_ELEMENTS", 400)
    head = Head(torch.randn(40, 4))
    measure(Spy(torch.randn(100, 4), head), Spy(torch.randn(100, 4), head), torch.zeros(100, dtype=torch.long))
    assert max(biggest) <= 400 and sum(biggest) == 2 * 100 * 40


def test_impossible_categories_are_exact_and_nan_is_not_hidden():
    p = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    q = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).log()
    got = measure(Dense(q), Dense(p), torch.tensor([0]))
    assert got["kl"].item() == math.inf and got["reverse_kl"].item() == pytest.approx(math.log(2))
    jensen = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25) + math.log(1 / 0.75)) / 2
    assert got["jensen"].item() == pytest.approx(jensen)
    both = measure(Dense(p), Dense(p), torch.tensor([1]))
    assert both["kl"].item() == 0 and both["student_entropy"].item() == pytest.approx(math.log(2))
    broken = measure(Dense(torch.full((1, 3), math.nan)), Dense(p.float()), torch.tensor([0]))
    assert broken["kl"].isnan().all() and broken["student_nll"].isnan().all()
    # probabilities that underflow float32 are not nan
    far = torch.tensor([[0.0, -200.0, -200.0]]).log_softmax(-1)
    assert measure(Dense(far), Dense(far), torch.tensor([0]))["jensen"].item() == pytest.approx(0, abs=1e-6)


def test_different_units_or_categories_are_refused():
    a, b = Dense(log_probs(3, 5, 0)), Dense(log_probs(3, 6, 0))
    with pytest.raises(NeedError, match="5 student and 6 teacher"):
        measure(a, b, torch.zeros(3, dtype=torch.long))
    with pytest.raises(NeedError, match="same units"):
        measure(a, a, torch.zeros(2, dtype=torch.long))
    assert measure(a.held(slice(0, 0)), a.held(slice(0, 0)), torch.zeros(0, dtype=torch.long))["kl"].shape == (0,)


def tally(got, part, time, classes, row):
    out = Fidelity()
    cut = {k: v[part] for k, v in got.items()}
    out.add(cut, time=time[part], classes=classes[part], row=row[part], ids=["a", "b", "empty"])
    return out


def test_parts_add_to_the_whole_and_facets_to_all():
    got = values()
    time, classes = torch.arange(50) % 40, torch.arange(50) % len(CLASSES)
    row = (torch.arange(50) >= 40).long()
    whole = tally(got, slice(None), time, classes, row)
    split = tally(got, slice(0, 13), time, classes, row) + tally(got, slice(13, 50), time, classes, row)
    assert whole.tallies.keys() == split.tallies.keys()
    for key, value in whole.tallies.items():
        assert split.tallies[key].count == value.count
        assert split.tallies[key].sum == pytest.approx(value.sum, rel=1e-13)
    overall = whole.overall()
    assert overall["num_positions"] == 50 and overall["kl"] == pytest.approx(float(got["kl"].mean()))
    for rows in (whole.by_position(), whole.by_class()):
        assert sum(r["count"] for r in rows) == 50
        assert sum(r["count"] * r["kl"] for r in rows) / 50 == pytest.approx(overall["kl"])
    assert [r["label"] for r in whole.by_position()] == ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63"]
    records = whole.by_record()
    assert records["ids"] == ["a", "b", "empty"] and records["count"] == [40, 10, 0]
    assert records["kl"][0] == pytest.approx(float(got["kl"][:40].mean())) and math.isnan(records["kl"][2])


def test_bucket_labels_cover_all_positions():
    assert bucket_label(2) == "2-3" and bucket_label(len(EDGES) - 1) == "1024+"


def test_calibration_equals_a_loop_and_adds():
    got = values(400, 7, 3)
    total = 0.0
    conf, right = got["student_confidence"].tolist(), got["student_correct"].tolist()
    for b in range(NUM_BINS):
        members = [i for i, c in enumerate(conf) if b / NUM_BINS < c <= (b + 1) / NUM_BINS]
        if members:
            total += abs(sum(right[i] for i in members) - sum(conf[i] for i in members))
    whole = Calibration.of(got, "student")
    assert whole.ece == pytest.approx(total / 400)
    assert whole.brier.mean == pytest.approx(float(got["student_brier"].mean()))
    assert whole.perplexity == pytest.approx(math.exp(float(got["student_nll"].mean())))
    half = [Calibration.of({k: v[s] for k, v in got.items()}, "student") for s in (slice(0, 99), slice(99, 400))]
    assert (half[0] + half[1]).ece == pytest.approx(whole.ece, rel=1e-12)
    assert sum(b["count"] for b in whole.bins()) == 400
    assert Calibration.of(got, "teacher").ece != whole.ece


def test_a_calibrated_model_has_a_small_ece_and_a_sure_wrong_one_a_large():
    gen = torch.Generator().manual_seed(0)
    p = log_probs(6000, 5, 1, scale=1.5)
    target = torch.multinomial(p.exp(), 1, generator=gen).squeeze(1)
    got = measure(Dense((p * 6).log_softmax(-1)), Dense(p), target)
    assert Calibration.of(got, "teacher").ece < 0.02 < 0.2 < Calibration.of(got, "student").ece
    assert math.isnan(Calibration().ece) and math.isnan(Calibration().perplexity)


def test_classes_come_from_the_decoded_text(tokenizer):
    texts = {"a": "words", " x1": "words", "7": "digits", " 42": "digits", ".": "punctuation", "\ufffd": "punctuation",
             " ": "whitespace", "\n\n": "whitespace", "é": "words", "½": "punctuation"}  # fmt: skip
    assert {t: class_of(t) for t in texts} == texts
    classes = TokenClasses(tokenizer)
    ids = [*tokenizer("a7.\n")["input_ids"], tokenizer.eos_token_id]
    assert [CLASSES[i] for i in classes(ids)] == ["words", "digits", "punctuation", "whitespace", "special"]
