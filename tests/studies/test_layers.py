"""The study of layers: contrasts are the naive means, probes tell real labels from shuffled ones, claims follow."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from interp import TokenGrid, tasks
from studies.base.claim import NOT, OPEN, SHOWS
from studies.measures.energy import Contrasts, contrasts_of
from studies.measures.probing import TokenRows, probe_tokens
from studies.measures.stages import after_early, by_stage, claims, findings, lens_difference, stages

GRID = TokenGrid(5, 5, 5)


def energies(strength: float, n: int = 8) -> Contrasts:
    """Random energies of grounding scenes; foreground tokens are ``strength`` times as large from layer 1 on."""
    task = tasks.get("grounding")
    samples = task.sample(n)
    rng = np.random.default_rng(0)
    maps = rng.uniform(0.9, 1.1, (n, 3, 5, GRID.tokens))
    for run, sample in enumerate(samples):
        maps[run, :, 2:, task.region(sample, "foreground", GRID)] *= strength
    return contrasts_of(task, samples, GRID, {"l2": maps, "robust": maps**2}, [-1, 0, 1, 2, 3])


def test_contrasts_are_the_naive_means() -> None:
    task = tasks.get("grounding")
    samples = task.sample(3)
    maps = {kind: np.random.default_rng(k).uniform(1, 2, (3, 2, 2, 125)) for k, kind in enumerate(("l2", "robust"))}
    found = contrasts_of(task, samples, GRID, maps, [-1, 0])
    later = slice(1, None)  # latent frames
    inside = list(task.region(samples[1], "foreground", GRID, frames=later))
    outside = sorted(set(range(25, 125)) - set(inside))
    energy = maps["l2"][1, 0, 1]
    assert found.real["l2", "foreground"][1, 0, 1] == pytest.approx(
        np.log2(energy[inside].mean() / energy[outside].mean())
    )
    assert found.real["layer", "foreground"][1, 0, 1] == pytest.approx(
        (energy[inside].mean() - energy[outside].mean()) / energy[25:].mean()
    )
    of, others = (set(task.region(samples[1], name, GRID, frames=later)) for name in ("object", "other_objects"))
    this, rest = sorted(of - others), sorted(others - of)
    robust = maps["robust"][1, 0, 1]
    assert found.real["robust", "named"][1, 0, 1] == pytest.approx(np.log2(robust[this].mean() / robust[rest].mean()))
    borrowed = [
        list(task.region(sample, "foreground", GRID, frames=later)) for sample in (samples[2], samples[0])
    ]  # of the two other problems
    naive = [np.log2(energy[b].mean() / energy[sorted(set(range(25, 125)) - set(b))].mean()) for b in borrowed]
    assert found.placebo["l2", "foreground"][1, 0, 1] == pytest.approx(np.mean(naive))
    rho = spearmanr(maps["l2"][1, 0, 1, 25:], robust[25:]).statistic
    assert found.agreement[1, 0, 1] == pytest.approx(rho)


def test_claims_on_energy_follow_the_numbers() -> None:
    empty = pl.DataFrame(schema={"measure": pl.String})
    strong, flat = claims(energies(2.0), None, empty, 4), claims(energies(1.0), None, empty, 4)
    assert [claim.verdict for claim in strong] == [SHOWS] * 3 + [NOT] * 3 + [SHOWS]  # foreground, named, every step
    assert SHOWS not in {claim.verdict for claim in flat}
    assert strong[0].value == pytest.approx(1, abs=0.02)
    assert strong[0].placebo is not None
    assert strong[0].placebo < 0.5
    rows = by_stage(energies(2.0), None, empty, 4)
    assert len(rows) == 2 * 3 * 3  # parts, kinds, stages
    late = next(row for row in rows if (row["measure"], row["stage"]) == ("energy_l2", "late"))
    assert late["low"] <= late["value"] <= late["high"]
    assert f"{late['value']:.2f} (" in findings(rows)


def test_stages_are_quarters() -> None:
    assert stages(40) == {
        "early": list(range(10)),
        "middle": list(range(10, 30)),
        "late": list(range(30, 40)),
    }
    assert stages(2) == {"early": [0], "middle": [1], "late": []}
    assert after_early(6) == [2, 3, 4, 5]


def labelled(n: int = 10) -> tuple[TokenRows, np.ndarray]:
    """Runs of 12 tokens, the first of which has no label, and their labels [run, token]."""
    labels = np.random.default_rng(0).integers(0, 2, (n, 12)).astype(float)
    labels[:, :3] = np.nan, 0, 1
    return TokenRows.of([f"run {k}" for k in range(n)], [f"problem {k}" for k in range(n)], list(labels)), labels


def test_rows_are_the_labelled_tokens() -> None:
    rows, labels = labelled()
    assert len(rows.label) == 110
    assert (labels[rows.run, rows.token] == rows.label).all()
    shuffled = rows.shuffled(0)
    assert (shuffled != rows.label).any()
    for run in range(10):
        assert shuffled[rows.run == run].sum() == rows.label[rows.run == run].sum()
    assert rows.enough
    assert not TokenRows.of(["a"], ["p"], [labels[0]]).enough
    assert not TokenRows.of(["a"], ["p"], [None]).enough


def test_probes_find_what_is_there_and_not_what_is_shuffled() -> None:
    rows, _ = labelled()
    noise = np.random.default_rng(1).normal(size=(2, len(rows.label), 4))
    there = noise[1] + np.array([3.0, 0, 0, 0]) * rows.label[:, None]
    found = probe_tokens(
        rows, {(0, 0): lambda: noise[0], (0, 1): lambda: there}, {0: 1.0}, {"x_t": noise[0]}, shuffles=2, seed=0
    )
    gain, control = found.difference([1], [0]), found.difference([1], [0], control=True)
    assert gain.low > 0.1
    assert control.low < 0.1
    assert gain.n == 10
    assert found.mean([1]).value - found.mean([0]).value == pytest.approx(gain.value)


def test_lenses_are_compared_run_by_run() -> None:
    rows = [
        {"measure": "lens_plain", "run": str(k), "sample": str(k), "step": 0, "layer": layer, "solved": layer == 3}
        for k in range(6)
        for layer in (-1, 0, 1, 2, 3, None)
    ]
    table = pl.DataFrame(rows)
    assert lens_difference(table, "lens_plain", [2, 3], [0]).value == 0.5
    verdicts = [claim.verdict for claim in claims(energies(1.0), None, table, 4)]
    assert verdicts[-1] == SHOWS
    late = table.with_columns(solved=pl.lit(False))
    assert claims(energies(1.0), None, late, 4)[-1].verdict in (NOT, OPEN)
