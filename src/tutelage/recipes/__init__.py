"""Recipes: one short file a system, found by file name."""
