"""Every hook point of the Wan transformer and its sampler, in the order of the computation.

Module paths and ports are those of diffusers 0.42.1 ``transformer_wan.py``; a test walks them on a real model. Names
follow TransformerLens (``hook_resid_mid_cross`` and ``hook_cross_attn_out`` are its T5 names). Feature axes of latents
are laid out (patch_t patch_h patch_w channel), as ``proj_out`` lays them out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interp.address.site import GUIDED, Site

TOKEN_D = ("token", "d_model")
TOKEN_HEADS = ("token", "head", "d_head")
VIDEO = ("channel", "latent_frame", "latent_row", "latent_col")
BLOCK = "blocks.{layer}"


def _latents() -> tuple[Site, ...]:
    def site(op: str, meaning: str, branch: str) -> Site:
        return Site(
            f"latents.hook_{op}", ("token", "feature"), meaning,
            port="none", tier="sampler", write="sampler", family="latents", branch=branch,
        )  # fmt: skip

    return (
        site("in", "noisy latents x_t at the start of the step", GUIDED),
        site("velocity_cond", "velocity of the cond pass", "cond"),
        site("velocity_uncond", "velocity of the uncond pass", "uncond"),
        site("velocity_cfg", "guided velocity, as the solver gets it", GUIDED),
        site("x0_cond", "x_t - sigma v of the cond pass", "cond"),
        site("x0_uncond", "x_t - sigma v of the uncond pass", "uncond"),
        site("x0", "x_t - sigma v, guided", GUIDED),
        site("out", "latents after the step", GUIDED),
    )


def _inputs() -> tuple[Site, ...]:
    embed = "condition_embedder"
    return (
        Site("hook_latent_in", VIDEO, "what the transformer is given: noisy latents and condition channels",
             "", "input", family="embed"),
        Site("hook_timestep", (), "timestep", "", "input", argument=(1, "timestep"), family="embed",
             per_token_time=True),
        Site("rope.hook_cos", ("token", "d_head"), "rotary cosines; one row for the whole batch", "rope",
             transform="rope.0", family="embed"),
        Site("rope.hook_sin", ("token", "d_head"), "rotary sines; one row for the whole batch", "rope",
             transform="rope.1", family="embed"),
        Site("patch_embed.hook_out", TOKEN_D, "embedded patches", "patch_embedding", transform="tokens",
             family="embed"),
        Site("time_embed.hook_freq", ("d_freq",), "sinusoids of the timestep", f"{embed}.time_embedder", "input",
             argument=(0, "sample"), family="embed", per_token_time=True),
        Site("time_embed.hook_temb", ("d_model",), "time embedding, before the cast", f"{embed}.time_embedder",
             family="embed", per_token_time=True),
        Site("time_embed.hook_mod", ("modulation", "d_model"), "what all blocks' modulation tables are added to",
             f"{embed}.time_proj", transform="six", family="embed", per_token_time=True),
        Site("text_embed.hook_in", ("text_token", "d_text"), "text encoder states, zero after the prompt",
             f"{embed}.text_embedder", "input", argument=(0, "caption"), family="embed"),
        Site("text_embed.hook_out", ("text_token", "d_model"), "embedded text", f"{embed}.text_embedder",
             family="embed"),
        Site("image_embed.hook_in", ("image_token", "d_image"), "image encoder states", f"{embed}.image_embedder",
             "input", transform="image", argument=(0, "encoder_hidden_states_image"), family="image"),
        Site("image_embed.hook_out", ("image_token", "d_model"), "embedded image", f"{embed}.image_embedder",
             family="image"),
        Site("hook_context", ("context_token", "d_model"), "what cross-attention reads: image tokens, then text; "
             "to change it write text_embed.hook_out", "blocks.0", "input", write="no",
             argument=(1, "encoder_hidden_states"), family="embed"),
    )  # fmt: skip


def _modulation(part: str, start: int) -> tuple[Site, ...]:
    """shift, scale and gate of a sublayer: the block's own table plus what the time embedding adds, in fp32."""
    return tuple(
        Site(f"{BLOCK}.{part}.hook_{op}", ("d_model",), f"{op} of the {part} modulation", BLOCK, "input",
             transform=f"row.{start + k}", argument=(2, "temb"), per_token_time=True)
        for k, op in enumerate(("shift", "scale", "gate"))
    )  # fmt: skip


