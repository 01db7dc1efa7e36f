"""Benchmarks: `python -m benchmarks NAME`, or `all`."""
