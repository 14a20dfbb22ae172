"""Attribution against true patches: exact where the metric is linear in the tensor, a slope elsewhere."""

from __future__ import annotations

import pytest
import torch

from interp import edits
from interp.attribution import attribute
from interp.errors import InterpError
from interp.replay import record
from tests.edits.labs import lab_and_runs, state


def test_attribution_is_exact_for_the_last_linear_map() -> None:
    """From head.hook_in to x0_hat everything is linear, so first order is all there is."""
    lab, runs = lab_and_runs(steps=2, guidance=4.0)
    weights = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def metric(x0_hat: torch.Tensor) -> torch.Tensor:
        return (x0_hat * weights).sum()

    clean = edits.run_with(lab, runs[0], (), stop=1)
    lab.run(runs[0])  # diffusers registers its cache context with each expert when that is first called
    before = state(lab.pipe)
    found = attribute(lab, record(lab, runs[0]), record(lab, runs[1]), "head.hook_in", metric, step=0)
    assert state(lab.pipe) == before
    assert abs(found.metric - float(metric(clean.x0_hat))) < 1e-4
    kept = edits.run_with(lab, runs[1], (), "head.hook_in", stop=1)
    for branch in ("cond", "uncond"):
        for frame in (0, 2):
            patched = edits.run_with(
                lab, runs[0], edits.patch("head.hook_in", kept, step=0, branch=branch, frames=frame), stop=1
            )
            effect = float(metric(patched.x0_hat) - metric(clean.x0_hat))
            estimate = float(found.effects["head.hook_in", branch][4 * frame : 4 * frame + 4].sum())
            assert abs(effect - estimate) < 1e-3
    assert set(found.table["branch"]) == {"cond", "uncond"}


@pytest.mark.parametrize("points", [1, 4])
def test_attribution_is_the_slope_of_interpolation(points: int) -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    site = "blocks.0.hook_mlp_out"

    def metric(x0_hat: torch.Tensor) -> torch.Tensor:
        return x0_hat[:, :, -1].square().mean()

    found = attribute(lab, record(lab, runs[0]), record(lab, runs[1]), site, metric, points=points)
    kept = edits.run_with(lab, runs[1], (), site)

    def at(share: float) -> float:
        return float(metric(edits.run_with(lab, runs[0], edits.interpolate(site, kept, share)).x0_hat[None]))

    shares = [0.0] if points == 1 else [(k + 0.5) / points for k in range(points)]
    slopes = [(at(s + 0.01) - at(s - 0.01)) / 0.02 for s in shares]
    total = float(found.effects[site, "cond"].sum())
    assert abs(total - sum(slopes) / len(slopes)) < 0.02 * abs(total) + 1e-4


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_checkpointed_gradients_are_the_same(guidance: float) -> None:
    lab, runs = lab_and_runs(steps=1, guidance=guidance)
    sites = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"]

    def metric(x0_hat: torch.Tensor) -> torch.Tensor:
        return x0_hat.square().mean()

    one, two = record(lab, runs[0]), record(lab, runs[1])
    before = state(lab.pipe)
    plain, again = (attribute(lab, one, two, sites, metric, points=2, checkpoint=c) for c in (False, True))
    assert state(lab.pipe) == before
    assert set(plain.effects) == set(again.effects)
    for key, effect in plain.effects.items():
        torch.testing.assert_close(again.effects[key], effect, atol=1e-7, rtol=1e-5)
        assert float(effect.abs().max()) > 0


def test_integrated_gradients_of_early_sites_pass_through_later_ones() -> None:
    """A later site in the same selection must not cut an earlier one's gradient."""
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    early = "blocks.0.hook_resid_post"

    def metric(x0_hat: torch.Tensor) -> torch.Tensor:
        return x0_hat.mean()

    one, two = record(lab, runs[0]), record(lab, runs[1])
    found = attribute(lab, one, two, "blocks.*.hook_resid_post", metric, points=2)
    assert float(found.effects[early, "cond"].abs().max()) > 0


def test_what_cannot_be_attributed_is_refused() -> None:
    lab, runs = lab_and_runs(steps=1, guidance=1.0)
    one, two = record(lab, runs[0]), record(lab, runs[:2])
    with pytest.raises(InterpError, match="one run with one run"):
        attribute(lab, one, two, "head.hook_in", torch.mean)
    with pytest.raises(InterpError, match="one number"):
        attribute(lab, one, two.rows([1]), "head.hook_in", torch.abs)
