"""Ways of averaging the seeds of a problem, as edits over the worlds of a batch, and what they are called."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from interp import RunSpec, edits
from interp.edits import EditGraph
from studies.base.signs import X0
from studies.runs.conditions import spread

WHAT = {
    "resid": "residual stream",
    "exchange": "exchange (placebo)",
    "velocity": "velocity",
    "x0": X0,
    "latents_in": "initial noise",
    "latents_out": "final latents",
    "majority": "majority vote",
    "any": "any seed right",
}

Make = Callable[[tuple[int, ...]], EditGraph]


def variants(layers: int, given: Namespace, steps: int) -> dict[str, tuple[dict[str, Any], Make]]:
    """Every way of averaging, by name: its columns of the table, and what it does to one group of worlds."""
    found: dict[str, tuple[dict[str, Any], Make]] = {}
    width, at = given.width or max(1, layers // 4), given.at

    def put(what: str, make: Make, **facts: Any) -> None:
        named = [what, *(f"{k}={v}" for k, v in facts.items() if v is not None)]
        found[" ".join(named)] = ({"what": what, **facts}, make)

    def resid(first: int, last: int, step: int, **more: Any) -> Make:
        return lambda worlds: EditGraph(
            (
                edits.mean_over_worlds(
                    "blocks.*.hook_resid_post", worlds=worlds, layer=slice(first, last + 1), step=step, **more
                ),
            )
        )

    def exchange(first: int, last: int, step: int) -> Make:
        return lambda worlds: EditGraph(
            (
                edits.wire(
                    "blocks.*.hook_resid_post",
                    np.roll(np.eye(len(worlds)), 1, axis=1),
                    worlds=worlds,
                    layer=slice(first, last + 1),
                    step=step,
                ),
            )
        )

    def latents(site: str, step: int) -> Make:
        return lambda worlds: EditGraph((edits.mean_over_worlds(site, worlds=worlds, step=step),))

    places = layers - width + 1
    windows = [(first, first + width - 1) for first in spread(places, given.windows or places)]
    middle = windows[len(windows) // 2]
    for first, last in dict.fromkeys([*windows, (0, layers - 1)]):
        put("resid", resid(first, last, at[0]), first_layer=first, last_layer=last, step=at[0])
        put("exchange", exchange(first, last, at[0]), first_layer=first, last_layer=last, step=at[0])
    for step in at[1:]:
        put("resid", resid(*middle, step), first_layer=middle[0], last_layer=middle[1], step=step)
    where = {"first_layer": middle[0], "last_layer": middle[1], "step": at[0]}
    for match in ("norm", "variance"):
        put("resid", resid(*middle, at[0], match=match), **where, match=match)
    put("resid", resid(*middle, at[0], into="first"), **where, into="first")
    put("velocity", latents("latents.hook_velocity_cfg", at[0]), step=at[0])
    put("x0", latents("latents.hook_x0", at[0]), step=at[0])
    put("latents_in", latents("latents.hook_in", 0), step=0)
    put("latents_out", latents("latents.hook_out", steps - 1))
    return found


def over_groups(make: Make, seeds: int) -> Callable[[Sequence[RunSpec]], EditGraph]:
    """The edit for every problem of a batch: its seeds are worlds that follow one another."""

    def graph(batch: Sequence[RunSpec]) -> EditGraph:
        joined = EditGraph()
        for first in range(0, len(batch), seeds):
            joined = joined | make(tuple(range(first, first + seeds)))
        return joined

    return graph


def way(row: dict[str, Any], at: int | None = None) -> str:
    """What is averaged, and how, in words; at which step, unless it is ``at``."""
    if row["what"] != "resid":
        return WHAT[row["what"]]
    more = [f"{row['match']} kept"] if row["match"] else []
    more += ["into one seed"] if row["into"] == "first" else []
    more += [] if row["step"] == at else [f"at step {row['step']}"]
    return ", ".join(more)
