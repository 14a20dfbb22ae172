"""The training twin, the hand-set VAE and the resumable loop, each against the thing it stands for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import ModelError
from interp.mini import latents, twin
from interp.mini.data import TRAIL, as_rgb, training_batch
from interp.mini.publish import publish
from interp.mini.recipe import Recipe, Stage
from interp.mini.train import build_transformer, encode_prompts, train
from interp.mini.vae import build_vae, is_block_exact
from interp.tasks.maze.maze import draw_maze
from interp.tasks.maze.render import render_symbols, to_pixels

SMALL = dataclasses.replace(
    Recipe(),
    width=24,
    layers=2,
    head_dim=12,
    ffn=32,
    batch=3,
    stages=(Stage((4,), 4), Stage((5, 4), 2)),
    dtype="float32",
)


def symbols(size: int, count: int = 2) -> np.ndarray:
    mazes = [draw_maze(np.random.default_rng((9, size, k)), size) for k in range(count)]
    return np.stack([render_symbols(m, m.routes[0]) for m in mazes])


def test_twin_computes_what_the_stock_transformer_computes() -> None:
    model = build_transformer(SMALL)
    for parameter in model.parameters():  # the recipe's initial head is zero and would hide everything
        torch.nn.init.normal_(parameter, std=0.2)
    prompts = encode_prompts(SMALL)
    x, t = torch.randn(3, 36, 5, 8, 10), torch.tensor([3.0, 500.0, 999.0])
    with torch.no_grad():
        stock = model(x, t, torch.stack([prompts[k] for k in (0, 2, 1)])).sample
        ours = twin.forward(model, x, t, twin.pack_text(prompts).rows([0, 2, 1]))
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4 * float(stock.abs().max()))


def test_hand_set_vae_equals_the_closed_form() -> None:
    vae = build_vae(np.zeros(16), np.ones(16))
    blocks = symbols(4)
    pixels = torch.from_numpy(to_pixels(blocks).astype(np.float32) / 127.5 - 1).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        encoded = vae.encode(pixels).latent_dist.mode()
        decoded = vae.decode(encoded + 0.1 * torch.randn_like(encoded)).sample
        again = vae.decode(encoded).sample
    expected = latents.encode_blocks(as_rgb(blocks))
    np.testing.assert_allclose(encoded.numpy(), expected, atol=2e-3)
    np.testing.assert_allclose(latents.decode_blocks(expected), as_rgb(blocks), atol=1e-5)
    torch.testing.assert_close(again, pixels, atol=2e-3, rtol=0)
    assert not torch.allclose(decoded, pixels, atol=2e-2)  # the comparison above can fail


def test_block_exact_vae_is_recognised() -> None:
    vae = build_vae(np.zeros(16), np.ones(16))
    assert is_block_exact(vae)
    with torch.no_grad():
        vae.decoder.conv_in.weight[0] += 0.01
    assert not is_block_exact(vae)


def test_padding_token_stands_for_all_of_them() -> None:
    embeds = [torch.cat([torch.randn(5, 8), torch.zeros(507, 8)]), torch.cat([torch.randn(2, 8), torch.zeros(510, 8)])]
    packed = twin.pack_text(embeds).rows([1, 0])
    query = torch.randn(8)
    for row, prompt in enumerate((1, 0)):
        full = (embeds[prompt] @ query).softmax(0) @ embeds[prompt]
        short = (packed.states[row] @ query + packed.bias[row].flatten()).softmax(0) @ packed.states[row]
        torch.testing.assert_close(short, full)


def test_batches_are_functions_of_their_number_and_follow_the_prompt() -> None:
    statistics = _statistics()
    one, same, other = (training_batch(SMALL, statistics, k) for k in (0, 0, 1))
    assert torch.equal(one.clean, same.clean)
    assert one.prompts == same.prompts
    assert not torch.equal(one.clean, other.clean)
    big = training_batch(dataclasses.replace(SMALL, batch=64), statistics, 0)
    shares = np.bincount(big.prompts, minlength=3) / 64
    assert abs(shares[TRAIL] - SMALL.trail_share) < 0.2
    assert shares.min() > 0


def test_interrupted_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    whole = train(SMALL, tmp_path / "whole", looks=3, n=2)  # to look on the way changes nothing
    train(SMALL, tmp_path / "parts", stop_after=4, looks=0)
    parts = train(SMALL, tmp_path / "parts", looks=0)
    assert parts["batch"] == whole["batch"] == SMALL.batches
    for name, value in whole["experts"]["main"]["ema"].items():
        assert torch.equal(value, parts["experts"]["main"]["ema"][name]), name


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    train(SMALL, tmp_path, stop_after=1, looks=0)
    with pytest.raises(SystemExit, match="another recipe"):
        train(dataclasses.replace(SMALL, seed=99), tmp_path)


def test_published_folder_is_a_stock_pipeline(tmp_path: Path) -> None:
    from diffusers import WanImageToVideoPipeline

    with pytest.raises(ModelError, match="train first"):
        publish(tmp_path / "model", tmp_path, SMALL)
    train(SMALL, tmp_path, stop_after=2, looks=0)
    with pytest.raises(ModelError, match="batch 2 of 6"):
        publish(tmp_path / "model", tmp_path, SMALL)
    train(SMALL, tmp_path, looks=0)
    publish(tmp_path / "model", tmp_path, SMALL)
    pipe = WanImageToVideoPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    maze = draw_maze(np.random.default_rng(1), 4)
    from interp.tasks.maze.render import first_frame

    frames = pipe(
        image=first_frame(maze), prompt="the agent", height=64, width=64, num_frames=17, num_inference_steps=1
    ).frames[0]
    assert frames.shape == (17, 64, 64, 3)


def _statistics() -> Any:
    from interp.mini.data import Statistics

    return Statistics(np.zeros(16, dtype=np.float32), np.ones(16, dtype=np.float32))
