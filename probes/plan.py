"""What all cells of a grid share: rows, labels, shuffles, folds and how probes are fitted. Made once, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.folds import Folds, check_folds, draw_folds
from probes.logistic import balance, class_counts
from probes.score import Metric, metric
from probes.shuffles import choose_scheme, shuffle_labels

PATHS: dict[str, tuple[float, ...]] = {
    "logistic": (0.001, 0.03, 1.0),
    "ridge": (1.0, 100.0, 10000.0),
    "lda": (0.01, 0.1, 1.0),
    "means": (1.0,),
}
MODELS = "'logistic', 'ridge', 'lda', 'means' or a scikit-learn estimator"
MOST_CLASSES = 64


@dataclass(frozen=True, eq=False)
class Plan:
    """How every cell is fitted.

    ``model``: a name, or that of the class of ``estimator``, which then fits every cell by itself and has an empty
    ``path``. ``weights`` [row] count in the fit and in the choice of regularisation, not in the score. ``y`` [row]:
    class numbers or values. ``shuffled`` [row, shuffle]. ``path``: values of C (logistic) or alpha (ridge), strongest
    regularisation first. ``nested``: shuffles choose their own regularisation instead of taking the real labels'.
    """

    model: str
    y: NDArray[np.float64]
    classes: tuple[str, ...]
    shuffled: NDArray[np.float64]
    scheme: str
    folds: Folds
    path: tuple[float, ...]
    score: Metric
    balanced: bool
    standardise: bool = True
    nested: bool = False
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    tol: float = 1e-4
    weights: NDArray[np.float64] | None = None
    estimator: Any = None

    @cached_property
    def tensors(self) -> Tensors:
        """What every cell needs again, on the device."""
        return Tensors.of(self)

    @property
    def outputs(self) -> int:
        """Decision values per row: one for values and for two classes, else one a class."""
        return 1 if len(self.classes) <= 2 else len(self.classes)

    @property
    def classification(self) -> bool:
        return bool(self.classes)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Inner training sets leave out two folds. One fit serves twice: it validates fold b for the probe tested on a,
        and fold a for the probe tested on b, which halves the cost of the nested choice. What folds have in common
        (`probes.spread`) is seen in them, so they are fitted even where there is nothing to choose."""
        return tuple(combinations(range(self.folds.k), 2)) if self.folds.k > 2 else ()

    def train(self) -> NDArray[np.bool_]:
        """Mask [row, set]: first one set for each pair, then one for each fold."""
        left_out = [*self.pairs, *((f,) for f in range(self.folds.k))]
        return np.stack([self.folds.train(*out) for out in left_out], axis=1)


@dataclass(frozen=True)
class Tensors:
    """A plan as tensors.

    ``train`` [row, set]; ``labels`` [row, label] (label 0 is the real labelling, the others are shuffles) as values
    and, for classes, as ``codes``; ``class_weights`` [set, label, class] of balanced fits; ``tested`` rows of each
    fold.
    """

    train: Bool[torch.Tensor, "row set"]
    labels: Float[torch.Tensor, "row label"]
    codes: Int[torch.Tensor, "row label"] | None
    class_weights: Float[torch.Tensor, "set label klass"] | None
    fold: Int[torch.Tensor, " row"]
    member: Float[torch.Tensor, "fold row"]
    tested: tuple[torch.Tensor, ...]
    cost: Float[torch.Tensor, "fold label klass"] | None
    weights: Float[torch.Tensor, " row"] | None

    @staticmethod
    def of(plan: Plan) -> Tensors:
        labels = torch.from_numpy(np.concatenate([plan.y[:, None], plan.shuffled], axis=1)).to(plan.device)
        train = torch.from_numpy(plan.train()).to(plan.device)
        codes = labels.to(torch.int64) if plan.classification else None
        weights = None if plan.weights is None else torch.from_numpy(plan.weights).to(plan.device)
        balanced = balance(codes, train, len(plan.classes)) if codes is not None and plan.balanced else None
        fold = torch.from_numpy(plan.folds.fold).to(plan.device)
        member = torch.nn.functional.one_hot(fold, plan.folds.k).T.to(plan.dtype)
        tested = tuple((fold == f).nonzero().flatten() for f in range(plan.folds.k))
        cost = None
        if balanced is not None and codes is not None:
            outside = ~member.to(torch.bool).T
            cost = 1 / class_counts(codes, outside, len(plan.classes)).clamp_min(1)
        return Tensors(train, labels, codes, balanced, fold, member, tested, cost, weights)


