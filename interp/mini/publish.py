"""Turn a training checkpoint into an ordinary diffusers folder: ``python -m interp.mini.publish``.

The folder holds what `WanImageToVideoPipeline.from_pretrained` expects and nothing else of ours but ``card.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from interp.errors import ModelError
from interp.mini.recipe import Recipe
from interp.mini.text import build_text_encoder, build_tokenizer
from interp.mini.train import build_transformer
from interp.mini.vae import build_vae
from interp.model import fingerprint


def build_pipeline(checkpoint: dict[str, Any], recipe: Recipe) -> Any:
    """The stock pipeline with the averaged weights of a checkpoint."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline

    transformer = build_transformer(recipe)
    transformer.load_state_dict(checkpoint["ema"])
    statistics = checkpoint["statistics"]
    return WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        vae=build_vae(statistics["mean"].numpy(), statistics["std"].numpy()),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.shift),
        transformer=transformer.eval(),
    )


def publish(folder: Path, checkpoint_folder: Path, recipe: Recipe) -> Path:
    """Write the diffusers folder with a card that has everything but solve rates, which `interp.mini.measure` adds.

    Raises:
        ModelError: the checkpoint is missing or its training is not finished.
    """
    path = checkpoint_folder / "checkpoint.pt"
    if not path.is_file():
        raise ModelError(f"{path} is not there; train first: python -m interp.mini.train --out {checkpoint_folder}")
    checkpoint = torch.load(path, weights_only=True)
    if checkpoint["batch"] < recipe.batches:
        raise ModelError(
            f"{path} holds batch {checkpoint['batch']} of {recipe.batches}; run interp.mini.train again to finish it"
        )
    pipe = build_pipeline(checkpoint, recipe)
    pipe.save_pretrained(folder)
    card = {
        "name": recipe.name,
        "pipeline": type(pipe).__name__,
        "parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "fingerprint": fingerprint(pipe),
        "recipe": recipe.as_dict(),
        "videos_seen": recipe.batches * recipe.batch,
        "training_minutes": round(checkpoint["seconds"] / 60, 1),
        "data": "random mazes from interp.tasks.maze, targets are shortest routes, ties at random",
        "train_command": "make train-mini",
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return folder


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/mini"))
    parser.add_argument("--out", type=Path, default=Path("interp/models/wan-maze-mini"))
    args = parser.parse_args(argv)
    print(publish(args.out, args.checkpoint, Recipe()))


if __name__ == "__main__":
    main()
