"""Forwards of the transformer that no pipeline makes: a bare call, a loop of one's own, a training step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.errors import InterpError, SelectionError
from interp.lab import load
from interp.sites import concrete_sites, site_named
from tests import pipelines

SITE = "blocks.1.hook_resid_post"


def inputs(channels: int = 36) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, channels, 3, 4, 4, generator=draw),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 16, 64, generator=draw),
    }


@torch.no_grad()
def test_every_site_of_the_transformer_is_seen_in_a_bare_call() -> None:
    pipe = pipelines.tiny_i2v()
    expected = pipe.transformer(**inputs()).sample
    with load(pipe).observe(["blocks.**", "head.*", "hook_*", "*_embed.*", "rope.*"]) as seen:
        got = pipe.transformer(**inputs()).sample
    assert torch.equal(got, expected)
    assert [(c.expert, c.step, c.branch, c.sigma) for c in seen.calls] == [("main", 0, "cond", 0.5)]
    assert torch.equal(seen.tensors["hook_velocity", 0, "cond"], expected)
    assert torch.equal(seen.tensors["hook_latent_in", 0, "cond"], inputs()["hidden_states"])
    families = {"embed", "blocks", "head"}
    whole = {site for site in concrete_sites(pipelines.LAYERS, frozenset(families)) if not site_named(site).heavy}
    assert {site for site, _, _ in seen.tensors} == whole


@torch.no_grad()
@pytest.mark.parametrize(("name", "expert"), [("transformer", "high"), ("transformer_2", "low")])
def test_the_expert_is_the_one_that_was_called(name: str, expert: str) -> None:
    """At any noise level: a bare call may ask an expert about what it never sees."""
    pipe = pipelines.tiny_i2v(two_experts=True)
    model, kept = getattr(pipe, name), []
    model.blocks[1].register_forward_hook(lambda module, args, out: kept.append(out))
    with load(pipe).observe(SITE) as seen:
        model(**inputs())
    assert seen.calls[0].expert == expert
    assert torch.equal(seen.tensors[SITE, 0, "cond"], kept[0])


@torch.no_grad()
def test_passes_are_named_by_the_cache_context() -> None:
    pipe = pipelines.tiny_i2v()
    other = inputs() | {"encoder_hidden_states": torch.zeros(1, 16, 64)}
    with load(pipe).observe(SITE) as seen:
        with pipe.transformer.cache_context("uncond"):
            pipe.transformer(**other)
        pipe.transformer(**inputs())
    assert sorted(seen.tensors) == [(SITE, 0, "cond"), (SITE, 0, "uncond")]
    assert not torch.equal(seen.tensors[SITE, 0, "cond"], seen.tensors[SITE, 0, "uncond"])


@torch.no_grad()
def test_a_second_bare_call_is_not_guessed_to_be_the_uncond_pass() -> None:
    pipe = pipelines.tiny_i2v()

    def twice() -> None:
        with load(pipe).observe(SITE):
            pipe.transformer(**inputs())
            pipe.transformer(**inputs())

    with pytest.raises(InterpError, match=r"second cond forward.*cache_context"):
        twice()


@torch.no_grad()
def test_a_loop_of_ones_own_over_the_pipelines_scheduler_has_steps() -> None:
    pipe = pipelines.tiny_t2v()
    given, latents, kept = inputs(16), torch.randn(1, 16, 3, 4, 4), []
    pipe.transformer.blocks[1].register_forward_hook(lambda module, args, out: kept.append(out))
    with load(pipe).observe([SITE, "latents.hook_x0"]) as seen:
        pipe.scheduler.set_timesteps(3)
        for t in pipe.scheduler.timesteps:
            velocity = pipe.transformer(latents, t.expand(1), given["encoder_hidden_states"], return_dict=False)[0]
            latents = pipe.scheduler.step(velocity, t, latents, return_dict=False)[0]
    assert [(c.step, c.branch) for c in seen.calls] == [(0, "cond"), (1, "cond"), (2, "cond")]
    assert [c.sigma for c in seen.calls] == [float(s) for s in pipe.scheduler.sigmas[:3]]
    assert torch.equal(seen.stack(SITE), torch.stack(kept))
    patches = latents.reshape(1, 16, 3, 1, 2, 2, 2, 2).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(1, 12, 64)
    torch.testing.assert_close(seen.tensors["latents.hook_x0", 2, "guided"], patches)


def test_gradient_checkpointing_computes_blocks_twice_and_each_is_seen_once() -> None:
    def gradient(checkpointing: bool, watch: bool) -> tuple[torch.Tensor, Any]:
        pipe = pipelines.tiny_i2v()
        if checkpointing:
            pipe.transformer.enable_gradient_checkpointing()
        given = inputs()
        given["hidden_states"].requires_grad_()
        if not watch:
            pipe.transformer(**given).sample.square().sum().backward()
            return given["hidden_states"].grad, None
        with load(pipe).observe(["blocks.**", "hook_velocity"]) as seen:
            pipe.transformer(**given).sample.square().sum().backward()
        return given["hidden_states"].grad, seen.tensors

    expected, _ = gradient(checkpointing=True, watch=False)
    got, seen = gradient(checkpointing=True, watch=True)
    _, plain = gradient(checkpointing=False, watch=True)
    assert torch.equal(got, expected)
    assert set(seen) == set(plain)
    assert all(torch.equal(seen[key], plain[key]) for key in plain)


def test_asking_a_bare_call_for_a_later_step_is_an_error() -> None:
    pipe = pipelines.tiny_i2v()
    with pytest.raises(SelectionError, match="step"), load(pipe).observe(SITE, step=3), torch.no_grad():
        pipe.transformer(**inputs())
