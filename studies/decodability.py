"""When, and in which layer, does the answer of a run become decodable?

Fork mazes have two equally short routes; which one a run takes depends on its seed. The study runs the model on fork
mazes and ordinary ones, keeps the hidden states of the last latent frame after every block at every step, and asks of
every step x layer cell how well a linear probe can tell the run's own answer, beside probes on what the network was
given and on shuffled labels. It leaves in its folder:

- ``report.html``: the page; ``*.png``: its figures.
- ``table.parquet``: one row per probe; its columns are described in `studies.cells.COLUMNS`.
- ``x0_hat.parquet``: what x0_hat shows, by step.
- ``summary.json``: findings, claims with their rules, onset by target and layer, versions, seeds, command.
- ``cache/``: the store of activations, one shard a run. A second call with the same folder repeats no finished run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.errors import TaskError
from studies.command import run_command
from studies.targets import DEFAULTS, TARGETS, Target, target_named

if TYPE_CHECKING:
    from interp.lab import Lab
    from interp.runspec import RunSpec
    from interp.selection import Selection
    from interp.store import Store
    from interp.tasks import MazeTask, Sample
    from studies.readout import Readout

STUDY = "decodability"
QUESTION = "When, and in which layer, does the answer of a run become decodable?"


@dataclass(frozen=True)
class Settings:
    """What the command line says; the help of each option describes it."""

    out: str
    model: str
    runs: int
    seeds: int
    seed: int
    steps: int
    size: int
    apart: int
    targets: tuple[Target, ...]
    hook: str
    guidance_scale: float
    scheduler: str | None
    batch_size: int
    shuffles: int
    rows: int
    device: str | None
    dtype: str | None
    command: str


@dataclass(frozen=True)
class Set:
    """One kind of mazes and its runs, in one order.

    Attributes:
        name: "fork" or "ordinary".
        samples: of each run: [run].
        specs: [run].
    """

    name: str
    samples: tuple[Sample, ...]
    specs: tuple[RunSpec, ...]

    @property
    def keys(self) -> list[str]:
        """Run keys."""
        return [spec.key for spec in self.specs]

    @property
    def mazes(self) -> int:
        """Different mazes."""
        return len({sample.key for sample in self.samples})


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line.

    Raises:
        TaskError: an unknown target, or more seeds than runs.
    """
    parser = argparse.ArgumentParser(
        prog="python -m studies.decodability",
        description=QUESTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--out", required=True, metavar="DIR", help="folder to write to: new, empty, or of an earlier call (it goes on)"
    )
    add("--model", default="wan-maze-mini", help="bundled name, folder of a diffusers pipeline, or hub id")
    add("--runs", type=_positive, default=96, help="runs for each kind of mazes (fork, ordinary)")
    add("--seeds", type=_positive, default=2, help="runs of one maze, each with noise of its own")
    add("--seed", type=int, default=0, help="which mazes and which noise")
    add("--steps", type=_positive, default=20, help="denoising steps")
    add("--size", type=int, default=6, help="cells a side, 4 to 8")
    add("--apart", type=_positive, default=4, help="cells in which the two routes of a fork differ, at least")
    add(
        "--target", nargs="+", default=list(DEFAULTS), metavar="NAME",
        help=f"what to probe for: {', '.join(TARGETS)}; taken_route uses fork mazes, the others ordinary ones",
    )  # fmt: skip
    add("--hook", default="hook_resid_post", help="hook point of a block to probe")
    add("--guidance-scale", type=float, default=1.0, help="classifier-free guidance; 1 is none")
    add("--scheduler", choices=("euler", "unipc"), default=None, help="in place of the pipeline's own")
    add("--batch-size", type=_positive, default=16, help="runs in one forward")
    add("--shuffles", type=_positive, default=10, help="label shuffles behind a chance level")
    add(
        "--rows", type=_positive, default=1500, help="tokens a probe is fitted on, at most; drawn evenly from the mazes"
    )
    add("--device", default=None, help="where the model runs, such as cuda")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default=None, help="load the model in this precision")
    given = parser.parse_args(arguments)
    if given.seeds > given.runs:
        raise TaskError(f"--seeds {given.seeds} of each maze are more than --runs {given.runs}")
    values = {k: v for k, v in vars(given).items() if k != "target"}
    return Settings(
        **values,
        targets=tuple(target_named(name) for name in dict.fromkeys(given.target)),
        command=f"python -m studies.decodability {shlex.join(arguments)}",
    )


