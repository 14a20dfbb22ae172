"""The operations as functions: each makes one `Edit` (or a graph of them) from a selection in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.edits.curve import Curve
from interp.edits.given import Picture, UseExpert
from interp.edits.graph import Edit, EditGraph
from interp.edits.knockout import Knockout
from interp.edits.mixing import Resample, Wire, WorldMean
from interp.edits.noise import Noise
from interp.edits.op import Op
from interp.edits.ops import Add, Clamp, Erase, Function, Interpolate, Patch, ProjectOut, Scale, TokenMean, Zero
from interp.edits.random_change import RandomChange
from interp.edits.sources import Constant, FromStore, Stored, source_of
from interp.edits.values import Values
from interp.errors import InterpError
from interp.selection import Selection, select

Sites = str | Selection | Sequence[str | Selection]


def _edit(sites: Sites, op: Op, axes: dict[str, Any], rows: Any, *sources: Any) -> Edit:
    chosen = (rows,) if isinstance(rows, int) else None if rows is None else tuple(int(row) for row in rows)
    return Edit(select(sites, **axes), op, tuple(source_of(source) for source in sources), chosen)


def patch(sites: Sites, source: Any, *, rows: Any = None, **axes: Any) -> Edit:
    """Put another run's values in.

    Args:
        sites: hook points, as in `interp.select`.
        source: a run or a sample (it joins the batch as another world), a result with captures, several of them (one a
            row), a world's number, a `FromStore`, or a tensor.
        rows: worlds that are changed; all runs asked for if None.
        axes: step=, branch=, layer=, head=, frames=, tokens=, ... as in `interp.select`.

    Example:
        ``patch("blocks.5.hook_resid_post", corrupt, step=0, frames=-1)``
    """
    return _edit(sites, Patch(), axes, rows, source)


def random_change(
    sites: Sites, source: Any, share: float | Curve = 1.0, *, seed: int = 0, rows: Any = None, **axes: Any
) -> Edit:
    """The placebo of a patch: as far as the patch would go (times ``share``), in a random direction."""
    return _edit(sites, RandomChange(share, seed), axes, rows, source)


def block_update(layers: Any, source: Any, *, rows: Any = None, **axes: Any) -> EditGraph:
    """Patch what whole blocks add to the residual stream, and leave the stream they add to as it is.

    Args:
        layers: an int, a slice or a list.
        source, rows, axes: see `patch`.
    """
    names = [f"blocks.*.hook_{part}" for part in ("attn_update", "cross_attn_out", "mlp_update")]
    return EditGraph(tuple(_edit(name, Patch(), {**axes, "layer": layers}, rows, source) for name in names))


def set_to(sites: Sites, values: Any, *, rows: Any = None, **axes: Any) -> Edit:
    """Set to a number or a tensor, broadcast over the site's axes from the right."""
    return _edit(sites, Patch(), axes, rows, Constant(Values.of(values)))


def zero(sites: Sites, *, rows: Any = None, **axes: Any) -> Edit:
    """Zero ablation."""
    return _edit(sites, Zero(), axes, rows)


def mean(sites: Sites, source: Any = None, *, rows: Any = None, **axes: Any) -> Edit:
    """Mean ablation.

    Args:
        sites, rows, axes: see `patch`.
        source: results with captures, or a `FromStore`, whose mean over runs is put in. None: every token becomes the
            mean of the selected tokens of its own run.
    """
    if source is None:
        return _edit(sites, TokenMean(), axes, rows)
    found = source_of(source)
    if isinstance(found, Stored):
        return _edit(sites, Patch(), axes, rows, found.mean())
    if isinstance(found, FromStore):
        return _edit(sites, Patch(), axes, rows, replace(found, mean=True))
    raise InterpError(f"mean: {found} is not many runs; give results with captures, or a FromStore")


def resample(sites: Sites, *, over: str = "world", seed: int = 0, rows: Any = None, **axes: Any) -> Edit:
    """Resample ablation: every world takes another's values, or every token another token's."""
    return _edit(sites, Resample(over, seed), axes, rows)


