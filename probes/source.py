"""Where a grid's features come from: a store, or a mapping of arrays. One cell is read at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.errors import suggest
from probes.errors import LeakageError, ProbeError
from probes.folds import group_keys
from probes.known import is_known, labels
from probes.pick import Asked, pick
from probes.tensor import tensor

Key = tuple[int, int]
Pool = str | Callable[[Any], Any]
KEEP_TOKENS = "keep tokens"
"""How tokens are pooled for probes that pool them themselves."""


@dataclass(frozen=True)
class Source:
    """Cells (step, layer) of one grid and the rows they share.

    ``read(key)`` gives an array [run, ..., feature]; ``target`` [kept row]; ``group`` [kept row]; ``keep`` [row] marks
    the rows with a target. With a token-level target rows are run x token, tokens fastest.
    """

    keys: tuple[Key, ...]
    read: Callable[[Key], Any]
    target: NDArray[Any]
    group: NDArray[np.int64]
    keep: NDArray[np.bool_]
    runs: int
    tokens: int | None
    pool: Pool | None = None
    sigmas: Mapping[int, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> NDArray[np.int64]:
        """Number of the run that each kept row is of."""
        return np.flatnonzero(self.keep) // (self.tokens or 1)

    def per_row(self, value: Any, name: str) -> NDArray[Any]:
        """A number per run or per row, as numbers of the kept rows."""
        given = _per_row(value, self.runs, self.tokens)
        if given.shape != self.keep.shape:
            raise ProbeError(f"{name}= needs one number per row ({len(self.keep)}); got shape {np.shape(value)}.")
        return given[self.keep]

    def matrix(self, key: Key, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
        """Features [kept row, feature] of one cell."""
        return self.rows(self.read(key), f"step {key[0]}, layer {key[1]}", dtype=dtype, device=device)

    def rows(self, value: Any, name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
        """Any array given per run (or per row) as features of the kept rows, with a token axis if tokens are kept."""
        flat = flatten(tensor(value, name), self.runs, self.tokens, self.pool, name)
        if len(flat) == len(self.keep) and not self.keep.all():
            flat = flat[torch.from_numpy(self.keep).to(flat.device)]
        if len(flat) != len(self.target):
            raise ProbeError(f"{name}: {len(flat)} rows of features for {len(self.keep)} rows of the target.")
        return flat.to(device=device, dtype=dtype).contiguous()


def flatten(value: torch.Tensor, runs: int, tokens: int | None, pool: Pool | None, name: str) -> torch.Tensor:
    """An array [run, ...] as a matrix [row, feature]: per token, or per run with tokens pooled."""
    shape = tuple(value.shape)
    if pool == KEEP_TOKENS:
        if tokens is not None or value.ndim != 3 or shape[0] != runs:
            raise ProbeError(
                f"{name}: a probe that pools tokens needs one target a run and features [run, token, feature]; got "
                f"{shape} for {runs} runs."
            )
        return value
    if tokens is not None:
        if value.ndim == 2 and shape[0] == runs * tokens:
            return value
        if value.ndim < 3 or shape[:2] != (runs, tokens):
            raise ProbeError(
                f"{name}: the target has one value per run and token ({runs} runs x {tokens} tokens), so features "
                f"must be [run, token, feature]; got shape {shape}."
            )
        return value.reshape(runs * tokens, -1)
    if value.ndim < 2 or shape[0] != runs:
        raise ProbeError(f"{name}: the target has {runs} rows, so features must be [row, feature]; got shape {shape}.")
    if value.ndim == 2:
        return value
    if pool is None:
        raise ProbeError(
            f"{name}: the target has one value per run but features have shape {shape}. Say how tokens are put "
            "together: pool='mean', pool='flatten', or a function from [run, token, feature] to [run, feature]."
        )
    if callable(pool):
        pooled = torch.as_tensor(pool(value))
        if pooled.ndim != 2 or len(pooled) != runs:
            raise ProbeError(
                f"{name}: pool= must give [run, feature] with {runs} runs; got shape {tuple(pooled.shape)}."
            )
        return pooled
    if pool == "mean":
        return value.to(torch.float32).mean(dim=1).reshape(runs, -1)
    if pool == "flatten":
        return value.reshape(runs, -1)
    raise ProbeError(f"pool={pool!r} is not known; use 'mean', 'flatten' or a function.")


def from_arrays(
    cells: Mapping[Any, Any],
    target: Any,
    groups: Any,
    *,
    pool: Pool | None = None,
    sigmas: Mapping[int, float] | None = None,
    steps: Asked = None,
    layers: Asked = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Source:
    """A grid from ``{(step, layer): array or function without arguments}``, or some of its steps and layers."""
    if not cells:
        raise ProbeError("The mapping of cells is empty.")
    table: dict[Key, Any] = {}
    for key, value in cells.items():
        if not (isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, (int, np.integer)) for k in key)):
            raise ProbeError(f"Cells are named by (step, layer), two whole numbers; got {key!r}.")
        table[int(key[0]), int(key[1])] = value
    values = labels(target)
    if isinstance(groups, str):
        raise ProbeError(
            f"groups={groups!r} names a label of a store; with arrays give the keys themselves, one per row (or per "
            "run)."
        )
    some_steps, some_layers = (
        pick(asked, sorted({key[i] for key in table}), name, "The mapping holds")
        for i, (name, asked) in enumerate((("step", steps), ("layer", layers)))
    )
    keys = tuple(key for key in sorted(table) if key[0] in some_steps and key[1] in some_layers)
    if not keys:
        raise ProbeError(f"The mapping holds no cell at steps {some_steps} and layers {some_layers} together.")

    def read(key: Key) -> Any:
        value = table[key]
        return value() if callable(value) else value

    return _source(keys, read, values, groups, pool, dict(sigmas or {}), max_rows, seed, {"source": "arrays"})


def _source(
    keys: tuple[Key, ...],
    read: Callable[[Key], Any],
    target: NDArray[Any],
    groups: Any,
    pool: Pool | None,
    sigmas: Mapping[int, float],
    max_rows: int | None,
    seed: int,
    about: Mapping[str, Any],
) -> Source:
    """Put rows together: drop those without a target, repeat groups over tokens, thin rows if there are too many."""
    if groups is None:
        raise ProbeError(
            "groups=None: say what must not be on both sides of a split, one key per run (its sample, its maze). If "
            "runs share nothing, number them: groups=np.arange(runs)."
        )
    if max_rows is not None and max_rows < 1:
        raise ProbeError(f"max_rows={max_rows}: need 1 or more, or None for all.")
    if target.ndim not in (1, 2) or target.size == 0:
        raise ProbeError(f"A target is [run] or [run, token]; got shape {target.shape}.")
    runs, tokens = target.shape[0], (target.shape[1] if target.ndim == 2 else None)
    flat = target.reshape(-1)
    keep = is_known(flat)
    if flat.dtype.kind == "f" and np.isinf(flat).any():
        raise ProbeError(
            f"The target is infinite in {int(np.isinf(flat).sum())} rows; give NaN where it does not apply."
        )
    if flat.dtype == object:
        flat = np.asarray([str(v) if there else "" for v, there in zip(flat, keep, strict=True)])
    if not keep.any():
        raise ProbeError("The target is NaN in every row: it does not apply to these runs or tokens.")
    many = isinstance(groups, (tuple, list)) and len(groups) > 0 and np.ndim(groups[0]) >= 1
    group = [_per_row(g, runs, tokens) for g in groups] if many else [_per_row(groups, runs, tokens)]
    merged = group_keys(group, len(flat))
    if tokens is not None:
        by_run = merged.reshape(runs, tokens)
        if (by_run != by_run[:, :1]).any():
            run = int(np.flatnonzero((by_run != by_run[:, :1]).any(axis=1))[0])
            raise LeakageError(
                f"The tokens of run {run} lie in several groups, so tokens of one video would be on both sides of a "
                "split. Group by sample: one key per run."
            )
    if max_rows is not None and keep.sum() > max_rows:
        keep = _thin(keep, merged, max_rows, seed)
    _, kept_group = np.unique(merged[keep], return_inverse=True)
    return Source(
        keys, read, flat[keep], kept_group.reshape(-1).astype(np.int64), keep, runs, tokens, pool, sigmas, dict(about)
    )


def _per_row(groups: Any, runs: int, tokens: int | None) -> NDArray[Any]:
    """Group keys per row: given per run they are repeated over tokens."""
    keys = np.asarray(groups)
    if tokens is None:
        return keys
    if keys.shape == (runs,):
        return np.repeat(keys, tokens)
    return keys.reshape(-1) if keys.shape in ((runs, tokens), (runs * tokens,)) else keys


def _thin(keep: NDArray[np.bool_], group: NDArray[np.int64], most: int, seed: int) -> NDArray[np.bool_]:
    """At most ``most`` rows, drawn evenly from the groups."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(keep))
    # Position of each row within its group, in random order: taking the lowest positions first is even over groups.
    order = np.argsort(group[rows], kind="stable")
    sizes = np.bincount(group[rows])
    position = np.empty(len(rows), dtype=np.int64)
    position[order] = np.concatenate([np.arange(size) for size in sizes])
    chosen = rows[np.argsort(position, kind="stable")[:most]]
    out = np.zeros_like(keep)
    out[chosen] = True
    return out


