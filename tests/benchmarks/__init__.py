"""Measurements that need a quiet hour rather than a green light: `make bench`, or `python -m tests.benchmarks`."""