def add(sites: Sites, direction: Any, strength: float | Curve = 1.0, *, rows: Any = None, **axes: Any) -> Edit:
    """Add ``strength`` (a number or a `curve`) times a direction (or anything that `patch` takes as a source)."""
    return _edit(sites, Add(strength), axes, rows, direction)


def scale(sites: Sites, factor: float | Curve, *, rows: Any = None, **axes: Any) -> Edit:
    """Multiply."""
    return _edit(sites, Scale(factor), axes, rows)


def project_out(sites: Sites, directions: Any, strength: float | Curve = 1.0, *, rows: Any = None, **axes: Any) -> Edit:
    """Remove the component along directions [feature] or [direction, feature]; they need not be orthogonal."""
    constant = Values.of(directions)
    if constant.tensor.ndim not in (1, 2) or not bool(
        constant.tensor.float().reshape(-1, constant.shape[-1]).norm(dim=1).all()
    ):
        raise InterpError(
            f"directions of shape {constant.shape}: give [feature] or [direction, feature], none of them zero"
        )
    return _edit(sites, ProjectOut(strength), axes, rows, Constant(constant))


def erase(
    sites: Sites, mean: Any, left: Any, right: Any, strength: float = 1.0, *, rows: Any = None, **axes: Any
) -> Edit:
    """An affine map of low rank: x becomes ``x - strength left right (x - mean)``. Erases a concept (LEACE).

    Args:
        sites: hook points, as in `interp.select`.
        mean: [feature].
        left: [feature, rank].
        right: [rank, feature].
        strength: 1 erases, 0 changes nothing.
        rows, axes: see `patch`.

    Raises:
        InterpError: shapes that do not fit together.

    Example:
        ``erase("blocks.3.hook_resid_post", eraser.mean, eraser.left, eraser.right)``, of `probes.geometry.leace`
    """
    parts = [Values.of(value).tensor.float() for value in (mean, left, right)]
    middle, down, up = parts
    if middle.ndim != 1 or down.ndim != 2 or up.ndim != 2 or down.shape != up.T.shape or len(down) != len(middle):
        raise InterpError(
            f"mean, left and right of shapes {', '.join(str(tuple(p.shape)) for p in parts)}: "
            "give [feature], [feature, rank] and [rank, feature]"
        )
    return _edit(sites, Erase(strength), axes, rows, Constant(Values.of(torch.cat([middle[None], down.T, up]))))


def clamp(sites: Sites, low: float | None = None, high: float | None = None, *, rows: Any = None, **axes: Any) -> Edit:
    """Keep every number within bounds."""
    return _edit(sites, Clamp(low, high), axes, rows)


def interpolate(sites: Sites, source: Any, share: float | Curve = 0.5, *, rows: Any = None, **axes: Any) -> Edit:
    """Go ``share`` of the way to the source; sources as in `patch`."""
    return _edit(sites, Interpolate(share), axes, rows, source)


def prompt(source: Any, *, rows: Any = None, **axes: Any) -> Edit:
    """Give the cond pass another run's prompt.

    Args:
        source: a run or a sample with that prompt (it joins the batch as another world), or a world's number.
        rows, axes: see `patch`; ``step=slice(5, None)`` changes the prompt from step 5 on.
    """
    return _edit("text_embed.hook_in", Patch(), {"branch": "cond", **axes}, rows, source)


def picture(source: Any, *, rows: Any = None, **axes: Any) -> Edit:
    """Give the transformer another run's conditioning picture; the noisy latents stay.

    Args:
        source, rows, axes: see `prompt`. A model with an image encoder sees the picture there too; add
            ``patch("image_embed.hook_in", source)`` for it.
    """
    return _edit("hook_latent_in", Picture(), axes, rows, source)


def use_expert(expert: str, **axes: Any) -> Edit:
    """Let one expert run these steps, whatever their noise level.

    Args:
        expert: "high" or "low".
        axes: step= or sigma=.

    Example:
        ``use_expert("high", step=slice(0, 8)) | use_expert("low", step=slice(8, None))``: the boundary is at step 8.
    """
    return _edit("latents.hook_in", UseExpert(expert), axes, None)


def function(sites: Sites, function: Callable[[Tensor], Tensor], *, rows: Any = None, **axes: Any) -> Edit:
    """Any function of the selected part [row, <site axes>]. Such an edit cannot be saved."""
    if not callable(function):
        raise InterpError(f"function={function!r} cannot be called")
    return _edit(sites, Function(function), axes, rows)


