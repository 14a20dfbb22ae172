"""What a sweep gives: a table with a heatmap, the file that it is resumed from, and several sweeps as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InterpError, OutputError

if TYPE_CHECKING:
    import polars as pl


SURE = 0.05  # p-values that the heatmap marks


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep.

    Attributes:
        table: polars, one row a cell: the axes; value, the metric there; clean, the metric of the unedited run (stopped
            where the cell stopped); effect, value - clean. With placebos also placebo, the mean of their effects;
            placebo_low and placebo_high, between which 95 % of them are; and p, the permutation p-value: the share of
            effects at least as large, the cell's own among them. One run gives no interval of its effect: see `pooled`.
        clean: the metric of the unedited run.
        axes: the axes, in order.
        placebos: one row a placebo: the axes, draw, effect; None without placebos.
    """

    table: pl.DataFrame
    clean: float
    axes: tuple[str, ...]
    placebos: pl.DataFrame | None = None

    def grid(self, column: str = "effect") -> np.ndarray:
        """A column over the axes: float [len(axis) ...]."""
        sizes = [self.table[axis].n_unique() for axis in self.axes]
        return self.table[column].to_numpy().reshape(sizes)

    def plot(self, path: str | Path, column: str = "effect") -> Path:
        """A heatmap of the first two axes, means over any others; a line for one axis. Dots: p up to 0.05."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        ax = figure.add_subplot()
        values = self.grid(column)
        if values.ndim == 1:
            ax.plot(self.table[self.axes[0]].to_list(), values, marker="o")
            ax.set(xlabel=self.axes[0], ylabel=column)
        else:
            values = values.reshape(*values.shape[:2], -1).mean(-1)
            size = float(np.abs(values).max()) or 1.0
            image = ax.imshow(values.T, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-size, vmax=size)
            names = [self.table[axis].unique(maintain_order=True).to_list() for axis in self.axes[:2]]
            ax.set(xlabel=self.axes[0], ylabel=self.axes[1])
            ax.set_xticks(range(len(names[0])), names[0])
            ax.set_yticks(range(len(names[1])), names[1])
            figure.colorbar(
                image, label=column if len(self.axes) == 2 else f"{column}, mean of {', '.join(self.axes[2:])}"
            )
            if "p" in self.table.columns and len(self.axes) == 2:
                first, second = np.nonzero(self.grid("p") <= SURE)
                ax.scatter(first, second, s=9, color="black")
        figure.savefig(path)
        return Path(path)


def pooled(sweeps: Sequence[Sweep], *, seed: int = 0, samples: int = 2000) -> Sweep:
    """Sweeps of the same cells over several runs as one: mean effects with intervals.

    Args:
        sweeps: of different runs, with the same cells and as many placebos.
        seed: of the bootstrap.
        samples: of the bootstrap.

    Returns:
        A sweep whose table has, beside the axes: value, clean and effect (means over runs), low and high (95 %
        percentile bootstrap over runs), n; and, with placebos, placebo, placebo_low, placebo_high, and p: one draw of
        every run makes one mean by chance.

    Raises:
        InterpError: other cells, or one run only.
    """
    import polars as pl

    axes = sweeps[0].axes if sweeps else ()
    if len(sweeps) < 2:
        raise InterpError(f"pooled: an interval over runs needs two sweeps or more, and there are {len(sweeps)}")
    first = sweeps[0].table.select(axes)
    if any(one.axes != axes or not one.table.select(axes).equals(first) for one in sweeps):
        raise InterpError("pooled: the sweeps have different cells; sweep every run over= the same axes")
    effects = np.stack([one.table["effect"].to_numpy() for one in sweeps])  # [run, cell]
    picks = np.random.default_rng(seed).integers(0, len(sweeps), (samples, len(sweeps)))
    low, high = np.quantile(effects[picks].mean(1), [0.025, 0.975], axis=0)
    columns = {name: np.mean([one.table[name].to_numpy() for one in sweeps], axis=0) for name in ("value", "clean")}
    columns |= {"effect": effects.mean(0), "low": low, "high": high, "n": np.full(len(first), len(sweeps))}
    drawn = [one.placebos["effect"].to_numpy().reshape(len(first), -1) for one in sweeps if one.placebos is not None]
    if drawn and len({one.shape for one in drawn}) == 1 and len(drawn) == len(sweeps):
        chance = np.stack(drawn).mean(0)  # [cell, draw]
        bounds = np.quantile(chance, [0.025, 0.975], axis=1)
        columns |= {"placebo": chance.mean(1), "placebo_low": bounds[0], "placebo_high": bounds[1]}
        larger = (np.abs(chance) >= np.abs(effects.mean(0))[:, None]).sum(1)
        columns["p"] = (1 + larger) / (1 + chance.shape[1])
    table = first.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    return Sweep(table, float(np.mean([one.clean for one in sweeps])), axes)


class CellFile:
    """Values of cells, in memory and appended to a file, if there is one.

    Args:
        path: of the file; it is made, or continued.
        header: says which sweep it belongs to.

    Raises:
        OutputError: the file holds something else.
    """

    def __init__(self, path: Path | None, header: str) -> None:
        self.path, self.values = path, dict[str, float]()
        if path is None:
            return
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"sweep": header}) + "\n")
            return
        whole, _, cut = path.read_text().rpartition("\n")
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            known = {line["cell"]: float(line["value"]) for line in lines[1:]}
        except (ValueError, KeyError, TypeError):
            lines, known = [], {}
        if not lines or not isinstance(lines[0], dict) or lines[0].get("sweep") != header:
            raise OutputError(f"{path} holds another sweep, or something else; give another file")
        if cut:  # the last line was being written when the sweep was stopped
            path.write_text(whole + "\n")
        self.values = known

    def add(self, key: str, value: float) -> None:
        self.values[key] = value
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"cell": key, "value": value}) + "\n")


__all__ = ["CellFile", "Sweep", "pooled"]
