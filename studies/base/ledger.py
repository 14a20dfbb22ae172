"""What a study has already measured: rows appended to a file as they come, so that a stopped study goes on.

One JSON object a line. A line that a stop cut short does not parse and is done again; everything before it counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import OutputError


class Ledger:
    """Results by key.

    Args:
        path: the file; made when the first result comes.

    Raises:
        OutputError: the file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, Any] = {}
        self._whole = 0
        if path.exists():
            try:
                content = path.read_bytes()
            except OSError as error:
                raise OutputError(f"{path} cannot be read: {(error.strerror or 'error').lower()}") from error
            for line in content.splitlines(keepends=True):
                entry = _entry(line)
                if entry is None:
                    break
                self._rows[entry[0]] = entry[1]
                self._whole += len(line)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Any:
        return self._rows[key]

    def put(self, key: str, value: Any) -> Any:
        """Keep a JSON-ready value, on disk before this returns; the value.

        Raises:
            OutputError: it could not be written; what was there before stays.
        """
        line = json.dumps({"key": key, "value": value}).encode() + b"\n"
        try:
            with self.path.open("r+b" if self.path.exists() else "wb") as file:
                file.seek(self._whole)
                file.truncate()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {(error.strerror or 'error').lower()}; "
                "what was measured before is kept"
            ) from error
        self._whole += len(line)
        self._rows[key] = value
        return value


def key_of(**parts: Any) -> str:
    """A short key for anything JSON-ready: 16 hexadecimal digits.

    >>> key_of(step=1, layer=2) == key_of(layer=2, step=1) != key_of(step=2, layer=1)
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _entry(line: bytes) -> tuple[str, Any] | None:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(found, Mapping) or "key" not in found or "value" not in found:
        return None
    return str(found["key"]), found["value"]