def main(arguments: Sequence[str]) -> None:
    """Run the study; see the module."""
    settings = parse(arguments)
    from studies.cells import fit_targets
    from studies.folder import StudyFolder
    from studies.page import write_page

    begun = time.perf_counter()
    folder = StudyFolder(settings.out, STUDY)
    lab, task = _load(settings)
    sets = plan(lab, task, settings)
    store = lab.capture(
        [spec for one in sets.values() for spec in one.specs],
        selection(lab, settings),
        to=folder / "cache",
        batch_size=settings.batch_size,
    )
    captured = time.perf_counter()
    print("reading x0_hat ...", flush=True)
    readouts = {name: read_out(lab, task, store, one) for name, one in sets.items()}
    fits = fit_targets(settings, store, sets)
    page = write_page(folder, settings, lab, sets, readouts, fits)
    done = time.perf_counter()
    print(f"sampling {captured - begun:.0f} s, probes and figures {done - captured:.0f} s\nreport: {page}")


def _load(settings: Settings) -> tuple[Lab, MazeTask]:
    import interp

    options: dict[str, Any] = {}
    if settings.dtype:
        import torch

        options["torch_dtype"] = getattr(torch, settings.dtype)
    task = interp.tasks.get("maze", size=settings.size)
    lab = interp.load(settings.model, **options)
    if settings.device:
        lab.pipe.to(settings.device)
    return lab, task


def plan(lab: Lab, task: MazeTask, settings: Settings) -> dict[str, Set]:
    """The runs of each kind of mazes that a target needs. Every run has noise of its own."""
    sets = {}
    for fork in sorted({target.fork for target in settings.targets}, reverse=True):
        mazes = -(-settings.runs // settings.seeds)
        samples = task.sample(mazes, seed=settings.seed, fork=fork, apart=settings.apart)
        specs: list[RunSpec] = []
        for number, sample in enumerate(samples):
            first = settings.seed * 1_000_000 + number * settings.seeds
            specs += lab.plan(
                sample,
                seeds=range(first, first + settings.seeds),
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                scheduler=settings.scheduler,
            )
        specs = specs[: settings.runs]
        name = "fork" if fork else "ordinary"
        sets[name] = Set(name, tuple(spec.sample for spec in specs), tuple(specs))
    return sets


def selection(lab: Lab, settings: Settings) -> Selection:
    """Hidden states, noisy latents and x0_hat, of the tokens of the last latent frame.

    x0_hat is kept whole where the VAE cannot decode the last latent frame without the others.
    """
    from interp import select
    from interp.mini.vae import is_block_exact

    hidden = select(f"blocks.*.{settings.hook}", branch="cond", frames=-1)
    estimate = select("latents.hook_x0", frames=-1 if is_block_exact(lab.pipe.vae) else None)
    return hidden | select("latents.hook_in", frames=-1) | estimate


def read_out(lab: Lab, task: MazeTask, store: Store, one: Set) -> Readout:
    """x0_hat of a set, decoded and scored."""
    from studies.readout import read_x0

    grid = lab.grid(one.samples[0])
    answers = store.labels("on_path", runs=one.keys).reshape(len(one.keys), grid.frames, grid.rows, grid.cols)
    tokens = store.read("latents.hook_x0", runs=one.keys)
    return read_x0(task, one.samples, tokens, grid, lab.frames, answers[:, -1])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    raise SystemExit(run_command(main, sys.argv[1:]))
