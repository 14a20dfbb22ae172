"""Fit probes on a cached store and fail if a finding is gone: no model, no GPU, seconds.

python examples/ci/fit.py examples/ci/store report/
"""

import sys
from pathlib import Path

import probes
from interp.store import Store


def main(folder: str, out: str) -> None:
    """Write the grid, its table and its figure; raise if the path is no longer decodable from the middle on."""
    site = "blocks.{layer}.hook_resid_post@random_projection-32"
    grid = probes.fit_grid(Store.open(folder), target="on_path", groups="sample", site=site)
    grid.save(Path(out) / "grid")
    grid.plot(Path(out) / "when.png")
    onset = grid.onset().row(-1, named=True)
    print(grid.table.select("step", "layer", "score", "low", "high", "chance_high"))
    print(onset)
    if onset["onset"] is None or onset["onset"] > 4:
        raise SystemExit(f"The path is decodable from step {onset['onset']}; it was from the first steps on.")


if __name__ == "__main__":
    main(*sys.argv[1:])
