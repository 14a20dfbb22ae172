"""Columns that many tables have, by name: what they mean."""

from __future__ import annotations

INTERVAL = {"low": "lower end of its 95 % interval (bootstrap over problems)", "high": "upper end"}
PROBLEMS = {"n": "problems"}
