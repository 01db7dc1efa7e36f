"""The likelihood of spans: teacher-forced, each model in its own tokens and behind its own template."""

from __future__ import annotations

import itertools
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from tutelage.core.errors import DataError
from tutelage.core.record import Piece, Record
from tutelage.core.scores import Dense
from tutelage.core.workspace import Workspace
from tutelage.data.likelihood import Reading, as_text, joined, read, trained_text
from tutelage.data.render import prompt_ids
from tutelage.data.sentences import Sentences

KIT = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
make_causal, make_tokenizer = KIT["make_causal"], KIT["make_tokenizer"]


def only_bytes():
    """A tokenizer of the same bytes without merges, and with another template."""
    tokens = ["<e>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<e>"])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", pad_token="<e>")
    made.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<e>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    return made


class Told:
    """A model whose probability of the next token is a rule of the text so far: ``rule(text, token) -> p``."""

    def __init__(self, tokenizer, rule, room=None):
        self.tokenizer, self.rule, self.max_positions, self.device = tokenizer, rule, room, torch.device("cpu")

    def predict(self, view, wants):
        ids = view.inputs["input_ids"]
        out = torch.full((len(view.at), len(self.tokenizer)), -50.0)
        for unit, place in enumerate(view.at.tolist()):
            row, at = divmod(place, ids.shape[1])
            token = int(ids[row, at + 1])
            before = self.tokenizer.decode(ids[row, : at + 1])
            out[unit, token] = math.log(self.rule(before, self.tokenizer.decode([token])))
        return {"next": Dense(out)}


def workspace(tmp_path, **models):
    ws = Workspace(tmp_path)
    ws.models.update(models)
    return ws


def answer(text, prompt="Q: ", **more):
    return Record("r", (Piece(prompt), Piece(text, trains=True, **more)))


def test_the_means_are_the_chain_rule_of_a_model_of_3_tokens_by_brute_force(tmp_path):
    """Check 4: each token from a forward pass of its own over what stands before it, nothing shifted by one."""
    letters = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, "a")))
    model = make_causal("m", tokenizer=letters, vocab_size=3, eos_token_id=None, bos_token_id=None, pad_token_id=None)
    rows = [
        Record(f"{n}", (Piece("ab", ids=(0, 1)), Piece("".join("abc"[i] for i in ids), trains=True, ids=ids)))
        for n, ids in enumerate(itertools.product(range(3), repeat=3))
    ]
    total = 0.0
    for row, said in zip(rows, read("m", rows, workspace(tmp_path, m=model), batch_size=5), strict=True):
        ids = [0, 1, *row.pieces[1].ids]
        each = []
        for end in range(2, 5):
            with torch.no_grad():
                each.append(float(model.model(torch.tensor([ids[:end]])).logits[0, -1].double().softmax(-1)[ids[end]]))
        want = [math.sqrt(each[0] * each[1]), each[2]]
        assert said.means([(0, 2), (2, 3)]).tolist() == pytest.approx(want, abs=1e-6)
        total += math.prod(each)
    assert total == pytest.approx(1, abs=1e-6)


def test_a_token_of_q_that_another_tokenizer_splits_into_q_and_1_has_the_root_of_q(tmp_path):
    """Check 3: counts are per model."""
    whole, split = make_tokenizer(), only_bytes()
    q = 0.3
    ws = workspace(
        tmp_path,
        whole=Told(whole, lambda before, token: q if token == "th" else 0.5),
        split=Told(split, lambda before, token: q if token == "t" else 1.0),
    )
    for slot, want in (("whole", q), ("split", math.sqrt(q))):
        (said,) = read(slot, [answer("th")], ws)
        assert said.means([(0, 2)]).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("chat", [False, True])
def test_prompt_template_and_end_never_enter_a_mean(tmp_path, chat):
    roles = ("user", "assistant") if chat else ("text", "text")
    rule = lambda before, token: 0.25 if before.rpartition("Ask ")[2].count("<") <= 3 * chat and token in "xyz." else 1e-6
    for tokenizer in (make_tokenizer(), only_bytes()):
        ws = workspace(tmp_path, m=Told(tokenizer, rule))
        row = Record("r", (Piece("Ask what", roles[0]), Piece("xyz. xyz", roles[1], trains=True)))
        (said,) = read("m", [row], ws)
        assert len(said.starts) == 8 and said.starts[0] == 0 and said.end == 8
        assert said.means([(0, 4)]).item() == pytest.approx(0.25, rel=1e-6)
        (again,) = read("m", [replace(row, pieces=(replace(row.pieces[0], content="Ask something else"), row.pieces[1]))], ws)
        assert again == said


