"""Every error a user can meet, in one small tree.

::

    TutelageError
    ├── SettingError   (ValueError)        a setting, argument or key is wrong
    │   └── UnknownName (KeyError)         a name is not in a catalogue; near matches are listed
    ├── NeedError      (TypeError)         a part asks for what a voice or batch cannot give
    ├── DataError      (ValueError)        a record, file or batch cannot be used
    ├── ModelError     (ValueError)        weights, tokenizer or template cannot be used
    ├── StoreError     (OSError)           a cache, checkpoint or results file is missing, corrupt or foreign
    ├── ServerError    (ConnectionError)   a model's server is down, slow, refuses or is no longer the same
    ├── MissingExtra   (ImportError)       an optional dependency is not installed
    └── Diverged       (ArithmeticError)   a loss or gradient is not finite

Each message has four parts: where, what was found, what was expected, what to do. Each class also
is the standard error that it refines, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TutelageError(Exception):
    """An error with four parts: ``where``, ``got``, ``expected`` and ``remedy``."""

    def __init__(self, where: str, *, got: str, expected: str, remedy: str) -> None:
        self.where, self.got, self.expected, self.remedy = where, got, expected, remedy
        super().__init__(where, got, expected, remedy)

    def __str__(self) -> str:
        return f"{self.where}: got {self.got}; expected {self.expected}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.where, self.got, self.expected, self.remedy)


class SettingError(TutelageError, ValueError):
    """A setting, argument or key is wrong."""


class UnknownName(SettingError, KeyError):
    """A name that is not among the known ones."""

    __str__ = TutelageError.__str__


class NeedError(TutelageError, TypeError):
    """A part asks for what a voice or a batch cannot give."""


class DataError(TutelageError, ValueError):
    """A record, a data file or a batch cannot be used."""


class ModelError(TutelageError, ValueError):
    """Weights, a tokenizer or a chat template cannot be used."""


class StoreError(TutelageError, OSError):
    """A cache, checkpoint or results file is missing, corrupt or belongs to something else."""

    __str__ = TutelageError.__str__


class ServerError(TutelageError, ConnectionError):
    """A model's server is down, slow, refuses, or is no longer the same; ``status`` is its HTTP status, 0 for none.

    ``passing`` is True where it could not be reached, which says nothing of the model that it holds.
    """

    status = 0
    passing = False
    __str__ = TutelageError.__str__


class MissingExtra(TutelageError, ImportError):
    """An optional dependency is not installed."""

    __str__ = TutelageError.__str__


class Diverged(TutelageError, ArithmeticError):
    """A loss or a gradient is not finite."""


def unknown(where: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownName:
    """The error for a name that is not known, with its near matches."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(names) or 'none'}."
    return UnknownName(where, got=repr(name), expected="a known name", remedy=f"{hint} {remedy}".strip())


def missing_extra(feature: str, package: str, extra: str) -> MissingExtra:
    """The error for an optional package that is absent."""
    return MissingExtra(
        feature,
        got=f"no installed package {package!r}",
        expected="the optional dependency",
        remedy=f"Install it with: pip install 'tutelage[{extra}]'",
    )


def _rebuild(cls: type[TutelageError], where: str, got: str, expected: str, remedy: str) -> TutelageError:
    return cls(where, got=got, expected=expected, remedy=remedy)
