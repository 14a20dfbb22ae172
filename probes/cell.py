"""One cell of a grid: choose the regularisation on the training folds, fit, predict what was left out, score.

Labels are columns: column 0 is the real labelling, the rest are shuffles, fitted and scored the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.batch import BATCH_BYTES
from probes.cell_fit import CellFit, Directions, Probe, score_cell
from probes.discriminant import solve_discriminant
from probes.logistic import Columns, solve_logistic
from probes.plan import Plan
from probes.ridge import RidgeFit, solve_ridge
from probes.space import Block, blocks


class _Work:
    """What fitting a cell has found so far."""

    def __init__(self, plan: Plan, keep_directions: bool, keep_pairs: bool) -> None:
        self.plan, self.t = plan, plan.tensors
        n, self.count = self.t.labels.shape
        self.choosers = self.count if plan.nested else 1
        shape = (self.choosers, plan.folds.k, len(plan.path))
        self.loss = torch.zeros(shape, dtype=torch.float64, device=plan.device)
        self.decision = torch.zeros(n, self.count, plan.outputs, dtype=plan.dtype, device=plan.device)
        k, statistics = plan.folds.k, max(1, len(plan.classes))
        self.paired = torch.zeros(k, k, len(plan.path), statistics, dtype=torch.float64, device=plan.device)
        self.directions: dict[int, tuple[Tensor, Tensor]] | None = {} if keep_directions else None
        # Probes of the real labels that leave out two folds, by training set and place on the path.
        self.apart: dict[tuple[int, int], tuple[Tensor, Tensor]] | None = {} if keep_pairs and plan.pairs else None
        self.unconverged = 0

    def choice(self) -> Int[Tensor, "label fold"]:
        """Index into the path for every labelling and fold; ties go to the stronger regularisation."""
        if len(self.plan.path) == 1:
            return torch.zeros(self.count, self.plan.folds.k, dtype=torch.int64, device=self.plan.device)
        return self.loss.argmin(dim=2).expand(self.count, -1)

    def validate(self, todo: Sequence[Fit], decision: Float[Tensor, "row column output"]) -> None:
        """Book what fits that left out two folds lose on each of them.

        Log loss (balanced, if the fits are, by classes outside the tested fold) or squared error.
        """
        if len(self.plan.path) == 1:
            return
        sets, labels, c = (torch.tensor(v, device=decision.device) for v in zip(*todo, strict=True))
        codes = self.t.codes
        if codes is None or self.plan.model == "ridge":
            each = ((self.coded()[:, labels] - decision) ** 2).sum(dim=2)
        elif decision.shape[2] == 1:
            each = torch.nn.functional.softplus((1 - 2 * codes[:, labels]) * decision[..., 0])
        else:
            each = torch.nn.functional.cross_entropy(decision.movedim(2, 1), codes[:, labels], reduction="none")
        if self.t.weights is not None:
            each = each * self.t.weights[:, None].to(each.dtype)
        first, second = (torch.tensor(v, device=decision.device)[sets] for v in zip(*self.plan.pairs, strict=True))
        at = torch.arange(len(todo), device=decision.device)
        for tested, validated in ((first, second), (second, first)):
            if self.t.cost is None or codes is None or self.plan.model == "ridge":
                lost = (self.t.member @ each).to(torch.float64)[validated, at]
            else:
                lost = torch.zeros(len(todo), dtype=torch.float64, device=decision.device)
                for k in range(len(self.plan.classes)):
                    part = (self.t.member @ (each * (codes[:, labels] == k))).to(torch.float64)[validated, at]
                    lost += part * self.t.cost[tested, labels, k]
            self.loss.index_put_((labels, tested, c), lost, accumulate=True)

    def pair(self, todo: Sequence[Fit], decision: Float[Tensor, "row column output"]) -> None:
        """Book what fits to the real labels that left out two folds score on each of them: rows right by class, or
        squared error."""
        real = [j for j, (_, label, _) in enumerate(todo) if label == 0]
        decision, y, k = decision[:, real], self.t.labels[:, 0], len(self.plan.classes)
        if k:
            predicted = decision.argmax(dim=2) if decision.shape[2] > 1 else (decision[..., 0] > 0).to(torch.int64)
            right = (predicted == y[:, None]).to(self.plan.dtype)
            kinds = torch.nn.functional.one_hot(y.to(torch.int64), k).to(self.plan.dtype)
        else:
            right, kinds = (
                (decision[..., 0] - y[:, None]).square().to(self.plan.dtype),
                torch.ones_like(decision[:, :1, 0]),
            )
        found = torch.stack([(self.t.member * kind) @ right for kind in kinds.T], dim=2)  # [fold, column, statistic]
        for column, j in enumerate(real):
            a, b = self.plan.pairs[todo[j][0]]
            self.paired[a, b, todo[j][2]], self.paired[b, a, todo[j][2]] = found[a, column], found[b, column]

    def coded(self) -> Float[Tensor, "row label output"]:
        """Targets of ridge: centred values, or +-1 for each class."""
        if self.t.codes is None:
            return (self.t.labels - self.t.labels[:, 0].mean())[..., None].to(self.plan.dtype)
        if self.plan.outputs == 1:
            return (2.0 * self.t.codes - 1)[..., None].to(self.plan.dtype)
        return (2.0 * torch.nn.functional.one_hot(self.t.codes, self.plan.outputs) - 1).to(self.plan.dtype)

    def keep(self, folds: Sequence[int], labels: slice, decision: Float[Tensor, "row set label output"]) -> None:
        """Take what the probe of each fold says of the rows that fold left out."""
        for i, f in enumerate(folds):
            rows = self.t.tested[f]
            self.decision[rows, labels] = decision[rows, i]


Fit = tuple[int, int, int]
"""Training set, label and place on the path."""


def fit_cell(
    x: Float[Tensor, "row feature"], plan: Plan, *, keep_directions: bool = False, keep_pairs: bool = False
) -> CellFit:
    """Fit and score one cell. ``x`` holds raw features of the plan's rows, in its dtype and on its device."""
    return fit_cells([x], plan, keep_directions=keep_directions, keep_pairs=keep_pairs)[0]


