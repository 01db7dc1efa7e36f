"""Grades: what a record's answer is worth, by a rule, a program or a judge.

A grade is a note on the row, written by a step when the row is made and read by ``Noted("right", "rows")``: it is fixed
before anything trains on it, and it is stored, resumed and weighed like every other note.
"""

from .grade import Grade, Verifier, find
from .implicit import log_ratio
from .judge import Judge
from .numbers import Number
from .program import Passes
from .schema import Schema
from .symbols import Symbolic
from .task import Solves
from .text import Exact

__all__ = [
    "Exact",
    "Grade",
    "Judge",
    "Number",
    "Passes",
    "Schema",
    "Solves",
    "Symbolic",
    "Verifier",
    "find",
    "log_ratio",
]
