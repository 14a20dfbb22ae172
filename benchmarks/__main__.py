"""Runs every benchmark in turn, each in a process of its own; ``python -m benchmarks.NAME --help`` tells of one."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NOT_ONE = {"__init__", "__main__", "harness"}


def main() -> None:
    """Run them all; the exit status is that of the first that failed."""
    argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__).parse_args()
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in NOT_ONE)
    for name in names:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
