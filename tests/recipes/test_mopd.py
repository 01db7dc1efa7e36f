"""MOPD, check by check of its card; check 7 is tests/behaviour/test_mopd.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import DataError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.peers import Peers, TellPeers
from tutelage.data.views import Told
from tutelage.recipes.mopd import mopd
from tutelage.signals.divergences import Jensen, kl_forward, kl_reverse
from tutelage.signals.match import Match, Top
from tutelage.signals.readouts import LogProb
from tutelage.voices import Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, size = (KIT[n] for n in ("world", "worst", "setting", "stage", "size"))
rollouts, context, limit = KIT["rollouts"], KIT["context"], KIT["limit"]


SHORT = {"peers": TellPeers("R:", "W:", "F:", "!")}  # the rows of this world are short


def made(**arguments):
    return stage("mopd", max_tokens=6, **{"verifier": "exact", **arguments})


def group(world, right, texts=None, fields=None):
    """Rows of one group with given grades and texts."""
    prompt = replace(world.records[1].without_answer(), group="g", fields={"reference": "blue", **(fields or {})})
    rows = []
    for k, grade in enumerate(right):
        text = texts[k] if texts else f"answer number {k}"
        ids = tuple(world.tokenizer(text, add_special_tokens=False)["input_ids"])
        answer = Piece(text, "assistant", "student", "answer", True, ids, {}, "eos")
        rows.append(replace(prompt, id=f"g#{k}", pieces=(*prompt.pieces, answer), notes={"right": float(grade)}))
    return rows


def peered(world, rows, **how):
    return list(run_steps((Peers(**how),), rows, world.ws.within("t")))


def shown(row):
    return "".join(p.content for p in TellPeers()(row).without_answer().pieces)


def take(world, stage, **how):
    how = {"voices": stage.voices, "views": SHORT, **how}
    return world.gradients(stage.updates[0], **how)


def test_1_all_failed_and_failures_not_told_has_mask_0_loss_0_and_no_nan(world):
    rows = peered(world, group(world, (0, 0, 0)), wrong=0)
    assert all(r.notes["informed"] == 0 and TellPeers()(r) is r for r in rows)
    grads, told = take(world, made(), rows=rows)
    assert told.loss == 0 and size(grads) == 0 and told.tallies["peers"].count == 0
    told_wrong = peered(world, group(world, (0, 0, 0)))
    assert all(r.notes["informed"] == 1 and "failed attempt" in shown(r) for r in told_wrong)
    assert peered(world, group(world, (0,)))[0].notes["informed"] == 0


def test_1_feedback_is_told_only_where_no_right_answer_is(world):
    said = peered(world, group(world, (0, 0), fields={"feedback": "line 3 fails"}), wrong=0)
    assert all("line 3 fails" in shown(r) and r.notes["informed"] == 1 for r in said)
    mixed = peered(world, group(world, (1, 0, 0), fields={"feedback": "line 3 fails"}), wrong=0)
    assert ["line 3 fails" in shown(r) for r in mixed] == [True, False, False]


def test_2_an_answer_is_never_in_its_own_prompt_and_a_single_right_one_is_shown_to_the_others_alone(world):
    for right in ((1, 0, 0, 0), (1, 1, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1)):
        rows = peered(world, group(world, right))
        for k, row in enumerate(rows):
            assert f"answer number {k}" not in shown(row)
        assert [bool(r.fields["peers"]["right"]) for r in rows] == [sum(right) - g > 0 for g in right]
    rows = peered(world, group(world, (1, 0, 0, 0)))
    assert "A correct solution" not in shown(rows[0]) and all("answer number 0" in shown(r) for r in rows[1:])


def test_2_two_right_ones_in_order_one_wrong_one_at_random_and_always_or_not(world):
    rows = peered(world, group(world, (0, 1, 1, 1, 0, 0)))
    assert rows[0].fields["peers"]["right"] == ["answer number 1", "answer number 2"]
    assert rows[1].fields["peers"]["right"] == ["answer number 2", "answer number 3"]
    seen = set()
    for seed in range(8):
        world.ws.seed = seed
        seen |= set(peered(world, group(world, (0, 1, 1, 1, 0, 0)))[0].fields["peers"]["wrong"])
    assert seen == {"answer number 4", "answer number 5"}
    assert peered(world, group(world, (0, 1, 0)), always=False)[0].fields["peers"]["wrong"] == []
    assert peered(world, group(world, (0, 0, 0)), always=False)[0].fields["peers"]["wrong"] != []


def test_2_a_bonus_for_the_form_makes_no_answer_right(world):
    rows = peered(world, group(world, (0.5, 0.9, 1.0)))
    assert rows[0].fields["peers"]["right"] == ["answer number 2"] and rows[2].fields["peers"]["right"] == []


def test_peers_are_cleaned_and_cut_and_the_instruction_and_the_answer_stay_whole(world):
    rows = peered(world, group(world, (1, 0), ["<think>so</think> yes<|im_end|>", "x" * 90]), longest=5)
    assert rows[1].fields["peers"]["right"] == ["so ye"] and rows[0].fields["peers"]["wrong"] == ["xxxxx"]
    view = TellPeers()(rows[1])
    assert view.pieces[-1] == rows[1].pieces[-1] and view.without_answer().pieces[-1].content.endswith(TellPeers().after)
    assert view.fields == rows[1].fields


@limit("mopd", "nothing told and rate=1: the loss and its gradient are 0.")
def test_3_an_empty_context_and_the_same_weights_give_0(world):
    rows = [replace(r, notes={**r.notes, "informed": 1.0}) for r in rollouts(world)]
    for rate in (1.0, 0.05):
        grads, told = take(world, made(rate=rate), rows=rows)
        assert abs(told.loss) < 1e-6 and told.tallies["peers"].count == 20
        moved, _ = take(world, made(rate=rate), rows=[r for r in peered(world, group(world, (1, 0, 1)))])
        assert size(grads) < 1e-3 * size(moved)


@limit("mopd", "every answer told the same as the reference of opsd, rate=1, num_kept=None: opsd with decay=0.")
def test_3_told_the_reference_it_is_opsd(world):
    rows = [replace(r, notes={**r.notes, "informed": 1.0}) for r in rollouts(world)]
    other = stage("opsd", decay=0.0)
    want, _ = world.gradients(other.updates[0], rows=rows, voices=other.voices, views={"informed": Told()})
    got, _ = take(world, made(rate=1.0, num_kept=None), rows=rows, views={"peers": Told()})
    assert worst(got, want) < 5e-6 and size(want) > 1e-5


def on_tail(log_x, ids):
    kept = log_x.gather(-1, ids)
    return torch.cat([kept, torch.log1p(-kept.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-12))], -1)


@pytest.mark.parametrize("of", ["student", "teacher"])
def test_4_both_ends_are_the_two_kls_on_the_top_k_and_the_rest(setting, of):
    s = setting()
    q, p = s.log_q(), s.log_p()
    ids = (q if of == "student" else p).detach().topk(4, -1).indices
    for beta, kl in ((0.0, kl_forward), (1.0, kl_reverse)):
        loss = made(beta=beta, num_kept=4, kept_of=of).updates[0].objective[0].loss
        got = s.context()(replace(loss, p=Read("teacher")))
        want = kl(on_tail(q, ids), on_tail(p, ids))
        assert torch.allclose(got, want, atol=1e-9)
        for a, b in zip(*(torch.autograd.grad(x.sum(), (s.hidden, s.weight), retain_graph=True) for x in (got, want)), strict=True):
            assert torch.allclose(a, b, atol=1e-8)


def test_4_the_top_of_all_is_the_whole_divergence(setting):
    s = setting()
    for k in (11, 100):
        got = s.context()(replace(made(num_kept=k).updates[0].objective[0].loss, p=Read("teacher")))
        want = s.context()(Match(Jensen(0.5)))
        assert torch.allclose(got, want, atol=1e-9) and bool(torch.isfinite(got).all())
    sharp = torch.tensor([[60.0] + [0.0] * 10], dtype=torch.float64).log_softmax(-1)
    q, p = Top(3, of="student")(sharp, sharp.roll(1, -1))
    assert bool(torch.isfinite(Jensen(0.5)(q, p)).all()), "what is left of a mass of 1 is nothing, not nan"


def test_5_the_average_follows_by_its_closed_form_and_at_rate_1_it_is_the_student(world):
    for rate in (0.05, 1.0):
        voice = made(rate=rate).voices["informed"]
        student = world.pair.student
        first = {k: v.clone() for k, v in student.model.state_dict().items()}
        shadow = voice.shadow.follow(student)
        with torch.no_grad():
            for p in student.model.parameters():
                p.add_(0.5)
        for n in range(4):
            voice.shadow.observe(Progress("train", n, 10), {})
        for name, now in shadow.model.state_dict().items():
            if now.is_floating_point():
                live = student.model.state_dict()[name]
                share = 1 - (1 - rate) ** 4
                assert torch.allclose(now, first[name] + share * (live - first[name]), atol=1e-5), name
        assert not any(p.requires_grad for p in shadow.model.parameters())


def noted(world, rows, shift):
    """The rows with old log-probabilities that differ from the student's by some nats."""
    with torch.no_grad():
        ctx = context(world, rows)
        values, row = ctx(LogProb()), ctx.batch.units["tokens"].row
    out = []
    for i, record in enumerate(rows):
        own = tuple((values[row == i] - shift).tolist())
        out.append(replace(record, pieces=(*record.pieces[:-1], replace(record.pieces[-1], notes={"old": own}))))
    return out


