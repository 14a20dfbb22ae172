"""Every hook point on real transformers: it exists, fires once, has the declared shape, and can be written."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from interp.address.recompute import recompute
from interp.errors import InterpError, SelectionError
from interp.sites import (
    FAMILIES,
    SITES,
    canonical_name,
    concrete_sites,
    get_act_name,
    layer_of,
    site_named,
    site_shape,
)
from tests.address.models import BATCH, VARIANTS, Variant, forward, variant


@cache
def traced(name: str, dtype: torch.dtype = torch.float32) -> tuple[Variant, Tensor, dict[str, list[Tensor]]]:
    case = variant(name, dtype)
    return case, *forward(case)


def every_value(name: str) -> dict[str, Tensor]:
    return {site: values[0] for site, values in traced(name)[2].items()}


def disturbed(value: Tensor) -> Tensor:
    """Something no norm undoes."""
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value + 3 * noise if noise.ndim > 1 else value / 2


@pytest.mark.parametrize("name", VARIANTS)
def test_module_sites_fire_once_with_the_declared_shape(name: str) -> None:
    case, velocity, seen = traced(name)
    with torch.no_grad():
        assert torch.equal(velocity, case.model(**case.inputs, return_dict=False)[0])
    module_sites = [site for site in case.space.sites if site_named(site).tier == "module"]
    assert set(seen) == set(module_sites)
    for site in module_sites:
        rows = 1 if site.startswith("rope.") else BATCH
        assert [tuple(v.shape) for v in seen[site]] == [(rows, *case.space.widths[site])], site
        assert len(case.space.axes_of(site)) == seen[site][0].ndim - 1


@pytest.mark.parametrize("name", VARIANTS)
def test_recomputed_sites_have_the_declared_shape(name: str) -> None:
    case, values = traced(name)[0], every_value(name)
    sites = [site for site in case.space.sites if site_named(site).tier == "recompute"]
    for site in sorted(sites, key=lambda site: "rot_" not in site):  # others are computed from these
        values[site] = recompute(site, values, case.model)
        assert values[site].shape == (BATCH, *case.space.widths[site]), site


@pytest.mark.parametrize("name", VARIANTS)
def test_writable_module_sites_take_their_own_value_back_and_a_new_one(name: str) -> None:
    case, clean, _ = traced(name)
    layer = case.model.config.num_layers - 1
    for site in case.space.sites:
        if (
            site_named(site).tier != "module"
            or site_named(site).write != "module"
            or layer_of(site) not in (None, layer)
        ):
            continue
        same, _ = forward(case, lambda _, value: value.clone(), only=site)
        # modulation vectors pass through (value - table) + table
        assert torch.allclose(same, clean, atol=1e-5), site
        assert site_named(site).transform.startswith("row") or torch.equal(same, clean), site
        changed, _ = forward(case, lambda _, value: disturbed(value), only=site)
        assert not torch.allclose(changed, clean, atol=1e-6), site


@pytest.mark.parametrize("name", VARIANTS)
def test_a_written_value_is_what_the_model_goes_on_with(name: str) -> None:
    case, _, seen = traced(name)
    block = case.model.blocks[1]

    def after(site: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Halve a site; the halved value and what the hooks behind it saw."""
        wanted = seen[site][0] * 0.5
        _, values = forward(case, lambda at, _: wanted if at == site else None)
        return wanted, {at: found[0] for at, found in values.items()}

    patches, v = after("patch_embed.hook_out")
    assert torch.equal(v["blocks.0.hook_resid_pre"], patches)
    modulation, v = after("time_embed.hook_mod")
    scale = modulation[..., 4, :] + case.model.blocks[0].scale_shift_table[0, 4]
    torch.testing.assert_close(v["blocks.0.mlp.hook_scale"], scale)
    z, v = after("blocks.1.attn.hook_z")
    torch.testing.assert_close(v["blocks.1.hook_attn_out"], block.attn1.to_out[0](z.flatten(-2)))
    gate, v = after("blocks.1.attn.hook_gate")
    added = v["blocks.1.hook_resid_mid"] - v["blocks.1.hook_resid_pre"]
    gated = v["blocks.1.hook_attn_out"] * (gate if gate.ndim == 3 else gate.unsqueeze(1))
    torch.testing.assert_close(added, gated, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_forward_rebuilt_from_its_sites(name: str) -> None:
    case, v = traced(name)[0], every_value(name)
    model = case.model

    def close(left: Tensor, right: Tensor) -> None:
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)

    def rows(vector: Tensor) -> Tensor:
        return vector if vector.ndim == 3 else vector.unsqueeze(1)

    assert torch.equal(v["patch_embed.hook_out"], v["blocks.0.hook_resid_pre"])
    context = [v[f"{source}_embed.hook_out"] for source in ("image", "text") if f"{source}_embed.hook_out" in v]
    assert torch.equal(torch.cat(context, 1), v["hook_context"])
    for layer in range(model.config.num_layers):
        at, block = f"blocks.{layer}", model.blocks[layer]
        for part in ("rot_q", "rot_k"):
            v[f"{at}.attn.hook_{part}"] = recompute(f"{at}.attn.hook_{part}", v, model)
        more = [s for s in case.space.sites if s.startswith(f"{at}.") and site_named(s).tier == "recompute"]
        v |= {site: recompute(site, v, model) for site in more}

        shift, scale = (rows(v[f"{at}.attn.hook_{op}"]) for op in ("shift", "scale"))
        close(v[f"{at}.ln1.hook_normalized"] * (1 + scale) + shift, v[f"{at}.attn.hook_in"])
        shift, scale = (rows(v[f"{at}.mlp.hook_{op}"]) for op in ("shift", "scale"))
        close(v[f"{at}.ln3.hook_normalized"] * (1 + scale) + shift, v[f"{at}.mlp.hook_in"])
        assert torch.equal(v[f"{at}.ln2.hook_normalized"], v[f"{at}.cross_attn.hook_in"])

        assert torch.equal(v[f"{at}.hook_resid_pre"] + v[f"{at}.hook_attn_update"], v[f"{at}.hook_resid_mid"])
        assert torch.equal(v[f"{at}.hook_resid_mid"] + v[f"{at}.hook_cross_attn_out"], v[f"{at}.hook_resid_mid_cross"])
        assert torch.equal(v[f"{at}.hook_resid_mid_cross"] + v[f"{at}.hook_mlp_update"], v[f"{at}.hook_resid_post"])

        for part, attn, out in (("attn", block.attn1, "attn_out"), ("cross_attn", block.attn2, "cross_attn_out")):
            heads = model.config.num_attention_heads
            z = torch.einsum("bhqk,bkhd->bqhd", v[f"{at}.{part}.hook_pattern"], v[f"{at}.{part}.hook_v"])
            if f"{at}.{part}.hook_z_img" in v:
                z = z + v[f"{at}.{part}.hook_z_img"]
            close(z, v[f"{at}.{part}.hook_z"])
            close(v[f"{at}.{part}.hook_result"].sum(2) + attn.to_out[0].bias, v[f"{at}.hook_{out}"])
            normed = attn.norm_q(v[f"{at}.{part}.hook_q_pre"].flatten(-2)).unflatten(-1, (heads, -1))
            assert torch.equal(normed, v[f"{at}.{part}.hook_q"])
        assert torch.equal(
            torch.nn.functional.gelu(v[f"{at}.mlp.hook_pre"], approximate="tanh"), v[f"{at}.mlp.hook_post"]
        )
        close(block.ffn.net[2](v[f"{at}.mlp.hook_post"]), v[f"{at}.hook_mlp_out"])

    shift, scale = (rows(v[f"head.hook_{op}"]) for op in ("shift", "scale"))
    close(v["head.hook_normalized"] * (1 + scale) + shift, v["head.hook_in"])
    t, h, w = case.space.grid.patch
    frames, height, width = case.space.grid.shape
    video = v["head.hook_velocity_tok"].reshape(BATCH, frames, height, width, t, h, w, -1)
    assert torch.equal(video.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(v["hook_velocity"].shape), v["hook_velocity"])


