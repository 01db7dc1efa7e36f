"""From a RunFile to a run."""
