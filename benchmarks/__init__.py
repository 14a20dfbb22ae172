"""Benchmarks: ``python -m benchmarks.NAME --json`` prints one object and keeps it in ``benchmarks/results``."""
