"""The report page: what it says, that it is safe and whole, and that it works in a real browser."""

import json
import math
import re
import shutil
import subprocess

import pytest

from tutelage.core.errors import StoreError
from tutelage.evaluation import view
from tutelage.evaluation.report import embedded, report
from tutelage.evaluation.run_folder import curves, read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium not installed")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=6000"]  # fmt: skip


def browse(page, tmp_path, *more):
    """The page's DOM after its scripts ran, and what the browser wrote to its log."""
    profile = tmp_path / f"profile-{page.stem}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--window-size=1280,1600", "--enable-logging=stderr", *more,
         "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    return done.stdout, done.stderr


def probed(page, script, name="probe.html"):
    """A copy of the page with one more script, which may run because it knows the page's word."""
    text = page.read_text(encoding="utf-8")
    nonce = re.search(r"'nonce-([0-9a-f]{32})'", text)[1]
    copy = page.with_name(name)
    copy.write_text(text.replace("</body>", f'<script nonce="{nonce}">{script}</script></body>'), encoding="utf-8")
    return copy


def test_the_page_is_one_file_without_any_address(fake_run, tmp_path):
    page = report(fake_run(tmp_path))
    assert page.name == "report.html" and sorted(p.name for p in page.parent.glob(".report*")) == []
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"<script nonce=.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", outside) and "@import" not in outside
    assert not re.search(r"url\((?!#)", outside)
    assert "default-src 'none'" in text and 'name="viewport"' in text
    assert len(text) < 6_000_000


def test_headline_and_samples_say_what_the_run_says(fake_run, tmp_path):
    run = fake_run(tmp_path)
    text = report(run).read_text(encoding="utf-8")
    result = json.loads((run / "evaluation.json").read_text())
    kl = result["after"]["fidelity"]["kl"]
    assert f'<p class="value">{kl:.3f}</p>' in text and "was 1.430" in text
    assert "came closer to its teacher" in text and "61\u2009% of its parameters" in text
    assert "Answer length drifts" in text and "on-policy, step 71" in text
    assert text.count('<article class="sample">') == 3 and "student before training" in text


def test_hostile_text_is_escaped_everywhere(fake_run, tmp_path):
    evil = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    run = fake_run(tmp_path, prompt=evil)
    for name in ("run.json", "evaluation.json"):
        file = run / name
        value = json.loads(file.read_text())
        if name == "run.json":
            value |= {"name": evil, "command": evil, "notes": [evil], "versions": {evil: evil}, "recipe": evil}
            value["facts"] = {evil: {evil: evil}}
        else:
            value[evil] = value["after"]
            for s in value["samples"]:
                s["reference"] = s["teacher"]["text"] = s["systems"]["before"]["text"] = evil
                for t in s["systems"]["after"]["tokens"]:
                    t["text"] = t["top"]["student"][0][0] = evil + "'\""
            value["after"]["by_class"][0]["label"] = evil
        file.write_text(json.dumps(value))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    bad = json.loads(lines[-1]) | {"stage": evil, "</script>" + evil: 1.0, "warnings": [evil]}
    (run / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(bad)]))
    (run / "run.toml").write_text(evil)
    page = report(run)
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "<script>" not in re.sub(r"<script nonce=.*?</script>", "", text, flags=re.S)
    if CHROMIUM:
        dom, _ = browse(page, tmp_path)
        # a chart may show the name as text; what counts is that nothing of it ran and no element came of it
        assert 'data-ready="yes"' in dom and "<title>owned" not in dom and "<img" not in dom.split("<body>")[1]


