"""Budgets of real models before anything runs, against measured figures and a model on the meta device."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from docs.make_hook_points import CONFIGS, render, shape_in
from interp.errors import InterpError
from interp.grid import TokenGrid
from interp.lab import load
from interp.selection import AddressSpace, select
from interp.sites import SITES, site_named
from interp.tasks.sample import Sample
from interp.views import ViewPlan, views_of
from tests.address.models import Variant, forward
from tests.pipelines import tiny_i2v

MIB, GIB, TIB = 2**20, 2**30, 2**40
FIVE_B = CONFIGS["A14B"] | {
    "num_layers": 30,
    "num_attention_heads": 24,
    "ffn_dim": 14336,
    "in_channels": 48,
    "out_channels": 48,
}

# Measured on diffusers' Wan with bf16, rounded as given: model, video, grid; then in MiB one residual tensor, and for
# all layers in one call frame means of the stream and attention from frame to frame (fp32, all heads); in GiB the
# streams of all layers in one call, and the self- and cross-attention pattern of one layer; in TiB the streams of 50
# steps with guidance.
MEASURED = [
    ("1.3B", (81, 480, 832), (21, 30, 52), (96, 1.8, 0.6), (2.8, 24, 0.37), 0.27),
    ("A14B", (81, 480, 832), (21, 30, 52), (320, 8.2, 2.7), (12.5, 80, 1.25), 1.22),
    ("A14B", (81, 720, 1280), (21, 45, 80), (738, 8.2, 2.7), (28.8, 426, 2.9), 2.8),
    ("5B", (121, 704, 1280), (31, 22, 40), (160, 5.4, 2.6), (4.7, 33, 0.6), 0.46),
    ("A14B", (81, 512, 512), (21, 32, 32), (210, 8.2, 2.7), (8.2, 34, 0.8), 0.80),
    ("A14B", (33, 384, 384), (9, 24, 24), (51, 3.5, 0.5), (2.0, 2.0, 0.2), 0.19),
    ("A14B", (161, 256, 256), (41, 16, 16), (103, 16, 10), (4.0, 8.2, 0.4), 0.39),
    ("1.3B", (33, 272, 480), (9, 17, 30), (13, 0.8, 0.1), (0.4, 0.5, 0.05), 0.04),
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
    model, video, grid, (one, by_frame, frame_to_frame), (layers, attention, cross), run = case
    space = video_space(model, video)
    assert space.grid.shape == grid

    def nbytes(pattern: str, **said: object) -> float:
        return select(pattern, **said).resolve(space).nbytes(2)

    call = {"step": 0, "branch": "cond"}
    assert nbytes("blocks.0.hook_resid_post", **call) == pytest.approx(one * MIB, rel=0.06)
    assert nbytes("blocks.*.hook_resid_post", **call) == pytest.approx(layers * GIB, rel=0.06)
    assert nbytes("blocks.*.hook_resid_post") == pytest.approx(run * TIB, rel=0.06)
    assert nbytes("blocks.0.attn.hook_pattern", **call) == pytest.approx(attention * GIB, rel=0.06)
    assert nbytes("blocks.0.cross_attn.hook_pattern", **call) == pytest.approx(
        cross * GIB, rel=0.2
    )  # given in one digit

    def viewed(pattern: str, view: str) -> float:
        plan = ViewPlan.of(select(pattern, **call).resolve(space), views_of(view))
        return plan.nbytes * len(select("blocks.*.hook_resid_post").resolve(space).sites)

    assert viewed("blocks.0.hook_resid_post", "frame_mean") == pytest.approx(by_frame * MIB, rel=0.06)
    mass = viewed("blocks.0.attn.hook_pattern", "attention_mass-frames-to-frames")
    assert mass == pytest.approx(frame_to_frame * MIB, rel=0.12)  # one digit


def test_every_address_of_a14b_resolves() -> None:
    space = video_space("A14B", (81, 480, 832))
    with torch.device("meta"):
        model = WanTransformer3DModel(**CONFIGS["A14B"])
    paths = {name for name, _ in model.named_modules()}
    for site in SITES:
        if site.family in ("image", "vace"):
            continue
        names = [site.at(layer) for layer in range(40)] if site.layered else [site.name]
        found = select(site.name.replace("{layer}", "*")).resolve(space)
        assert found.sites == tuple(names)
        assert found.tensors == 50 * len(names) * (2 if site.branch is None else 1)
        assert site.port == "none" or {site.module_at(name) for name in names} <= paths
    assert select("**").resolve(space).sites == tuple(site for site in space.sites if not site_named(site).heavy)


def test_both_experts_of_a14b_on_the_meta_device(tmp_path: Path) -> None:
    """The bundled pipelines' way in, with two transformers of 14 B parameters that have no storage."""
    pipe = tiny_i2v(two_experts=True, scheduler="unipc")
    with torch.device("meta"):
        pipe.transformer, pipe.transformer_2 = (WanTransformer3DModel(**CONFIGS["A14B"]) for _ in range(2))
    lab = load(pipe)
    sample = Sample("", "shape", "a maze", None, None, height=480, width=832, num_frames=81)
    run = lab.plan(sample, steps=50, guidance_scale=3.5, shift=5.0)[0]
    space = lab.space(run)
    assert space.grid.tokens == 32760
    assert Counter(space.experts[: space.steps]) == {"high": 18, "low": 32}  # boundary 0.9 at shift 5
    assert sum(site.endswith(".hook_resid_post") for site in space.sites) == 40
    for expert, steps in (("high", 18), ("low", 32)):
        found = select("blocks.*.hook_resid_post", expert=expert, branch="uncond").resolve(space)
        assert found.tensors == 40 * steps
        assert found.nbytes(2) == 40 * steps * 32760 * 5120 * 2
    every = select(["**", "**.hook_{attn_scores,pattern,result}"]).resolve(space)
    assert every.sites == space.sites
    paths = {name for name, _ in pipe.transformer_2.named_modules()}
    assert {site_named(s).module_at(s) for s in space.sites if site_named(s).port != "none"} <= paths
    with pytest.raises(InterpError, match=r"more than the limit of 93.1 GiB; .*\"frame_mean\" \(820 MiB\)"):
        lab.capture([run], "blocks.*.hook_resid_post", to=tmp_path / "s", progress=False)


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


def test_the_page_has_every_hook_point() -> None:
    page = render()
    for site in SITES:
        assert page.count(f"| `{site.name}`") == 1
        assert shape_in("A14B", site) is not None
