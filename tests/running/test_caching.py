"""Recipes run unchanged with a cached teacher: filled before, filled on the way, or with no teacher at all."""

import json

import pytest

from tutelage.cli.main import main
from tutelage.core.errors import ModelError, NeedError, SettingError, StoreError, UnknownName
from tutelage.data.cached import Drawn, Top, opened
from tutelage.running import api
from tutelage.running.assemble import recipe_of
from tutelage.training.log import Silent


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def cached(table, folder, **more):
    table["models"]["teacher"] = {"load": table["models"]["teacher"], "cache": {"folder": str(folder), **more}}
    return table


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return (folder / "student" / "model.safetensors").read_bytes()


@pytest.fixture
def bare(new_run):
    """A run without anything measured."""

    def make(name, **more):
        table = new_run(**{"name": name, "recipe": "forward_kl", "args": {}, "train__steps": 3, "train__imitate": None, "train__correct": None, **more})
        table["data"].pop("held_out", None)
        return table

    return make


def test_states_written_before_give_the_very_run_of_a_live_teacher(bare, tmp_path, capsys):
    live = api.run(bare("live"))
    table = cached(bare("kept"), tmp_path / "c", form="states")
    notes = Notes()
    found = api.cache(table, listener=notes)["teacher"]
    assert found["rows"] == 12 and found["positions"] > 30 and found["bytes"] == opened(tmp_path / "c").num_bytes
    assert found["fidelity"]["kl"] == pytest.approx(0, abs=1e-9) and found["fidelity"]["gradient_cosine"] == pytest.approx(1)
    assert any("12 to write" in n for n in notes.notes)
    before = opened(tmp_path / "c").num_bytes
    kept = api.run(table)
    assert losses(kept.folder) == pytest.approx(losses(live.folder), rel=1e-6)
    assert opened(tmp_path / "c").num_bytes == before  # the run asked nothing new
    assert api.cache(table)["teacher"]["rows"] == 12
    alone = bare("alone")
    alone["models"]["teacher"] = {"cache": str(tmp_path / "c")}
    alone["models"]["student"] = str(live.folder.parent / "live" / "slots" / "student-start")
    without = api.run(alone)
    assert losses(without.folder) == pytest.approx(losses(live.folder), rel=1e-6)


def test_a_cold_run_fills_the_cache_and_equals_the_warm_one(bare, tmp_path):
    table = cached(bare("cold"), tmp_path / "c", form="drawn", num_draws=30)
    cold = api.run(table)
    assert isinstance(opened(tmp_path / "c").form, Drawn) and len(opened(tmp_path / "c")) > 0
    rows = len(opened(tmp_path / "c"))
    warm = api.run({**table, "name": "warm"})
    assert losses(cold.folder) == losses(warm.folder) and weights(cold.folder) == weights(warm.folder)
    assert len(opened(tmp_path / "c")) == rows


def test_top_tokens_serve_whole_objectives_only_where_that_was_said(bare, tmp_path):
    table = cached(bare("top"), tmp_path / "c", num_kept=20)
    with pytest.raises(NeedError, match=r"expected next\."):
        api.run(table)
    assert not (tmp_path / "c").exists()  # refused before anything was loaded or written
    table["models"]["teacher"]["cache"]["rest"] = "even"
    done = api.run(table)
    found = opened(tmp_path / "c")
    assert found.form == Top(20, found.form.num_categories) and len(losses(done.folder)) == 3


def test_drawn_tokens_serve_linear_objectives_only(bare, tmp_path):
    for recipe, args in (("reverse_kl", {}), ("jensen", {}), ("forward_kl", {"temperature": 2.0})):
        with pytest.raises(NeedError, match="drawn ids"):
            api.run(cached(bare("drawn", recipe=recipe, args=args), tmp_path / "c", form="drawn"))
    assert recipe_of(api.resolve(cached(bare("drawn"), tmp_path / "c", form="drawn"))).stages


def test_rollouts_are_kept_too(bare, tmp_path):
    table = cached(bare("live", recipe="opd", args={"max_tokens": 6}), tmp_path / "c", form="states")
    api.run(table)
    rows = len(opened(tmp_path / "c"))
    assert rows > 3
    api.run({**table, "name": "again"})  # the same seed draws the same rollouts
    assert len(opened(tmp_path / "c")) == rows


def test_what_cannot_be_cached_is_refused(bare, tmp_path):
    table = bare("bad")
    table["models"]["student"] = {**table["models"]["student"], "cache": str(tmp_path / "c")}
    with pytest.raises(SettingError, match=r"models.student.cache.*changes in the run"):
        api.run(table)
    with pytest.raises(UnknownName, match=r"num_draws"):
        api.run(cached(bare("bad"), tmp_path / "c", num_draws=4, rest="even"))
    with pytest.raises(SettingError, match="a cache"):
        api.cache(bare("none"))
    table = bare("bad")
    table["models"]["teacher"] = {"cache": str(tmp_path / "nothing"), "load": None}
    with pytest.raises((StoreError, NeedError)):
        api.run(table)


def test_another_teacher_another_form_and_another_vocabulary_are_named(bare, tmp_path, new_causal, new_tokenizer):
    from tutelage.models.export import export

    api.cache(cached(bare("first"), tmp_path / "c", form="dense"))
    other = export(new_causal("other", seed=9), tmp_path / "other", card={})
    table = cached(bare("second"), tmp_path / "c", form="dense")
    table["models"]["teacher"]["load"] = str(other)
    with pytest.raises(StoreError, match="another weights"):
        api.run(table)
    with pytest.raises(StoreError, match="another .*form"):
        api.run(cached(bare("third"), tmp_path / "c", form="states"))
    longer = export(new_causal("longer", seed=3, tokenizer=new_tokenizer(extra=("qq",))), tmp_path / "longer", card={})
    table = bare("fourth")
    table["models"] = {"teacher": {"cache": str(tmp_path / "c")}, "student": str(longer)}
    with pytest.raises(ModelError, match="another vocabulary"):
        api.run(table)


def test_the_command_writes_reports_and_tells_bad_input(bare, tmp_path, capsys):
    import tomli_w

    file = tmp_path / "run.toml"
    table = bare("told")
    file.write_text(tomli_w.dumps(table))
    with pytest.raises(SystemExit) as stop:
        main(["cache", str(file)])
    assert stop.value.code == 2 and "models without a cache" in " ".join(capsys.readouterr().err.split())
    loaded = f'models.teacher={{load="{table["models"]["teacher"]}",cache={{folder="{tmp_path / "c"}",num_kept=9,rest="even"}}}}'
    main(["cache", str(file), "--set", loaded, "--json"])
    found = json.loads(capsys.readouterr().out)["teacher"]
    assert found["form"] == "top" and found["num_kept"] == 9 and found["rows"] == 12
    assert 0 < found["fidelity"]["mass_kept"] < 1 and found["fidelity"]["kl"] > found["fidelity"]["kl_kept"] >= 0
    main(["cache", str(file), "--set", loaded])
    assert "bytes a position" in capsys.readouterr().out