@needs_chromium
def test_every_plot_is_drawn_and_nothing_fails(fake_run, tmp_path):
    dom, log = browse(report(fake_run(tmp_path)), tmp_path)
    assert 'data-ready="yes"' in dom and "data-failed=" not in dom
    shown = ("loss", "kl", "position", "class", "bins", "lengths")
    drawn = {
        i
        for i in shown
        if re.search(rf'<div class="plot[^>]*js-plotly-plot[^>]*id="plot-{i}"|id="plot-{i}"[^>]*js-plotly-plot', dom)
    }
    assert drawn == set(shown)
    assert dom.count('class="main-svg"') >= len(shown)
    errors = [line for line in log.splitlines() if "CONSOLE" in line]
    assert errors == []


@needs_chromium
def test_theme_hover_and_hidden_plots_work(fake_run, tmp_path):
    script = """
      const out = {}, bg = () => getComputedStyle(document.body).backgroundColor;
      out.light = bg(); document.getElementById('theme').click(); out.dark = bg();
      out.grid = getComputedStyle(document.querySelector('#plot-kl .ygrid')).stroke;
      const token = document.querySelector('.said [data-tip]');
      token.dispatchEvent(new PointerEvent('pointerover', {bubbles: true, pointerType: 'mouse'}));
      const tip = document.getElementById('tip');
      out.tip = tip.textContent; out.hidden = tip.hidden;
      document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
      out.after = tip.hidden;
      document.querySelector('#training details').open = true;
      setTimeout(() => {
        out.more = document.querySelectorAll('#training details .main-svg').length;
        document.body.dataset.out = JSON.stringify(out);
      }, 500);"""
    page = probed(report(fake_run(tmp_path)), script)
    dom, _ = browse(page, tmp_path)
    import html

    out = json.loads(html.unescape(re.search(r'<body[^>]*data-out="([^"]*)"', dom)[1]))
    assert (
        out["light"] == "rgb(246, 247, 249)" and out["dark"] == "rgb(15, 20, 25)" and out["grid"] == "rgb(36, 45, 56)"
    )
    assert out["hidden"] is False and "nats" in out["tip"] and "teacher" in out["tip"] and out["after"] is True
    assert out["more"] >= 3


@needs_chromium
def test_on_a_phone_the_page_never_scrolls_sideways(fake_run, tmp_path):
    run = fake_run(tmp_path, prompt="averyveryverylongwordwithoutanybreak" * 6 + " ")
    inner = probed(report(run), "setTimeout(() => parent.postMessage(JSON.stringify({wide: document.documentElement.scrollWidth,"
                   "columns: getComputedStyle(document.querySelector('.pair')).gridTemplateColumns.split(' ').length}), '*'), 1500)")  # fmt: skip
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<body><script>addEventListener('message', (e) => document.body.append('GOT ' + e.data))</script>"
        f'<iframe src="{inner.as_uri()}" style="width:390px;height:800px;border:0"></iframe></body>'
    )
    dom, _ = browse(outer, tmp_path)
    got = json.loads(re.search(r"GOT (\{.*?\})", dom)[1])
    assert got == {"wide": 390, "columns": 1}


