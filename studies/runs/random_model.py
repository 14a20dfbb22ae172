"""The baseline of a model that has learnt nothing: the same network with random weights, on the same noisy latents.

A random network keeps much of its input readable, so a probe that does no better on the trained model's activations has
shown the input, not the model. Run on its own the random model would drift away within a step; here every step starts
from the latents that the trained model had there, so that rows, steps and noise levels are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from interp.errors import ModelError
from interp.lab import Lab
from interp.runspec import RunSpec

EXPERTS = ("transformer", "transformer_2")


def random_lab(lab: Lab, *, seed: int = 0) -> Lab:
    """A lab on the same pipeline, but for the transformers: theirs have the same configuration and fresh weights.

    Args:
        lab: the trained model; it is left as it is.
        seed: of the weights.

    Raises:
        ModelError: the pipeline holds no transformer with a configuration.
    """
    pipe = copy.copy(lab.pipe)
    fresh = {}
    for name in EXPERTS:
        trained = getattr(lab.pipe, name, None)
        if trained is None:
            continue
        if not hasattr(trained, "config"):
            raise ModelError(f"{name} is a {type(trained).__name__} without a configuration to make another from.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = type(trained).from_config(trained.config)
        for own, given in zip(made.parameters(), trained.parameters(), strict=True):
            own.data = own.data.to(given)  # each its own dtype: some stay in float32
        fresh[name] = made.to(trained.device).eval()
    pipe.register_modules(**fresh)
    return Lab(pipe, f"{lab.name}, random weights, seed {seed}")


def random_activations(
    lab: Lab, runs: Sequence[RunSpec], capture: Any, *, seed: int = 0, views: Any = None
) -> dict[str, np.ndarray]:
    """What the random model makes of each step of the trained model's runs, by site: [run, step, branch, ...].

    Args:
        lab: the trained model.
        runs: their trajectories are sampled by the trained model, in one batch.
        capture: hook points or a selection, as in `Lab.run`.
        seed: of the weights.
        views: as in `Lab.run`.

    ``{(step, layer): values[site_of(layer)][:, step, 0]}`` is a grid for `probes.fit_grid`, or, with one layer, a
    baseline ``{step: array}``.
    """
    from interp import edits

    real: Any = lab.run(list(runs), "latents.hook_in", edits=())
    other = random_lab(lab, seed=seed)
    out: dict[str, list[np.ndarray]] = {}
    for spec, result in zip(runs, real, strict=True):
        held = edits.patch("latents.hook_in", result)
        own = replace(spec, model=other.name, model_hash=other.model_hash)
        found: Any = other.run(own, capture, edits=held, views=views)
        for site, tensor in found.captured.items():
            out.setdefault(str(site), []).append(tensor.float().numpy())
    return {site: np.stack(values) for site, values in out.items()}
