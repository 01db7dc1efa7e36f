"""A Ray cluster as an engine: batches are rows of a Ray data set, worked on by processes that hold the models."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...core.errors import SettingError, TutelageError, missing_extra
from ...core.ledger import Ledger
from ...core.record import Record
from ...core.schedule import walk
from ...core.workspace import Slots, Workspace
from ..pipeline import run_steps
from .local import Batches


@dataclass(frozen=True)
class Cluster:
    """Processes of a Ray cluster, through Ray Data.

    Each worker holds the workspace's models, sent once, and the data sets that the steps name. A worker that dies is
    started anew and its batch is run again; as batches are told apart by number, no row is lost and none comes twice.

    Args:
        num_workers: Worker processes, >= 1.
        address: The cluster's, as for ``ray.init``; empty for the one this process is in, or a new one on this machine.
        cpus: Processors a worker, > 0.
        gpus: GPUs a worker, >= 0; its models go there.

    Raises:
        MissingExtra: Ray is not installed.
        SettingError: A number outside its range.
    """

    num_workers: int = 2
    address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.cpus <= 0 or self.gpus < 0:
            raise SettingError(
                "Cluster",
                got=f"num_workers={self.num_workers}, cpus={self.cpus}, gpus={self.gpus}",
                expected="num_workers >= 1, cpus > 0 and gpus >= 0",
                remedy="Give each worker one processor or more.",
            )
        _ray()

    def __call__(self, steps: Sequence[Any], batches: Batches, ws: Workspace) -> Iterator[list[Record]]:
        """The rows of each batch, in order, as they come in.

        Raises:
            TutelageError: What a step raised in a worker.
        """
        todo = [{"number": i, "batch": pickle.dumps(list(rows))} for i, rows in enumerate(batches)]
        if not todo:
            return
        ray = _ray()
        if not ray.is_initialized():
            quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
            ray.init(address=self.address or None, **quiet)
        found: dict[int, list[Record]] = {}
        following = 0
        for row in self._results(ray, todo, ray.put(_pack(steps, ws))):
            found[int(row["number"])] = _opened(row, ws)
            while following in found:
                yield found.pop(following)
                following += 1

    def _results(self, ray: Any, todo: list[dict[str, Any]], chain: Any) -> Iterator[dict[str, Any]]:
        """What the workers give, in any order."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # a batch a block: the least that is run again, and given as soon as it is done
        done = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            Worker,
            batch_size=1,
            batch_format="pandas",
            fn_constructor_args=(chain,),
            compute=ray.data.ActorPoolStrategy(size=min(self.num_workers, len(todo)), max_tasks_in_flight_per_actor=2),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        yield from done.iter_rows()


class Worker:
    """A process of the cluster: it holds the chain and the workspace, and runs batches."""

    def __init__(self, chain: Any) -> None:
        import ray

        packed: bytes = ray.get(chain) if isinstance(chain, ray.ObjectRef) else chain
        self.steps, self.ws, threads = pickle.loads(packed)
        torch.set_num_threads(threads)  # the same sums as in the process that sent them
        if torch.cuda.is_available():
            for model in self.ws.models.values():
                getattr(model, "model", model).to("cuda")

    def __call__(self, table: Any) -> Any:
        """One batch: its number, and its rows or the error that ended it, with what it cost."""
        ws = replace(self.ws, ledger=Ledger())
        said: Any
        try:
            said = list(run_steps(self.steps, pickle.loads(table["batch"].iloc[0]), ws))
        except TutelageError as error:
            said = error
        return {"number": table["number"], "said": [pickle.dumps((said, ws.ledger.state_dict()))]}


def _pack(steps: Sequence[Any], ws: Workspace) -> bytes:
    """The chain and what it reads of a workspace, for another process."""
    from ray import cloudpickle

    text = repr(tuple(steps))
    models = {slot: _on_cpu(model) for slot, model in ws.models.items()}
    data = {name: rows for name, rows in ws.data.items() if repr(name) in text}
    own = Workspace(ws.folder, ws.seed, Slots("model", models), Slots("data set", data), path=ws.path)
    own.ledger = None  # type: ignore[assignment]  # each batch gets one of its own
    _send_by_value(steps, cloudpickle)
    return cloudpickle.dumps((tuple(steps), own, torch.get_num_threads()))


def _send_by_value(steps: Sequence[Any], cloudpickle: Any) -> None:
    """Steps of a user's own files: their code goes along, as the workers do not have the files."""
    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    for name in {type(part).__module__ for _, part in walk(tuple(steps))}:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file and not name.startswith("tutelage.") and not file.startswith(installed):
            cloudpickle.register_pickle_by_value(module)


def _on_cpu(model: Any) -> Any:
    module = getattr(model, "model", model)
    if all(p.device.type == "cpu" for p in module.parameters()):
        return model
    copied = copy.deepcopy(model)
    getattr(copied, "model", copied).to("cpu")
    return copied


def _opened(row: dict[str, Any], ws: Workspace) -> list[Record]:
    said, cost = pickle.loads(row["said"])
    for key, account in cost.items():
        ws.ledger.add(*key.split("/", 1), **account)
    if isinstance(said, TutelageError):
        raise said
    return said


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise missing_extra("steps on a Ray cluster", "ray", "ray") from None
    return ray
