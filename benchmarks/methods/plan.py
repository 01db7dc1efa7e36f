"""Which arms are run, in which order, on how many processes; what is there is not run again."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from time import monotonic

import torch

from . import table
from .job import BUDGET, COMPUTE, REFERENCES, UPDATES, Job, do
from .sizes import Sizes

Chain = tuple[Job, ...]


def chains(folder: Path, sizes: Sizes, seeds: int, only: Sequence[str] = ()) -> list[Chain]:
    """Jobs that follow each other, seed by seed, so that a bench that was stopped holds whole seeds.

    The first chains measure what others need: the models as they are, and what equal compute is.
    """
    names, _ = table.applicable()
    chosen = [n for n in names if not only or n in only]
    out: list[Chain] = []
    for seed in range(seeds):
        out += [(Job(who, UPDATES, seed, folder),) for who in REFERENCES if who != "teacher" or seed == 0]
        out.append((Job(BUDGET, UPDATES, seed, folder),))
        for name in chosen:
            arms = [UPDATES, COMPUTE]
            if name in table.LADDER:
                arms += [f"updates x {share:g}" for share in sizes.ladder]
            out.append(tuple(Job(name, arm, seed, folder) for arm in arms))
    return out


def follow(chain: Chain, sizes: Sizes) -> list[str]:
    """Run a chain, one thread; returns what went wrong."""
    torch.set_num_threads(1)
    return [wrong for job in chain if (wrong := do(job, sizes))]


def run(some: Iterable[Chain], sizes: Sizes, *, workers: int, minutes: float, say: Callable[[str], None]) -> list[str]:
    """Run chains until all are done or the minutes are over; what has begun then is finished.

    Ctrl-C stops at once; finished jobs are kept, and the same command goes on.
    """
    open_chains = [c for c in some if any(j.kept(sizes) is None for j in c)]
    end, wrong, running = monotonic() + 60 * minutes, list[str](), dict[Future[list[str]], Chain]()
    os.environ["OMP_NUM_THREADS"] = "1"
    # the budget's chains come first in their seed: those that read them wait until they are done
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while running or (open_chains and monotonic() < end):
            while len(running) < workers and monotonic() < end and (chain := _next(open_chains, running)):
                running[pool.submit(follow, chain, sizes)] = chain
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                chain, found = running.pop(future), future.result()
                wrong += found
                for text in found:
                    say(f"failed: {text}")
                say(f"done: {chain[0].recipe}, seed {chain[0].seed}; {len(open_chains)} to come")
    return wrong


def _next(open_chains: list[Chain], running: dict[Future[list[str]], Chain]) -> Chain | None:
    """The first chain that waits for nothing, taken from the list."""
    busy = {(job.recipe, job.arm, job.seed) for chain in running.values() for job in chain}
    for place, chain in enumerate(open_chains):
        own = {(job.recipe, job.arm, job.seed) for job in chain}
        waits = {(BUDGET, UPDATES, job.seed) for job in chain if job.arm == COMPUTE} | own
        if not waits & busy:
            return open_chains.pop(place)
    return None
