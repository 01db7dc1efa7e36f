"""The RunFile: one strict TOML file that says everything about a run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..core.errors import SettingError, StoreError, unknown
from ..training.settings import TrainSettings

STRICT = ConfigDict(extra="forbid", frozen=True)
Settings = TypeVar("Settings", bound=BaseModel)
# Slots name files in the run's folder, which no name may leave.
SlotName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Letters, digits, '.', '_' and '-'.")
]


class ShrinkSettings(BaseModel):
    """A student cut out of another model."""

    model_config = STRICT

    source: str = Field("teacher", description="The slot to cut.")
    layers: int | tuple[int, ...] | None = Field(None, description="How many blocks stay, or which.")
    by: Literal["even", "influence"] = Field("even", description="How blocks are chosen when layers is a number.")
    width: float | None = Field(None, gt=0, le=1, description="Share of heads and channels that stay.")
    refit: bool = Field(True, description="Re-solve the kept blocks in closed form on calibration rows.")
    ridge: float = Field(0.1, gt=0, description="Ridge of the refit.")
    rows: str = Field("train", description="The data set that calibrates.")
    num_records: int = Field(48, ge=1, description="How many of its records.")


class LoraSettings(BaseModel):
    """A low-rank adapter: the model's own weights stay as they are, and only the adapter trains."""

    model_config = STRICT

    rank: int = Field(16, ge=1, description="Rows of the low-rank pair of each linear map.")
    alpha: float | None = Field(None, gt=0, description="Scale times rank; twice the rank by default.")
    targets: tuple[str, ...] = Field((), description="Ends of module names; all linear maps of the blocks by default.")


class ServerSettings(BaseModel):
    """A model behind an OpenAI-compatible server."""

    model_config = STRICT

    url: str = Field(description="http://HOST:PORT, with or without /v1.")
    also: tuple[str, ...] = Field((), description="Other addresses of the same model: requests go to the least busy.")
    model: str = Field(description="Its name there.")
    api_key_env: str = Field("", description="The environment variable that holds the key; the key is never stored.")
    tokenizer: str | None = Field(None, description="A model whose tokenizer it has; the student's by default.")
    top_k: int = Field(20, ge=0, description="Most probable tokens a position; 0 for a server that gives text alone.")
    timeout_seconds: float = Field(60.0, gt=0, description="The longest that one request may take.")
    retry_seconds: float = Field(120.0, ge=0, description="How long a failed request is tried again.")
    concurrency: int = Field(8, ge=1, description="Requests at once at one address.")
    watch_seconds: float = Field(60.0, ge=0, description="How often it is asked whether it is still the same model.")
    rounded: bool = Field(
        False, description="Keep its answers in a tenth of the bytes; log-probabilities of other tokens are rounded."
    )


