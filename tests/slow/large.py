"""Writes and checks a store much larger than its memory, and says how much memory that took.

    python -m tests.slow.large FOLDER --gigabytes 40

Tensors of 84 MB (or what ``--event`` says) are handed to the background writer as `lab.capture` hands them, as fast as
it takes them; then every byte is verified and some cells are read back. With ``--consolidate`` the store is then made
site-major in as much memory as that says, verified and read again. Printed as JSON: bytes, and by how much the memory
of the capturing process, which holds a stand-in for the model's output, and that of the writing process grew.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

import torch

from interp.grid import TokenGrid
from interp.store import RunLayout, SiteLayout, Store, consolidate, verify

FEATURES = 5120


def layout_of(run: str, steps: int, tokens: int) -> RunLayout:
    """A run of one site."""
    return RunLayout(
        run=run,
        sites=(SiteLayout("resid", ("step", "branch", "token", "feature"), (steps, 1, tokens, FEATURES), "bfloat16"),),
        steps=tuple(range(steps)),
        sigmas=(0.5,) * steps,
        timesteps=(500.0,) * steps,
        experts=("main",) * steps,
        branches=("cond",),
        grid=TokenGrid(frames=1, rows=1, cols=tokens),
        provenance={"model": "large"},
    )


def peak(process: str = "self") -> int:
    """Bytes of main memory that a process held at most, without the slots that it shares."""
    fields = dict(line.split(":") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) << 10


def check(folder: Path, steps: int, output: torch.Tensor) -> int:
    """Verify a store, and read some of its cells back; gives the bytes that were verified.

    Raises:
        AssertionError: something is damaged, or reads back other than it was written.
    """
    store = Store.open(folder)
    report = verify(store)
    assert report.ok, report.damaged
    for number in {0, len(store) // 2, len(store) - 1}:
        got = store.read("resid", step=steps - 1, branch="cond", runs=[store.runs[number]], as_="torch")[0]
        assert torch.equal(got[0, :2], torch.tensor([number, steps - 1], dtype=torch.bfloat16))
        assert torch.equal(got[1:], output[1:])
        del got
    return report.nbytes


def run(folder: Path, nbytes: int, event: int, steps: int, memory: int, again: int = 0) -> dict[str, int]:
    """Write ``nbytes`` in runs of ``steps`` events, and check all of it; consolidate in ``again`` bytes, if any.

    Raises:
        AssertionError: something reads back other than it was written.
    """
    tokens = event // (2 * FEATURES)
    output = torch.randn(tokens, FEATURES, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    runs = -(-nbytes // (steps * output.nbytes))
    store = Store.create(folder)
    before = peak()
    with store.background(memory) as writers:
        for number in range(runs):
            layout = layout_of(f"run{number:05}", steps, tokens)
            writer = writers.writer(layout.run, layout)
            for step in range(steps):
                output[0, :2] = torch.tensor([number, step])  # small numbers, which bfloat16 holds exactly
                writer.write("resid", step, 0, output)
            writer.finish()
        writers.flush()
        written, writing = peak(), peak(str(writers.process.pid))
    verified, read, twice = check(folder, steps, output), peak(), 0
    if again:
        consolidate(store, memory=again)
        assert store.consolidated == frozenset(store.runs)
        twice = check(folder, steps, output)
    return {
        "bytes": verified,
        "runs": runs,
        "bytes of a run": steps * output.nbytes,
        "capturing process, grown by": written - before,
        "with checking and reading, grown by": read - before,
        "with consolidating, grown by": peak() - before,
        "bytes when consolidated": twice,
        "writing process": writing,
        "largest of all processes": max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, writing),
    }


def main() -> None:
    """Run it and print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=40)
    parser.add_argument("--event", type=int, default=84_000_000, help="bytes")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--memory", type=int, default=256 << 20, help="bytes between the two processes")
    parser.add_argument("--consolidate", type=int, default=0, help="bytes to consolidate in; needs the disk twice")
    options = parser.parse_args()
    torch.set_num_threads(1)
    nbytes = int(options.gigabytes * 1e9)
    seen = run(options.folder, nbytes, options.event, options.steps, options.memory, options.consolidate)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
