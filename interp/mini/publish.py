"""Turn a training checkpoint into an ordinary diffusers folder: ``python -m interp.mini.publish``.

The folder holds what `WanImageToVideoPipeline.from_pretrained` expects and nothing else of ours but ``card.json``. A
model of two experts has ``transformer`` for high noise, ``transformer_2`` for low noise, and a ``boundary_ratio``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from interp.errors import ModelError
from interp.fingerprint import fingerprint
from interp.mini.expert import build_transformer
from interp.mini.recipe import HIGH, LOW, MAIN, RECIPES, PuzzleRecipe, Recipe, recipe_named
from interp.mini.text import build_text_encoder, build_tokenizer
from interp.mini.vae import build_vae

_DATA = {
    Recipe: "random mazes from interp.tasks.maze, targets are shortest routes, ties at random",
    PuzzleRecipe: "random problems of the tasks maze, grounding, reappearance and bounce; one in eight, by the hash of "
    "its first frame, is held out",
}


def build_pipeline(checkpoint: dict[str, Any], recipe: Recipe | PuzzleRecipe) -> Any:
    """The stock pipeline with the averaged weights of a checkpoint: fp32 for one expert, bf16 for two."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline

    two = HIGH in checkpoint["experts"]
    models = {}
    for name, state in checkpoint["experts"].items():
        models[name] = build_transformer(recipe)
        models[name].load_state_dict(state["ema"])
        models[name].eval()
    statistics = checkpoint["statistics"]
    second = {"transformer_2": models[LOW], "boundary_ratio": getattr(recipe, "boundary", None)} if two else {}
    return WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        vae=build_vae(statistics["mean"].numpy(), statistics["std"].numpy()),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.shift),
        transformer=models[HIGH if two else MAIN],
        **second,
    )


def publish(folder: Path, checkpoint_folder: Path, recipe: Recipe | PuzzleRecipe) -> Path:
    """Write the diffusers folder with a card that has everything but solve rates, which `interp.mini.measure` adds.

    Raises:
        ModelError: the checkpoint is missing or its training is not finished.
    """
    path = checkpoint_folder / "checkpoint.pt"
    if not path.is_file():
        raise ModelError(f"{path} is not there; train first: python -m interp.mini.train --out {checkpoint_folder}")
    checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    if checkpoint["recipe"] != json.dumps(recipe.as_dict()):
        raise ModelError(f"{path} was made by another recipe; name the one that it was trained with")
    if checkpoint["done"] < 1:
        how = f"batch {checkpoint['batch']} of {recipe.batches}"
        if checkpoint["minutes"] is not None:
            how = f"{checkpoint['seconds'] / 60:.0f} of {checkpoint['minutes']:.0f} minutes"
        raise ModelError(f"{path} holds {how}; run interp.mini.train again to finish it")
    pipe = build_pipeline(checkpoint, recipe)
    _save(pipe, folder)
    card = {
        "name": recipe.name,
        "pipeline": type(pipe).__name__,
        "parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "experts": len(checkpoint["experts"]),
        "fingerprint": fingerprint(pipe),
        "recipe": recipe.as_dict(),
        "videos_seen": checkpoint["batch"] * recipe.batch,
        "training_minutes": round(checkpoint["seconds"] / 60, 1),
        "device": checkpoint["device"],
        "data": _DATA[type(recipe)],
        "train_command": _command(recipe, checkpoint["minutes"]),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return folder


def _command(recipe: Recipe | PuzzleRecipe, minutes: float | None) -> str:
    """What makes this model again."""
    if isinstance(recipe, Recipe):
        return "make train-mini"
    named = [name for name, other in RECIPES.items() if other == recipe]
    options = [f"RECIPE={name}" for name in named] + ([f"MINUTES={minutes:g}"] if minutes is not None else [])
    return " ".join(["make train-puzzle", *options])


def _save(pipe: Any, folder: Path) -> None:
    """Write the folder; the transformers of two experts in bf16, and the pipeline's own weights rounded alike.

    Half the size; without a ``torch_dtype`` diffusers loads them as fp32, in which CPUs are fast.
    """
    parts = ("transformer", "transformer_2") if getattr(pipe, "transformer_2", None) is not None else ()
    for part in parts:
        getattr(pipe, part).to(torch.bfloat16)
    pipe.save_pretrained(folder)
    for part in parts:
        getattr(pipe, part).to(torch.float32)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="wan-maze-mini", choices=[*RECIPES])
    parser.add_argument("--checkpoint", type=Path, default=Path("build/mini"))
    parser.add_argument("--out", type=Path, help="interp/models/NAME by default")
    args = parser.parse_args(argv)
    recipe = recipe_named(args.recipe)
    print(publish(args.out or Path("interp/models") / recipe.name, args.checkpoint, recipe))


if __name__ == "__main__":
    main()