def test_half_precision_keeps_modulation_in_full() -> None:
    case, clean, seen = traced("t2v", torch.bfloat16)
    assert seen["blocks.0.attn.hook_gate"][0].dtype == torch.float32
    assert seen["blocks.0.hook_resid_post"][0].dtype == torch.bfloat16
    same, _ = forward(case, lambda _, value: value.clone(), only="blocks.0.attn.hook_z")
    assert torch.equal(same, clean)


def test_the_table_is_consistent() -> None:
    names = [site.name for site in SITES]
    assert len(set(names)) == len(names)
    for site in SITES:
        assert site.family in FAMILIES
        assert (site.tier == "recompute") == bool(site.sources), site.name
        assert set(site.sources) <= set(names), site.name
        assert (site.port == "none") == (site.tier in ("recompute", "sampler")), site.name
        assert (
            ("{layer}" in site.name) == ("{layer}" in site.module) or site.port == "none" or site.name == "hook_context"
        )
    counts = {"": 1, "blocks": 3, "vace_blocks": 2}
    assert len(concrete_sites(3, FAMILIES, vace_layers=2)) == sum(counts[site.stack] for site in SITES)
    assert set(concrete_sites(2)) < set(concrete_sites(2, FAMILIES))
    assert concrete_sites(2).index("blocks.0.hook_resid_post") < concrete_sites(2).index("blocks.1.hook_resid_pre")


