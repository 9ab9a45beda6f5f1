"""Benchmarks: each module here is one, run by ``make bench-NAME`` or ``python -m tests.bench.NAME --help``.

``harness`` holds what they share, ``plain`` the ways of other people that they compare with.
"""