def _attention(part: str, attn: str, key: str, rotary: bool) -> tuple[Site, ...]:
    """Inside of one attention. Axis ``key`` is what queries look at: the tokens themselves, or text."""
    at, path = f"{BLOCK}.{part}", f"{BLOCK}.{attn}"
    key_heads = ("token" if rotary else key, "head", "d_head")
    rope = ("rope.hook_cos", "rope.hook_sin")
    queries = f"{at}.hook_rot_q" if rotary else f"{at}.hook_q"
    keys = f"{at}.hook_rot_k" if rotary else f"{at}.hook_k"
    rotated = (
        Site(f"{at}.hook_rot_q", TOKEN_HEADS, "queries after rotation", port="none", tier="recompute",
             write="processor", sources=(f"{at}.hook_q", *rope)),
        Site(f"{at}.hook_rot_k", key_heads, "keys after rotation", port="none", tier="recompute",
             write="processor", sources=(f"{at}.hook_k", *rope)),
    ) if rotary else ()  # fmt: skip
    return (
        Site(f"{at}.hook_in", TOKEN_D, f"input of {part}", path, "input"),
        Site(f"{at}.hook_q_pre", TOKEN_HEADS, "queries before the norm over all heads", f"{path}.to_q",
             transform="heads"),
        Site(f"{at}.hook_k_pre", key_heads, "keys before the norm over all heads", f"{path}.to_k",
             transform="heads"),
        Site(f"{at}.hook_q", TOKEN_HEADS, "queries after the norm" + ", before rotation" * rotary, f"{path}.norm_q",
             transform="heads"),
        Site(f"{at}.hook_k", key_heads, "keys after the norm" + ", before rotation" * rotary, f"{path}.norm_k",
             transform="heads"),
        Site(f"{at}.hook_v", key_heads, "values", f"{path}.to_v", transform="heads"),
        *rotated,
        Site(f"{at}.hook_attn_scores", ("head", "token", key), "scaled dot products of queries and keys", port="none",
             tier="recompute", write="processor", heavy=True, sources=(queries, keys)),
        Site(f"{at}.hook_pattern", ("head", "token", key), "attention: softmax of the scores", port="none",
             tier="recompute", write="processor", heavy=True, sources=(queries, keys)),
        Site(f"{at}.hook_z", TOKEN_HEADS, "attended values by head, before the output projection", f"{path}.to_out.0",
             "input", transform="heads", argument=(0, "input"), aliases=(f"{path}.to_out.0",)),
        Site(f"{at}.hook_result", ("token", "head", "d_model"), "what each head adds to the output", port="none",
             tier="recompute", write="processor", heavy=True, sources=(f"{at}.hook_z",)),
    )  # fmt: skip


def _image_attention() -> tuple[Site, ...]:
    """Wan2.1 image-to-video: a second attention over image tokens, added before the output projection."""
    at, path = f"{BLOCK}.cross_attn", f"{BLOCK}.attn2"
    heads = ("image_token", "head", "d_head")
    return (
        Site(f"{at}.hook_k_img", heads, "keys of image tokens, after the norm", f"{path}.norm_added_k",
             transform="heads", family="image"),
        Site(f"{at}.hook_v_img", heads, "values of image tokens", f"{path}.add_v_proj", transform="heads",
             family="image"),
        Site(f"{at}.hook_z_img", TOKEN_HEADS, "the image tokens' part of z", port="none", tier="recompute",
             write="processor", family="image", sources=(f"{at}.hook_q", f"{at}.hook_k_img", f"{at}.hook_v_img")),
    )  # fmt: skip


def _block() -> tuple[Site, ...]:
    return (
        Site(f"{BLOCK}.hook_resid_pre", TOKEN_D, "residual stream entering the block", BLOCK, "input"),
        Site(f"{BLOCK}.ln1.hook_normalized", TOKEN_D, "first norm, fp32", f"{BLOCK}.norm1"),
        *_modulation("attn", 0),
        *_attention("attn", "attn1", "key_token", rotary=True),
        Site(f"{BLOCK}.hook_attn_out", TOKEN_D, "self-attention output, before its gate", f"{BLOCK}.attn1",
             aliases=(f"{BLOCK}.attn1.to_out.0.output",)),
        Site(f"{BLOCK}.hook_attn_update", TOKEN_D, "gated self-attention output, as added to the residual stream",
             port="none", tier="recompute", write="block",
             sources=(f"{BLOCK}.hook_attn_out", f"{BLOCK}.attn.hook_gate")),
        Site(f"{BLOCK}.hook_resid_mid", TOKEN_D, "residual stream after self-attention", f"{BLOCK}.norm2", "input",
             write="block"),
        Site(f"{BLOCK}.ln2.hook_normalized", TOKEN_D, "second norm, fp32", f"{BLOCK}.norm2"),
        *_attention("cross_attn", "attn2", "text_token", rotary=False),
        *_image_attention(),
        Site(f"{BLOCK}.hook_cross_attn_out", TOKEN_D, "cross-attention output; it has no gate", f"{BLOCK}.attn2",
             aliases=(f"{BLOCK}.attn2.to_out.0.output",)),
        Site(f"{BLOCK}.hook_resid_mid_cross", TOKEN_D, "residual stream after cross-attention", f"{BLOCK}.norm3",
             "input", write="block"),
        Site(f"{BLOCK}.ln3.hook_normalized", TOKEN_D, "third norm, fp32", f"{BLOCK}.norm3"),
        *_modulation("mlp", 3),
        Site(f"{BLOCK}.mlp.hook_in", TOKEN_D, "input of the MLP", f"{BLOCK}.ffn", "input"),
        Site(f"{BLOCK}.mlp.hook_pre", ("token", "d_mlp"), "MLP before its nonlinearity", f"{BLOCK}.ffn.net.0.proj"),
        Site(f"{BLOCK}.mlp.hook_post", ("token", "d_mlp"), "MLP after its nonlinearity", f"{BLOCK}.ffn.net.0",
             aliases=(f"{BLOCK}.ffn.net.2.input",)),
        Site(f"{BLOCK}.hook_mlp_out", TOKEN_D, "MLP output, before its gate", f"{BLOCK}.ffn",
             aliases=(f"{BLOCK}.ffn.net.2.output", f"{BLOCK}.ffn.net.2")),
        Site(f"{BLOCK}.hook_mlp_update", TOKEN_D, "gated MLP output, as added to the residual stream", port="none",
             tier="recompute", write="block", sources=(f"{BLOCK}.hook_mlp_out", f"{BLOCK}.mlp.hook_gate")),
        Site(f"{BLOCK}.hook_resid_post", TOKEN_D, "residual stream leaving the block", BLOCK),
    )  # fmt: skip


