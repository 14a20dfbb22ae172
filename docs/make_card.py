"""Render the bundled models' pages from the ``card.json`` beside their weights: ``python -m docs.make_card``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTH = 100
SIZES, STEPS = (4, 5, 6), (1, 2, 4, 8, 20)
MODELS = Path(__file__).parents[1] / "interp" / "models"


def render(card: dict[str, Any]) -> str:
    """The card as MyST Markdown."""
    return _render_pair(card) if card.get("experts", 1) == 2 else _render_mazes(card)


def _render_mazes(card: dict[str, Any]) -> str:
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
        *_ending(card),
    ]
    return "\n".join(lines)


def _render_pair(card: dict[str, Any]) -> str:
    rates, recipe = card["solve_rates"], card["recipe"]
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for name, cell in rates.items():
        what, how = name.split(", ", 1)
        cells.setdefault(what, {})[how] = cell
    columns = list(dict.fromkeys(how for row in cells.values() for how in row))
    lines = [
        f"# {card['name']}",
        "",
        f"An ordinary diffusers folder for `{card['pipeline']}` with two experts of {card['parameters']:,} parameters "
        f"in {recipe['layers']} blocks of width {recipe['width']} each; the high-noise one runs from sigma "
        f"{recipe['boundary']}. The prompt chooses the task: mazes of 4x4 to 8x8 cells, grounding, reappearance, "
        "bounce "
        "(see [Tasks](tasks.md)).",
        "",
        "## Solve rates on held-out problems",
        "",
        "Share of problems that are solved, with 95 % Wilson intervals; "
        f"n = {next(iter(rates.values()))['n']} a cell, problem k with seed k. Mazes: the last frame shows exactly one "
        "simple open path from start to goal. Others: the last frame shows the right answer.",
        "",
        "| task | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for what, row in cells.items():
        shown = [f"{c['solved']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "" for c in map(row.get, columns)]
        lines.append(f"| {what} | " + " | ".join(shown) + " |")
    stock = any(cell["through"] == "pipe(...)" for cell in rates.values())
    through = (
        "Cells at 20 steps without guidance go through the stock pipeline call, the others through `Lab.run_batch`."
        if stock
        else "All go through `Lab.run_batch`."
    )
    lines += [
        "",
        f"{through} None of these problems was trained on{_before(card)}. Measured with `{card['measure_command']}`.",
        "",
        "## Training",
        "",
        f"{card['videos_seen']:,} videos ({card['data']}), in {card['training_minutes']} minutes on {card['device']}"
        f"{_grown(recipe)}. "
        f"`{card['train_command']}` does it again; see [Training](training.md). The recipe:",
        "",
        *_ending(card),
    ]
    return "\n".join(lines)


def _before(card: dict[str, Any]) -> str:
    """What a model that was grown from another has to say of the other's training."""
    if not card["recipe"].get("grown_from"):
        return ""
    return (
        f" here; of the {card['held_out_mazes']} mazes {card['held_out_mazes_seen_in_training']} had been drawn in the "
        "training of the model that it grew from"
    )


def _grown(recipe: dict[str, Any]) -> str:
    source = recipe.get("grown_from")
    return f", after those of [{source}]({source}.md), from whose blocks it was grown" if source else ""


def _as_json(value: Any, indent: int = 0) -> str:
    """JSON with lists and objects on one line where they fit."""
    flat = json.dumps(value)
    if indent + len(flat) <= WIDTH or not isinstance(value, list | dict):
        return flat
    named = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    lines = [("" if name is None else f"{json.dumps(name)}: ") + _as_json(item, indent + 1) for name, item in named]
    ends, gap = "{}" if isinstance(value, dict) else "[]", "\n" + " " * indent
    return f"{ends[0]}{gap} " + f",{gap} ".join(lines) + f"{gap}{ends[1]}"


def _ending(card: dict[str, Any]) -> list[str]:
    return [
        "```json",
        _as_json(card["recipe"]),
        "```",
        "",
        f"Fingerprint of the weights: `{card['fingerprint']}`.",
        "",
        f"Source files: `interp/mini/`, `interp/models/{card['name']}/card.json`, `docs/make_card.py`.",
        "",
    ]


if __name__ == "__main__":
    for file in sorted(MODELS.glob("*/card.json")):
        page = Path(__file__).parent / f"{file.parent.name}.md"
        page.write_text(render(json.loads(file.read_text())))
        print(page)
