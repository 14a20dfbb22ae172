"""Budgets of real models before anything runs, against measured figures and a model on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from docs.make_hook_points import CONFIGS, render, shape_in
from interp.grid import TokenGrid
from interp.selection import AddressSpace, select
from interp.sites import SITES, site_named
from tests.address.models import Variant, forward

MIB, GIB, TIB = 2**20, 2**30, 2**40
FIVE_B = CONFIGS["A14B"] | {
    "num_layers": 30,
    "num_attention_heads": 24,
    "ffn_dim": 14336,
    "in_channels": 48,
    "out_channels": 48,
}

# Measured on diffusers' Wan with bf16: grid, one residual tensor, all layers in one call, 50 steps with guidance,
# self-attention and cross-attention pattern of one layer. Rounded as given.
MEASURED = [
    ("1.3B", (81, 480, 832), (21, 30, 52), 96 * MIB, 2.8 * GIB, 0.27 * TIB, 24 * GIB, 0.37 * GIB),
    ("A14B", (81, 480, 832), (21, 30, 52), 320 * MIB, 12.5 * GIB, 1.22 * TIB, 80 * GIB, 1.25 * GIB),
    ("A14B", (81, 720, 1280), (21, 45, 80), 738 * MIB, 28.8 * GIB, 2.8 * TIB, 426 * GIB, 2.9 * GIB),
    ("5B", (121, 704, 1280), (31, 22, 40), 160 * MIB, 4.7 * GIB, 0.46 * TIB, 33 * GIB, 0.6 * GIB),
    ("A14B", (81, 512, 512), (21, 32, 32), 210 * MIB, 8.2 * GIB, 0.80 * TIB, 34 * GIB, 0.8 * GIB),
    ("A14B", (33, 384, 384), (9, 24, 24), 51 * MIB, 2.0 * GIB, 0.19 * TIB, 2.0 * GIB, 0.2 * GIB),
    ("A14B", (161, 256, 256), (41, 16, 16), 103 * MIB, 4.0 * GIB, 0.39 * TIB, 8.2 * GIB, 0.4 * GIB),
    ("1.3B", (33, 272, 480), (9, 17, 30), 13 * MIB, 0.4 * GIB, 0.04 * TIB, 0.5 * GIB, 0.05 * GIB),
]


def video_space(model: str, video: tuple[int, int, int]) -> AddressSpace:
    """50 steps with guidance; 5B has the coarser VAE and a timestep for every token."""
    five = model == "5B"
    return AddressSpace.of_model(
        FIVE_B if five else CONFIGS[model],
        TokenGrid.from_video(*video, vae_spatial=16 if five else 8),
        sigmas=[1 - step / 50 for step in range(50)],
        branches=("cond", "uncond"),
        per_token_time=five,
    )


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: f"{case[0]} {case[1]}")
def test_bytes_are_the_measured_ones(case: tuple) -> None:
    model, video, grid, one, layers, run, attention, cross = case
    space = video_space(model, video)
    assert space.grid.shape == grid

    def nbytes(pattern: str, **said: object) -> float:
        return select(pattern, **said).resolve(space).nbytes(2)

    call = {"step": 0, "branch": "cond"}
    assert nbytes("blocks.0.hook_resid_post", **call) == pytest.approx(one, rel=0.06)
    assert nbytes("blocks.*.hook_resid_post", **call) == pytest.approx(layers, rel=0.06)
    assert nbytes("blocks.*.hook_resid_post") == pytest.approx(run, rel=0.06)
    assert nbytes("blocks.0.attn.hook_pattern", **call) == pytest.approx(attention, rel=0.06)
    assert nbytes("blocks.0.cross_attn.hook_pattern", **call) == pytest.approx(cross, rel=0.2)  # given in one digit


def test_every_address_of_a14b_resolves() -> None:
    space = video_space("A14B", (81, 480, 832))
    with torch.device("meta"):
        model = WanTransformer3DModel(**CONFIGS["A14B"])
    paths = {name for name, _ in model.named_modules()}
    for site in SITES:
        if site.family == "image":
            continue
        names = [site.at(layer) for layer in range(40)] if site.layered else [site.name]
        found = select(site.name.replace("{layer}", "*")).resolve(space)
        assert found.sites == tuple(names)
        assert found.tensors == 50 * len(names) * (2 if site.branch is None else 1)
        assert site.port == "none" or {site.module_at(name) for name in names} <= paths
    assert select("**").resolve(space).sites == tuple(site for site in space.sites if not site_named(site).heavy)


def test_a14b_on_the_meta_device_has_the_declared_shapes() -> None:
    config = CONFIGS["A14B"] | {"num_layers": 2}
    grid = TokenGrid.from_video(81, 480, 832)
    with torch.device("meta"):
        model = WanTransformer3DModel(**config).to(torch.bfloat16)
        inputs = {
            "hidden_states": torch.empty(1, 36, *grid.latent_shape, dtype=torch.bfloat16),
            "timestep": torch.empty(1, dtype=torch.int64),
            "encoder_hidden_states": torch.empty(1, 512, 4096, dtype=torch.bfloat16),
        }
    space = AddressSpace.of_model(config, grid, sigmas=(1.0,))
    _, seen = forward(Variant(model, inputs, space))
    assert {site: tuple(values[0].shape[1:]) for site, values in seen.items()} == {
        site: space.widths[site] for site in space.sites if site_named(site).tier == "module"
    }


def test_the_page_of_hook_points_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "hook_points.md"
    assert page.read_text() == render(), "run `python -m docs.make_hook_points`"


def test_the_page_has_every_hook_point_and_real_tests() -> None:
    page, root = render(), Path(__file__).parents[2]
    for site in SITES:
        assert page.count(f"| `{site.name}`") == 1
        assert shape_in("A14B", site) is not None
    for test in ("tests/address/test_sites.py", "tests/tracer/test_hook_points.py"):
        assert test in page
        assert (root / test).exists()
