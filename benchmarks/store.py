"""What the store costs beside the bare disk, and beside h5py, zarr, safetensors and torch.save.

    python -m benchmarks.store --json            # about 10 GB of disk for a moment; 10 minutes
    python -m benchmarks.store --quick 1         # seconds; figures that mean nothing

Writing: 84 MB, 1 MB and 2 KB events with fsync; background writing beside a producer. Reading: one cell over 300 runs
and the whole grid. The limit is the disk (or, warm, memory), which the raw cases measure in the same rounds. "Cold"
means that this machine's page cache was dropped for the files by ``posix_fadvise``, which needs no root; a cache
beneath, of a virtual machine's host or of the drive, may still hold them.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.harness import arguments, publish
from benchmarks.stores.common import FULL, QUICK, Scale
from benchmarks.stores.reading import read_rows
from benchmarks.stores.writing import background_rows, write_rows


def rows_of(folder: Path, scale: Scale, rounds: int, parts: str = "write,background,read") -> list[dict[str, Any]]:
    """All rows, made in a folder that is removed by the caller."""
    rows = []
    for name, make in (("write", write_rows), ("background", background_rows), ("read", read_rows)):
        if name in parts:
            (folder / name).mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zarr speaks of codecs to come
                rows += make(folder / name, scale, rounds)
    return rows


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=5, quick=0, folder="", parts="write,background,read")
    with tempfile.TemporaryDirectory(dir=chosen.folder or None) as folder:
        rows = rows_of(Path(folder), QUICK if chosen.quick else FULL, chosen.rounds, chosen.parts)
    publish("store" if not chosen.quick else "store_quick", rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