def _vace() -> tuple[Site, ...]:
    """VACE: blocks that carry a control stream beside the model's own and run before it.

    Inside they are Wan blocks, and their hook points have the same names. What modules do not give is read only: blocks
    are instrumented in the model's own stack alone.
    """
    block = "vace_blocks.{layer}"
    ends = tuple(f"{BLOCK}.hook_resid_{end}" for end in ("pre", "post"))

    def inside(site: Site) -> Site:
        name, module, *sources = (
            path.replace("blocks.", "vace_blocks.", 1) for path in (site.name, site.module, *site.sources)
        )
        temb = site.argument[1] == "temb"
        return replace(
            site, name=name, module=module, sources=tuple(sources),
            aliases=tuple(alias.replace("blocks.", "vace_blocks.", 1) for alias in site.aliases), family="vace",
            per_token_time=False, argument=(3, "temb") if temb else site.argument, **closed(site),
        )  # fmt: skip

    def closed(site: Site) -> dict[str, Any]:
        if site.write == "module":
            return {}
        path = site.name.replace("blocks.", "vace_blocks.", 1)
        before, _, op = path.rpartition(".hook_")
        return {"write": "no", "meaning": f"{site.meaning}; to change it write {before}.hook_{_INSTEAD[op]}"}

    return (
        Site("vace_embed.hook_out", TOKEN_D, "embedded patches of the control video", "vace_patch_embedding",
             transform="tokens", family="vace"),
        Site(f"{block}.hook_resid_pre", TOKEN_D, "control stream entering the block", block, "input",
             argument=(2, "control_hidden_states"), family="vace"),
        *(inside(site) for site in _block() if site.family == "blocks" and site.name not in ends),
        Site(f"{block}.hook_resid_post", TOKEN_D, "control stream leaving the block", block, transform="pair.1",
             family="vace"),
        Site(f"{block}.hook_hint", TOKEN_D, "what, times the conditioning scale, is added to the residual stream "
             "behind the model's block that this one belongs to", block, transform="pair.0", family="vace",
             aliases=(f"{block}.proj_out",)),
    )  # fmt: skip


_INSTEAD = {
    "attn_update": "attn_out", "resid_mid": "attn_out", "resid_mid_cross": "cross_attn_out", "mlp_update": "mlp_out",
    "rot_q": "q", "rot_k": "k", "attn_scores": "z", "pattern": "z", "result": "z",
}  # fmt: skip


def _head() -> tuple[Site, ...]:
    return (
        Site("head.hook_normalized", TOKEN_D, "last norm, fp32", "norm_out", family="head"),
        Site("head.hook_shift", ("d_model",), "shift of the head; to change it write head.hook_in",
             "condition_embedder", transform="head_row.0", write="no", family="head", per_token_time=True),
        Site("head.hook_scale", ("d_model",), "scale of the head; to change it write head.hook_in",
             "condition_embedder", transform="head_row.1", write="no", family="head", per_token_time=True),
        Site("head.hook_in", TOKEN_D, "input of the output projection", "proj_out", "input", argument=(0, "input"),
             family="head"),
        Site("head.hook_velocity_tok", ("token", "feature"), "velocity of this pass by token", "proj_out",
             family="head"),
        Site("hook_velocity", VIDEO, "velocity of this pass", "", transform="sample", family="head"),
    )  # fmt: skip


SITES: tuple[Site, ...] = (*_latents(), *_inputs(), *_vace(), *_block(), *_head())
