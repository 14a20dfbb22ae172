"""What would make hooks miss is refused with what to do about it; offloading works and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.guiders import SkipLayerGuidance
from diffusers.hooks import HookRegistry, LayerSkipConfig
from diffusers.hooks.context_parallel import ContextParallelSplitHook
from torch import nn

from interp import edits
from interp.errors import InterpError
from interp.lab import load
from tests import pipelines
from tests.tracer.runs import arguments_of, bare_latents, call, specs_of

SITE = "blocks.*.hook_resid_post"
CPU = torch.device("cpu")


def cached(config: Any) -> Callable[[Any], None]:
    return lambda pipe: pipe.transformer.enable_cache(config)


def sharded(pipe: Any) -> None:
    hook = ContextParallelSplitHook(metadata={}, parallel_config=None)
    HookRegistry.check_if_exists_or_initialize(pipe.transformer.blocks[0]).register_hook(hook, "context_parallel")


def given_a_mesh(pipe: Any) -> None:
    pipe.transformer.blocks[1].attn1.processor._parallel_config = object()


IN_THE_WAY: dict[str, tuple[Callable[[Any], Any], str]] = {
    "fused projections": (lambda pipe: pipe.transformer.fuse_qkv_projections(), "unfuse_qkv_projections"),
    "first block cache": (cached(diffusers.FirstBlockCacheConfig(threshold=0.1)), "disable_cache"),
    "first block cache, by its function": (
        lambda pipe: diffusers.hooks.apply_first_block_cache(
            pipe.transformer, diffusers.FirstBlockCacheConfig(threshold=0.1)
        ),
        "disable_cache",
    ),
    "attention broadcast": (
        cached(
            diffusers.PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
            )
        ),
        "disable_cache",
    ),
    "skipped layers": (
        lambda pipe: diffusers.hooks.apply_layer_skip(pipe.transformer, LayerSkipConfig(indices=[1], fqn="blocks")),
        "guider without skipped layers",
    ),
    "a sharded sequence": (sharded, "sharded over devices"),
    "a context parallel mesh": (given_a_mesh, "sharded over devices"),
    "a compiled block": (lambda pipe: pipe.transformer.blocks[0].compile(), "compiled"),
    "a compiled model": (lambda pipe: pipe.transformer.compile(), "compiled"),
    "a compiled wrapper": (lambda pipe: setattr(pipe, "transformer", torch.compile(pipe.transformer)), "compiled"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports torch.jit, which warns
@pytest.mark.parametrize("obstacle", IN_THE_WAY)
def test_what_is_in_the_way_is_refused_both_ways_in(obstacle: str) -> None:
    put, words = IN_THE_WAY[obstacle]
    pipe = pipelines.tiny_i2v()
    lab = load(pipe)
    (run,) = specs_of(lab, arguments_of("i2v", pipe), [0])
    put(pipe)
    with pytest.raises(InterpError, match=words), lab.observe(SITE):
        pytest.fail("was not refused when the block was entered")
    run = specs_of(lab, arguments_of("i2v", pipe), [0])[0]
    with pytest.raises(InterpError, match=words):
        lab.run(run, SITE)


def test_what_gets_in_the_way_after_the_block_was_entered_is_refused_too() -> None:
    pipe = pipelines.tiny_i2v()

    def late() -> None:
        with load(pipe).observe(SITE):
            pipe.transformer.fuse_qkv_projections()
            bare_latents(pipe, arguments_of("i2v", pipe), [0])

    with pytest.raises(InterpError, match="unfuse_qkv_projections"):
        late()


class WithAdapter(nn.Module):
    """A layer as PEFT leaves it: the old one inside, and something beside it."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + 1


