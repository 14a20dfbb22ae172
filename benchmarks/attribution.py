"""Attribution patching against true patching: how far they agree, and what each costs.

On the bundled model, a pair of mazes that differ in one wall: at three of eight steps, in every layer, the outputs of
self-attention and of the MLP are patched one token at a time from the other maze's run, and x0_hat is read at once.
The metric is x0_hat's component along the way from one run's video to the other's. Attribution gives all addresses of a
step from two forwards and one backward; true patches are run for a sample of the tokens.

The limit: a step of attribution is about 4 forwards; a true patch read early is, on average, half of one. With n
addresses a step the saving is therefore at most about n / 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.harness import arguments, publish, row
from interp import edits
from interp.attribution import Attribution, attribute
from interp.lab import load
from interp.replay import record
from interp.sweep import sweep
from interp.tasks import get as get_task

SITES = ("blocks.*.hook_attn_out", "blocks.*.hook_mlp_out")
POINTS = (1, 4)  # of the integrated variant; 1 is the plain one
STEPS = 8


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=3, tokens=9, size=4, seed=3, quick=False)
    at = [1] if chosen.quick else [0, 2, 5]
    points = POINTS[:1] if chosen.quick else POINTS
    lab = load("wan-maze-mini")
    clean, corrupt = (lab.plan(s, steps=STEPS)[0] for s in get_task("maze", size=chosen.size).pair(seed=chosen.seed))
    here, there = record(lab, clean), record(lab, corrupt)
    way = there.steps[-1].next_latents - here.steps[-1].next_latents
    way = way / way.square().sum()

    def metric(x0_hat: Tensor) -> Tensor:
        return (x0_hat * way).sum()

    tokens = lab.grid(clean.sample).tokens
    draw = np.random.default_rng(0).choice(tokens, 2 if chosen.quick else chosen.tokens, replace=False)
    sample, layers = sorted(int(t) for t in draw), len(lab.pipe.transformer.blocks)
    effects, seconds = [], 0.0
    for site in SITES:
        over = {"step": at, "layer": range(layers), "tokens": sample}
        start = time.perf_counter()
        found = sweep(
            lab, here, edits.patch(site, corrupt), over, lambda run: float(metric(run.x0_hat[None])), early=True
        )
        seconds += time.perf_counter() - start
        effects.append(found.table["effect"].to_numpy())
    true = np.concatenate(effects)
    addresses = len(SITES) * layers * tokens * len(at)
    sweep_s = seconds * addresses / len(true)
    rows = []
    for count in points:

        def once(n: int = count) -> list[Attribution]:
            return [attribute(lab, here, there, list(SITES), metric, step=step, points=n) for step in at]

        taken, estimates = _timed(once, chosen.rounds)
        found_at = [(site, one, layer) for site in SITES for one in estimates for layer in range(layers)]
        guess = np.concatenate([_effect(one, site, layer)[sample].numpy() for site, one, layer in found_at])
        rho, low, high = rank_correlation(guess, true)
        how = "gradient at the clean run" if count == 1 else f"integrated over {count} points"
        rows.append(
            row(
                f"{addresses} addresses, {how}", taken, "true patches read early (our sweep)", sweep_s, "s",
                ">= 30x cheaper" if count == 1 else "", sweep_s / taken >= 30 if count == 1 else None,
                times_cheaper=sweep_s / taken, rank_correlation=rho, low=low, high=high, cells=len(true),
                steps=at, peer_cells_timed=len(true),
            )
        )  # fmt: skip
    publish("attribution", rows, as_json=chosen.json, keep=not chosen.quick)
    if not chosen.json:
        for one in rows:
            print(
                f"rank correlation {one['rank_correlation']:.3f} "
                f"[{one['low']:.3f}, {one['high']:.3f}] over {one['cells']} cells"
            )


def _effect(found: Attribution, site: str, layer: int) -> Tensor:
    return found.effects[site.replace("*", str(layer)), "cond"]


def _timed(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Median seconds, and the last result."""
    seconds, found = [], None
    for _ in range(rounds):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), found


def rank_correlation(x: np.ndarray, y: np.ndarray, samples: int = 2000) -> tuple[float, float, float]:
    """Spearman's rank correlation with a 95 % percentile bootstrap over cells: (rho, low, high)."""
    picks = np.random.default_rng(0).integers(0, len(x), (samples, len(x)))
    drawn = [spearmanr(x[p], y[p]).statistic for p in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(spearmanr(x, y).statistic), float(low), float(high)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
