"""The result of a grid of probes: one table, and what is needed to ask it further questions without refitting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from probes.calibration import Calibration, calibration
from probes.errors import ProbeError, undamaged
from probes.onset import first_sustained, onset_interval
from probes.said import Said
from probes.score import METRICS, bootstrap, resample

FORMAT = 3
DIRECTIONS, ROWS, DECISIONS = "directions.safetensors", "rows.parquet", "decisions.safetensors"


@dataclass(frozen=True, eq=False)
class GridResult:
    """Scores of a whole grid.

    ``table`` as below; ``baselines`` one row per baseline and step (baseline, step, score, low, high, auc); ``sums``
    [cell, group, statistic], ``effects`` [cell, fold, fold] and ``null`` [cell, shuffle] behind them; ``spec`` how it
    was made (JSON).

    Columns of ``table``, one row per cell, ordered by step and layer:

    ===================== ======= ====================================================================================
    step, layer           int     the cell
    sigma                 float   noise level of the step, where the source knows it
    score, low, high      float   out-of-fold score and its interval; what it covers is said in `probes.spread`
    chance, chance_high   float   mean score on shuffled labels, and the upper quantile of that chance level
    p                     float   how often shuffled labels score as high
    auc                   float   area under the ROC curve within folds (classes only)
    control               float   mean score on control tasks (null: none were asked for, or no kinds of rows are known)
    selectivity           float   score - control
    regularisation        float   median over folds of the chosen C or alpha (null: an estimator has its own)
    n, groups             int     rows and groups
    baseline_NAME         float   score of the named baseline at this step
    ===================== ======= ====================================================================================
    """

    table: pl.DataFrame
    baselines: pl.DataFrame
    sums: NDArray[np.float64]
    effects: NDArray[np.float64]
    null: NDArray[np.float64]
    spec: dict[str, Any]
    coef: NDArray[np.float32] | None = None
    said: Said | None = None

    @property
    def steps(self) -> list[int]:
        return sorted(self.table["step"].unique().to_list())

    @property
    def layers(self) -> list[int]:
        return sorted(self.table["layer"].unique().to_list())

    def resamples(self) -> NDArray[np.float64]:
        """Scores [resample, cell] on resampled groups; the same groups for every cell, so cells can be compared.

        They scatter by less than scores do where probes are noise: what folds have in common is not in them (see
        `probes.spread`), and is in ``effects``.
        """
        draws = resample(self.sums.shape[1], int(self.spec["bootstrap"]), int(self.spec["seed"]) + 2)
        return bootstrap(self.sums, draws, METRICS[self.spec["score"]])

    def cell(self, step: int, layer: int) -> int:
        """Row of a cell in ``table``, ``sums``, ``null`` and ``coef``."""
        found = self.table.with_row_index("row").filter((pl.col("step") == step) & (pl.col("layer") == layer))
        if found.height == 0:
            raise ProbeError(
                f"The grid has no cell at step {step}, layer {layer}; steps {self.steps}, layers {self.layers}."
            )
        return int(found["row"][0])

    def direction(self, step: int, layer: int, *, output: int = 0) -> NDArray[np.float64]:
        """Unit vector [feature] in activation space along which the probe of a cell reads its target (mean over folds).

        It points to the second class, to higher values, or, with more than two classes, to class ``output``.
        """
        if self.coef is None:
            raise ProbeError("The probes were not kept. Fit the grid with directions=True.")
        if not -self.coef.shape[3] <= output < self.coef.shape[3]:
            raise ProbeError(f"output={output}: these probes have {self.coef.shape[3]}, numbered from 0.")
        mean = self.coef[self.cell(step, layer), :, :, output].astype(np.float64).mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-300))

    def predictions(self, step: int, layer: int) -> pl.DataFrame:
        """What the probes of a cell said of the rows that their fold left out.

        Returns:
            One line a row, with run (its place in the source), token (null for a target per run), group, fold, target,
            predicted (classes by name, or values), probability (a list over the classes in ``spec["classes"]``, as
            frequent as the probes were fitted to take them; null for values and for models that give none, which are
            all but "logistic" and "lda").

        Raises:
            ProbeError: the grid was fitted without ``predictions=True``, or has no such cell.

        Example:
            ``figures.confusion(found["target"], found["predicted"])``
        """
        if self.said is None:
            raise ProbeError("Predictions were not kept. Fit the grid with predictions=True.")
        return self.said.table(self.cell(step, layer), self.spec["classes"], self.spec["model"])

    def calibration(self, step: int, layer: int, **options: Any) -> Calibration:
        """Do the probabilities of a cell mean what they say? See `probes.calibration`.

        Args:
            step, layer: the cell.
            options: ``bins``, ``resamples``, ``level``, ``seed``.

        Raises:
            ProbeError: there are no probabilities, or they are those of classes made equally frequent.
        """
        found = self.predictions(step, layer)
        if found["probability"].null_count():
            raise ProbeError(f"A {self.spec['model']} probe gives no probabilities; use model='logistic' or 'lda'.")
        if self.spec["balanced"]:
            raise ProbeError(
                "These probes were fitted as if classes were equally frequent, and so are their probabilities. Fit the "
                "grid with class_weight=None."
            )
        number = {name: k for k, name in enumerate(self.spec["classes"])}
        target = np.array([number[name] for name in found["target"]])
        shares = np.array(found["probability"].to_list())
        return calibration(shares, target, groups=found["group"].to_numpy(), **options)

    def onset(self, along: str = "step") -> pl.DataFrame:
        """First step (for each layer) or layer (for each step) from which the target is decodable, with its interval.

        The rule is in `probes.onset`. Columns: ``layer`` (or ``step``; null: the earliest over all of them), ``onset``,
        ``low``, ``high`` (null: not within the grid; ``low`` null means no resample had an onset), ``share`` of
        resamples that had one; along steps also ``sigma`` at the onset.
        """
        if along not in ("step", "layer"):
            raise ProbeError(f"onset(along={along!r}) is not known; use 'step' or 'layer'.")
        if self.null.shape[1] < 2:
            raise ProbeError("An onset needs a chance level, and how far it scatters. Fit the grid with shuffles > 1.")
        across = "layer" if along == "step" else "step"
        rows, cols = (self.layers, self.steps) if along == "step" else (self.steps, self.layers)
        place = {(r, c): i for i, (r, c) in enumerate(zip(self.table[across], self.table[along], strict=True))}
        missing = [(r, c) for r in rows for c in cols if (r, c) not in place]
        if missing:
            raise ProbeError(
                f"An onset needs a full grid; {across} {missing[0][0]}, {along} {missing[0][1]} is missing."
            )
        index = np.array([[place[r, c] for c in cols] for r in rows])
        score, low, bar = (self.table[name].to_numpy()[index] for name in ("score", "low", "chance_high"))
        point = first_sustained(low > bar)
        draws = first_sustained(self.resamples()[:, index] - (score - low) > bar)
        point = np.append(point, point.min())
        draws = np.concatenate([draws, draws.min(axis=1, keepdims=True)], axis=1)
        lower, upper = onset_interval(draws, float(self.spec["level"]))

        def value(at: float) -> int | None:
            return int(cols[int(at)]) if np.isfinite(at) else None

        frame = pl.DataFrame(
            {
                across: [*rows, None],
                "onset": [value(v) for v in point],
                "low": [value(v) for v in lower],
                "high": [value(v) for v in upper],
                "share": np.isfinite(draws).mean(axis=0),
            },
            schema={across: pl.Int64, "onset": pl.Int64, "low": pl.Int64, "high": pl.Int64, "share": pl.Float64},
        )
        if along == "step":
            sigma = self.table.select(pl.col("step").alias("onset"), "sigma").unique(maintain_order=True)
            frame = frame.join(sigma, on="onset", how="left", maintain_order="left")
        return frame

    def plot(self, path: str | Path | None = None, *, title: str | None = None) -> Any:
        """Heatmap over steps and layers, with a dot where the interval lies above chance, over curves with chance and
        baselines; written if ``path`` is given."""
        from probes.plot import plot_grid

        return plot_grid(self, path, title=title)

    def save(self, folder: str | Path) -> Path:
        """Write the grid into a folder, over one that was saved there before.

        ``table.parquet``, ``baselines.parquet``, ``cells.parquet`` (group sums and null scores), ``grid.json`` and, if
        they were kept, ``directions.safetensors``, ``rows.parquet`` and ``decisions.safetensors``.
        """
        from safetensors.numpy import save_file

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        self.table.write_parquet(out / "table.parquet")
        self.baselines.write_parquet(out / "baselines.parquet")
        cells = pl.DataFrame(
            {
                "sums": [row.reshape(-1).tolist() for row in self.sums],
                "effects": [row.reshape(-1).tolist() for row in self.effects],
                "null": [row.tolist() for row in self.null],
            },
            schema={name: pl.List(pl.Float64) for name in ("sums", "effects", "null")},
        )
        cells.write_parquet(out / "cells.parquet")
        for name in (DIRECTIONS, ROWS, DECISIONS):  # those of another grid would be read as this one's
            (out / name).unlink(missing_ok=True)
        if self.coef is not None:
            save_file({"coef": np.ascontiguousarray(self.coef)}, out / DIRECTIONS)
        if self.said is not None:
            self.said.rows.write_parquet(out / ROWS)
            save_file({"decision": np.ascontiguousarray(self.said.decision)}, out / DECISIONS)
        spec = {"format": FORMAT, "shape": list(self.sums.shape), **self.spec}
        (out / "grid.json").write_text(json.dumps(spec, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return out

    @staticmethod
    def load(folder: str | Path) -> GridResult:
        """Read what `save` wrote.

        Raises:
            ProbeError: the folder holds no grid, one of another version, or a damaged one.
        """
        out = Path(folder)
        if not (out / "grid.json").is_file():
            raise ProbeError(
                f"{out} holds no grid of probes: there is no grid.json in it. Give the folder that save() wrote."
            )
        with undamaged(out):
            return GridResult._read(out)

    @staticmethod
    def _read(out: Path) -> GridResult:
        from safetensors.numpy import load_file

        spec = json.loads((out / "grid.json").read_text(encoding="utf-8"))
        if spec.pop("format", None) != FORMAT:
            raise ProbeError(f"{out} was written by another version of probes; fit the grid again.")
        shape = spec.pop("shape")
        cells = pl.read_parquet(out / "cells.parquet")
        sums = np.array(cells["sums"].to_list(), dtype=np.float64).reshape(shape)
        effects = np.array(cells["effects"].to_list(), dtype=np.float64).reshape(shape[0], spec["folds"], spec["folds"])
        null = np.array(cells["null"].to_list(), dtype=np.float64).reshape(shape[0], -1)
        table, baselines = pl.read_parquet(out / "table.parquet"), pl.read_parquet(out / "baselines.parquet")
        kept = out / DIRECTIONS
        coef = load_file(kept)["coef"] if kept.is_file() else None
        kept = out / DECISIONS
        said = Said(pl.read_parquet(out / ROWS), load_file(kept)["decision"]) if kept.is_file() else None
        return GridResult(table, baselines, sums, effects, null, spec, coef, said)