def fit_cells(
    xs: Sequence[Tensor], plan: Plan, *, keep_directions: bool = False, keep_pairs: bool = False
) -> list[CellFit]:
    """Fit and score several cells at once, each [row, feature]; logistic fits of all of them share their iterations.

    ``keep_directions``: also give the probes; with ``keep_pairs``, those too that leave out two folds.
    """
    works = [_Work(plan, keep_directions, keep_directions and keep_pairs) for _ in xs]
    kernel = False if plan.model == "means" else None
    made = [
        blocks(
            x,
            plan.tensors.train,
            standardise=plan.standardise,
            weights=plan.tensors.weights,
            kernel=kernel,
            dual=plan.model in ("logistic", "ridge"),
            sums=plan.model in ("ridge", "lda"),
        )
        for x in xs
    ]
    pairs = len(plan.pairs)
    # Inner sets come before outer ones, so every choice is made by the time it is asked for.
    for parts in zip(*made, strict=True):
        for inner in (True, False):
            sets = tuple(s for s in parts[0].sets if (s < pairs) == inner)
            jobs = [(work, part.only(sets)) for work, part in zip(works, parts, strict=True)] if sets else []
            if jobs and plan.model == "logistic":
                _iterative(plan, jobs, inner=inner)
            else:
                for work, block in jobs:
                    _closed_form(work, block, inner=inner)
    return [_score(work) for work in works]


