"""The model of several tasks: its recipe, two experts trained as a pair, and the way from training to a score."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import tasks
from interp.errors import ModelError
from interp.lab import load
from interp.mini import latents, twin
from interp.mini.data import Encoder, as_colours, draw_rows, latent_statistics, training_batch
from interp.mini.evaluate import held_out_samples, quick_look
from interp.mini.expert import Expert
from interp.mini.measure import PUZZLES, is_solved, measure, solve_batched, solve_stock
from interp.mini.publish import _command, publish
from interp.mini.recipe import PUZZLE_GPU, SCENES, PuzzleRecipe, PuzzleStage, Turn, mazes, recipe_named
from interp.mini.train import encode_prompts, train
from interp.tasks.blocks import PALETTE
from interp.tasks.sample import is_held_out

TINY = PuzzleRecipe(
    grown_from=None,
    width=24,
    layers=2,
    head_dim=12,
    ffn=32,
    batch=4,
    warmup=2,
    batches=8,
    dtype="float32",
    stages=(PuzzleStage((mazes(4),), 2), PuzzleStage((SCENES,))),
)


def keys_seen(recipe: PuzzleRecipe, batches: int) -> set[str]:
    """First frames of training batches, as the scene tasks' keys hash them."""
    seen = set()
    for number in range(batches):
        for video in draw_rows(recipe, number).symbols:
            seen.add(video[0].tobytes())
    return seen


# --- the recipe


@pytest.mark.parametrize("recipe", [PuzzleRecipe(), PUZZLE_GPU], ids=["CPU", "GPU"])
def test_the_recipe_is_what_the_paper_needs(recipe: PuzzleRecipe) -> None:
    assert recipe.layers >= 10
    assert recipe.boundary == 0.9
    assert set(recipe.boards) <= set(PUZZLES)
    assert {"maze-8", "grounding", "reappearance", "bounce"} <= set(recipe.boards)
    expert = Expert(dataclasses.replace(recipe, layers=1), torch.device("cpu"))
    count = sum(p.numel() for p in expert.model.parameters())
    block = sum(p.numel() for p in expert.model.blocks.parameters())
    assert 2 * 2 * (count + (recipe.layers - 1) * block) <= 36e6  # bytes of two experts in bf16; VAE and text: 4 MB


@pytest.mark.parametrize(("steps", "high"), [(20, 7), (8, 3), (4, 2)])
def test_the_high_noise_expert_has_several_steps(steps: int, high: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    recipe = PuzzleRecipe()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=recipe.shift)
    scheduler.set_timesteps(steps)
    assert int((scheduler.timesteps >= 1000 * recipe.boundary).sum()) == high


def test_each_expert_sees_its_own_noise_levels() -> None:
    recipe = dataclasses.replace(TINY, batch=64)
    statistics = latent_statistics(recipe, 40)
    for number, bounds in ((2, (recipe.boundary, 1.0)), (3, (0.0, recipe.boundary))):
        sigma = training_batch(recipe, statistics, number, experts=2).sigma
        assert bounds[0] <= sigma.min() < sigma.max() <= bounds[1]
        assert sigma.max() - sigma.min() > 0.9 * (bounds[1] - bounds[0])
    both = training_batch(recipe, statistics, 2, experts=1).sigma
    assert both.min() < 0.2 < 0.95 < both.max()


def test_every_board_is_trained_at_every_noise_level_by_both_experts() -> None:
    recipe = PuzzleRecipe()
    last = recipe.stages[-1].boards
    first = (recipe.stages[0].batches or 0) * 2
    pairs = {(recipe.turn(n, 2).expert, recipe.board_at(n)) for n in range(first, first + 4 * len(last))}
    assert pairs == {(expert, board) for expert in ("high", "low") for board in last}
    assert recipe.turn(5, 1) == Turn("main")


def test_batches_mix_the_tasks_and_drop_some_prompts() -> None:
    recipe = dataclasses.replace(PuzzleRecipe(), batch=256)
    number = next(n for n in range(100) if recipe.board_at(n) == SCENES)
    rows = draw_rows(recipe, number)
    assert rows.symbols.shape == (256, 17, 10, 10)
    again = draw_rows(recipe, number)
    np.testing.assert_array_equal(again.symbols, rows.symbols)
    assert again.prompts == rows.prompts
    texts = [recipe.prompts[k] for k in rows.prompts]
    assert 0.04 < texts.count("") / 256 < 0.18
    for word in ("maze", "marks", "leaves", "behind", "bounces", "trail"):
        share = sum(word in text for text in texts) / 256
        assert share > 0.03 or word == "maze"
    low, high = (texts[:128], texts[128:])  # noise levels rise with the row: each task lies in both halves
    for word in ("marks", "bounces", "shortest"):
        assert abs(sum(word in t for t in low) - sum(word in t for t in high)) <= 24


