"""The tuned lens: before the head, each layer's residual stream is taken by an affine map to that of the last block.

A plain lens misreads layers that hold the answer in other coordinates than the last one (Belrose et al. 2023). Here the
map is the least-squares one (Din et al. 2023), from exact normal equations that are streamed over a run: nothing is
stored but d x d sums, there is no training loop, and the same runs give the same lens. The ridge penalty pulls towards
the identity, so the fit is never worse than the plain lens on the rows that it was fitted to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.hooks import Clock, tapped
from interp.lab import Lab
from interp.runspec import RunSpec
from interp.sampler import Call, prepare, run_steps, transformer_of

FORMAT = 1
Place = tuple[str, int]  # expert, layer


@dataclass(frozen=True)
class Loss:
    """How far a layer is from the last block on the rows of the fit: mean squared differences per row.

    Attributes:
        plain: as the layer is.
        tuned: after the map.
        rows: tokens of all runs, steps and branches.
    """

    plain: float
    tuned: float
    rows: int


@dataclass(frozen=True)
class AffineLens:
    """One affine map for each expert and layer; call it with (expert, layer, residual stream).

    Attributes:
        maps: weight [d_model, d_model] and offset [d_model] by (expert, layer): ``x @ weight + offset``.
        losses: by (expert, layer).
        model_hash: fingerprint of the model it was fitted to.
        hook: residual stream that was read.
    """

    maps: dict[Place, tuple[Tensor, Tensor]] = field(repr=False)
    losses: dict[Place, Loss]
    model_hash: str
    hook: str

    def __call__(self, expert: str, layer: int, resid: Tensor) -> Tensor:
        """The residual stream [..., d_model] in the last block's coordinates, in the dtype it came in.

        Raises:
            InterpError: the lens was not fitted there.
        """
        if (expert, layer) not in self.maps:
            there = sorted({place[1] for place in self.maps if place[0] == expert})
            raise InterpError(f"the lens has no layer {layer} of expert {expert!r}; it has {there or 'none of it'}")
        weight, offset = (part.to(resid.device) for part in self.maps[expert, layer])
        return (resid.float() @ weight + offset).to(resid.dtype)

    def save(self, folder: str | Path) -> Path:
        """Write ``config.json`` and ``lens.safetensors``."""
        from safetensors.torch import save_file

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        places = [[*place, vars(self.losses[place])] for place in self.maps]
        config = {"format": FORMAT, "model_hash": self.model_hash, "hook": self.hook, "places": places}
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        tensors: dict[str, Tensor] = {}
        for (expert, layer), (weight, offset) in self.maps.items():
            tensors |= {f"{expert}.{layer}.weight": weight.contiguous(), f"{expert}.{layer}.offset": offset}
        save_file(tensors, out / "lens.safetensors")
        return out

    @staticmethod
    def load(folder: str | Path) -> AffineLens:
        """Read what `save` wrote.

        Raises:
            InterpError: the folder holds no lens.
        """
        from safetensors.torch import load_file

        path = Path(folder) / "config.json"
        if not path.is_file():
            raise InterpError(f"{folder} holds no lens: there is no config.json in it; give the folder save() wrote")
        config = json.loads(path.read_text())
        if config.get("format") != FORMAT:
            raise InterpError(f"{folder} was written by another version; fit the lens again")
        tensors = load_file(Path(folder) / "lens.safetensors")
        maps = {(e, n): (tensors[f"{e}.{n}.weight"], tensors[f"{e}.{n}.offset"]) for e, n, _ in config["places"]}
        losses = {(e, n): Loss(**loss) for e, n, loss in config["places"]}
        return AffineLens(maps, losses, config["model_hash"], config["hook"])


class Normal:
    """Sums for the affine map from x to y, both [row, feature]; fp64, about the first rows' means."""

    def __init__(self) -> None:
        self.rows = 0
        self.centre: tuple[Tensor, Tensor] | None = None

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take rows."""
        x, y = x.detach().double().flatten(0, -2), y.detach().double().flatten(0, -2)
        if self.centre is None:
            self.centre = x.mean(0), y.mean(0)
            width = x.shape[1]
            self.sum_x, self.sum_r = x.new_zeros(width), x.new_zeros(width)
            self.xx, self.xr, self.rr = x.new_zeros(width, width), x.new_zeros(width, width), x.new_zeros(())
        shift = self.centre[1] - self.centre[0]
        x = x - self.centre[0]
        r = y - self.centre[1] - x  # y - x, less a constant: what the identity leaves over
        self.rows += len(x)
        self.sum_x += x.sum(0)
        self.sum_r += r.sum(0)
        self.xx += x.T @ x
        self.xr += x.T @ r
        self.rr += ((r + shift) ** 2).sum()

    def solve(self, ridge: float) -> tuple[Tensor, Tensor, Loss]:
        """Weight and offset that minimise ``|y - (x weight + offset)|^2 + rows ridge var |weight - 1|^2``.

        ``var`` is the mean variance of the features of x.

        Raises:
            InterpError: no rows came.
        """
        if self.centre is None:
            raise InterpError("the lens cannot be fitted: no residual stream came in")
        n = self.rows
        mean_x, mean_r = self.sum_x / n, self.sum_r / n
        xx = self.xx - n * torch.outer(mean_x, mean_x)
        xr = self.xr - n * torch.outer(mean_x, mean_r)
        width = len(xx)
        eye = torch.eye(width, dtype=xx.dtype, device=xx.device)
        damped = xx + (ridge * xx.diagonal().mean() + 1e-12) * eye
        change = torch.linalg.solve(damped, xr)
        constant = mean_r + self.centre[1] - self.centre[0]  # the mean of y - x
        plain = self.rr / n
        won = (2 * (change * xr).sum() - (change * (xx @ change)).sum()) / n + (constant**2).sum()
        offset = constant - (self.centre[0] + mean_x) @ change
        loss = Loss(float(plain), float((plain - won).clamp_min(0)), n)
        return (change + eye).float().cpu(), offset.float().cpu(), loss


@torch.no_grad()
def fit_affine_lens(
    lab: Lab,
    runs: RunSpec | Sequence[RunSpec],
    *,
    layers: int | Sequence[int] | None = None,
    hook: str = "hook_resid_post",
    ridge: float = 1e-3,
    batch_size: int = 16,
) -> AffineLens:
    """Fit a tuned lens on runs, which should be others than those it is used on.

    Rows are all tokens of all runs, steps and passes, so ``runs * steps * tokens`` should be many times d_model.

    Args:
        lab: the model.
        runs: specs with the same settings and size.
        layers: blocks, -1 for the embedded patches; all of both if None. Memory: two d_model x d_model matrices of
            fp64 each (0.4 GB at d_model = 5120), so ask for a few at a time in a large model.
        hook: residual stream to read.
        ridge: pull towards the identity, in units of the mean variance of the features.
        batch_size: runs in one forward.

    Raises:
        SelectionError: the model has no such layer.
        InterpError: no runs, or a negative ``ridge``.
    """
    from interp.lenses.head import sites_of

    runs = [runs] if isinstance(runs, RunSpec) else list(runs)
    if not runs or ridge < 0 or batch_size < 1:
        raise InterpError(
            f"a lens is fitted on one run or more, one or more in a forward, with ridge >= 0; got {len(runs)} runs, "
            f"batch_size={batch_size}, ridge={ridge}"
        )
    depth = len(transformer_of(lab.pipe, "main").blocks)
    asked = range(-1, depth) if layers is None else [layers] if isinstance(layers, int) else layers
    chosen = list(dict.fromkeys(asked))
    sites = sites_of(chosen, depth, hook)
    last = f"blocks.{depth - 1}.hook_resid_post"
    sums: dict[Place, Normal] = {}
    held: dict[int, Tensor] = {}

    def on_site(site: str, call: Call, tensor: Tensor) -> None:
        if site in sites:
            held[sites[site]] = tensor
        if site == last:
            for layer, resid in held.items():
                sums.setdefault((call.expert, layer), Normal()).update(resid, tensor)
            held.clear()

    for first in range(0, len(runs), batch_size):
        plan = prepare(lab.pipe, runs[first : first + batch_size])
        clock = Clock()
        plan.on_call = clock.enter
        with tapped(lab.pipe, list(dict.fromkeys([*sites, last])), clock, on_site):
            for _ in run_steps(lab.pipe, plan):
                pass
    solved: dict[Place, Any] = {place: sums[place].solve(ridge) for place in sums}
    return AffineLens(
        {place: (weight, offset) for place, (weight, offset, _) in solved.items()},
        {place: loss for place, (_, _, loss) in solved.items()},
        lab.model_hash,
        hook,
    )
