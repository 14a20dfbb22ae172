"""Early, middle and late layers in numbers, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from studies.base.claim import Claim, Estimate, above
from studies.base.words import shown, spanned
from studies.measures.energy import KINDS, Contrasts
from studies.measures.probing import Probed

PAPER = "layers 0-9 of 40: global structure and background; from about 9: foreground and objects named in the prompt"
PAPER_STEPS = "the layers' roles are the same at every step (shown in pictures; no figures)"
MATTERS = {"l2": 0.1, "robust": 0.1, "layer": 0.05}
SCORE = 0.05
ALIKE = 0.8


def stages(depth: int) -> dict[str, list[int]]:
    """Layers by quarter of the depth.

    >>> stages(10)
    {'early': [0, 1, 2], 'middle': [3, 4, 5, 6, 7], 'late': [8, 9]}
    """
    found: dict[str, list[int]] = {"early": [], "middle": [], "late": []}
    for layer in range(depth):
        found["early" if 4 * layer < depth else "late" if 4 * layer >= 3 * depth else "middle"].append(layer)
    return found


def after_early(depth: int) -> list[int]:
    """Layers from the second quarter on."""
    return [layer for name in ("middle", "late") for layer in stages(depth)[name]]


def claims(energies: Contrasts, probed: Probed | None, lenses: pl.DataFrame, depth: int) -> list[Claim]:
    """Specialisation of layers in energy, in what can be read, and in what the head makes of them."""
    early, rest = stages(depth)["early"], after_early(depth)
    stated = []
    for part, words in (("foreground", "foreground tokens stand out from the background"), ("named", "tokens that "
                        "the answer is about stand out from those of other candidates")):  # fmt: skip
        if part not in energies.parts:
            continue
        for kind, unit in KINDS.items():
            stated.append(
                above(
                    f"{words} more after the first quarter of the layers than in it ({unit})",
                    energies.difference(kind, part, rest, early),
                    0.0,
                    matters=MATTERS[kind],
                    paper=PAPER,
                    placebo=energies.difference(kind, part, rest, early, placebo=True).value,
                    measure=f"the contrast, {spanned(rest[0], rest[-1], 'layer')} minus "
                    f"{spanned(early[0], early[-1], 'layer')} (placebo: masks of other problems)",
                )
            )
    stated.append(
        above(
            "how far the foreground stands out runs alike over the layers at every step",
            energies.alike("l2", "foreground"),
            ALIKE,
            matters=0.1,
            paper=PAPER_STEPS,
            measure="the mean correlation between the steps' profiles over layers",
        )
    )
    if probed is not None:
        stated.append(
            above(
                "the tokens that the answer is about are better decodable after the first quarter of the layers",
                probed.difference(rest, early),
                0.0,
                matters=SCORE,
                paper=PAPER,
                placebo=probed.difference(rest, early, control=True).value,
                measure=f"balanced accuracy, {spanned(rest[0], rest[-1], 'layer')} minus "
                f"{spanned(early[0], early[-1], 'layer')}",
            )
        )
    late = stages(depth)["late"] or rest
    for name in lenses["measure"].unique(maintain_order=True).to_list():
        stated.append(
            above(
                f"the head shows the right answer more often from late layers than from early ones ({name[5:]} lens)",
                lens_difference(lenses, name, late, early),
                0.0,
                matters=SCORE,
                measure=f"the share of right answers, {spanned(late[0], late[-1], 'layer')} minus "
                f"{spanned(early[0], early[-1], 'layer')}",
            )
        )
    return stated


def by_stage(energies: Contrasts, probed: Probed | None, lenses: pl.DataFrame, depth: int) -> list[dict[str, Any]]:
    """One row a measure, part and stage: value, low, high, n, placebo; means over the stage's layers and all steps."""
    rows: list[dict[str, Any]] = []

    def put(measure: str, part: str | None, stage: str, found: Estimate, placebo: float | None) -> None:
        about = {"measure": measure, "part": part, "stage": stage, "value": found.value, "low": found.low}
        rows.append({**about, "high": found.high, "n": found.n, "placebo": placebo})

    here = [(stage, layers) for stage, layers in stages(depth).items() if layers]
    for part in energies.parts:
        for kind in KINDS:
            for stage, layers in here:
                placebo = energies.mean(kind, part, layers, placebo=True).value
                put(f"energy_{kind}", part, stage, energies.mean(kind, part, layers), placebo)
    for stage, layers in here if probed is not None else ():
        assert probed is not None
        put("probe", "named", stage, probed.mean(layers), probed.mean(layers, control=True).value)
    for name in lenses["measure"].unique(maintain_order=True).to_list():
        for stage, layers in here:
            put(name, None, stage, lens_mean(lenses, name, layers), None)
    return rows


def findings(rows: Sequence[dict[str, Any]]) -> str:
    """What was found, in numbers."""
    words = {
        ("energy_l2", "foreground"): "Energy of foreground over background tokens (log2 of the ratio of L2 norms)",
        ("energy_l2", "named"): "energy of the answer's tokens over other candidates' (the same)",
        ("probe", "named"): "balanced accuracy of probes for the answer's tokens",
        ("lens_plain", None): "right answers through the head",
    }
    parts = []
    for (measure, part), said in words.items():
        of = [row for row in rows if (row["measure"], row["part"]) == (measure, part)]
        each = ", ".join("{} ({} to {})".format(*(shown(row[k], 2) for k in ("value", "low", "high"))) for row in of)
        parts += [f"{said}: {each}"] if of else []
    return f"In early, middle and late layers. {'; '.join(parts)}."


def lens_mean(lenses: pl.DataFrame, name: str, layers: Sequence[int]) -> Estimate:
    """Right answers from some layers."""
    of = _solved(lenses, name, layers)
    return Estimate.of(of["solved"].to_numpy(), of["sample"].to_numpy(), (0.0, 1.0))


def lens_difference(lenses: pl.DataFrame, name: str, first: Sequence[int], second: Sequence[int]) -> Estimate:
    """Right answers from some layers less those from others, run by run."""
    one, other = (_solved(lenses, name, layers) for layers in (first, second))
    both = one.join(other, on="run", suffix="_other", maintain_order="left")
    return Estimate.of((both["solved"] - both["solved_other"]).to_numpy(), both["sample"].to_numpy(), (-1.0, 1.0))


def _solved(lenses: pl.DataFrame, name: str, layers: Sequence[int]) -> pl.DataFrame:
    """Share of right answers of every run over layers and steps: run, sample, solved."""
    rows = lenses.filter(pl.col("layer").is_in(list(layers)), measure=name)
    return rows.group_by("run", "sample", maintain_order=True).agg(pl.col("solved").cast(pl.Float64).mean())
