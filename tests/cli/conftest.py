"""The command line in this process, and the tiny run of tests/running as a file."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from tutelage.cli import main as cli

KIT = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
teacher_folder, data_folder, new_run = KIT["teacher_folder"], KIT["data_folder"], KIT["new_run"]


class Told:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.message = " ".join(err.replace("│", " ").split())

    def refused(self, *words: str) -> None:
        """Exit code 2, one message, no traceback, and these words in it."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        assert self.err.count("╭") == 1, self.err
        for word in words:
            assert word in self.message, (word, self.message)


@pytest.fixture
def tutelage(capsys, monkeypatch) -> Callable[..., Told]:
    """Run a command."""

    def run(*arguments: object) -> Told:
        for console in (cli.errors, cli.console):
            monkeypatch.setattr(console, "_width", 400)
        capsys.readouterr()
        try:
            cli.main([str(a) for a in arguments])
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        said = capsys.readouterr()
        return Told(code, said.out, said.err)

    return run


@pytest.fixture
def run_file(new_run, tmp_path) -> Callable[..., Path]:
    """A RunFile on the disk, with changes."""

    def write(**changes: object) -> Path:
        path = tmp_path / "it.toml"
        path.write_text(tomli_w.dumps(new_run(**changes)))
        return path

    return write