def _iterative(plan: Plan, jobs: Sequence[tuple[_Work, Block]], *, inner: bool) -> None:
    """Logistic probes of one stage, as columns of batched solves."""
    t, pairs = plan.tensors, len(plan.pairs)
    assert t.codes is not None
    labels = jobs[0][0].choosers if inner else jobs[0][0].count
    sets = len(jobs[0][1].sets)
    per_label = sets * (len(plan.path) if inner else 1) * len(plan.y) * plan.outputs * 4
    size = max(1, BATCH_BYTES // per_label)
    for start in range(0, labels, size):
        some = range(start, min(start + size, labels))
        todos: list[list[Fit]] = []
        for work, block in jobs:
            if inner:
                todos.append([(s, lab, c) for s in block.sets for lab in some for c in range(len(plan.path))])
            else:
                chosen = work.choice().tolist()
                todos.append([(s, lab, chosen[lab][s - pairs]) for s in block.sets for lab in some])
        fits = solve_logistic(
            [block for _, block in jobs],
            t.codes,
            t.train,
            [_columns(plan, todo) for todo in todos],
            classes=len(plan.classes),
            weights=t.weights,
            class_weights=t.class_weights,
            tol=plan.tol,
        )
        for (work, block), todo, fitted in zip(jobs, todos, fits, strict=True):
            work.unconverged += int((~fitted.converged).sum())
            if inner:
                work.validate(todo, fitted.decision)
                work.pair(todo, fitted.decision)
                if work.apart is not None:
                    for j, (s, label, c) in enumerate(todo):
                        if label == 0:
                            work.apart[s, c] = block.raw(fitted.coef[:, j], fitted.intercept[j], of=s)
                continue
            folds = [s - pairs for s in block.sets]
            work.keep(folds, slice(some.start, some.stop), fitted.decision.unflatten(1, (len(folds), len(some))))
            if work.directions is not None and start == 0:
                for i, f in enumerate(folds):
                    j = i * len(some)
                    work.directions[f] = block.raw(fitted.coef[:, j], fitted.intercept[j], of=block.sets[i])


def _columns(plan: Plan, todo: Sequence[Fit]) -> Columns:
    sets, labels, c = (torch.tensor(v, device=plan.device) for v in zip(*todo, strict=True))
    return Columns(sets, labels, torch.tensor(plan.path, dtype=plan.dtype, device=plan.device)[c])


def _closed_form(work: _Work, block: Block, *, inner: bool) -> None:
    """Ridge and discriminants: all penalties and labellings of a training set from its moments."""
    plan, t, pairs = work.plan, work.t, len(work.plan.pairs)
    count = work.choosers if inner else work.count
    path = torch.tensor(plan.path, dtype=torch.float64, device=plan.device)
    fitted: RidgeFit
    if plan.model == "ridge":
        fitted = solve_ridge(block, work.coded()[:, :count].flatten(1), t.train, path, weights=t.weights)
    else:
        assert t.codes is not None
        fitted = solve_discriminant(
            block,
            t.codes[:, :count],
            t.train,
            path,
            classes=len(plan.classes),
            whiten=plan.model == "lda",
            equal_priors=plan.balanced or plan.model == "means",
            weights=t.weights,
        )
    # Where thresholds are read off the training rows, decisions on all rows are wanted; else on those left out.
    everywhere, real = plan.model == "ridge" and plan.balanced, slice(plan.outputs)
    if inner:
        decision = torch.zeros(len(plan.y), *fitted.intercept.shape, dtype=plan.dtype, device=plan.device)
        decision = decision.unflatten(3, (count, plan.outputs))  # [row, set, alpha, label, output]
        for i in range(len(block.sets)):
            rows, own = (slice(None), fitted.decide(i)) if everywhere else fitted.left_out(i, t.train)
            decision[rows, i] = own.unflatten(2, decision.shape[3:])
        todo = [(s, lab, c) for s in block.sets for c in range(len(plan.path)) for lab in range(count)]
        work.validate(todo, decision.flatten(1, 3))
        for i, s in enumerate(block.sets):
            shift = _shift(work, decision[:, i, :, 0], s, label=0)
            work.pair([(s, 0, c) for c in range(len(plan.path))], decision[:, i, :, 0] + shift)
            if work.apart is not None:
                for c in range(len(plan.path)):
                    coef, intercept = fitted.raw(i, c, real)
                    work.apart[s, c] = coef, intercept + shift[c]
        return
    chosen = work.choice()  # [label, fold]
    for i, s in enumerate(block.sets):
        f = s - pairs
        pick, every = chosen[:, f], torch.arange(count, device=plan.device)
        rows, own = (t.tested[f], fitted.decide(i)) if everywhere else fitted.left_out(i, t.train)
        out = own.unflatten(2, (count, plan.outputs))[:, pick, every]  # [row, label, output]
        shift = _shift(work, out, s)
        work.decision[rows, :count] = (out[rows] if everywhere else out) + shift
        if work.directions is not None:
            coef, intercept = fitted.raw(i, int(pick[0]), real)
            work.directions[f] = coef, intercept + shift[0]


def _shift(
    work: _Work, decision: Float[Tensor, "row column output"], s: int, *, label: int | None = None
) -> Float[Tensor, "column output"]:
    """What is added to ridge decisions, one column a labelling or all of labelling ``label``: the mean that values were
    centred by; or, for balanced classes, minus the point half-way between the classes' mean decision on the training
    rows (the threshold if classes were equally frequent)."""
    plan, t = work.plan, work.t
    nothing = torch.zeros(decision.shape[1:], dtype=decision.dtype, device=decision.device)
    if plan.model != "ridge":
        return nothing
    if t.codes is None:
        return nothing + t.labels[:, 0].mean().to(decision.dtype)
    if not plan.balanced:
        return nothing
    codes = t.codes if label is None else t.codes[:, label : label + 1]
    weight = t.train[:, s].to(torch.float64) if t.weights is None else t.train[:, s] * t.weights
    value = decision[..., 0].to(torch.float64)
    middle = torch.zeros(decision.shape[1], dtype=torch.float64, device=decision.device)
    both = torch.ones_like(middle, dtype=torch.bool)
    for k in (0, 1):
        part = weight[:, None] * (codes == k)
        mass = part.sum(dim=0)
        both &= mass > 0
        middle += (part * value).sum(dim=0) / mass.clamp_min(1e-300) / 2
    return nothing - torch.where(both, middle, 0.0).to(decision.dtype)[:, None]


def _score(work: _Work) -> CellFit:
    plan, choice = work.plan, work.choice()[0]
    folds = torch.arange(plan.folds.k, device=choice.device)
    paired = work.paired[folds, :, choice] if plan.pairs else work.paired[:0]
    directions = None
    if work.directions is not None:
        apart = None
        if work.apart is not None:
            places = {pair: s for s, pair in enumerate(plan.pairs)}
            both = [*places, *((b, a) for a, b in places)]
            apart = {(a, b): _array(work.apart[places[min(a, b), max(a, b)], int(choice[a])]) for a, b in both}
        directions = Directions.of([_array(work.directions[f]) for f in range(plan.folds.k)], apart)
    return score_cell(
        plan,
        work.decision.to(torch.float64).cpu().numpy(),
        paired.cpu().numpy(),
        tuple(plan.path[int(i)] for i in choice),
        work.unconverged,
        directions,
    )


def _array(probe: tuple[Tensor, Tensor]) -> Probe:
    return probe[0].to(torch.float32).cpu().numpy(), probe[1].to(torch.float64).cpu().numpy()
