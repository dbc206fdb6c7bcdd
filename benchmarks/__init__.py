"""Benchmarks: lmdbresults, its peers and bare LMDB do the same work, side by side in one run."""