def test_an_adapter_loaded_in_a_callback_is_an_error() -> None:
    """The hook would stay on the old layer, inside, and see the output without the adapter's part."""
    pipe = pipelines.tiny_i2v()
    attn = pipe.transformer.blocks[0].attn1

    def adds_it(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            attn.to_q = WithAdapter(attn.to_q)
        return given

    def watched() -> None:
        with load(pipe).observe("blocks.0.attn.hook_q_pre"):
            pipe(**arguments_of("i2v", pipe), callback_on_step_end=adds_it)

    with pytest.raises(InterpError, match=r"to_q was replaced.*load first"):
        watched()


def test_an_adapter_loaded_before_the_first_forward_is_seen() -> None:
    pipe = pipelines.tiny_i2v()
    attn, kept = pipe.transformer.blocks[0].attn1, []
    with load(pipe).observe(["blocks.0.attn.hook_q_pre"]) as seen:
        attn.to_q = WithAdapter(attn.to_q)
        attn.to_q.register_forward_hook(lambda module, args, out: kept.append(out))
        bare_latents(pipe, arguments_of("i2v", pipe), [0])
    assert torch.equal(seen.stack("blocks.0.attn.hook_q_pre").flatten(-2), torch.stack(kept))


def test_results_by_head_of_a_layer_with_an_adapter_are_refused() -> None:
    pipe = pipelines.tiny_i2v()
    attn = pipe.transformer.blocks[0].attn1
    attn.to_out[0] = WithAdapter(attn.to_out[0])

    def watched() -> None:
        with load(pipe).observe("blocks.0.attn.hook_result"):
            bare_latents(pipe, arguments_of("i2v", pipe), [0])

    with pytest.raises(InterpError, match="fuse it and unload it"):
        watched()


def test_a_guider_that_skips_layers_is_refused() -> None:
    pipe = pipelines.tiny_modular(pipelines.tiny_t2v())
    skipping = SkipLayerGuidance(skip_layer_config=LayerSkipConfig(indices=[1], fqn="blocks"))
    pipe.update_components(guider=skipping)
    arguments = {k: v for k, v in pipelines.call_arguments(pipe).items() if k not in ("guidance_scale", "output_type")}

    def watched() -> None:
        with load(pipe).observe(SITE):
            pipe(**arguments, output="latents")

    with pytest.raises(InterpError, match="SkipLayerGuidance makes passes"):
        watched()


def test_a_guider_that_starts_late_has_uncond_passes_from_there_on() -> None:
    pipe = pipelines.tiny_modular(pipelines.tiny_t2v(scheduler="unipc"))
    late = diffusers.ClassifierFreeGuidance(guidance_scale=4.0, start=0.5)
    pipe.update_components(guider=late)
    arguments = arguments_of("t2v", pipe, steps=4) | {"guidance_scale": 4.0}
    with load(pipe).observe(["blocks.0.hook_resid_post", "latents.hook_velocity_uncond"]) as seen:
        call(pipe, arguments, [3])
    passes = [(c.step, c.branch) for c in seen.calls]
    assert passes == [(0, "cond"), (1, "cond"), (2, "cond"), (2, "uncond"), (3, "cond"), (3, "uncond")]
    assert sorted(k[1:] for k in seen.tensors if k[0].startswith("latents")) == [(2, "uncond"), (3, "uncond")]


EVERYTHING = ["**", "**.hook_{attn_scores,pattern,result}"]
OFFLOADING: dict[str, Callable[[Any], Any]] = {
    "accelerate, layer by layer": lambda model: cpu_offload(model, execution_device=CPU),
    "accelerate, whole models": lambda model: cpu_offload_with_hook(model, execution_device=CPU),
    "groups of blocks": lambda model: model.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    ),
    "groups of leaves": lambda model: model.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="leaf_level"
    ),
}


@pytest.mark.parametrize("when", ["before", "inside"])
@pytest.mark.parametrize("way", OFFLOADING)
def test_offloading_in_either_order_changes_nothing(way: str, when: str) -> None:
    plain, pipe = pipelines.tiny_i2v(), pipelines.tiny_i2v()
    with load(plain).observe(EVERYTHING) as expected:
        latents = bare_latents(plain, arguments_of("i2v", plain, guidance=5.0), [3])
    if when == "before":
        OFFLOADING[way](pipe.transformer)
    with load(pipe).observe(EVERYTHING) as seen:
        if when == "inside":
            OFFLOADING[way](pipe.transformer)
        got = bare_latents(pipe, arguments_of("i2v", pipe, guidance=5.0), [3])
    assert torch.equal(got, latents)
    assert set(seen.tensors) == set(expected.tensors)
    for key, tensor in expected.tensors.items():
        assert torch.equal(seen.tensors[key], tensor), key


@pytest.mark.parametrize("way", OFFLOADING)
def test_edits_fire_beneath_offloading(way: str) -> None:
    results = []
    for offload in (lambda model: None, OFFLOADING[way]):
        lab = load(pipelines.tiny_i2v())
        offload(lab.pipe.transformer)
        (run,) = specs_of(lab, arguments_of("i2v", lab.pipe), [3])
        edit = edits.scale(["blocks.1.hook_resid_mid", "blocks.1.attn.hook_gate"], 0.5, step=1)
        results.append(lab.run(run, edits=edit).trajectory.result)
    assert torch.equal(*results)
