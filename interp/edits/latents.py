"""Latents and their patches, and a solver's memory of latents that an edit has replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.patches import patchify, unpatchify


def restart_solver(scheduler: Any, rows: Tensor, latents: Tensor, velocity: Tensor) -> None:
    """Make a multistep solver forget what it knows of the given rows, and of no others; call it just before its step.

    UniPC's corrector computes x_t anew from the x of the step before, so that latents replaced between steps would be
    thrown away without a word. Here the memory of the replaced rows becomes what makes the corrector give back exactly
    the latents it is handed, and the predictor a first-order one: past clean estimates become the present one, and the
    past x the one that leads to the present x. (A solver started afresh here would do the same in this step, and differ
    in the order of its next correction.) One-step solvers (Euler) remember nothing.

    Args:
        scheduler: of the run; it is changed.
        rows: bool [batch].
        latents, velocity: what the solver is about to be given, [batch, channel, latent_frame, row, col].

    Raises:
        InterpError: a solver with a memory that is not UniPC's on flow velocities.
    """
    if not bool(rows.any()):
        return
    if not hasattr(scheduler, "model_outputs"):
        return
    if not hasattr(scheduler, "multistep_uni_c_bh_update") or not scheduler.predict_x0:
        raise InterpError(
            f"latents cannot be edited between steps of {type(scheduler).__name__}, whose memory is not known; "
            "use scheduler='euler' or 'unipc'"
        )
    index = scheduler.step_index
    if index is None or index == 0 or scheduler.last_sample is None:
        return
    which = rows.view(-1, *[1] * (latents.ndim - 1)).to(latents.device)
    sigma = scheduler.sigmas[index].to(latents.device)
    clean = latents - sigma * velocity
    scheduler.model_outputs = [
        None if past is None else torch.where(which, clean.to(past.dtype), past) for past in scheduler.model_outputs
    ]
    alpha_now, sigma_now = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index])
    alpha_past, sigma_past = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index - 1])
    h = (torch.log(alpha_now) - torch.log(sigma_now)) - (torch.log(alpha_past) - torch.log(sigma_past))
    past = (latents.float() + alpha_now * torch.expm1(-h) * clean.float()) * (sigma_past / sigma_now)
    scheduler.last_sample = torch.where(which, past.to(scheduler.last_sample.dtype), scheduler.last_sample)


__all__ = ["patchify", "restart_solver", "unpatchify"]
