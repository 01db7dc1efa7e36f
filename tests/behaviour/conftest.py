"""The laboratory, and where a behaviour test puts what it found."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lab():
    """The module of Markov chains."""
    path = Path(__file__).with_name("laboratory.py")
    spec = importlib.util.spec_from_file_location("behaviour_laboratory", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measure(lab, tmp_path):
    """Figures by arm, one a seed: ``measure(arms)``, where ``arms(world)`` gives students by name."""

    def run(arms, seeds=3):
        out = {}
        for seed in range(seeds):
            world = lab.World(seed, tmp_path)
            for name, student in arms(world).items():
                out.setdefault(name, []).append(world.figures(student))
        return out

    return run


@pytest.fixture
def found_as(lab, record_property):
    """Keep a finding whose figures have names of their own: ``found_as(caption, arms, claims, names)``."""

    def keep(caption, arms, claims, figures):
        record_property("finding", json.dumps(lab.finding(caption, arms, claims, figures)))
        assert not (wrong := lab.surprising(claims)), wrong

    return keep


@pytest.fixture
def found(lab, record_property):
    """Keep a finding for ``python -m tools.behaviour``, then hold the test to its claims."""

    def keep(caption, arms, *claims):
        record_property("finding", json.dumps(lab.finding(caption, arms, claims)))
        assert not (wrong := lab.surprising(claims)), wrong

    return keep


@pytest.fixture(scope="session")
def tables():
    """The module of tabular models."""
    path = Path(__file__).with_name("tables.py")
    spec = importlib.util.spec_from_file_location("behaviour_tables", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def told(lab, tables, record_property):
    """Keep a finding over figures of any names, then hold the test to its claims."""

    def keep(caption, arms, *claims):
        record_property("finding", json.dumps(tables.finding(lab, caption, arms, claims)))
        assert not (wrong := lab.surprising(claims)), wrong

    return keep


@pytest.fixture(scope="session")
def points():
    """The module of classification by small networks."""
    path = Path(__file__).with_name("points.py")
    spec = importlib.util.spec_from_file_location("behaviour_points", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
