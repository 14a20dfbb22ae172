"""What the store costs beside the bare disk, and beside h5py, zarr, safetensors and torch.save.

    python -m benchmarks.store --json                     # about 10 GB of disk for a moment; 10 minutes
    python -m benchmarks.store --only "read one cell"     # some cases, by how their names begin; the others are kept
    python -m benchmarks.store --quick 1                  # seconds; figures that mean nothing

Writing: 84 MB, 1 MB and 2 KB events with fsync; background writing beside a producer. Reading: one cell over 300 runs
(1.2 and 49 MB) and the whole grid. Consolidating, beside a copy of the shards. Codecs, on activations of the bundled
model. The limit is the disk (or, warm, memory), which the raw cases measure in the same rounds. "Cold" means that this
machine's page cache was dropped for the files by ``posix_fadvise``, which needs no root; a cache beneath, of a virtual
machine's host or of the drive, may still hold them.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.harness import arguments, kept_rows, publish
from benchmarks.stores.coding import coding_rows
from benchmarks.stores.common import FULL, QUICK, Scale
from benchmarks.stores.consolidating import consolidating_rows
from benchmarks.stores.overlapping import background_rows
from benchmarks.stores.reading import read_rows
from benchmarks.stores.writing import write_rows

KINDS = {
    "write": write_rows,
    "background": background_rows,
    "read": read_rows,
    "consolidate": consolidating_rows,
    "codec": coding_rows,
}


def rows_of(folder: Path, scale: Scale, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Rows of the cases whose names begin with ``only``, made in a folder that is removed by the caller."""
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr speaks of codecs to come
        for name, make in KINDS.items():
            (folder / name).mkdir()
            rows += make(folder / name, scale, rounds, only)
    return rows


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=5, quick=0, folder="", only="")
    name = "store_quick" if chosen.quick else "store"
    with tempfile.TemporaryDirectory(dir=chosen.folder or None) as folder:
        rows = rows_of(Path(folder), QUICK if chosen.quick else FULL, chosen.rounds, chosen.only)
    if not rows:
        raise SystemExit(f"no case begins with {chosen.only!r}")
    if chosen.only:
        measured = {(one["case"], one["peer"]) for one in rows}
        kept = [one for one in kept_rows(name) if not one["case"].startswith(chosen.only)]
        rows += [one for one in kept if (one["case"], one["peer"]) not in measured]
    publish(name, sorted(rows, key=lambda one: one["case"]), as_json=chosen.json)


if __name__ == "__main__":
    main()