# ---- stores ----------------------------------------------------------------------------------------------------------


def from_store(
    store: Any,
    target: Any,
    groups: Any,
    *,
    site: str = "blocks.{layer}.hook_resid_post",
    steps: Asked = None,
    layers: Asked = None,
    branch: str | None = None,
    pool: Pool | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Source:
    """A grid from an activation store: ``site`` with ``{layer}`` in it, over the store's steps."""
    if not all(hasattr(store, name) for name in ("sites", "schedule", "read", "labels")):
        kind = type(store).__name__
        raise ProbeError(
            f"Features come from a store or from {{(step, layer): array}}; got {kind}. "
            + (
                "Open the folder first: interp.Store.open(...)."
                if isinstance(store, (str, os.PathLike))
                else "One array is a grid of one cell: {(0, 0): array}."
            )
        )
    there = site_layers(store, site)
    names = {layer: there[layer] for layer in pick(layers, list(there), "layer", f"The store holds {site!r} of")}
    first = next(iter(names.values()))
    held_steps, sigmas = _steps(store)
    wanted = pick(steps, held_steps, "step", "The store holds")
    values = _labels(store, target, first)
    keys = groups if not isinstance(groups, str) else (groups,)
    if isinstance(keys, tuple) and all(isinstance(k, str) for k in keys):
        keys = tuple(_labels(store, k, first) for k in keys)
        if keys and values.ndim and len(values) != len(keys[0]):
            raise ProbeError(
                f"The target has {len(values)} rows, and the store {len(keys[0])} runs: one a run is needed."
            )

    def read(key: Key) -> Any:
        return store.read(names[key[1]], step=key[0], branch=branch)

    cells = tuple((s, layer) for s in wanted for layer in names)
    about = {"source": "store", "site": site, "branch": branch, "target": target if isinstance(target, str) else None}
    return _source(cells, read, values, keys, pool, sigmas, max_rows, seed, about)


def site_layers(store: Any, site: str) -> dict[int, str]:
    """Names of a store's sites by layer, in order; of a site without layers, 0.

    Raises:
        ProbeError: the store holds no such site.
    """
    names = [str(s) for s in store.sites]
    if "{layer}" in site:
        pattern = re.compile(re.escape(site).replace(re.escape("{layer}"), r"(\d+)"))
        found = {int(m.group(1)): name for name in names if (m := pattern.fullmatch(name))}
    else:
        found = {0: site} if site in names else {}
    if not found:
        raise ProbeError(f"The store holds no site {site!r}{suggest(site, names)}. It holds: {', '.join(names[:12])}.")
    return dict(sorted(found.items()))


def _steps(store: Any) -> tuple[list[int], dict[int, float]]:
    """Original step numbers of the store and their sigmas."""
    table = store.schedule()
    steps = [int(s) for s in table["step"].to_list()]
    return steps, {s: float(v) for s, v in zip(steps, table["sigma"].to_list(), strict=True)}


def _labels(store: Any, name: Any, site: str) -> NDArray[Any]:
    """Labels [run] or [run, token] by name, of the tokens the site keeps; arrays are taken as they are."""
    return labels(store.labels(name, site=site) if isinstance(name, str) else name)
