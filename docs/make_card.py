"""Render the model card's page from the ``card.json`` beside the weights: ``python -m docs.make_card``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZES, STEPS = (4, 5, 6), (1, 2, 4, 8, 20)


def render(card: dict[str, Any]) -> str:
    """The card as MyST Markdown."""
    rates, recipe = card["solve_rates"], card["recipe"]
    lines = [
        f"# {card['name']}",
        "",
        f"An ordinary diffusers folder for `{card['pipeline']}`; the transformer has {card['parameters']:,} "
        f"parameters in {recipe['layers']} blocks of width {recipe['width']}. It draws the shortest route through a "
        "maze of 4x4 to 6x6 cells that it is shown in the first frame, with or without a trail, as the prompt asks.",
        "",
        "![x0_hat of the last frame at chosen steps](_static/x0hat.png)",
        "",
        "## Solve rates on held-out mazes",
        "",
        "Share of mazes whose last frame shows exactly one simple open path from start to goal, with 95 % Wilson "
        f"intervals; n = {next(iter(rates.values()))['n']} mazes a cell, guidance 1, maze k with seed k.",
        "",
        "| size | " + " | ".join(f"{s} step{'s' * (s > 1)}" for s in STEPS) + " |",
        "|---|" + "---|" * len(STEPS),
    ]
    for size in SIZES:
        cells = [rates[f"{size}x{size}, {s} steps"] for s in STEPS]
        shown = [f"{c['solved']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells]
        lines.append(f"| {size}x{size} | " + " | ".join(shown) + " |")
    lines += [
        "",
        "At 20 steps through the stock pipeline call, from the PIL image to scored frames; else through "
        f"`Lab.run_batch`. Of the {card['held_out_mazes']} held-out mazes "
        f"{card['held_out_mazes_seen_in_training']} turned up in training by chance. "
        f"Measured with `{card['measure_command']}`.",
        "",
        "## Training",
        "",
        f"{card['videos_seen']:,} videos, each seen once ({card['data']}), in {card['training_minutes']} minutes of "
        "two CPU cores that were also doing other work. "
        f"`{card['train_command']}` does it again. The recipe:",
        "",
        "```json",
        json.dumps(recipe, indent=1),
        "```",
        "",
        f"Fingerprint of the weights: `{card['fingerprint']}`.",
        "",
        "Source files: `interp/mini/`, `interp/models/wan-maze-mini/card.json`, `docs/make_card.py`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "interp" / "models" / "wan-maze-mini"
    page = Path(__file__).with_name("wan-maze-mini.md")
    page.write_text(render(json.loads((folder / "card.json").read_text())))
    print(page)
