"""A random model is given the latents of the trained one, and leaves that one as it was."""

from __future__ import annotations

import numpy as np
import torch

import interp
from interp.lab import Lab
from studies.runs.random_model import random_activations, random_lab
from tests.pipelines import tiny_i2v


def test_the_random_model_sees_the_trained_models_latents() -> None:
    lab = Lab(tiny_i2v(), "tiny")
    runs = lab.plan(interp.tasks.get("maze", size=4).sample(2, seed=0), seeds=1, steps=2)
    sites = ["latents.hook_in", "blocks.0.hook_resid_post"]
    before, own = lab.model_hash, lab.run(runs, sites)
    found = random_activations(lab, runs, sites)
    assert lab.model_hash == before
    for i, result in enumerate(own):
        np.testing.assert_array_equal(found["latents.hook_in"][i], result.captured["latents.hook_in"].float().numpy())
        trained = result.captured["blocks.0.hook_resid_post"].float().numpy()
        assert found["blocks.0.hook_resid_post"][i].shape == trained.shape
        assert np.abs(found["blocks.0.hook_resid_post"][i] - trained).max() > 1e-3


def test_its_weights_are_drawn_by_its_seed() -> None:
    lab = Lab(tiny_i2v(), "tiny")
    state = torch.random.get_rng_state()
    first, again, other = (random_lab(lab, seed=seed).model_hash for seed in (71, 71, 72))
    assert first == again != other
    assert first != lab.model_hash
    assert torch.equal(torch.random.get_rng_state(), state)
