"""One transformer in training: its weights, their running average, and the optimiser."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from interp.mini.muon import Optimizer
from interp.mini.recipe import PuzzleRecipe, Recipe
from interp.mini.text import TEXT_DIM


def build_transformer(recipe: Recipe | PuzzleRecipe) -> WanTransformer3DModel:
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


class Expert:
    """A model, the average of its weights that is sampled with and published, and its optimiser."""

    def __init__(self, recipe: Recipe | PuzzleRecipe, device: torch.device) -> None:
        self.recipe = recipe
        self.model = build_transformer(recipe).to(device)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = Optimizer(self.model, recipe.muon_lr, recipe.adam_lr)
        self.updates = 0

    def update(self, rate: float) -> None:
        """One step of the optimiser and of the average."""
        self.optimizer.step(rate)
        keep = min(self.recipe.ema, (self.updates + 1) / (self.updates + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - keep)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    def twin(self) -> Expert:
        """Another expert that starts from the same state."""
        other = Expert(self.recipe, next(self.model.parameters()).device)
        other.load_state_dict(copy.deepcopy(self.state_dict()))
        return other
