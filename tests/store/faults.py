"""A disk that refuses, for the tests of `interp.store`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp.errors import StoreError


def leftovers(path: Path) -> list[str]:
    return [p.name for p in path.rglob("*") if ".tmp." in p.name]


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Faults:
    """Makes the n-th of the system calls fail that change what is on the disk."""

    CALLS = ("pwrite", "fsync", "ftruncate", "replace", "posix_fallocate", "open")

    def __init__(self, at: int, error: int, short: bool) -> None:
        self.at, self.error, self.short, self.count = at, error, short, 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in self.CALLS:
            patch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            self.count += 1
            if self.count == self.at:
                if name == "pwrite" and self.short and len(args[1]) > 1:  # part of the bytes, then nothing
                    real(args[0], memoryview(args[1])[: len(args[1]) // 2], args[2])
                raise OSError(self.error, os.strerror(self.error))
            return real(*args, **kwargs)

        return call


def failing_at_each_call(action: Callable[[], object], after: Callable[[str], None]) -> int:
    """Have the disk refuse each call in turn until all work; gives how many there are."""
    at = 0
    while True:
        at += 1
        faults, said = Faults(at, errno.ENOSPC, short=at % 2 == 0), ""
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                action()
            except StoreError as error:
                said = str(error)
        if faults.count < at:
            return at
        assert os.strerror(errno.ENOSPC) in said
        after(said)