def encode(target: NDArray[np.generic], model: str, task: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Class numbers and class names, or values and no names.

    ``task="auto"``: logistic means classes; ridge means classes for booleans, text and two distinct values, else
    values.
    """
    if task not in ("auto", "classification", "regression"):
        raise ProbeError(f"task={task!r} is not known; use 'auto', 'classification' or 'regression'.")
    names, codes = np.unique(target, return_inverse=True)
    textual = target.dtype.kind in "bUSO"
    classify = task == "classification" or (task == "auto" and (model != "ridge" or textual or len(names) <= 2))
    if not classify and model != "ridge":
        raise ProbeError(f"A {model} probe predicts classes; for a target of values use model='ridge'.")
    if len(names) < 2:
        raise ProbeError(
            f"The target is {names[0].item()!r} in every row, so there is nothing to tell apart. Capture "
            "samples that differ in it."
        )
    if not classify:
        if textual:
            raise ProbeError(f"The target holds {target.dtype} and cannot be regressed on; use task='classification'.")
        return target.astype(np.float64), ()
    if len(names) > MOST_CLASSES or (target.dtype.kind == "f" and bool((names != np.round(names)).any())):
        raise ProbeError(
            f"The target has {len(names)} distinct values such as {names[0].item()!r} and {names[-1].item()!r}, which "
            "look like measurements and not like classes. Use model='ridge' (R²), or bin the target first."
        )
    shown = tuple(str(int(name)) if target.dtype.kind == "f" else str(name) for name in names)
    return codes.reshape(-1).astype(np.float64), shown


def make_plan(
    target: NDArray[np.generic],
    group: NDArray[np.int64],
    *,
    model: str = "logistic",
    task: str = "auto",
    folds: int | NDArray[np.int64] = 5,
    path: Sequence[float] | float | None = None,
    score: str | None = None,
    shuffles: int = 20,
    shuffle: str = "auto",
    class_weight: str | None = "auto",
    standardise: bool = True,
    selection: str = "shared",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    tol: float = 1e-4,
    weights: NDArray[np.float64] | None = None,
    estimator: Any = None,
) -> Plan:
    """Check labels, groups and arguments, and draw folds and shuffles."""
    check_device(device)
    if estimator is None and model not in PATHS:
        raise ProbeError(f"model={model!r} is not known; use {MODELS}.")
    if estimator is not None and (path is not None or class_weight not in ("auto", None) or selection != "shared"):
        raise ProbeError(
            f"path=, class_weight= and selection= are of built-in models; set the {model} up as you want it."
        )
    y, classes = encode(target, model if estimator is None else "ridge", task)  # like ridge, it may do either
    given = PATHS.get(model, ()) if path is None else _values(path)
    given = given if estimator is None else ()
    if (not given and estimator is None) or any(not value > 0 or not np.isfinite(value) for value in given):
        raise ProbeError(f"Regularisation values must be positive numbers; got {given}.")
    strongest_first = tuple(sorted(set(given), reverse=model != "logistic"))
    strata = y.astype(np.int64) if classes else None
    drawn = draw_folds(group, folds, strata=strata, seed=seed) if isinstance(folds, int) else check_folds(folds, group)
    if len(strongest_first) > 1 and drawn.k < 3:
        raise ProbeError(
            "Choosing the regularisation inside the training folds needs at least 3 folds. Ask for more folds or give "
            "one value."
        )
    if class_weight not in ("auto", "balanced", None):
        raise ProbeError(f"class_weight={class_weight!r} is not known; use 'auto', 'balanced' or None.")
    if class_weight == "balanced" and (not classes or (model == "ridge" and len(classes) > 2)):
        raise ProbeError("class_weight='balanced' needs classes, and for model='ridge' no more than two.")
    balanced = bool(classes) and class_weight is not None and (model != "ridge" or len(classes) == 2)
    name = score or (("balanced_accuracy" if balanced else "accuracy") if classes else "r2")
    if selection not in ("shared", "nested"):
        raise ProbeError(f"selection={selection!r} is not known; use 'shared' or 'nested'.")
    scheme = choose_scheme(y, group) if shuffle == "auto" else shuffle
    shuffled = shuffle_labels(y, group, shuffles, scheme=scheme, seed=seed + 1) if shuffles else y[:, None][:, :0]
    if classes:
        _check_folds_hold_classes(y, drawn, classes)
    return Plan(
        model, y, classes, shuffled, scheme, drawn, strongest_first, metric(name, bool(classes)), balanced,
        standardise=standardise, nested=selection == "nested", dtype=dtype, device=device, tol=tol,
        weights=_check_weights(weights, len(y)), estimator=estimator,
    )  # fmt: skip


def _values(path: Any) -> tuple[float, ...]:
    try:
        return tuple(np.atleast_1d(np.asarray(path, dtype=np.float64)).tolist())
    except (TypeError, ValueError):
        raise ProbeError(f"path={path!r}: give one value of the regularisation, or a list of them.") from None


def check_device(device: str) -> None:
    """Refuse a device that cannot be used here, before anything is read.

    Raises:
        ProbeError: says why.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ProbeError(f"device={device!r} cannot be used: {str(error).splitlines()[0]}. Use 'cpu'.") from None


def _check_folds_hold_classes(y: NDArray[np.float64], folds: Folds, classes: tuple[str, ...]) -> None:
    """Every class must be left to train on, whichever fold is tested."""
    for k, name in enumerate(classes):
        homes = np.unique(folds.fold[y == k])
        if len(homes) == 1:
            rows = int((y == k).sum())
            raise ProbeError(
                f"Class {name!r} ({rows} rows) lies in one fold only, so the probe tested there never saw it. Capture "
                "more samples of it, use fewer folds, or leave it out of the target (NaN)."
            )


def _check_weights(weights: NDArray[np.float64] | None, rows: int) -> NDArray[np.float64] | None:
    """Weights per row, all positive and finite, scaled to mean 1 so that the strength of regularisation stays what it
    is."""
    if weights is None:
        return None
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (rows,) or not np.isfinite(given).all() or (given <= 0).any():
        raise ProbeError(
            f"weights= needs one positive number per row ({rows}); got shape {given.shape}, from {given.min()} to "
            f"{given.max()}. To leave rows out, make their target NaN."
        )
    return given / given.mean()
