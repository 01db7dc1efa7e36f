"""The Python interface: the same power as the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import SettingError
from ..core.workspace import Workspace
from ..data import corpus
from ..data.collate import Collate
from ..evaluation.evaluate import evaluate as measure
from ..evaluation.harness import check_tasks, harness
from ..models.agree import agree
from ..models.causal import Causal
from ..models.load import load
from ..models.sample import Sampling
from ..training.log import Listener, Silent
from . import assemble, caching, runfile
from .runfile import DataSettings, RunFile
from .runner import Runner


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Args:
        folder: Where everything is.
    """

    folder: Path

    @property
    def student(self) -> Path:
        """The student, as a folder that transformers loads."""
        return self.folder / "student"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.folder / "report.html"

    @property
    def evaluation(self) -> dict[str, Any]:
        """What was measured; empty if nothing was."""
        file = self.folder / "evaluation.json"
        return json.loads(file.read_text()) if file.exists() else {}


def resolve(source: str | Path | Mapping[str, Any] | RunFile, overrides: Sequence[str] = ()) -> RunFile:
    """A RunFile from a path, a mapping or itself."""
    if isinstance(source, RunFile):
        return source
    if isinstance(source, Mapping):
        return runfile.validate(source)
    return runfile.read(Path(source), overrides)


def run(
    source: str | Path | Mapping[str, Any] | RunFile,
    *,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    command: str = "",
) -> Finished:
    """Run a RunFile to its end; a run that was stopped goes on where it was.

    Args:
        source: A path, a mapping of the same shape, or a RunFile.
        overrides: ``a.b=c`` texts on top of a file.
        listener: Who follows the run.
        command: How it was started, for the report.

    Raises:
        TutelageError: With where, what was found, what was expected and what to do.
    """
    return Finished(Runner(resolve(source, overrides), listener or Silent(), command)())


def cache(
    source: str | Path | Mapping[str, Any] | RunFile,
    *,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
) -> dict[str, dict[str, Any]]:
    """Write what the cached teachers of a run say of its stored data; by slot, what the cache then is.

    Args:
        source: A path, a mapping of the same shape, or a RunFile whose models name a ``cache``.
        overrides: ``a.b=c`` texts on top of a file.
        listener: Who follows.

    Raises:
        TutelageError: What ``run`` would raise for the same settings; what was written is kept.
    """
    resolved, follow = resolve(source, overrides), listener or Silent()
    recipe = assemble.recipe_of(resolved)
    if not caching.cached_slots(resolved):
        raise SettingError(
            "tutelage cache",
            got="models without a cache",
            expected="one or more with a folder",
            remedy='Add cache = "FOLDER" to the table [models.teacher], or --set models.teacher.cache=FOLDER.',
        )
    workspace = Workspace(resolved.folder, resolved.seed)
    assemble.load_data(resolved, workspace, follow.note)
    assemble.load_models(resolved, recipe, workspace, resolved.folder, follow.note)
    return caching.fill(recipe, resolved, workspace, assemble.collate_for, follow)


def evaluate(
    systems: Mapping[str, str | Causal],
    teacher: str | Causal,
    data: str | Mapping[str, Any],
    *,
    num_records: int = 32,
    max_length: int = 1024,
    num_samples: int = 0,
    max_tokens: int = 96,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure models against a teacher on a data set.

    Args:
        systems: Models, or where they load from, by name.
        teacher: The reference.
        data: A file, or a table as under ``[data]``.
        num_records: Records measured, from the first.
        max_length: Tokens a row.
        num_samples: Prompts answered side by side.
        max_tokens: The longest answer.
        tasks: Tasks of lm-evaluation-harness, run as well on all models (``evaluation.harness``): ``number`` and
            ``exact`` on these records, or YAML files with local data. Found under ``harness``.

    Raises:
        SettingError: A setting or a key of the data table is wrong.
    """
    settings = runfile.checked(DataSettings, {"path": data} if isinstance(data, str) else data, "evaluate: data")
    if num_records < 1:
        raise SettingError(
            "evaluate: num_records", got=str(num_records), expected="at least 1", remedy="32 give a first impression."
        )
    check_tasks(tasks)
    records = corpus.read(
        settings.path, columns=settings.columns, chat=settings.chat, limit=settings.limit, skip=settings.skip
    )
    reference = load(teacher) if isinstance(teacher, str) else teacher
    loaded = {name: load(m) if isinstance(m, str) else m for name, m in systems.items()}
    for model in loaded.values():
        agree(reference, model)
    result = measure(
        loaded,
        reference,
        records[:num_records],
        Collate(reference.tokenizer, max_length),
        num_samples=num_samples,
        sampling=Sampling(max_tokens=max_tokens, temperature=0.0),
    )
    if tasks:
        models = {**loaded, "teacher": reference}
        result["harness"] = harness(models, tasks, records[:num_records], chat=settings.chat, max_tokens=max_tokens)
    return result
