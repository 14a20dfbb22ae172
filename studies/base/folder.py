"""The folder a study writes to: it takes an empty one or its own, and every file in it is whole or absent.

A marker file says whose folder it is. Files are written beside their place and renamed, so a study that was stopped
leaves no half of a table; the activations have a store of their own, which keeps every finished run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.errors import OutputError

MARKER = "study.json"


class StudyFolder:
    """An output folder, ready to be written.

    Args:
        path: made if missing, with its parents.
        study: name of the study.

    Raises:
        OutputError: the path is a file, cannot be written, or holds something that is not this study's.
    """

    def __init__(self, path: str | Path, study: str) -> None:
        self.path, self.study = Path(path), study
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"--out {path} is a file; give a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            present = sorted(p.name for p in self.path.iterdir())
        except OSError as error:
            raise OutputError(
                f"--out {path} cannot be used: {_reason(error)}; give a folder you can write to"
            ) from error
        if present and not self._is_own():
            raise OutputError(
                f"--out {path} is not empty ({', '.join(present[:3])}{' ...' if len(present) > 3 else ''}) and was not "
                "made by this study; give an empty or a new folder"
            )
        self.write_text(MARKER, json.dumps({"study": study}) + "\n")

    def _is_own(self) -> bool:
        try:
            return bool(json.loads((self.path / MARKER).read_text())["study"] == self.study)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write to, which becomes ``name`` when the block ends well and vanishes when it does not."""
        place = self.path / name
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".tmp-", suffix=place.suffix)
            os.close(handle)
        except OSError as error:
            raise OutputError(f"{place} cannot be written: {_reason(error)}") from error
        try:
            yield Path(temporary)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(place)
        except OSError as error:
            raise OutputError(f"{place} cannot be written: {_reason(error)}") from error
        finally:
            Path(temporary).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        with self.writing(name) as place:
            place.write_text(text, encoding="utf-8")
        return self.path / name

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON; numbers that are not finite become null."""
        return self.write_text(name, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")

    def write_with(self, name: str, write: Callable[[Path], object]) -> Path:
        """Let a function write the file: ``folder.write_with("table.parquet", table.write_parquet)``."""
        with self.writing(name) as place:
            write(place)
        return self.path / name


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