def test_each_model_reads_behind_its_own_template(tmp_path):
    seen = {}

    def rule(name):
        return lambda before, token: seen.setdefault(name, before) and 0.5

    models = {"one": Told(make_tokenizer(), rule("one")), "other": Told(only_bytes(), rule("other"))}
    row = Record("r", (Piece("Hi", "user"), Piece("Yo", "assistant", trains=True)))
    for slot in models:
        read(slot, [row], workspace(tmp_path, **models))
    assert seen["one"].startswith("<|im_start|>user") and seen["one"].endswith("<|im_start|>assistant\n")
    assert seen["other"] == "[user] Hi<e>[assistant] "


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two tiny models of two tokenizers."""
    one = make_causal("one", seed=1)
    other = make_causal("other", seed=2, tokenizer=only_bytes())
    return workspace(tmp_path_factory.mktemp("w"), one=one, other=other)


TEXT = "The thin thing: 3.14 π. Then 😀 — “in”.\nend\t."


@pytest.mark.parametrize("slot", ["one", "other"])
def test_spans_of_any_text_equal_a_dense_oracle_in_float64(two, slot):
    rows = [answer(TEXT), answer("in the end. Fine."), Record("t", (Piece("Go", "user"), Piece(TEXT, "assistant", trains=True)))]
    model = two.models[slot]
    for row, said in zip(rows, read(slot, rows, two, batch_size=2), strict=True):
        prompt = prompt_ids(row, model.tokenizer)
        ids = model.tokenizer(trained_text(row), add_special_tokens=False, return_offsets_mapping=True)
        with torch.no_grad():
            logits = model.model.double()(torch.tensor([prompt + ids["input_ids"]])).logits[0].log_softmax(-1)
        model.model.float()
        each = [float(logits[len(prompt) + k - 1, i]) for k, i in enumerate(ids["input_ids"])]
        for a, b in Sentences()(trained_text(row)):
            mine = [x for x, (start, _) in zip(each, ids["offset_mapping"], strict=True) if a <= start < b]
            assert said.means([(a, b)]).item() == pytest.approx(math.exp(sum(mine) / len(mine)), rel=1e-4)


def test_exact_ids_are_read_as_they_are_and_by_another_tokenizer_as_text(two):
    one = two.models["one"].tokenizer
    spelled = tuple(one.convert_tokens_to_ids(c) for c in "the")  # not as the tokenizer would cut it
    row = answer("the", author="one", ids=(*spelled, one.eos_token_id), stop="eos")
    (mine,), (merged,), (theirs,) = read("one", [row], two), read("one", [answer("the")], two), read("other", [row], two)
    assert mine.starts == (0, 1, 2) == theirs.starts and merged.starts == (0,) and mine.end == 3
    assert read("other", [answer("the")], two)[0] == theirs


def test_bytes_that_are_no_character_keep_their_place(two):
    one = two.models["one"].tokenizer
    ids = (*one("a")["input_ids"], one.convert_tokens_to_ids("Ł"), *one("b. c")["input_ids"])  # the byte 0x81 alone
    row = answer("ignored", author="one", ids=ids)
    text = trained_text(as_text(row, two))
    assert text == "a\ufffdb. c"
    assert read("one", [row], two)[0].starts == (0, 1, 2, 3, 4, 5)
    assert read("other", [row], two)[0].starts == (0, 1, 1, 1, 2, 3, 4, 5)


def test_batches_and_padding_change_nothing(two):
    rows = [answer(TEXT), answer("in"), answer("the end. Go on. " * 3)]
    alone = [read("one", [row], two)[0] for row in rows]
    for size in (1, 2, 3):
        for said, want in zip(read("one", rows, two, batch_size=size), alone, strict=True):
            assert said.starts == want.starts and said.nats == pytest.approx(want.nats, abs=1e-5)


def test_nothing_is_left_behind(two):
    model = two.models["one"].model
    model.train()
    before = two.ledger.get("one", "predict").tokens
    read("one", [answer("the end")], two)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert two.ledger.get("one", "predict").tokens > before
    model.eval()


def test_a_text_beyond_the_context_is_read_as_far_as_it_fits(tmp_path):
    ws = workspace(tmp_path, m=Told(only_bytes(), lambda before, token: 0.5, room=10), w=Told(only_bytes(), lambda b, t: 0.5))
    row = answer("Abc. Def. Ghi.", prompt="??")
    said, whole = read("m", [row], ws)[0], read("w", [row], ws)[0]
    assert said.end == 8 == len(said.starts) and whole.end == 14
    assert joined(Sentences()(trained_text(row)), [said, whole]) == [(0, 4)]
    with pytest.raises(DataError, match="a prompt of 12 tokens"):
        read("m", [answer("abc", prompt="?" * 12)], ws)


def test_a_span_in_which_a_model_begins_no_token_joins_the_one_before_it():
    fine = Reading((0, 1, 2, 3, 4, 5), (-1.0,) * 6, 6)
    coarse = Reading((0, 4), (-1.0, -2.0), 6)
    late = Reading((2, 4), (-1.0, -2.0), 6)
    assert joined([(0, 2), (2, 4), (4, 6)], [fine]) == [(0, 2), (2, 4), (4, 6)]
    assert joined([(0, 2), (2, 4), (4, 6)], [fine, coarse]) == [(0, 4), (4, 6)]
    assert joined([(0, 2), (2, 4), (4, 6)], [late, fine]) == [(0, 4), (4, 6)]
    assert joined([(0, 2), (2, 4), (4, 6)], [late, coarse]) == [(0, 4), (4, 6)]
    assert joined([(0, 2)], [late]) == [] and joined([], [fine]) == []


@pytest.mark.parametrize("content, starts", [("  th", (0, 1, 2)), ("th  ", (0, 2, 3)), (" th ", (0, 1, 3))])
def test_a_template_that_strips_moves_nothing(tmp_path, content, starts):
    tokenizer = make_tokenizer()
    plain = read("m", [answer(content)], workspace(tmp_path, m=Told(tokenizer, lambda b, t: 0.5)))[0]
    assert plain.starts == starts
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'].strip()")
    row = Record("r", (Piece("Hi", "user"), Piece(content, "assistant", trains=True)))
    said = read("m", [row], workspace(tmp_path, m=Told(tokenizer, lambda b, t: 0.5)))[0]
    assert said.starts == (content.find("th"),)


def test_an_empty_answer_has_no_token(tmp_path):
    ws = workspace(tmp_path, m=Told(make_tokenizer(), lambda b, t: 0.5))
    assert read("m", [answer("")], ws) == [Reading((), (), 0)]
    assert read("m", [], ws) == []
