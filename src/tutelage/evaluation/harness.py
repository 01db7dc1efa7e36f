"""Harness: lm-evaluation-harness on tasks whose data is here; nothing is fetched from a hub.

Needs the extra ``harness``. A task is one of ``BUILT``, made from records, or a YAML file of the harness whose data is
a local file.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError, SettingError, StoreError, TutelageError, missing_extra, unknown
from ..core.record import Record
from ..data.render import prompt_ids
from ..models.adapter import merged
from ..models.causal import Causal
from .evaluate import untouched
from .metrics.text import exact_match, numeric_match
from .samples import reference_of

Right = Callable[[str, str], bool]
BUILT: Mapping[str, Right] = {"number": numeric_match, "exact": exact_match}
LOCAL = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas"})  # readers of `datasets` that need no hub


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse tasks that cannot run, before any model loads.

    Raises:
        MissingExtra: The harness is not installed.
        UnknownName: No task is called so.
        StoreError: A YAML file is missing or cannot be read.
        SettingError: A YAML task names no data, or data on a hub.
    """
    if tasks and importlib.util.find_spec("lm_eval") is None:
        raise missing_extra("Benchmark tasks", "lm-eval", "harness")
    for task in tasks:
        if task.endswith((".yaml", ".yml")):
            _check_file(Path(task))
        elif task not in BUILT:
            raise unknown("evaluate: harness task", task, BUILT, "Or give the path of a YAML task with local data.")


def harness(
    models: Mapping[str, Causal],
    tasks: Sequence[str],
    records: Sequence[Record] = (),
    *,
    chat: bool = False,
    batch_size: int = 8,
    max_tokens: int = 256,
) -> dict[str, dict[str, dict[str, float]]]:
    """Run tasks of lm-evaluation-harness; modes and gradients of the models are as before when it returns.

    ``number`` and ``exact`` ask each record's prompt, rendered exactly as elsewhere here (by the model's own template),
    and compare the greedy answer with the record's: its final number, or its text.

    Args:
        models: By name.
        tasks: ``number``, ``exact``, or paths of YAML tasks.
        records: The data of the first two.
        chat: Put the prompts of YAML tasks through the model's chat template.
        batch_size: Rows at once; memory only.
        max_tokens: The longest answer of the first two.

    Returns:
        For each model and task its figures, as the harness names them (``right``, ``acc``, ``acc_stderr`` ...).

    Raises:
        TutelageError: See ``check_tasks``.
        DataError: A task needs records and there are none, or the harness cannot run it.
    """
    check_tasks(tasks)
    if not records and any(task in BUILT for task in tasks):
        raise DataError("harness", got="no records", expected="rows with prompt and answer", remedy="Give data.")
    return {
        name: {_stem(task): _run(model, task, records, chat, batch_size, max_tokens) for task in tasks}
        for name, model in models.items()
    }


def _run(
    model: Causal, task: str, records: Sequence[Record], chat: bool, batch_size: int, max_tokens: int
) -> dict[str, float]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    make: Any = HFLM  # decorators hide what the two take
    evaluate_tasks: Any = simple_evaluate
    plain = merged(model)
    built = task in BUILT
    try:
        with untouched([plain]):
            asked = make(plain.inner, backend="causal", tokenizer=plain.tokenizer, batch_size=batch_size)
            found = evaluate_tasks(
                asked,
                tasks=[_built(task, plain, records, max_tokens) if built else _name(Path(task))],
                task_manager=TaskManager(
                    include_path=None if built else str(Path(task).parent.resolve()), include_defaults=False
                ),
                apply_chat_template=chat and not built,
                log_samples=False,
            )
    except TutelageError:
        raise
    except Exception as error:  # tasks are foreign programs: they may raise anything
        raise DataError(
            f"harness task {task!r} for model {model.name!r}",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}",
            expected="a task that runs on local data",
            remedy="Mend the task; paths in it count from where the command runs.",
        ) from error
    (figures,) = found["results"].values()
    return {
        key.removesuffix(",none"): float(value)
        for key, value in figures.items()
        if isinstance(value, (int, float)) and not key.startswith(("alias", "sample_len"))
    }


def _built(task: str, model: Causal, records: Sequence[Record], max_tokens: int) -> Any:
    """A task of the harness that asks the records."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    tokenizer, right = model.tokenizer, BUILT[task]
    rows = [{"prompt": tokenizer.decode(prompt_ids(r, tokenizer)), "reference": reference_of(r)} for r in records]
    stops = [tokenizer.decode([i]) for i in model.stop_ids]

    def judge(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
        return {"right": float(right(results[0], doc["reference"]))}

    return ConfigurableTask(
        config={
            "task": task,
            "custom_dataset": lambda **settings: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{reference}}",
            "generation_kwargs": {"until": stops, "max_gen_toks": max_tokens, "do_sample": False},
            "process_results": judge,
            "metric_list": [{"metric": "right", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
    )


def _check_file(path: Path) -> None:
    table = _read(path)
    if not isinstance(table, dict) or not isinstance(table.get("task"), str):
        raise StoreError(
            f"harness task {path}", got="no name of a task", expected="a key 'task: NAME'", remedy="Name the task."
        )
    source = table.get("dataset_path")
    if "custom_dataset" in table or (isinstance(source, str) and (source in LOCAL or Path(source).exists())):
        return
    raise SettingError(
        f"harness task {path}, dataset_path",
        got=repr(source),
        expected=f"data that is here: one of {', '.join(sorted(LOCAL))} with data_files, or a folder",
        remedy="Download the data first, e.g. to a JSONL file, and name it under dataset_kwargs.data_files.",
    )


def _read(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads tags of the harness such as ``!function`` as plain text."""

    Loader.add_multi_constructor("!", lambda loader, tag, node: str(node.value))
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StoreError(
            f"harness task {path}",
            got="no such file" if not path.is_file() else str(error).splitlines()[0],
            expected="a YAML task of lm-evaluation-harness",
            remedy="Check the path, or mend the file.",
        ) from error


def _name(path: Path) -> str:
    return str(_read(path)["task"])


def _stem(task: str) -> str:
    return task if task in BUILT else Path(task).stem
