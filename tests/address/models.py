"""Bare tiny transformers of every Wan variant, and one forward of each under plain torch hooks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.address.reading import pick, put, raw_of, value_of
from interp.grid import TokenGrid
from interp.selection import AddressSpace
from interp.sites import site_named
from tests.pipelines import IMAGE_DIM, IMAGE_TOKENS, tiny_i2v, tiny_i2v_clip, tiny_t2v, tiny_ti2v

BATCH = 2
GRID = TokenGrid(3, 2, 2)


@dataclass(frozen=True)
class Variant:
    """A transformer, what it is called with, and its address space."""

    model: nn.Module
    inputs: dict[str, Tensor]
    space: AddressSpace


def variant(name: str, dtype: torch.dtype = torch.float32) -> Variant:
    """A tiny Wan by name; see ``VARIANTS``."""
    model = BUILDERS[name](dtype).transformer
    config = model.config
    image_tokens = (2 if name == "flf2v" else 1) * IMAGE_TOKENS
    random = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    per_token = name == "ti2v"
    inputs = {
        "hidden_states": noise(BATCH, config.in_channels, *GRID.latent_shape),
        "timestep": torch.rand(BATCH, GRID.tokens, generator=random) * 999 if per_token else torch.tensor([999, 437]),
        "encoder_hidden_states": noise(BATCH, 512, config.text_dim),
    }
    if config.image_dim:
        rows = BATCH * image_tokens // IMAGE_TOKENS
        inputs["encoder_hidden_states_image"] = noise(rows, IMAGE_TOKENS, IMAGE_DIM)
    space = AddressSpace.of_model(
        config, GRID, sigmas=(1.0,), text_tokens=512, image_tokens=image_tokens, per_token_time=per_token
    )
    return Variant(model, inputs, space)


BUILDERS: dict[str, Callable[[torch.dtype], Any]] = {
    "t2v": lambda dtype: tiny_t2v(dtype=dtype),
    "i2v": lambda dtype: tiny_i2v(dtype=dtype),
    "ti2v": lambda dtype: tiny_ti2v(dtype=dtype),
    "i2v clip": lambda dtype: tiny_i2v_clip(dtype=dtype),
    "flf2v": lambda dtype: tiny_i2v_clip(last_frame=True, dtype=dtype),
}
VARIANTS = tuple(BUILDERS)


def forward(
    case: Variant, edit: Callable[[str, Tensor], Tensor | None] | None = None, only: str | None = None
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """One forward with a plain hook at every module site (or ``only`` one): velocity, and what each hook saw.

    Args:
        case: what to run.
        edit: may return a tensor that takes a site's place.
        only: a concrete site.
    """
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        site, module = site_named(name), case.model.get_submodule(site_named(name).module_at(name))

        def report(raw: Any) -> Any:
            value = value_of(site, raw, module, case.model)
            seen.setdefault(name, []).append(value.detach().clone())
            new = None if edit is None else edit(name, value)
            return None if new is None else raw_of(site, new, raw, module)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = report(pick(site, args, kwargs))
            return None if new is None else put(site, new, args, kwargs)

        if site.port == "input":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(lambda _, __, output: report(output))

    names = [n for n in case.space.sites if site_named(n).tier == "module" and only in (None, n)]
    with ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.callback(hook(name).remove)
        velocity = case.model(**case.inputs, return_dict=False)[0]
    return velocity, seen
