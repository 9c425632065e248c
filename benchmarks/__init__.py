"""Benchmarks: each module measures one thing, with all contestants in one run."""
