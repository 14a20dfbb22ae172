"""Solve rates of a maze model on held-out mazes: ``python -m interp.mini.measure --model wan-maze-mini``.

At 20 steps every video goes through the stock pipeline call, from the PIL image to scored frames. Fewer steps go
through the lab's batched loop and the closed-form decoder, which tests hold equal to the pipeline. Finished cells of
the table are kept, so the command can be stopped and run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.lab import Lab, load
from interp.mini.data import draw_training_maze
from interp.mini.recipe import Recipe
from interp.model import bundled_folder
from interp.tasks import get as get_task
from interp.tasks.sample import Sample

HELD_OUT_SEED = 20_000
STOCK_STEPS = 20


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    share, spread = successes / n, z * z / n
    centre = share + spread / 2
    half = z * np.sqrt(share * (1 - share) / n + spread / (4 * n))
    return float((centre - half) / (1 + spread)), float((centre + half) / (1 + spread))


def solve_stock(lab: Lab, samples: Sequence[Sample], steps: int) -> list[bool]:
    """Whether each sample is solved by ``pipe(image=..., prompt=...)``, sample k with seed k."""
    task, solved = get_task("maze", size=samples[0].problem.size), []
    for seed, sample in enumerate(samples):
        frames = lab.pipe(
            image=sample.image,
            prompt=sample.prompt,
            height=sample.height,
            width=sample.width,
            num_frames=sample.num_frames,
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
        ).frames[0]
        solved.append(task.score(sample, frames).valid)
    return solved


def solve_batched(lab: Lab, samples: Sequence[Sample], steps: int, batch: int = 32) -> list[bool]:
    """The same through the lab, sample k with seed k."""
    task, solved = get_task("maze", size=samples[0].problem.size), []
    runs = [lab.plan(sample, seeds=[seed], steps=steps)[0] for seed, sample in enumerate(samples)]
    for first in range(0, len(runs), batch):
        trajectories = lab.run_batch(runs[first : first + batch])
        frames = lab.frames(torch.stack([t.result for t in trajectories]))
        solved += [task.score(r.sample, f).valid for r, f in zip(runs[first : first + batch], frames, strict=True)]
    return solved


def training_overlap(recipe: Recipe, keys: set[str]) -> int:
    """How many of these mazes (walls, start and goal) were drawn in training."""
    seen = (draw_training_maze(recipe, b, r)[0].key for b in range(recipe.batches) for r in range(recipe.batch))
    return len(keys & set(seen))


def measure(lab: Lab, path: Path, sizes: Sequence[int], steps: Sequence[int], n: int) -> dict[str, Any]:
    """Fill the card's table of solve rates, one cell after the other, saving each."""
    card: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"name": lab.name}
    rates = card.setdefault("solve_rates", {})
    for size in sizes:
        samples = get_task("maze", size=size).sample(n, seed=HELD_OUT_SEED)
        for count in steps:
            cell = f"{size}x{size}, {count} steps"
            if rates.get(cell, {}).get("n") == n:
                continue
            stock = count == STOCK_STEPS
            solved = solve_stock(lab, samples, count) if stock else solve_batched(lab, samples, count)
            low, high = wilson(sum(solved), n)
            rates[cell] = {
                "solved": sum(solved) / n,
                "low": low,
                "high": high,
                "n": n,
                "through": "pipe(...)" if stock else "lab.run_batch",
            }
            print(f"{cell}: {sum(solved)}/{n} = {sum(solved) / n:.3f} [{low:.3f}, {high:.3f}]", flush=True)
            path.write_text(json.dumps(card, indent=1) + "\n")
    card["held_out_seed"] = HELD_OUT_SEED
    card["measure_command"] = "python -m interp.mini.measure --model wan-maze-mini --overlap"
    path.write_text(json.dumps(card, indent=1) + "\n")
    return card


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="wan-maze-mini")
    parser.add_argument("--card", type=Path, help="JSON file to fill; the bundled model's own by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 1, 2, 4, 8])
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--overlap", action="store_true", help="also count held-out mazes drawn in training (minutes)")
    args = parser.parse_args(argv)
    path = args.card or bundled_folder(args.model) / "card.json"
    measure(load(args.model), path, args.sizes, args.steps, args.n)
    if args.overlap:
        tasks = [get_task("maze", size=size) for size in args.sizes]
        keys = {sample.problem.key for task in tasks for sample in task.sample(args.n, seed=HELD_OUT_SEED)}
        card = json.loads(path.read_text())
        card["held_out_mazes_seen_in_training"] = training_overlap(Recipe(), keys)
        card["held_out_mazes"] = len(keys)
        path.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
