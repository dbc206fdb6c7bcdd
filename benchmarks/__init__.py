"""Benchmarks: this backend, its peers and the engine's own limit doing the same work, side by side in one run."""
