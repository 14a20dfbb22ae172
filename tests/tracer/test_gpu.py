"""On a CUDA device: looking changes no bit, and what is seen is what plain hooks see."""

from __future__ import annotations

import pytest
import torch

from interp.lab import load
from tests.tracer.runs import KINDS, arguments_of, bare_latents, specs_of
from tests.tracer.walk import everything

SITE = "blocks.1.hook_resid_post"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_captures_are_those_of_the_bare_pipeline(kind: str, dtype: torch.dtype) -> None:
    pipe = KINDS[kind](scheduler="unipc", dtype=dtype).to("cuda")
    arguments, kept = arguments_of(kind, pipe, guidance=5.0), []
    models = [model for model in (pipe.transformer, getattr(pipe, "transformer_2", None)) if model is not None]
    handles = [
        model.blocks[1].register_forward_hook(lambda module, args, out: kept.append(out.cpu())) for model in models
    ]
    expected = bare_latents(pipe, arguments, [3])
    for handle in handles:
        handle.remove()
    lab = load(pipe)
    result = lab.run(specs_of(lab, arguments, [3])[0], everything())
    assert torch.equal(result.trajectory.result, expected[0].float().cpu())
    assert torch.equal(result.captured[SITE].flatten(0, 1), torch.cat(kept).float())
    with lab.observe(SITE) as seen:
        assert torch.equal(bare_latents(pipe, arguments, [3]), expected)
    for branch, i in (("cond", 0), ("uncond", 1)):
        assert torch.equal(seen.stack(SITE, branch)[:, 0], result.captured[SITE][:, i])
