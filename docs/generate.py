"""Pages written from the code when the site is built: recipes, reference, RunFile, command line.

Run by mkdocs-gen-files. Nothing here is a list of names kept by hand: a new module, recipe, setting or command appears
by itself.
"""

from __future__ import annotations

import inspect
import io
import json
import re
import textwrap
import tomllib
import types
import typing
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import mkdocs_gen_files
from mkdocs_gen_files.editor import FilesEditor
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console

from tutelage.cli.catalogue import facts
from tutelage.cli.main import app
from tutelage.core import catalog
from tutelage.core.axes import AXES
from tutelage.core.errors import StoreError
from tutelage.core.recipe import docstring_sections
from tutelage.core.survey import published
from tutelage.core.uses import parts
from tutelage.running.runfile import (
    DataSettings,
    EvaluateSettings,
    LoraSettings,
    ModelSettings,
    RunFile,
    ShrinkSettings,
    WorkSettings,
)
from tutelage.training.settings import TrainSettings

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
MEASURED = ROOT / "docs" / "measured"
CLAIMS = tomllib.loads((ROOT / "docs" / "claims.toml").read_text(encoding="utf-8"))
PAINS = ROOT / "tests" / "pains"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")

# table of the RunFile -> (model, what it is)
TABLES: dict[str, tuple[type[BaseModel], str]] = {
    "Top level": (RunFile, "The keys of the file itself."),
    "[models.SLOT]": (ModelSettings, 'One table a model slot. A text is short for `load`: `teacher = "FOLDER"`.'),
    "[models.SLOT.shrink]": (ShrinkSettings, "A student cut out of another slot's model."),
    "[models.SLOT.lora]": (LoraSettings, "A low-rank adapter; only it trains, and the exported student has it merged."),
    "[data.NAME]": (DataSettings, 'One table a data set. A text is short for `path`: `train = "FILE.jsonl"`.'),
    "[train] and [train.STAGE]": (
        TrainSettings,
        "`[train]` holds for every Train stage; `[train.STAGE]` changes keys for one. "
        "`tutelage show RECIPE --json` lists the stages of a recipe.",
    ),
    "[evaluate]": (EvaluateSettings, "What is measured, before the first stage and after the last."),
    "[work]": (WorkSettings, "Where stages that write rows run, and systems that are measured."),
}
INNER = {ModelSettings: "[models.SLOT]", DataSettings: "[data.NAME]", ShrinkSettings: "[models.SLOT.shrink]",
         LoraSettings: "[models.SLOT.lora]", EvaluateSettings: "[evaluate]", WorkSettings: "[work]"}  # fmt: skip

# keys that their model leaves without a word
PLAIN = {
    "seed": "All draws derive from it.",
    "output": "The folder that holds the runs.",
    "dtype": "Of the weights in memory. What trains stays `float32`.",
    "beta1": "AdamW's decay of the first moment.",
    "beta2": "AdamW's decay of the second moment.",
}


def write(path: str, *blocks: str) -> None:
    """A page of blocks with a blank line between them."""
    with mkdocs_gen_files.open(path, "w") as page:
        page.write("\n\n".join(b for b in blocks if b) + "\n")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def code(text: str, language: str = "text") -> str:
    """A fenced block."""
    return f"```{language}\n{text.rstrip()}\n```"


def linked(paper: str) -> str:
    """A paper's number as a link."""
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


# -- tests ------------------------------------------------------------------------------------------------------------
def pains_page() -> None:
    """The faults that have a test; their texts are in explain/pains.toml, else the test's docstring speaks."""
    told = tomllib.loads((ROOT / "docs" / "explain" / "pains.toml").read_text(encoding="utf-8"))
    tests: dict[int, list[Path]] = defaultdict(list)
    for file in sorted(PAINS.glob("test_[0-9][0-9]_*.py")):
        tests[int(file.name[5:7])].append(file)
    blocks = [
        "# Pains",
        "What goes wrong in knowledge distillation elsewhere, as reported in public, and what holds here. Each number "
        "has at least one test. A thread that is named may have been settled since.",
    ]
    for number, files in sorted(tests.items()):
        text = told.get(str(number)) or {"elsewhere": _docstring(files[0]), "here": "", "threads": []}
        threads = ", ".join(f"[{t}](https://github.com/{t.replace('#', '/issues/')})" for t in text["threads"])
        blocks += [
            f"## {number}. {_title(files[0])}",
            f"**Elsewhere.** {text['elsewhere']}" + (f" Reported in {threads}." if threads else ""),
            f"**Here.** {text['here']}" if text["here"] else "",
            "Test: " + ", ".join(f"`tests/pains/{file.name}`" for file in files) + ".",
        ]
    write("explain/pains.md", *blocks)