def test_held_out_problems_are_never_trained_on() -> None:
    recipe = dataclasses.replace(TINY, batch=64)
    seen = keys_seen(recipe, 6)
    for part in ("bounce", "grounding", "reappearance", "maze-4"):
        samples = held_out_samples(part, 40, seed=3)
        assert len({s.key for s in samples}) == 40
        assert all(is_held_out(s.key) and s.held_out for s in samples)
        if part != "maze-4":
            assert not {s.problem.videos[0][0].tobytes() for s in samples} & seen
    shares = [is_held_out(f"{k}") for k in range(4000)]
    assert abs(np.mean(shares) - 1 / 8) < 0.02


def test_the_encoder_equals_the_closed_form() -> None:
    statistics = latent_statistics(TINY, 40)
    symbols = draw_rows(TINY, 3).symbols
    clean, cond = Encoder(statistics).encode(symbols)
    rgb = as_colours(PALETTE[symbols])
    expected = latents.normalise(latents.encode_blocks(rgb), statistics.mean, statistics.std)
    torch.testing.assert_close(clean, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cond, latents.condition(rgb, statistics.mean, statistics.std), atol=1e-5, rtol=1e-5)


# --- training


def test_training_splits_into_two_experts_and_resumes_at_the_same_weights(tmp_path: Path) -> None:
    whole = train(TINY, tmp_path / "whole", looks=0)
    assert set(whole["experts"]) == {"high", "low"}
    for part in range(4):  # interrupted before, at and after the split
        train(TINY, tmp_path / "parts", stop_after=(3, 1, 2, 2)[part], looks=0)
    parts = train(TINY, tmp_path / "parts", looks=0)
    assert parts["batch"] == whole["batch"] == 8
    for expert, state in whole["experts"].items():
        assert state["updates"] == 4 + 2
        for name, value in state["ema"].items():
            assert torch.equal(value, parts["experts"][expert]["ema"][name]), (expert, name)
    a, b = (whole["experts"][name]["model"]["proj_out.weight"] for name in ("high", "low"))
    assert not torch.equal(a, b)


def test_workers_draw_the_same_batches(tmp_path: Path) -> None:
    from interp.mini.train import Trainer

    inline, workers = (Trainer(TINY, tmp_path / str(n), workers=n).rows() for n in (0, 1))
    for _ in range(3):
        a, b = next(inline), next(workers)
        np.testing.assert_array_equal(a.symbols, b.symbols)
        assert a.prompts == b.prompts
    workers.close()


def test_a_time_limit_ends_the_training(tmp_path: Path) -> None:
    state = train(TINY, tmp_path, minutes=1e-4, looks=0)
    assert state["done"] >= 1
    assert state["batch"] < TINY.batches


def test_training_learns(tmp_path: Path) -> None:
    """Twenty batches of one board halve the loss: gradients, optimiser and average do what they should."""
    recipe = dataclasses.replace(
        TINY, batch=16, batches=60, split_at=0.5, ema=0.5, warmup=5, adam_lr=0.01, muon_lr=0.02
    )
    state = train(recipe, tmp_path, looks=0)
    expert = Expert(recipe, torch.device("cpu"))
    text = twin.pack_text(encode_prompts(recipe))
    encoder = Encoder(latent_statistics(recipe))
    for name, turn in (("high", recipe.turn(0, 2)), ("low", recipe.turn(1, 2))):
        batch = encoder.batch(draw_rows(recipe, 1000), recipe, 1000, turn)
        losses = []
        for weights in (None, state["experts"][name]["ema"]):
            if weights is not None:
                expert.ema.load_state_dict(weights)
            sigma = batch.sigma.view(-1, 1, 1, 1, 1)
            x = torch.cat([(1 - sigma) * batch.clean + sigma * batch.noise, batch.cond], 1)
            with torch.no_grad():
                velocity = twin.forward(expert.ema, x, batch.sigma * 1000, text.rows(batch.prompts))
            losses.append(float((velocity - (batch.noise - batch.clean)).pow(2).mean()))
        assert losses[1] < 0.9 * losses[0], name


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_computes_the_loss_that_the_cpu_does(tmp_path: Path, compiled: bool) -> None:
    from interp.mini.train import Trainer

    recipe = dataclasses.replace(TINY, batch=32)
    rows = draw_rows(recipe, 2)
    gpu = Trainer(
        dataclasses.replace(recipe, dtype="bfloat16"), tmp_path / "gpu", device="cuda", compile_blocks=compiled
    )
    cpu = Trainer(recipe, tmp_path / "cpu")
    losses = [[float(trainer.step(rows)) for _ in range(6)] for trainer in (cpu, gpu)]
    np.testing.assert_allclose(*losses, rtol=0.1)  # other noise, other precision
    assert losses[1][-1] < losses[1][0]


# --- from training to a score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("puzzle")
    train(TINY, root, looks=0)
    return publish(root / "model", root, TINY)


