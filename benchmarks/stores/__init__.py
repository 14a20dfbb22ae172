"""The cases of ``python -m benchmarks.store``: one module for writing, one for reading, and what both share."""