def _title(file: Path) -> str:
    words = file.stem[8:].replace("_", " ").capitalize()
    return re.sub(r"\b(eos|kl|kd)\b", lambda word: word[0].upper(), words, flags=re.IGNORECASE)


def _docstring(file: Path) -> str:
    found = re.match(r'"""(.*?)"""', file.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def check_named_tests() -> None:
    """A test that a page names is there."""
    for page in (ROOT / "docs" / "explain").glob("*.md"):
        for name in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text(encoding="utf-8")):
            if not (ROOT / name).is_file():
                raise StoreError(
                    str(page), got=name, expected="a test that is there", remedy="Name the test as it is now."
                )


# -- recipes ----------------------------------------------------------------------------------------------------------
def recipe_page(known: dict[str, Any]) -> None:
    """One recipe's page."""
    arguments = [
        [f"`{name}`", "`{}`".format(_type(a["type"]).replace(" | ", " or ")), f"`{a['default']!r}`", a["text"]]
        for name, a in known["arguments"].items()
    ]
    stages = ", ".join(f"`{stage}`" for stage in known["stages"])
    needs = [f"- {who}: {', '.join(f'`{n}`' for n in what)}" for who, what in known["needs"].items()]
    write(
        f"recipes/{known['name']}.md",
        f"# {known['name']}",
        known["summary"],
        f"Family: {known['family']}. Paper: {linked(known['paper'])}. Stages: {stages}.",
        "## Formula",
        code(textwrap.fill(f"loss = {known['formula']}", 76, subsequent_indent=" " * 7, break_long_words=False)),
        "## Arguments",
        table(["name", "type", "default", "meaning"], arguments) if arguments else "None.",
        "## Needs",
        "\n".join(needs),
        "## Made of",
        ", ".join(f"`{part}`" for part in known["uses"]),
        "## Differs from the paper",
        "\n".join(f"{i}. {text}" for i, text in enumerate(known["differs"], 1)) or "None known.",
        "## Limits",
        "\n".join(f"{i}. {text}" for i, text in enumerate(known["limits"], 1)) or "None stated.",
        claimed(known["name"]),
        measured(known["name"]),
        "## A RunFile to start from",
        code(known["example"], "toml"),
    )


def claimed(name: str) -> str:
    """What the recipe's paper says came out, where the system is a published one."""
    told = CLAIMS.get(name)
    return f"## Claimed\n\nBy its authors, on their models and data: {told}" if told else ""


def measured(name: str) -> str:
    """The measured table of a recipe, if there is one: ``{caption, command, columns: [...], rows: [[...]]}``."""
    file = MEASURED / f"{name.replace('_', '-')}.json"
    if not file.exists():
        return ""
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = [[str(cell) for cell in row] for row in found["rows"]]
    parts = ["## Measured", found.get("caption", ""), table([str(c) for c in found["columns"]], rows)]
    if found.get("command"):
        parts += ["Command:", code(found["command"], "sh")]
    return "\n\n".join(p for p in parts if p)


