"""Train ``wan-maze-mini`` from nothing: ``python -m interp.mini.train --out build/mini``.

Resumable: the checkpoint is replaced atomically every few minutes and holds all state; batches are functions of their
number. On two idle CPU cores the recipe takes under 75 minutes (the model card has the measured time).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from interp.mini import twin
from interp.mini.data import Statistics, latent_statistics, training_batch
from interp.mini.evaluate import quick_solve_rate
from interp.mini.muon import Optimizer
from interp.mini.recipe import Recipe
from interp.mini.text import MAX_TOKENS, TEXT_DIM, build_text_encoder, build_tokenizer
from interp.tasks.maze.task import PROMPTS

_MALLOC = {  # without these, page faults of freshly mapped activations cost more than the arithmetic
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def build_transformer(recipe: Recipe) -> WanTransformer3DModel:
    """A stock transformer of the recipe's size, initialised so that each block starts near the identity."""
    torch.manual_seed(recipe.seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=recipe.width // recipe.head_dim,
        attention_head_dim=recipe.head_dim,
        in_channels=36,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=recipe.ffn,
        num_layers=recipe.layers,
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        model.proj_out.weight.zero_()
        model.proj_out.bias.zero_()
        model.condition_embedder.time_proj.weight.mul_(0.3)
        model.condition_embedder.time_proj.bias.zero_()
        for block in model.blocks:
            block.scale_shift_table[:, [0, 1, 3, 4]] = 0
            block.scale_shift_table[:, [2, 5]] = 0.3
            block.attn2.to_out[0].weight.mul_(0.1)
    return model


def encode_prompts() -> list[Tensor]:
    """The prompts of the task (trail, plain, empty) as the pipeline encodes them: [512, text_dim] each."""
    from diffusers import WanImageToVideoPipeline

    pipe = WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        vae=None,  # only encode_prompt is used
        scheduler=None,
    )
    with torch.no_grad():
        texts = (*PROMPTS.values(), "")
        return [
            pipe.encode_prompt(p, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS)[0][0]
            for p in texts
        ]


def native_dtype() -> torch.dtype:
    """bfloat16 if this CPU multiplies it faster than float32, which it does only with bf16 instructions."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(1024, 512, dtype=dtype)
        a @ a.T
        start = time.perf_counter()
        a @ a.T
        seconds[dtype] = time.perf_counter() - start
    return min(seconds, key=lambda d: seconds[d])


def train(recipe: Recipe, out: Path, *, compile_blocks: bool = False, stop_after: int | None = None) -> dict[str, Any]:
    """Run the recipe, resuming from ``out/checkpoint.pt`` when it is there.

    Args:
        recipe: what to train on.
        out: folder for the checkpoint and the log.
        compile_blocks: ``torch.compile`` the block (needs a C++ compiler; about 1.2x to 1.4x on CPU).
        stop_after: stop after this many batches of this session (tests and interrupted sessions).

    Returns:
        The checkpoint: ``ema`` and ``model`` weights, ``statistics``, ``batch``, ``seconds`` of training.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "checkpoint.pt"
    statistics = latent_statistics(recipe)
    prompts = encode_prompts()
    model = build_transformer(recipe)
    optimizer = Optimizer(model, recipe.muon_lr, recipe.adam_lr)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    first, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["recipe"] != json.dumps(recipe.as_dict()):
            raise SystemExit(f"{path} was made by another recipe; choose another --out or remove it")
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["batch"], state["seconds"]
    dtype = native_dtype() if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    if compile_blocks:
        twin._block = torch.compile(twin._block, dynamic=False)
    last = recipe.batches if stop_after is None else min(recipe.batches, first + stop_after)
    _say(f"{recipe.name}: batches {first} to {last} of {recipe.batches}, {dtype}, {torch.get_num_threads()} threads")

    def checkpoint(batch: int) -> dict[str, Any]:
        state = {
            "recipe": json.dumps(recipe.as_dict()),
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
            "statistics": {"mean": torch.from_numpy(statistics.mean), "std": torch.from_numpy(statistics.std)},
            "batch": batch,
            "seconds": seconds,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)
        return state

    running, since = 0.0, time.perf_counter()
    for number in range(first, last):
        start = time.perf_counter()
        running += _update(model, ema, optimizer, recipe, statistics, prompts, number, dtype)
        seconds += time.perf_counter() - start
        done = number + 1
        if done % 25 == 0:
            rate = 25 * recipe.batch / (time.perf_counter() - since)
            _say(f"batch {done}/{recipe.batches}  loss {running / 25:.4f}  {rate:.0f} videos/s  {seconds / 60:.1f} min")
            running, since = 0.0, time.perf_counter()
        if done % 200 == 0 and done < last:
            checkpoint(done)
        if done % 400 == 0:
            rates = {
                size: quick_solve_rate(ema, statistics, prompts[0], size)
                for size in sorted({recipe.size_at(number), 6})
            }
            _say(f"solved at 8 steps, n = 64: {rates}")
            since = time.perf_counter()
    return checkpoint(last)


def _update(
    model: WanTransformer3DModel,
    ema: WanTransformer3DModel,
    optimizer: Optimizer,
    recipe: Recipe,
    statistics: Statistics,
    prompts: list[Tensor],
    number: int,
    dtype: torch.dtype,
) -> float:
    """One batch: rectified-flow loss |v - (noise - clean)|^2 at x = (1 - sigma) clean + sigma noise."""
    batch = training_batch(recipe, statistics, number)
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * batch.clean + sigma * batch.noise
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        text = twin.pack_text(prompts, batch.prompts)
        velocity = twin.forward(model, torch.cat([noisy, batch.cond], 1), batch.sigma * 1000, text)
    loss = (velocity - (batch.noise - batch.clean)).pow(2).mean()
    loss.backward()
    optimizer.step(recipe.rate(number))
    keep = min(recipe.ema, (number + 1) / (number + 20))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - keep)
    return float(loss.detach())


def _say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Command line; re-executes itself once with malloc settings that keep freed memory mapped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the block (needs a C++ compiler)")
    args = parser.parse_args(argv)
    if sys.platform == "linux" and not set(_MALLOC) <= set(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", "interp.mini.train", *sys.argv[1:]], os.environ | _MALLOC)
    torch.set_num_threads(args.threads)
    train(Recipe(), args.out, compile_blocks=args.compile)


if __name__ == "__main__":
    main()
