"""Solve rates of a bundled model on held-out problems: ``python -m interp.mini.measure --model wan-maze-mini``.

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

from interp.intervals import wilson
from interp.lab import Lab, load
from interp.mini.data import draw_training_maze
from interp.mini.evaluate import held_out_samples, task_of
from interp.mini.recipe import Recipe
from interp.model import bundled_folder
from interp.tasks import get as get_task
from interp.tasks.sample import Sample

HELD_OUT_SEED = 20_000
STOCK_STEPS = 20
MAZE_TABLE = {20: [1.0], 1: [1.0], 2: [1.0], 4: [1.0], 8: [1.0]}
PUZZLE_TABLE = {20: [1.0], 4: [1.0, 2.0]}
"""Steps of the sampler, and the guidance scales measured at each."""
PUZZLES = ("maze-4", "maze-5", "maze-6", "maze-7", "maze-8", "grounding", "reappearance", "bounce")


def is_solved(sample: Sample, frames: np.ndarray) -> bool:
    """Mazes: a valid path, as the card of the maze model counts; other tasks: the right answer."""
    score = get_task(sample.task).score(sample, frames)
    return bool(score.valid if sample.task == "maze" else score.solved)


def solve_stock(lab: Lab, samples: Sequence[Sample], steps: int, guidance: float = 1.0) -> list[bool]:
    """Whether each sample is solved by ``pipe(image=..., prompt=...)``, sample k with seed k."""
    solved = []
    for seed, sample in enumerate(samples):
        frames = lab.pipe(
            image=sample.image,
            prompt=sample.prompt,
            height=sample.height,
            width=sample.width,
            num_frames=sample.num_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            negative_prompt="" if guidance > 1 else None,
            generator=torch.Generator().manual_seed(seed),
        ).frames[0]
        solved.append(is_solved(sample, frames))
    return solved


def solve_batched(
    lab: Lab, samples: Sequence[Sample], steps: int, batch: int = 32, guidance: float = 1.0
) -> list[bool]:
    """The same through the lab, sample k with seed k."""
    solved = []
    runs = [
        lab.plan(sample, seeds=[seed], steps=steps, guidance_scale=guidance)[0] for seed, sample in enumerate(samples)
    ]
    for first in range(0, len(runs), batch):
        trajectories = lab.run_batch(runs[first : first + batch])
        frames = lab.frames(torch.stack([t.result for t in trajectories]))
        solved += [is_solved(r.sample, f) for r, f in zip(runs[first : first + batch], frames, strict=True)]
    return solved


def training_overlap(recipe: Recipe, keys: set[str]) -> int:
    """How many of these mazes (walls, start and goal) were drawn in the maze model's training."""
    seen = (draw_training_maze(recipe, b, r)[0].key for b in range(recipe.batches) for r in range(recipe.batch))
    return len(keys & set(seen))


def measure(
    lab: Lab,
    path: Path,
    parts: Sequence[str],
    steps: Sequence[int],
    n: int,
    *,
    held_out: bool = False,
    guidance: Sequence[float] = (1.0,),
    stock: bool = True,
) -> dict[str, Any]:
    """Fill the card's table of solve rates, one cell after the other, saving each.

    Args:
        lab: the model.
        path: the card, a JSON file.
        parts: what is solved, such as "maze-6" or "bounce".
        steps: of the sampler.
        n: problems of each part.
        held_out: only problems that the training left out by their hash, as the puzzle model's did.
        guidance: scales; 1 needs one pass a step, others two.
        stock: whether 20 steps at guidance 1 go through the stock pipeline call.
    """
    card: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"name": lab.name}
    rates = card.setdefault("solve_rates", {})
    for part in parts:
        samples = problems(part, n, held_out)
        for count in steps:
            for scale in guidance:
                cell = cell_name(part, count, scale)
                if rates.get(cell, {}).get("n") == n:
                    continue
                through_pipe = stock and count == STOCK_STEPS and scale == 1
                solve = solve_stock if through_pipe else solve_batched
                rates[cell] = _cell(solve(lab, samples, count, guidance=scale), through_pipe)
                print(f"{cell}: {rates[cell]}", flush=True)
                path.write_text(json.dumps(card, indent=1) + "\n")
    card["held_out_seed"] = HELD_OUT_SEED
    path.write_text(json.dumps(card, indent=1) + "\n")
    return card


def problems(part: str, n: int, held_out: bool) -> Sequence[Sample]:
    """What is measured on."""
    return held_out_samples(part, n, HELD_OUT_SEED) if held_out else task_of(part).sample(n, seed=HELD_OUT_SEED)


def cell_name(part: str, steps: int, guidance: float = 1.0) -> str:
    """How the card's table calls a cell.

    >>> cell_name("maze-6", 20), cell_name("bounce", 8, 2.0)
    ('6x6, 20 steps', 'bounce, 8 steps, guidance 2')
    """
    size = part.removeprefix("maze-")
    what = f"{size}x{size}" if part.startswith("maze-") else part
    return f"{what}, {steps} steps" + (f", guidance {guidance:g}" if guidance != 1 else "")


def _cell(solved: Sequence[bool], through_pipe: bool) -> dict[str, Any]:
    share = wilson(sum(solved), len(solved))
    return {
        "solved": share.share,
        "low": share.low,
        "high": share.high,
        "n": len(solved),
        "through": "pipe(...)" if through_pipe else "lab.run_batch",
    }


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="wan-maze-mini", help="a bundled name, or a folder with a card.json")
    parser.add_argument("--card", type=Path, help="JSON file to fill; the model's own by default")
    parser.add_argument("--parts", nargs="+", help="what is solved; by default all that the model was trained on")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--guidance", type=float, nargs="+")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--batched", action="store_true", help="20 steps through the lab too (faster)")
    parser.add_argument("--overlap", action="store_true", help="also count held-out mazes drawn in training (minutes)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    folder = Path(args.model) if Path(args.model).is_dir() else bundled_folder(args.model)
    path = args.card or folder / "card.json"
    puzzle = json.loads((folder / "card.json").read_text()).get("experts", 1) == 2
    lab = load(args.model)
    lab.pipe.to(args.device)
    parts = args.parts or (PUZZLES if puzzle else ("maze-4", "maze-5", "maze-6"))
    table = PUZZLE_TABLE if puzzle else MAZE_TABLE
    if args.steps or args.guidance:
        table = {count: args.guidance or [1.0] for count in args.steps or table}
    for count, scales in table.items():
        card = measure(lab, path, parts, [count], args.n, held_out=puzzle, guidance=scales, stock=not args.batched)
    card["measure_command"] = f"python -m interp.mini.measure --model {card['name']} --n {args.n} --overlap"
    if args.overlap:
        mazes = [part for part in parts if part.startswith("maze-")]
        keys = {sample.problem.key for part in mazes for sample in problems(part, args.n, puzzle)}
        card["held_out_mazes_seen_in_training"] = training_overlap(Recipe(), keys)
        card["held_out_mazes"] = len(keys)
    path.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