def recipe_index(all_known: list[dict[str, Any]]) -> None:
    """The list, the axes and the table recipe x part."""
    families: dict[str, list[list[str]]] = defaultdict(list)
    for known in all_known:
        needed = ", ".join(f"`{n}`" for n in known["needs"].get("teacher", ())) or "nothing"
        families[known["family"]].append([_to(known["name"]), known["summary"], needed, linked(known["paper"])])
    axes = sorted({axis for known in all_known for axis in known["axes"]})
    names = sorted({part for known in all_known for part in known["uses"]})
    blocks = ["# Recipes", "A recipe is one short file: a function whose body is a composition of shared parts. "
              "`tutelage list` prints this list, `tutelage show NAME` one page of it."]  # fmt: skip
    for family, rows in sorted(families.items()):
        blocks += [
            f"## {family.capitalize()}",
            table(["recipe", "what it does", "needs of the teacher", "paper"], rows),
        ]
    blocks += [
        "## Needs",
        "What a recipe reads of a voice is found in its tree. `next`: log-probabilities of the whole vocabulary. "
        "`next.top`: those of a few tokens. `hidden`, `pooled`: states. `text`: written answers. `weights`: it is "
        "trained. A model loaded here gives all of them.",
        "## Axes",
        table(["recipe", *axes], [[_to(k["name"]), *(k["axes"].get(a, "") for a in axes)] for k in all_known]),
        "## Recipes and parts",
        '<div class="cross" markdown>',
        table(["part", *(k["name"] for k in all_known)],
              [[f"`{p}`", *("x" if p in k["uses"] else "" for k in all_known)] for p in names]),
        "</div>",
        "## Parts of one recipe",
        "Each is the mechanism by which a method differs from all others here, so none has a second recipe yet. It is "
        "a part and not a line of the recipe because recipes hold no mathematics, and because other compositions can "
        "take it: [Combine methods](../howto/combine.md).",
        table(["part", "recipe", "what it is"], alone(all_known)),
    ]  # fmt: skip
    write("recipes/index.md", *blocks)


def alone(all_known: list[dict[str, Any]]) -> list[list[str]]:
    """Parts that a single recipe uses, with that recipe and the first line of their documentation."""
    count = Counter(part for known in all_known for part in known["uses"])
    rows = []
    for known in all_known:
        found = parts(catalog.build(known["name"]))
        for name in known["uses"]:
            if count[name] == 1 and name in found:
                rows.append([f"`{name}`", _to(known["name"]), (inspect.getdoc(found[name]) or "").partition("\n")[0]])
    return sorted(rows)


def published_page() -> None:
    """The on-policy methods of the literature, with the recipe that serves each."""
    rows = []
    for method in published():
        served = ", ".join(map(_to, method.recipes)) or "reference only"
        rows.append([method.name, *method.tags.values(), linked(f"arXiv:{method.arxiv}"), served])
    write(
        "recipes/published.md",
        "# Published on-policy methods",
        f"As {linked('arXiv:2604.00626')} lists them, on its three axes; granularity is read off the papers' losses. "
        "`tutelage list --axis access=none` lists the recipes at a place; a recipe's own places are worked out of its "
        "tree.",
        table(["method", *AXES, "paper", "recipe"], rows),
    )


def _to(name: str) -> str:
    return f"[{name}]({name}.md)"


def _type(text: str) -> str:
    return re.sub(r"<class '(\w+)'>", r"\1", text)


# -- RunFile ----------------------------------------------------------------------------------------------------------
def runfile_page() -> None:
    """Every key of the RunFile."""
    blocks = [
        "# RunFile",
        "One strict TOML file says everything about a run. An unknown key is refused, and near matches are named. "
        "`tutelage run FILE.toml --set a.b=c` changes one value, as often as needed.",
    ]
    for heading, (model, text) in TABLES.items():
        rows = [_field(model, name) for name in model.model_fields]
        blocks += [f"## {heading} {{ #{slug(heading)} }}", text, table(["key", "type", "default", "meaning"], rows)]
    write("reference/runfile.md", *blocks)


