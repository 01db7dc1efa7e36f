"""The command line: thin; every command calls what the Python interface calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ..core.errors import StoreError, TutelageError

app = cyclopts.App(
    name="tutelage",
    help="Move what a large model knows into a small one.",
    help_format="plaintext",
    result_action="return_value",
)
console = Console()
errors = Console(stderr=True)
BAD_INPUT, STOPPED = 2, 130


@app.command(name="list")
def list_recipes(
    *,
    json: bool = False,
    uses: bool = False,
    axis: Annotated[list[str] | None, Parameter(name="--axis", negative="", consume_multiple=True)] = None,
) -> None:
    """List the recipes with family, needs and paper.

    Example: tutelage list --uses

    Parameters
    ----------
    json:
        Print JSON instead of a table.
    uses:
        Print which shared parts each recipe is made of.
    axis:
        AXIS=PLACE, as often as needed: only recipes there. feedback is logit, outcome, self or text; access to the
        teacher is white-box, black-box or none; granularity is token, sequence or hybrid.
    """
    from . import catalogue

    catalogue.show_list(console, as_json=json, uses=uses, places=axis or ())


@app.command
def show(name: str, /, *, json: bool = False) -> None:
    """Explain a recipe: formula, arguments, differences from the paper, and a RunFile to start from.

    Example: tutelage show gkd

    Parameters
    ----------
    name:
        A recipe's name, or the path of a Python file that holds one.
    json:
        Print JSON instead of text.
    """
    from . import catalogue

    catalogue.show_one(console, name, as_json=json)


@app.command
def run(
    file: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
) -> None:
    """Run a RunFile to its end, or go on where it was stopped.

    Example: tutelage run my.toml --set train.steps=50

    Parameters
    ----------
    file:
        The RunFile.
    set:
        A dotted key and a value on top of the file, as often as needed: --set a.b=c.
    """
    from ..running import api
    from .progress import Live, summary

    overrides = list(set or ())
    command = " ".join(["tutelage run", str(file), *(f"--set {o}" for o in overrides)])
    resolved = api.resolve(file, overrides)
    with Live(console) as live:
        finished = api.run(resolved, listener=live, command=command)
    summary(console, finished.folder, command)


@app.command
def plan(
    file: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
    timed: bool = True,
    json: bool = False,
    gpus: int = 0,
    gpu_memory: float = 80,
    gpu_flops: float = 989e12,
    gpu_bandwidth: float = 50,
    utilisation: float = 0.4,
) -> None:
    """Say what a run will load, take and write, without doing it; refuses what cannot work before weights load.

    Example: tutelage plan my.toml --no-timed

    Parameters
    ----------
    file:
        The RunFile.
    set:
        A dotted key and a value on top of the file.
    timed:
        Load the models and time a few steps of each stage; without it, time is not estimated.
    json:
        Print JSON instead of tables.
    gpus:
        Also work out, on paper, a training step on so many GPUs; models with `shard = true` are split over them.
    gpu_memory:
        Gigabytes of each.
    gpu_flops:
        Peak operations a second of each, in the run's precision.
    gpu_bandwidth:
        Gigabytes a second between them.
    utilisation:
        The share of the peak that is reached.
    """
    from ..running import api
    from ..running.plan import plan as make
    from ..running.scale import Machines
    from . import tables

    machines = Machines(gpus, gpu_memory * 1e9, gpu_flops, utilisation, gpu_bandwidth * 1e9) if gpus else None
    made = make(api.resolve(file, set or ()), timed=timed, machines=machines)
    tables.show_plan(console, made, as_json=json)


@app.command
def cache(
    file: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="", consume_multiple=True)] = None,
    json: bool = False,
) -> None:
    """Write what a run's teachers say of its data into their caches, before the run; started again, it goes on.

    Example: tutelage cache my.toml --set models.teacher.cache=cache/teacher

    Parameters
    ----------
    file:
        The RunFile; a model with a cache has `cache = "FOLDER"` in its table.
    set:
        A dotted key and a value on top of the file.
    json:
        Print JSON instead of a table.
    """
    from ..running import api
    from . import tables
    from .progress import Live

    resolved = api.resolve(file, set or ())
    with Live(errors) as live:
        found = api.cache(resolved, listener=live)
    tables.show_caches(console, found, as_json=json)


@app.command
def evaluate(
    students: list[str],
    /,
    *,
    teacher: str,
    data: str,
    chat: bool = False,
    columns: dict[str, str] | None = None,
    num_records: int = 32,
    skip: int = 0,
    harness: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    max_tokens: int = 256,
    json: bool = False,
) -> None:
    """Measure models against a teacher on a data file.

    Example: tutelage evaluate runs/my/student --teacher models/teacher --data held.jsonl

    Parameters
    ----------
    students:
        Where the models load from.
    teacher:
        Where the teacher loads from.
    data:
        A JSONL or Parquet file, or package:NAME/path/inside.
    chat:
        Turn prompt and completion into a user's and an assistant's turn.
    columns:
        The file's column for one of ours: --columns.prompt question.
    num_records:
        Records measured, after those skipped.
    skip:
        Records left out first.
    harness:
        Tasks of lm-evaluation-harness to run as well: number and exact ask the records, FILE.yaml is one of your own.
    max_tokens:
        The longest answer to a task of the records.
    json:
        Print JSON instead of a table.
    """
    from ..running import api
    from . import tables

    table = {"path": data, "chat": chat, "columns": columns or {}, "skip": skip}
    result = api.evaluate(
        {s: s for s in students}, teacher, table, num_records=num_records, tasks=harness or (), max_tokens=max_tokens
    )
    tables.show_evaluation(console, result, students, as_json=json)


@app.command
def compare(runs: list[Path], /, *, by_name: bool = False, json: bool = False) -> None:
    """Compare finished runs on the same held-out records: better, worse or cannot tell, by paired bootstrap.

    Example: tutelage compare runs/a-seed0 runs/a-seed1 runs/b-seed0 runs/b-seed1

    Parameters
    ----------
    runs:
        Run folders; the first one's recipe is the baseline, and runs that differ only by seed are taken together.
    by_name:
        Take runs together whose names differ only in their seed.
    json:
        Print JSON instead of a table.
    """
    from ..evaluation import compare as comparing
    from . import tables

    key = comparing.by_name if by_name else comparing.by_recipe
    tables.show_comparison(console, comparing.compare(runs, key=key), as_json=json)


@app.command
def report(run: Path, /) -> None:
    """Write a run's report page anew: one file, no network needed to read it.

    Example: tutelage report runs/my

    Parameters
    ----------
    run:
        The run's folder.
    """
    from ..evaluation.report import report as write

    if not run.is_dir():
        raise StoreError(
            f"run folder {run}",
            got="no such folder",
            expected="the folder of a run",
            remedy="Runs are in runs/ by default.",
        )
    console.print(Text(str(write(run))))


@app.command
def doctor(*, json: bool = False) -> None:
    """Say what is installed, which devices there are, and what is missing for which feature.

    Example: tutelage doctor

    Parameters
    ----------
    json:
        Print JSON instead of a table.
    """
    from . import doctor as doctors

    doctors.show(console, as_json=json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with exit code 2 and one message, Ctrl-C with 130."""
    try:
        app(list(arguments) if arguments is not None else None, exit_on_error=False, print_error=False, console=console)
    except TutelageError as error:
        _tell(error)
        sys.exit(BAD_INPUT)
    except cyclopts.CycloptsError as error:
        errors.print(Panel(Text(str(error).strip()), title="bad input", title_align="left", style="red"))
        errors.print("`tutelage --help` shows the commands, `tutelage COMMAND --help` an example of each.")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        errors.print("stopped; what was finished is kept, and the same command goes on from there")
        sys.exit(STOPPED)


def _tell(error: TutelageError) -> None:
    body = Text()
    for noun, text in (
        ("where", error.where),
        ("found", error.got),
        ("expected", error.expected),
        ("do", error.remedy),
    ):
        body.append(f"{noun:<9}", style="bold").append(f"{text}\n")
    body.rstrip()
    errors.print(Panel(body, title=type(error).__name__, title_align="left", border_style="red"))


if __name__ == "__main__":
    main()