def test_a_blocks_own_path_and_a_hints_are_names() -> None:
    assert canonical_name("blocks.3") == "blocks.3.hook_resid_post"
    assert canonical_name("vace_blocks.1.proj_out") == "vace_blocks.1.hook_hint"


def test_aliases_lead_to_sites_at_that_module_and_port() -> None:
    for site in SITES:
        if site.tier != "module":
            continue
        for layer in (0, 7):
            name = site.at(layer)
            assert canonical_name(name) == name
            if site.module and site.argument[0] == 0 and "row" not in site.transform and "rope" not in site.transform:
                found = site_named(f"{site.module_at(name)}.{site.port}")
                assert (found.module, found.port) == (site.module, site.port)
    assert canonical_name("blocks.3.attn1.to_out.0") == "blocks.3.attn.hook_z"
    assert canonical_name("blocks.3.attn1.to_out.0.output") == "blocks.3.hook_attn_out"
    assert canonical_name("blocks.3.ffn.net.2.input") == "blocks.3.mlp.hook_post"
    assert canonical_name("blocks.3.ffn.net.2") == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("z", 3, "cross_attn"), "blocks.3.cross_attn.hook_z"),
        (("z", 3), "blocks.3.attn.hook_z"),
        (("k", 6, "a"), "blocks.6.attn.hook_k"),
        (("k6",), "blocks.6.attn.hook_k"),
        (("pre", 2), "blocks.2.mlp.hook_pre"),
        (("pre5",), "blocks.5.mlp.hook_pre"),
        (("resid_mid_cross", 0), "blocks.0.hook_resid_mid_cross"),
        (("normalized", 27, "ln2"), "blocks.27.ln2.hook_normalized"),
        (("pattern", "4"), "blocks.4.attn.hook_pattern"),
        (("gate", 1, "m"), "blocks.1.mlp.hook_gate"),
        (("patch_embed",), "patch_embed.hook_out"),
        (("blocks.2.attn.hook_z",), "blocks.2.attn.hook_z"),
        (("blocks.2.attn1.to_out.0",), "blocks.2.attn.hook_z"),
    ],
)
def test_short_names(arguments: tuple, expected: str) -> None:
    assert get_act_name(*arguments) == expected


def test_unknown_names() -> None:
    with pytest.raises(SelectionError, match=r"did you mean blocks\.3\.hook_resid_post"):
        site_named("blocks.3.hook_resid_pots")
    with pytest.raises(SelectionError, match="say which"):
        get_act_name("z")
    with pytest.raises(SelectionError, match=r"no activation 'mlp\.hook_zz'"):
        get_act_name("zz", 3, "mlp")
    with pytest.raises(SelectionError, match="no site family 'blok'"):
        concrete_sites(2, frozenset({"blok"}))
    with pytest.raises(InterpError, match="image_token"):
        site_shape(site_named("image_embed.hook_out"), tokens=4, d_model=8, heads=2, d_head=4, ffn=16)
    with pytest.raises(InterpError, match="latent_frame"):
        site_shape(site_named("hook_velocity"), tokens=4, d_model=8, heads=2, d_head=4, ffn=16)
    with pytest.raises(InterpError, match="needs blocks"):
        recompute("blocks.0.hook_attn_update", {}, torch.nn.Identity())
    with pytest.raises(InterpError, match="module tier"):
        recompute("blocks.0.hook_attn_out", {}, torch.nn.Identity())