def noise(
    sites: Sites = "latents.hook_in",
    *,
    kind: str = "add",
    scale: float | Curve = 1.0,
    relative: bool = False,
    seed: int = 0,
    rows: Any = None,
    **axes: Any,
) -> Edit:
    """Gaussian noise.

    Args:
        sites: hook points, the latents x_t if not said.
        kind: "add", "replace", or "renoise" (latents.hook_in only): (1 - sigma) x0_hat + sigma eps.
        scale: standard deviation; with ``relative``, as a multiple of the part's own.
        relative: see ``scale``.
        seed: another seed, other noise.
        rows, axes: see `patch`.
    """
    if kind == "renoise" and sites != "latents.hook_in":
        raise InterpError(f"kind='renoise' makes noisy latents, so it goes to latents.hook_in, not to {sites}")
    return _edit(sites, Noise(kind, scale, relative, seed), axes, rows)


def wire(
    sites: Sites, matrix: Any, *, worlds: Sequence[int] | None = None, match: str | None = None, **axes: Any
) -> Edit:
    """World i becomes the sum over j of matrix[i][j] times world j.

    Args:
        sites, axes: see `patch`.
        matrix: K x K numbers.
        worlds: which K worlds, all of the batch if None.
        match: None, "norm" or "variance": what mixed worlds keep; see `interp.edits.mixing.Wire`.
    """
    rows = np.asarray(matrix.tolist() if isinstance(matrix, Tensor) else matrix, dtype=float)
    if rows.ndim != 2:
        raise InterpError(f"matrix: a wire between K worlds is K by K numbers, not of shape {rows.shape}")
    chosen = None if worlds is None else tuple(worlds)
    return _edit(sites, Wire(tuple(map(tuple, rows.tolist())), chosen, match), axes, chosen)


def swap(sites: Sites, first: int = 0, second: int = 1, **axes: Any) -> Edit:
    """Two worlds exchange their values."""
    return wire(sites, [[0, 1], [1, 0]], worlds=(first, second), **axes)


def mean_over_worlds(
    sites: Sites,
    *,
    worlds: Sequence[int] | None = None,
    into: str | int | Sequence[int] = "all",
    match: str | None = None,
    **axes: Any,
) -> Edit:
    """Worlds become their mean: the seed ensemble.

    Args:
        sites, axes: see `patch`.
        worlds: which are averaged, all of the batch if None.
        into: which are overwritten: "all" that are averaged, "first", or their numbers.
        match: None, or "norm" or "variance" to undo the shrinking that averaging does; see `interp.edits.mixing.Wire`.
    """
    chosen = None if worlds is None else tuple(worlds)
    if into == "all":
        rows = chosen
    elif into == "first":
        rows = (0 if chosen is None else chosen[0],)
    elif isinstance(into, str):
        raise InterpError(f"into={into!r}: use 'all', 'first' or the numbers of worlds")
    else:
        rows = (into,) if isinstance(into, int) else tuple(into)
    return _edit(sites, WorldMean(chosen, match), axes, rows)


def knockout(sites: Sites, keys: Any, *, rows: Any = None, **axes: Any) -> Edit:
    """Close the way from query tokens to key tokens, before the softmax.

    Args:
        sites: an attention: "blocks.*.attn", "blocks.3.cross_attn".
        keys: a selection of tokens (``select(frames=0)``), or key positions as numbers; none at all changes nothing.
        rows: see `patch`.
        axes: step=, branch=, head=, and the queries: frames=, tokens=, mask=, ...

    Example:
        ``knockout("blocks.*.attn", keys=select(frames=0), frames=-1, step=0)``: the last frame cannot see the first.
    """
    if isinstance(sites, str) and not sites.endswith("hook_attn_scores"):
        sites = f"{sites}.hook_attn_scores"
    if isinstance(keys, Selection):
        return _edit(sites, Knockout(keys=keys), axes, rows)
    numbers = (keys,) if isinstance(keys, int) else tuple(int(k) for k in keys)
    return _edit(sites, Knockout(positions=numbers), axes, rows)