def test_6_importance_is_1_at_first_never_over_2_and_has_no_gradient(world):
    rows = peered(world, group(world, (1, 0, 1, 0)))
    want, told = take(world, made(), rows=rows)
    plain = Update((Term("peers", made().updates[0].objective[0].loss),))
    assert told.tallies["ratio"].mean == 1 and worst(world.gradients(plain, rows=rows, voices=made().voices, views=SHORT)[0], want) < 2e-6
    for shift, ratio in ((5.0, 2.0), (0.0, 1.0), (-0.5, 0.6065307)):
        got, seen = take(world, made(reuse=2), rows=noted(world, rows, shift))
        assert seen.tallies["ratio"].mean == pytest.approx(ratio, rel=1e-5)
        assert worst(got, {n: ratio * g for n, g in want.items()}) < 5e-6, "a factor, and nothing through it"


def test_the_denominator_is_the_tokens_of_informed_answers_whatever_their_ratio(world):
    rows = [*peered(world, group(world, (1, 0))), *peered(world, [replace(r, id=f"h{r.id}", group="h") for r in group(world, (1,))])]
    _, told = take(world, made(reuse=2), rows=noted(world, rows, 5.0))
    assert told.tallies["peers"].count == sum(len(r.pieces[-1].ids) for r in rows[:2])


