"""Columns of every table that probes and geometry give, in order: what each holds, and its unit.

Tests hold tables to these, and the page of tables in the documentation is made from them.
"""

from __future__ import annotations

SHARE = "0 to 1 (R²: up to 1)"

CELL = {
    "step": "sampling step, from 0",
    "layer": "block",
}

GRID = {
    "step": CELL["step"],
    "sigma": "noise level of the step, 1 is pure noise; null where the source does not know it",
    "layer": CELL["layer"],
    "score": f"out of fold, in `spec['score']`: balanced accuracy, accuracy or R²; {SHARE}",
    "low": "lower end of its interval at `spec['level']`; what it covers is said in `probes.spread`",
    "high": "upper end",
    "chance": "mean score on shuffled labels; null without shuffles",
    "chance_high": "upper quantile of that chance level",
    "p": "how often shuffled labels score as high; 0 to 1",
    "auc": "area under the ROC curve within folds; 0 to 1; null for values",
    "control": "mean score on control tasks; null where none were asked for, or no kinds of rows are known",
    "selectivity": "score less control",
    "regularisation": "median over folds of the chosen C or alpha; null: an estimator has its own",
    "n": "rows",
    "groups": "groups of rows",
}
"""Of `GridResult.table`; after these, ``baseline_NAME``: score of the named baseline at the step."""

BASELINES = {
    "baseline": "its name",
    "step": CELL["step"],
    "score": "as in the grid",
    "low": "lower end of its interval",
    "high": "upper end",
    "auc": "as in the grid",
}

ONSET = {
    "layer": "block (along='layer': step, the sampling step); null: the earliest over all of them",
    "onset": "first step (or block) from which on, to the end, the interval lies above chance; null: none",
    "low": "lower end of its interval; null: no resample had an onset",
    "high": "upper end; null: beyond the grid",
    "share": "of resamples that had an onset; 0 to 1",
    "sigma": "noise level at the onset (along='step' only)",
}

BANDS = {
    **CELL,
    "score": "as in the grid",
    "low": "lower end of the band that holds in all cells at once",
    "high": "upper end",
}

DIFFERENCES = {
    **CELL,
    "score_a": "of the first grid",
    "score_b": "of the second",
    "difference": "a less b",
    "low": "lower end of its interval",
    "high": "upper end",
    "band_low": "lower end of the band that holds in all cells at once",
    "band_high": "upper end",
    "p": "two-sided, of no difference in the cell",
    "p_adjusted": "over all cells",
    "paired": "whether both grids were fitted on the same rows, and are compared row by row",
}

PREDICTIONS = {
    "run": "its place in the source, from 0",
    "token": "its place among the tokens, from 0; null for a target per run",
    "group": "number of the group",
    "fold": "in which the row was left out",
    "target": "class by name, or value",
    "predicted": "by the probe that did not see the row",
    "probability": "a list over the classes of `spec['classes']`, sums to 1; null where the model gives none",
}

CALIBRATION = {
    "confidence": "mean probability of the class that is said; 0 to 1",
    "right": "share of rows where it is the right one; 0 to 1",
    "rows": "in the bin of confidence",
}

TRANSFER = {
    "train_step": "sampling step of the probe",
    "train_layer": "its block",
    "test_step": "sampling step that it is tested at",
    "test_layer": "and block",
    "score": f"on rows that the probe's fold left out; {SHARE}",
    "low": "lower end of its interval",
    "high": "upper end",
    "own": "score of the tested cell's own probe",
    "lost": "own less score",
}

BETWEEN = {
    "train": "kind of run that the probe was fitted to, as text",
    "test": "kind that it is tested on",
    **CELL,
    "score": f"on rows of that kind that the probe's fold left out; {SHARE}",
    "low": "lower end of its interval",
    "high": "upper end",
    "n": "rows tested",
}

CODES = {
    "step": CELL["step"],
    "sigma": GRID["sigma"],
    "layer": CELL["layer"],
    "bits": "of the online code, mean over orders",
    "spread": "standard deviation over orders, bits; null for one order",
    "uniform": "bits of telling every label without features or frequencies",
    "entropy": "bits of telling them by their frequencies alone",
    "compression": "uniform over bits; 1: nothing is gained",
    "control": "bits of control tasks, which a probe can only learn by heart; null without",
    "n": "rows",
    "groups": "groups of rows",
}

CODE_BLOCKS = {
    "trained_rows": "that the probe of the block was fitted to",
    "rows": "of the block",
    "bits": "that its labels cost",
    "accuracy": "of its probe; 0 to 1; null for the first block, which has none",
}

LIKENESS = {
    "first": "site, as text",
    "second": "site, as text",
    "value": "of the measure; 1: the same geometry",
    "low": "lower end of its interval; null with parts=0 and of components",
    "high": "upper end",
    "chance": "mean over shuffles of the rows; null without",
}

ENERGY = {
    **CELL,
    "token": "number on the grid, row-major over frame, row and col",
    "frame": "latent frame",
    "row": "on the token grid",
    "col": "on the token grid",
    "l2": "length of the token, mean over runs, in the activations' own unit",
    "robust": "median over channels of the absolute value, mean over runs, in the same unit",
    "relative": "length over the mean length of the run's tokens; 1 is the mean",
    "sink": "share of runs in which the token is a sink, four times as long as the median one; 0 to 1",
}

PATHS = {
    "row": "number of the row, the same at every step",
    "step": CELL["step"],
}
"""Then further columns as given, and a coordinate a dimension: pc0, pc1, ... or umap0, umap1."""
