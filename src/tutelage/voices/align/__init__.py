"""Voices of models with another tokenizer."""

from .aligned import Aligned, foreign_slots
from .vocabulary import Common, common

__all__ = ["Aligned", "Common", "common", "foreign_slots"]