def test_the_gradient_does_not_depend_on_micro_batches(world):
    rows = [*peered(world, group(world, (1, 0))), *peered(world, [replace(r, id=f"h{r.id}", group="h") for r in group(world, (0, 0, 1))])]
    want, told = take(world, made(), rows=rows)
    for how in ({"size": 2}, {"size": 2, "pack": True}, {"padding": "left"}):
        got, same = take(world, made(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and same.loss == pytest.approx(told.loss, rel=1e-4)


def test_another_teacher_may_read_the_peers(world):
    rows = peered(world, group(world, (1, 0, 1)))
    other = made(rate=None)
    assert isinstance(other.voices["informed"], Says) and other.voices["informed"].slot == "teacher"
    got, _ = take(world, other, rows=rows)
    assert worst(got, take(world, made(), rows=rows)[0]) > 1e-3


def test_settings_are_checked_and_rows_need_grades(world):
    for wrong in ({"rollouts": 1}, {"beta": 2.0}, {"rate": 0.0}, {"cap": 0.0}, {"right_peers": 0, "wrong_peers": 0}, {"num_kept": 0}):
        with pytest.raises(SettingError):
            mopd(**wrong)
    with pytest.raises(SettingError, match="Peers"):
        Peers(wrong=2)
    with pytest.raises(DataError, match="a note 'right'"):
        peered(world, [Record("a", (), group="g")])
