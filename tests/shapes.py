"""The run-time type and shape check that the test suite lays over ``interp`` and ``probes``."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do where a float is asked for
