"""Elsewhere a server was asked for more log-probabilities than the loss read, at a cost that grew with their number, or hung over them."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import pytest

from tutelage.core.errors import ServerError
from tutelage.data.collate import Collate

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "test_remote.py"))
teacher_folder, serving, server, teacher, far = (KIT[n] for n in ("teacher_folder", "serving", "server", "teacher", "far"))
ROWS = KIT["ROWS"]


def read(remote, teacher, rows):
    batch = Collate(teacher.tokenizer, 128)(rows)
    return remote.predict(batch.views["main"], frozenset({"next"}))["next"], len(batch.units["tokens"])


@pytest.mark.parametrize("top_k", [1, 4, 16])
def test_what_is_held_is_the_number_asked_for_and_the_target(far, server, teacher, top_k):
    remote = far(top_k=top_k)
    server.control()  # what it asked to know the model does not count
    scores, units = read(remote, teacher, ROWS)
    assert scores.ids.shape == scores.log_probs.shape == (units, top_k + 1)
    assert server.asked()["count"] == len(ROWS), "one request a row"


def test_a_row_that_is_read_twice_is_asked_for_once(far, server, teacher, tmp_path):
    remote = far(folder=tmp_path)
    read(remote, teacher, ROWS)
    before = server.asked()["count"]
    read(remote, teacher, ROWS)
    assert server.asked()["count"] == before


def test_a_server_that_hangs_is_given_up_on(far, server, teacher):
    remote = far(timeout_seconds=0.3, retry_seconds=0.5)
    server.control(slow=30.0)
    start = time.monotonic()
    with pytest.raises(ServerError, match="in time"):
        read(remote, teacher, ROWS[:1])
    assert time.monotonic() - start < 10