@needs_chromium
def test_dark_is_the_system_s_choice_too(fake_run, tmp_path):
    page = probed(
        report(fake_run(tmp_path)), "document.body.dataset.bg = getComputedStyle(document.body).backgroundColor"
    )
    dom, _ = browse(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert 'data-bg="rgb(15, 20, 25)"' in dom


@pytest.mark.parametrize("missing", [["evaluation.json"], ["metrics.jsonl"], ["run.json", "run.toml"],
                                     ["evaluation.json", "metrics.jsonl", "run.toml"]])  # fmt: skip
def test_whatever_is_missing_there_is_a_page(fake_run, tmp_path, missing):
    run = fake_run(tmp_path)
    for name in missing:
        (run / name).unlink()
    text = report(run).read_text(encoding="utf-8")
    assert "smol-half-seed0" in text
    assert ("has not been evaluated" in text) == ("evaluation.json" in missing)
    if CHROMIUM and len(missing) == 3:
        dom, _ = browse(run / "report.html", tmp_path)
        assert 'data-ready="yes"' in dom and "data-failed=" not in dom


def test_nulls_and_torn_files_are_said_not_fatal(fake_run, tmp_path):
    run = fake_run(tmp_path)
    result = json.loads((run / "evaluation.json").read_text())
    result["after"] |= {"fidelity": {"kl": None}, "by_position": [], "calibration": None, "text": {}, "cost": {}}
    result["samples"][0]["systems"] = {}
    del result["held_out"], result["teacher"], result["ledger"]
    (run / "evaluation.json").write_text(json.dumps(result))
    (run / "metrics.jsonl").write_text('{"stage": "a", "step": 0, "loss": 1.0}\n{"stage": "a", "st\n[3]\n')
    text = report(run).read_text(encoding="utf-8")
    assert "2 lines could not be read, first line 2" in text
    (run / "evaluation.json").write_text("{")
    (run / "run.json").write_text("[]")
    text = report(run).read_text(encoding="utf-8")
    assert "evaluation.json could not be read" in text and "run.json holds a list" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match="a folder without a run"):
        report(tmp_path)
    with pytest.raises(StoreError, match="no such folder"):
        report(tmp_path / "nowhere")


def test_steps_run_on_over_stages_and_a_repeated_step_counts_once(tmp_path):
    def stages(rows):
        (tmp_path / "metrics.jsonl").write_text(
            "\n".join(json.dumps({"stage": s, "step": n, "loss": v}) for s, n, v in rows)
        )
        return curves(read_run(tmp_path).metrics)

    rows = [("a", 0, 5.0), ("a", 1, 4.0), ("a", 2, 9.0), ("a", 1, 4.0), ("a", 2, 3.0), ("b", 0, 2.0), ("b", 1, 1.0)]
    got = stages(rows)
    assert got["series"]["loss"] == {"x": [0, 1, 2, 3, 4], "y": [5.0, 4.0, 3.0, 2.0, 1.0]}
    assert [(s["start"], s["end"]) for s in got["stages"]] == [(0, 2), (3, 4)]
    assert stages([("a", 1, 1.0), ("a", 2, 1.0), ("b", 3, 1.0), ("b", 4, 1.0)])["series"]["loss"]["x"] == [1, 2, 3, 4]
    long = stages([("a", i, float(i % 7)) for i in range(7000)])["series"]["loss"]
    assert len(long["x"]) <= 1500 and sum(long["y"]) / len(long["y"]) == pytest.approx(3.0, abs=0.01)


def test_embedded_json_cannot_end_its_element():
    text = embedded({"a": "</script><!--", "b": [1.5, None, "é&"]})
    assert "<" not in text and "&" not in text and json.loads(text) == {"a": "</script><!--", "b": [1.5, None, "é&"]}
    with pytest.raises(ValueError, match="JSON"):
        embedded(math.nan)


def test_changes_are_good_or_bad_by_their_figure():
    kl, top1 = view.CARDS[0], view.CARDS[1]
    assert view.change(kl, 1.0, 0.4) == ("\u221260\u2009%", "good") and view.change(kl, 1.0, 2.5) == (
        "\u00d7\u20092.5",
        "bad",
    )
    assert view.change(top1, 0.5, 0.6) == ("+10.0 points", "good") and view.change(top1, 0.5, 0.5)[1] == "same"
    assert (
        view.change(kl, 0.0, 0.5)[0] == ""
        and view.scaled(134515008) == "134.5\u2009M"
        and view.in_bytes(12) == "12\u2009B"
    )


def test_a_run_that_was_evaluated_once_compares_with_nothing(fake_run, tmp_path):
    run = fake_run(tmp_path)
    result = json.loads((run / "evaluation.json").read_text())
    del result["after"]
    cards = view.cards(result)
    assert cards[0]["was"] == "" and view.main_of(view.systems_of(result)) == "before"
    assert view.cards({}) == [] and view.table(view.FIGURES, {}) == {"columns": [], "rows": []}
