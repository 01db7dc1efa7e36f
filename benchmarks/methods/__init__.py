"""A fair bench of methods: `python -m benchmarks.methods`."""
