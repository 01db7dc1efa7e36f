"""Where a run's chains of steps run."""

from __future__ import annotations

from ..data.engines import Engine, Local
from ..data.engines.cluster import Cluster
from .runfile import RunFile


def engine_of(run: RunFile) -> Engine:
    """The engine of a run.

    Raises:
        MissingExtra: A Ray cluster is asked for, and Ray is not installed.
    """
    work = run.work
    return Cluster(work.workers, work.address, work.cpus, work.gpus) if work.engine == "ray" else Local(work.workers)
