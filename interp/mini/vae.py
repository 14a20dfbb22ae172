"""Weights set by hand for a stock ``AutoencoderKLWan`` that is exact on videos of flat 8-pixel blocks.

Three tricks make the network linear where it has to be. Residual branches are switched off. Signals travel in +/-
pairs, since silu(x) - silu(-x) = x. One channel carries a constant so large that the channel RMS norm divides by a
constant. Exact to about 1e-4 in fp32 only: in bf16 the constant swamps the signal.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from interp.mini.latents import SLOTS, Z_DIM, mixing

BASE = 8
CONSTANT = 256.0
_CONST = BASE - 1  # the constant channel
_SIGNAL = [c for c in range(8 * BASE) if c != _CONST][:12]
_NEGATIVE = [c for c in range(8 * BASE) if c != _CONST and c not in _SIGNAL][:12]


def build_vae(mean: np.ndarray, std: np.ndarray) -> AutoencoderKLWan:
    """A Wan VAE (8x in space, 4x in time, z = 16) equal to `interp.mini.latents` on block videos.

    Args:
        mean, std: per-channel statistics of raw latents, written into the VAE's config as diffusers expects them.
    """
    vae = AutoencoderKLWan(
        base_dim=BASE,
        z_dim=Z_DIM,
        dim_mult=[1, 4, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[float(x) for x in mean],
        latents_std=[float(x) for x in std],
    )
    with torch.no_grad():
        for module in vae.modules():
            _make_linear(module)
        _set_encoder(vae.encoder)
        _set_decoder(vae.decoder)
        for conv in (vae.quant_conv, vae.post_quant_conv):
            _zero(conv)
            for c in range(conv.weight.shape[0]):
                conv.weight[c, c] = 1
    return vae.eval()


def _zero(layer: nn.Module) -> None:
    layer.weight.zero_()
    layer.bias.zero_()


def _make_linear(module: nn.Module) -> None:
    """Residual and attention branches off; resampling becomes a 2x2 mean or a repeat."""
    kind = type(module).__name__
    if kind == "WanResidualBlock":
        _zero(module.conv2)
        if hasattr(module.conv_shortcut, "weight"):
            _zero(module.conv_shortcut)
            for c in range(min(module.conv_shortcut.weight.shape[:2])):
                module.conv_shortcut.weight[c, c] = 1
    elif kind == "WanAttentionBlock":
        _zero(module.proj)
    elif kind == "WanResample":
        conv = module.resample[1]
        _zero(conv)
        for c in range(conv.weight.shape[0]):
            if "down" in module.mode:
                conv.weight[c, c, :2, :2] = 0.25
            else:
                conv.weight[c, c, 1, 1] = 1
        if hasattr(module, "time_conv"):
            _zero(module.time_conv)


def _signal_of_slots() -> list[int]:
    """Signal channel that carries mixing column j (slot, rgb)."""
    return [_SIGNAL[3 * (SLOTS - 1 - slot) + rgb] for slot in range(SLOTS) for rgb in range(3)]


def _set_encoder(encoder: nn.Module) -> None:
    mix = torch.from_numpy(mixing())
    _zero(encoder.conv_in)
    for c in range(3):
        encoder.conv_in.weight[c, c, 2, 1, 1] = 1
    encoder.conv_in.bias[_CONST] = CONSTANT
    resamples = [m for m in encoder.down_blocks if type(m).__name__ == "WanResample"]
    last = resamples[2].resample[1].weight
    for k in range(6):
        last[_NEGATIVE[k]] = 0
        last[_NEGATIVE[k], _SIGNAL[k], :2, :2] = -0.25
    for level, resample in enumerate(resamples[1:]):
        weight = resample.time_conv.weight
        width = 3 * 2**level
        for group in (_SIGNAL, _NEGATIVE) if level == 1 else (_SIGNAL,):
            for c in range(width):
                weight[group[c], group[c], 2, 0, 0] = 1
                weight[group[width + c], group[c], 1, 0, 0] = 1
        weight[_CONST, _CONST, 2, 0, 0] = 1
    encoder.norm_out.gamma.fill_(CONSTANT / (4 * BASE) ** 0.5)
    _zero(encoder.conv_out)
    for column, channel in enumerate(_signal_of_slots()):
        negative = _NEGATIVE[_SIGNAL.index(channel)]
        encoder.conv_out.weight[:Z_DIM, channel, 2, 1, 1] = mix[:, column]
        encoder.conv_out.weight[:Z_DIM, negative, 2, 1, 1] = -mix[:, column]
    encoder.conv_out.bias[Z_DIM:] = -30.0  # log-variance: the posterior has no spread


def _set_decoder(decoder: nn.Module) -> None:
    mix = torch.from_numpy(mixing())
    _zero(decoder.conv_in)
    for column, channel in enumerate(_signal_of_slots()):
        decoder.conv_in.weight[channel, :, 2, 1, 1] = mix[:, column]
    decoder.conv_in.bias[_CONST] = CONSTANT
    for block, width in ((0, 6), (1, 3)):
        weight = decoder.up_blocks[block].upsamplers[0].time_conv.weight
        channels = weight.shape[1]
        for c in range(width):
            weight[_SIGNAL[c], _SIGNAL[width + c], 2, 0, 0] = 1
            weight[channels + _SIGNAL[c], _SIGNAL[c], 2, 0, 0] = 1
        weight[_CONST, _CONST, 2, 0, 0] = 1
        weight[channels + _CONST, _CONST, 2, 0, 0] = 1
    shortcut = decoder.up_blocks[3].resnets[0].conv_shortcut.weight
    shortcut.zero_()
    for c in range(3):
        shortcut[c, c] = 1
        shortcut[3 + c, c] = -1
    shortcut[_CONST, _CONST] = 1
    decoder.norm_out.gamma.fill_(CONSTANT / BASE**0.5)
    _zero(decoder.conv_out)
    for c in range(3):
        decoder.conv_out.weight[c, c, 2, 1, 1] = 1
        decoder.conv_out.weight[c, 3 + c, 2, 1, 1] = -1


def is_block_exact(vae: nn.Module) -> bool:
    """Whether a VAE has these hand-set weights, so that `interp.mini.latents.decode_blocks` decodes for it."""
    if getattr(vae, "config", {}).get("base_dim") != BASE or vae.config.get("z_dim") != Z_DIM:
        return False
    conv = vae.decoder.conv_in
    mix = torch.from_numpy(mixing()).to(conv.weight.device, conv.weight.dtype)
    columns = torch.stack([conv.weight[channel, :, 2, 1, 1] for channel in _signal_of_slots()], dim=1)
    return bool(conv.bias[_CONST] == CONSTANT) and torch.equal(columns, mix)
