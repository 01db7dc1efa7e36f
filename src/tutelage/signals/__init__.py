"""Losses, weights, rewards, advantages and metrics: one type."""