def _field(model: type[BaseModel], name: str) -> list[str]:
    info = model.model_fields[name]
    default = info.get_default(call_default_factory=True)
    shown = (
        "required" if default is PydanticUndefined else "" if isinstance(default, BaseModel) else f"`{_toml(default)}`"
    )
    text = " ".join(filter(None, (_described(model).get(name, ""), info.description))) or PLAIN.get(name, "")
    inner = next((m for m in INNER if m in _inside(info.annotation)), None)
    if inner is not None and not info.description:
        text = f"See [{INNER[inner]}](#{slug(INNER[inner])})."
    if model is RunFile and name in ("args", "train"):
        where = "The recipe's arguments, see its [page](../recipes/index.md)."
        text = where if name == "args" else "See [\\[train\\] and \\[train.STAGE\\]](#train-and-train-stage)."
    return [f"`{name}`", _annotation(info.annotation) + _range(info.metadata), shown, text]


def _described(model: type[BaseModel]) -> dict[str, str]:
    entries = docstring_sections(inspect.getdoc(model) or "")["Args"]
    return {name.strip(): text.strip() for name, _, text in (e.partition(":") for e in entries)}


def _inside(hint: Any) -> set[Any]:
    return {hint}.union(*(_inside(h) for h in typing.get_args(hint))) if typing.get_args(hint) else {hint}


def _annotation(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(v)}`" for v in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_annotation(h) for h in inner if h is not type(None))
    if origin in (tuple, list):
        return f"list of {_annotation(inner[0])}"
    if origin is dict or (isinstance(hint, type) and issubclass(hint, BaseModel)):
        return "table"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(hint, "__name__", ""), str(hint)
    )


def _range(metadata: list[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(m, key):g}"
        for m in metadata
        for key, sign in signs.items()
        if getattr(m, key, None) is not None
    ]
    return f", {', '.join(found)}" if found else ""


def _toml(value: Any) -> str:
    return "none" if value is None else json.dumps(list(value) if isinstance(value, tuple) else value)


# -- command line -----------------------------------------------------------------------------------------------------
def cli_page() -> None:
    """The help of each command, as it prints."""
    commands = sorted(name for name in app if not name.startswith("-"))
    blocks = [
        "# Command line",
        "Exit codes: 0 done, 2 bad input (one message in four parts), 130 stopped by Ctrl-C; what was finished is "
        "kept, and the same command goes on.",
        code(_help([])),
    ]
    for name in commands:
        blocks += [f"## tutelage {name}", code(_help([name]))]
    write("reference/cli.md", *blocks)


def _help(arguments: list[str]) -> str:
    out = io.StringIO()
    app.help_print(arguments, console=Console(file=out, width=78, color_system=None, force_terminal=False))
    return out.getvalue()


# -- modules ----------------------------------------------------------------------------------------------------------
def module_pages() -> dict[str, list[dict[str, str]]]:
    """One page a module; returns the pages of each folder for the navigation."""
    folders: dict[str, list[dict[str, str]]] = defaultdict(list)
    for file in sorted(SOURCE.rglob("*.py")):
        parts = list(file.relative_to(SOURCE).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        parts = parts[:-1] if is_package else parts
        if (
            parts[-1].startswith("__")
            or parts[1:2] in (["cli"], ["recipes"])
            or not file.read_text(encoding="utf-8").strip()
        ):
            continue
        name = ".".join(parts)
        path = f"reference/{'/'.join(parts[1:] or ['tutelage'])}{'/index' if is_package and len(parts) > 1 else ''}.md"
        write(path, f"# `{name}`", f"::: {name}")
        folder = parts[1] if len(parts) > 1 else ""
        folders[folder].append({name.removeprefix("tutelage."): path})
    return folders


def main() -> None:
    """Write every page and append them to the navigation."""
    all_known = [facts(name) for name in catalog.names()]
    for known in all_known:
        recipe_page(known)
    recipe_index(all_known)
    published_page()
    pains_page()
    check_named_tests()
    runfile_page()
    cli_page()
    folders = module_pages()
    nav = {key: entry for item in FilesEditor.current().config["nav"] for key, entry in item.items()}
    nav["Recipes"] += [{"Published methods": "recipes/published.md"}]
    nav["Recipes"] += [{k["name"]: f"recipes/{k['name']}.md"} for k in all_known]
    for folder, pages in folders.items():
        nav["Reference"] += pages if not folder else [{folder: pages}]


main()