def test_published_pair_is_a_stock_pipeline_of_two_experts(folder: Path) -> None:
    from diffusers import WanImageToVideoPipeline
    from safetensors import safe_open

    pipe = WanImageToVideoPipeline.from_pretrained(folder)
    assert pipe.config.boundary_ratio == 0.9
    assert pipe.scheduler.config.shift == TINY.shift
    assert pipe.transformer.dtype == pipe.transformer_2.dtype == torch.float32
    for part in ("transformer", "transformer_2"):
        with safe_open(folder / part / "diffusion_pytorch_model.safetensors", "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118  the file is no mapping
    card = json.loads((folder / "card.json").read_text())
    from interp.fingerprint import fingerprint

    assert card["fingerprint"] == fingerprint(pipe)
    assert card["experts"] == 2
    assert card["recipe"] == json.loads(json.dumps(TINY.as_dict()))


def test_published_pair_samples_and_scores(folder: Path, tmp_path: Path) -> None:
    lab = load(folder)
    samples = [s for part in ("grounding", "reappearance", "bounce") for s in held_out_samples(part, 1, seed=1)]
    assert solve_batched(lab, samples, 1, guidance=2.0) == [*solve_stock(lab, samples[:2], 1, 2.0), False]
    run = lab.plan(samples[0], steps=4)[0]
    assert lab.schedule(run.settings).experts == ("high", "high", "low", "low")
    card = measure(lab, tmp_path / "card.json", ["maze-4", "bounce"], [1], 2, held_out=True, guidance=[1.0, 2.0])
    assert set(card["solve_rates"]) == {
        "4x4, 1 steps",
        "4x4, 1 steps, guidance 2",
        "bounce, 1 steps",
        "bounce, 1 steps, guidance 2",
    }
    cell = card["solve_rates"]["bounce, 1 steps"]
    assert cell["low"] <= cell["solved"] <= cell["high"]


def test_a_quick_look_sees_what_the_bundled_model_can(folder: Path) -> None:
    """Eight held-out 4x4 mazes at the card's rate of 0.98 or more; a model of no training solves none."""
    from interp.mini.data import Statistics
    from interp.mini.recipe import Recipe

    lab = load("wan-maze-mini")
    named = (np.asarray(getattr(lab.pipe.vae.config, f"latents_{s}"), np.float32) for s in ("mean", "std"))
    encoder = Encoder(Statistics(*named))
    text = twin.pack_text(encode_prompts(Recipe()))
    models = {"main": lab.pipe.transformer}
    assert quick_look(models, Recipe(), encoder, text, "maze-4", n=8, steps=4).solved >= 6 / 8
    pair = load(folder).pipe
    models, text = {"high": pair.transformer, "low": pair.transformer_2}, twin.pack_text(encode_prompts(TINY))
    look = quick_look(models, TINY, encoder, text, "bounce", n=4, steps=4)
    assert look.solved == 0
    assert 0 <= look.near < 0.9


def test_the_card_has_a_page(folder: Path, tmp_path: Path) -> None:
    from docs.make_card import render

    card = measure(load(folder), tmp_path / "card.json", ["maze-4", "bounce"], [1], 2, held_out=True)
    card = {**json.loads((folder / "card.json").read_text()), **card, "measure_command": "measure"}
    page = render(card)
    assert "| 4x4 | 0.000 [0.000, 0.658] |" in page
    assert "| bounce | 0.000 [0.000, 0.658] |" in page
    assert card["fingerprint"] in page
    assert "make train-puzzle" in page


def test_solved_means_the_right_answer() -> None:
    for part in ("grounding", "bounce"):
        task: Any = tasks.get(part)
        sample = task.sample(1)[0]
        truth = task.answer(sample)
        assert is_solved(sample, task.render(sample))
        assert not is_solved(sample, task.render(sample, 1 - truth if truth < 2 else 0))


def test_unfinished_or_foreign_checkpoints_are_not_published(tmp_path: Path) -> None:
    train(TINY, tmp_path, minutes=100.0, stop_after=1, looks=0)
    assert _command(PUZZLE_GPU, 28.0) == "make train-puzzle RECIPE=wan-puzzle-mini-gpu MINUTES=28"
    with pytest.raises(ModelError, match="0 of 100 minutes"):
        publish(tmp_path / "model", tmp_path, TINY)
    with pytest.raises(ModelError, match="another recipe"):
        publish(tmp_path / "model", tmp_path, PuzzleRecipe())
    with pytest.raises(ModelError, match=r"no recipe is called 'wan-puzzle' \(did you mean"):
        recipe_named("wan-puzzle")


def test_loading_it_before_it_is_bundled_says_how_to_train_it() -> None:
    from interp.model import bundled_models

    if "wan-puzzle-mini" not in bundled_models():
        with pytest.raises(ModelError, match="make train-puzzle"):
            load("wan-puzzle-mini")
