"""LoRA files in the names people ship, against the weights merged by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interp import lora
from interp.errors import InterpError
from interp.fingerprint import fingerprint
from interp.lab import load
from tests import pipelines
from tests.tracer.runs import arguments_of, bare_latents, specs_of

RANK = 2
DIFFSYNTH = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
NAMES: dict[str, Callable[[str, str, str], str]] = {
    "diffsynth": lambda block, layer, end: f"{block}.{DIFFSYNTH[layer]}.{end}.default.weight",
    "diffsynth, plain": lambda block, layer, end: f"{block}.{DIFFSYNTH[layer]}.{end}.weight",
    "comfyui": lambda block, layer, end: f"diffusion_model.{block}.{DIFFSYNTH[layer]}.{end}.weight",
    "diffusers": lambda block, layer, end: f"transformer.{block}.{layer}.{end}.weight",
}


def drawn(pipe: Any, names: str = "diffsynth", seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA of every layer that VBVR's have, as its file names them."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for i, block in enumerate(pipe.transformer.blocks):
        for layer in DIFFSYNTH:
            rows, cols = block.get_submodule(layer).weight.shape
            for end, shape in (("lora_A", (RANK, cols)), ("lora_B", (rows, RANK))):
                found[NAMES[names](f"blocks.{i}", layer, end)] = torch.randn(shape, generator=draw)
    return found


def merged_by_hand(model: Any, tensors: dict[str, torch.Tensor], names: str, scale: float) -> None:
    for i, block in enumerate(model.blocks):
        for layer in DIFFSYNTH:
            a, b = (tensors[NAMES[names](f"blocks.{i}", layer, end)] for end in ("lora_A", "lora_B"))
            weight = block.get_submodule(layer).weight
            weight.data = (weight.data.float() + scale * (b @ a)).to(weight.dtype)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("names", NAMES)
def test_both_experts_get_their_own_file(names: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pipe, byhand = (pipelines.tiny_i2v(two_experts=True, dtype=dtype) for _ in range(2))
    files = {}
    for seed, expert in enumerate(("high", "low")):
        tensors = drawn(pipe, names, seed)
        files[expert] = tmp_path / f"{expert}_noise_lora.safetensors"
        save_file(tensors, files[expert])
        merged_by_hand(byhand.transformer_2 if expert == "low" else byhand.transformer, tensors, names, 0.5)
    lab = load(pipe)
    before = lab.model_hash
    merged = lora.load(lab, high=files["high"], low=files["low"], scale=0.5)
    assert {expert: len(layers) for expert, layers in merged.layers.items()} == {"high": 20, "low": 20}
    assert same_weights(pipe.transformer, byhand.transformer)
    assert same_weights(pipe.transformer_2, byhand.transformer_2)
    assert not same_weights(pipe.transformer, pipelines.tiny_i2v(dtype=dtype).transformer)
    assert lab.model_hash != before
    arguments = arguments_of("i2v two experts", pipe, guidance=5.0)
    (run,) = specs_of(lab, arguments, [3])
    assert [text.split()[:2] for text in run.provenance()["adapters"]] == [
        ["high:", "high_noise_lora.safetensors"],
        ["low:", "low_noise_lora.safetensors"],
    ]
    assert torch.equal(lab.run(run).trajectory.result, bare_latents(byhand, arguments, [3])[0].float())


def test_one_expert_alone_and_a_folder_and_an_alpha(tmp_path: Path) -> None:
    pipe, byhand = (pipelines.tiny_i2v(two_experts=True) for _ in range(2))
    tensors = drawn(pipe)
    merged_by_hand(byhand.transformer_2, tensors, "diffsynth", 3.0 / RANK)
    for key in [key for key in tensors if "lora_A" in key]:
        tensors[key.replace("lora_A.default.weight", "alpha")] = torch.tensor(3.0)
    save_file(tensors, tmp_path / "epoch-0.safetensors")
    assert set(lora.load(pipe, low=tmp_path).layers) == {"low"}
    for one, other in zip(pipe.transformer_2.parameters(), byhand.transformer_2.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert same_weights(pipe.transformer, byhand.transformer)


def test_a_model_with_one_transformer_takes_one_file() -> None:
    pipe = pipelines.tiny_t2v()
    before = fingerprint(pipe)
    lora.load(pipe, drawn(pipe))
    assert fingerprint(pipe) != before
    with pytest.raises(InterpError, match="single transformer"):
        lora.load(pipe, high=drawn(pipe))


def test_a_factor_of_zero_still_counts() -> None:
    """The weights are the same and the provenance is not."""
    pipe = pipelines.tiny_t2v()
    before = fingerprint(pipe)
    lora.load(pipe, drawn(pipe), scale=0.0)
    assert same_weights(pipe.transformer, pipelines.tiny_t2v().transformer)
    assert fingerprint(pipe) != before


def spoilt(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Any], Any]:
    def make(pipe: Any) -> dict[str, torch.Tensor]:
        tensors = drawn(pipe)
        return change(tensors) or tensors

    return make


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no such file": (lambda pipe: "nowhere.safetensors", "does not exist"),
    "full weights": (lambda pipe: pipe.transformer.state_dict(), "holds no LoRA"),
    "nothing": (lambda pipe: {}, "holds no LoRA"),
    "zeros": (
        spoilt(lambda tensors: {k: t * 0 if "lora_B" in k else t for k, t in tensors.items()}),
        "changes nothing: all of its B are zero",
    ),
    "another key": (spoilt(lambda t: t.update({"blocks.0.norm3.diff": torch.zeros(1)})), "left over: blocks.0.norm3"),
    "another layer": (
        spoilt(lambda t: t.update({"blocks.9.self_attn.q.lora_A.weight": torch.zeros(RANK, 24)})),
        r"fit no layer.*blocks\.9",
    ),
    "half a pair": (spoilt(lambda t: t.__delitem__("blocks.1.ffn.0.lora_B.default.weight")), "only one of"),
    "another width": (
        spoilt(lambda t: t.update({"blocks.0.self_attn.q.lora_A.default.weight": torch.zeros(RANK, 8)})),
        "made for another model",
    ),
    "no known name": (lambda pipe: {"unet.mid.lora_A.weight": torch.zeros(2, 2)}, "fit no layer"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_file_that_does_not_fit_changes_nothing(mistake: str) -> None:
    make, words = WRONG[mistake]
    pipe = pipelines.tiny_i2v(two_experts=True)
    with pytest.raises(InterpError, match=words):
        lora.load(pipe, high=drawn(pipe), low=make(pipe))
    assert same_weights(pipe.transformer, pipelines.tiny_i2v().transformer)


def test_which_expert_has_to_be_said() -> None:
    pipe = pipelines.tiny_i2v(two_experts=True)
    for wrong in ({"source": drawn(pipe)}, {}):
        with pytest.raises(InterpError, match="high= and low="):
            lora.load(pipe, **wrong)


def test_loading_while_hooks_are_attached_is_refused() -> None:
    pipe = pipelines.tiny_i2v()
    lab = load(pipe)
    with pytest.raises(InterpError, match=r"before lab\.observe"), lab.observe("blocks.0.hook_resid_post"):
        lora.load(lab, drawn(pipe))


def test_loading_between_plan_and_run_is_refused() -> None:
    lab = load(pipelines.tiny_i2v())
    runs = specs_of(lab, arguments_of("i2v", lab.pipe), [3])
    lora.load(lab, drawn(lab.pipe))
    with pytest.raises(InterpError, match="plan the runs again"):
        lab.run(runs)


def test_fused_projections_are_refused() -> None:
    pipe = pipelines.tiny_t2v()
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(InterpError, match="unfuse_qkv_projections"):
        lora.load(pipe, drawn(pipe))
