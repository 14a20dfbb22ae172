"""Make the small store that probes are fitted on in CI: 16 mazes through the bundled model, 32 random directions kept.

python examples/ci/make_store.py examples/ci/store
"""

import sys
from pathlib import Path

import interp
from interp.store import Store

MAZES = 16


def make(to: Path) -> Store:
    """Capture the last latent frame after every block at every step."""
    lab = interp.load("wan-maze-mini")
    task = interp.tasks.get("maze", size=4)
    runs = lab.plan(task.sample(MAZES, seed=0), seeds=1, steps=8)
    where = interp.select("blocks.*.hook_resid_post", branch="cond", frames=-1)
    return lab.capture(runs, where, to=to, views="random_projection-32", progress=False)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
