"""Fixtures over ``kit.py``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tutelage.core.workspace import Workspace


@pytest.fixture(scope="session")
def kit():
    """The module of helpers."""
    path = Path(__file__).with_name("kit.py")
    spec = importlib.util.spec_from_file_location("data_kit", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tokenizer(kit):
    """ChatML; pad and EOS are one token, as SmolLM2 ships it."""
    return kit.make_tokenizer()


@pytest.fixture(scope="session")
def causal(kit, tokenizer):
    """A tiny model."""
    return kit.make_causal(tokenizer)


@pytest.fixture
def ws(tmp_path, causal):
    """A workspace with a student."""
    workspace = Workspace(tmp_path / "run", seed=7)
    workspace.models["student"] = causal
    return workspace