class RolloutSettings(BaseModel):
    """Who writes in a model's place, with the weights that it has now: a vLLM server, or vLLM in this process."""

    model_config = STRICT

    url: str | None = Field(None, description="The server's http://HOST:PORT; it takes new weights before each round.")
    engine: Literal["vllm"] | None = Field(None, description="Write in this process by vLLM, which must be installed.")
    model: str = Field("student", description="The model's name at the server.")
    api_key_env: str = Field("", description="The environment variable that holds the server's key.")
    weights: str | None = Field(
        None, description="The folder that weights go through, for the server to read; in the run's folder by default."
    )
    weights_there: str = Field("", description="The same folder as the server sees it, where its path is another one.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Precision of the weights that go over.")
    ahead: Literal[0, 1] = Field(
        0, description="1 writes the next round while this one trains: its answers are one round old (server only)."
    )
    tolerance_nats: float = Field(
        0.1, gt=0, description="How far what it says of a fixed text may be from the model after weights went over."
    )
    timeout_seconds: float = Field(300.0, gt=0, description="The longest that one request may take (server).")
    retry_seconds: float = Field(120.0, ge=0, description="How long a failed request is tried again (server).")
    concurrency: int = Field(64, ge=1, description="Answers written at once (server).")
    max_length: int | None = Field(None, ge=2, description="The longest prompt and answer together (engine).")
    cache_gigabytes: float = Field(1.0, gt=0, description="Memory for keys and values (engine).")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"engine": value} if value == "vllm" else {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> RolloutSettings:
        if (self.url is None) == (self.engine is None):
            raise ValueError("give exactly one of url and engine")
        if self.ahead and self.engine is not None:
            raise ValueError("ahead needs a server: an engine in this process would write while weights move")
        return self


class CacheSettings(BaseModel):
    """Where what a model says is kept and read again; settings left out are those of the folder, or the usual ones."""

    model_config = STRICT

    folder: str = Field(description="The cache; one folder a teacher and form.")
    form: Literal["top", "drawn", "states", "dense", "exact", "target"] | None = Field(
        None, description="What is kept of a position; top in a new folder."
    )
    num_kept: int | None = Field(None, ge=1, description="Most probable tokens kept (top, exact); 50 in a new folder.")
    num_draws: int | None = Field(None, ge=1, description="Tokens drawn a position (drawn); 50 in a new folder.")
    temperature: float | None = Field(None, gt=0, description="Of the draws (drawn); estimates stay unbiased.")
    coarse: float | None = Field(None, gt=0, description="The widest step of kept log-probabilities in nats (top).")
    fine: float | None = Field(None, gt=0, description="The step at probability 1 in nats (top).")
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(None, description="Precision of states.")
    rest: Literal["exact", "even"] = Field(
        "exact", description="even lets objectives over the whole vocabulary read kept tokens, the rest spread evenly."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str) else value

    def given(self) -> dict[str, Any]:
        """The settings of the form that were given."""
        return {k: v for k, v in self.model_dump(exclude={"folder", "rest"}).items() if v is not None}


class ModelSettings(BaseModel):
    """Where a model slot comes from: exactly one of `load`, `shrink` and a server's `url`; or a `cache` alone."""

    model_config = STRICT

    load: str | None = Field(None, description="A folder, hub:ORG/NAME@REVISION, gguf:PATH or package:NAME/FILE.gguf.")
    shrink: ShrinkSettings | None = None
    server: ServerSettings | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the weights; what trains needs float32."
    )
    bits: Literal[8] | None = Field(None, description="8 holds the blocks' weights as int8; it then only speaks.")
    lora: LoraSettings | None = None
    cache: CacheSettings | None = Field(None, description="A folder, or a table: what it says is kept and read again.")
    rollouts: RolloutSettings | None = Field(
        None, description="Who writes in its place while it trains: a server's address, vllm, or a table."
    )
    shard: bool = Field(
        False, description="Split its weights over the processes (FSDP2) instead of holding them whole in each."
    )
    adopt: bool = Field(False, description="Take chat template, EOS and generation config from the teacher.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "url" in value:  # its settings stand beside it
            own = {k: v for k, v in value.items() if k in cls.model_fields}
            return {**own, "server": {k: v for k, v in value.items() if k not in own}}
        return {"load": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> ModelSettings:
        sources = sum(x is not None for x in (self.load, self.shrink, self.server))
        if sources != 1 and not (sources == 0 and self.cache is not None):
            raise ValueError("give exactly one of load, shrink and url, or a cache alone")
        return self


class DataSettings(BaseModel):
    """A data set."""

    model_config = STRICT

    path: str = Field(description="A file or folder, or package:NAME/path/inside.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="The file's column for prompt, completion, text, messages or id."
    )
    chat: bool = Field(False, description="Turn prompt and completion into a user's and an assistant's turn.")
    skip: int = Field(0, ge=0, description="Rows left out first.")
    limit: int | None = Field(None, ge=1, description="Most rows read.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class EvaluateSettings(BaseModel):
    """What is measured before and after."""

    model_config = STRICT

    data: str = Field("held_out", description="The data set; without one nothing is measured.")
    num_records: int = Field(32, ge=1, description="Records measured, from the first.")
    trains: Literal["answer", "all", "whole"] = Field(
        "answer", description="Positions measured: of answers, of prompts too, or of the whole text with its template."
    )
    num_samples: int = Field(3, ge=0, description="Prompts answered side by side.")
    max_tokens: int = Field(96, ge=1, description="The longest answer.")
    batch_size: int = Field(8, ge=1, description="Records a forward pass.")


class WorkSettings(BaseModel):
    """Where chains of steps run: stages that write rows, and systems that are measured."""

    model_config = STRICT

    engine: Literal["local", "ray"] = Field("local", description="This process, or a Ray cluster (extra `ray`).")
    workers: int = Field(1, ge=1, description="Batches at once: threads, or Ray's worker processes.")
    address: str = Field("", description="The Ray cluster's; by default the one around, else one on this machine.")
    cpus: float = Field(1.0, gt=0, description="Processors of each Ray worker.")
    gpus: float = Field(0.0, ge=0, description="GPUs of each Ray worker.")


class RunFile(BaseModel):
    """A run.

    Args:
        recipe: A recipe's name, or the path of a Python file that holds one.
        name: The run's folder below ``output``.
    """

    model_config = STRICT

    recipe: str
    name: SlotName
    seed: int = Field(0, ge=0, description="All draws derive from it.")
    output: str = Field("runs", description="The folder that holds the runs.")
    args: dict[str, Any] = Field(default_factory=dict)
    models: dict[SlotName, ModelSettings] = Field(default_factory=dict)
    data: dict[SlotName, DataSettings] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)  # type: ignore[arg-type]
    work: WorkSettings = Field(default_factory=WorkSettings)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _settings(self) -> RunFile:
        shared, stages = self._split()
        for name, stage in {"train": {}, **{f"train.{name}": stage for name, stage in stages.items()}}.items():
            checked(TrainSettings, {**shared, **stage}, f"RunFile, [{name}]")
        return self

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.output) / self.name

    def settings(self, stage: str) -> TrainSettings:
        """The settings of a Train stage: ``[train]`` with ``[train.STAGE]`` on top."""
        shared, stages = self._split()
        return TrainSettings(**{**shared, **stages.get(stage, {})})

    def stage_tables(self) -> set[str]:
        """The stages that have a table of their own."""
        return set(self._split()[1])

    def _split(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        stages = {k: v for k, v in self.train.items() if isinstance(v, dict)}
        return {k: v for k, v in self.train.items() if k not in stages}, stages

    def to_toml(self) -> str:
        """The run as TOML, defaults filled in, so that it stays the same run when a default changes."""
        shared, stages = self._split()
        table = json.loads(self.model_dump_json(exclude_none=True))
        table["train"] = json.loads(TrainSettings(**shared).model_dump_json(exclude_none=True)) | stages
        return tomli_w.dumps(table)


def read(path: Path, overrides: Sequence[str] = ()) -> RunFile:
    """A RunFile from a file, with ``a.b=c`` overrides on top.

    Raises:
        StoreError: The file is missing or not TOML.
        SettingError: A key is unknown (near matches are named), or a value is wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"RunFile {path}",
            got="no such file",
            expected="a TOML file",
            remedy="`tutelage show RECIPE` prints one to start from.",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StoreError(
            f"RunFile {path}", got=str(error), expected="a TOML file", remedy="Mend the line that is named."
        ) from None
    for override in overrides:
        _override(table, override)
    table.setdefault("name", path.stem)
    return validate(table, str(path))


def validate(table: Mapping[str, Any], where: str = "RunFile") -> RunFile:
    """A RunFile from a table; the first problem is told in one message."""
    return checked(RunFile, table, where)


def checked(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """Settings from a table.

    Raises:
        SettingError: A key is unknown (near matches are named), or a value is wrong.
    """
    try:
        return kind(**table)
    except ValidationError as error:
        raise _told(error, where) from None


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SettingError(
            f"--set {text}",
            got="no 'key=value'",
            expected="a dotted key, '=' and a value",
            remedy="E.g. --set train.steps=50",
        )
    *path, last = key.strip().split(".")
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SettingError(
                f"--set {text}", got=f"{part!r}, which is a value", expected="a table", remedy="Check the key."
            )
        table = inner
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value  # a bare word is a string


def _told(error: ValidationError, where: str) -> SettingError:
    first = error.errors()[0]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, SettingError):
        return inner
    path = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown(
            f"{where}, key", path.rsplit(".", 1)[-1], _keys(first["loc"][:-1], error), f"It stands under {path!r}."
        )
    got = repr(first.get("input")) if first["type"] != "missing" else "nothing"
    return SettingError(
        f"{where}, {path or 'file'}",
        got=got,
        expected=first["msg"],
        remedy=f"{error.error_count()} problem(s) in all; this is the first.",
    )


def _keys(path: Sequence[Any], error: ValidationError) -> list[str]:
    """The keys that are known where an unknown one stands."""
    models: dict[str, type[BaseModel]] = {
        "models": ModelSettings,
        "shrink": ShrinkSettings,
        "lora": LoraSettings,
        "server": ServerSettings,
        "rollouts": RolloutSettings,
        "cache": CacheSettings,
        "data": DataSettings,
        "evaluate": EvaluateSettings,
        "train": TrainSettings,
        "work": WorkSettings,
    }
    names = [str(p) for p in path]
    found = next((models[n] for n in reversed(names) if n in models), RunFile)
    if error.title == "TrainSettings":
        found = TrainSettings
    return list(found.model_fields)
