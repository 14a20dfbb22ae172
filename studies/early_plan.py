"""Does the plan of the first steps predict the final one, and can it be used to choose among seeds?

K seeds of each problem are sampled. At every step the answer that x0_hat shows is compared with the final one. Then
seeds are chosen early, without looking at the truth, at several steps: by how sure x0_hat is (entropy of the posterior
over candidates), by a linear probe on early hidden states that predicts whether a run will be right (trained on other
problems), by the majority of the answers shown so far, and at random. Each rule gives one answer per problem; what it
wins is told as a share of the headroom between one seed and any of the K, beside its cost in denoising steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import polars as pl

from interp import select
from interp.answers import AnswerTrajectories
from interp.intervals import cluster_mean
from probes import LogisticProbe
from studies.answers import NONE, majority
from studies.bench import Bench
from studies.chain_of_steps import follow_clean, paired, steps_of
from studies.claim import Claim, Estimate, above
from studies.clean import CleanRuns
from studies.conditions import spread
from studies.figures import BLUE, GREEN, ORANGE, Series, points
from studies.outcome import Outcome
from studies.report import Picture, Section
from studies.study import Parser, Study, positive

PAPER = "Video Models Reason Early (2603.30043): the plan is set early, and screening seeds early saves up to 3.3 times"
MATTERS = 0.05
FOLDS = 5
RULES = {
    "one": "the first seed",
    "entropy": "the seed whose x0_hat is surest: least entropy over the candidates",
    "probe": "the seed that a probe on hidden states gives the best chance of being right",
    "majority": "a seed that shows the answer that most seeds show so far",
    "any": "any seed right: what a perfect choice would give",
}
COLUMNS = {
    "rule": "; ".join(f"{name}: {text}" for name, text in RULES.items()),
    "step": "after which the choice is made",
    "sigma": "its noise level",
    "value": "share of problems whose chosen seed ends right",
    "low": "lower end of its 95 % interval (bootstrap over problems)",
    "high": "upper end",
    "headroom": "share of the way from one seed to any seed",
    "cost": "denoising steps a problem, those of seeds given up included; one run is the number of steps",
    "n": "problems",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    add = parser.add_argument
    add("--places", type=positive, default=6, help="steps after which seeds are chosen, spread evenly")
    add("--layer", type=int, default=None, help="block whose output the probe reads; the middle one if not given")


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    specs = bench.specs(bench.samples())
    clean = bench.clean(specs)
    found = follow_clean(bench, clean)
    places = spread(clean.steps, bench.given.places)
    chances = probe_chances(bench, clean, found, places)
    won = choices(found, chances, places)
    table = tabled(won, clean.sigmas, bench.given.seeds)
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(found, won),
        findings=findings(found, table),
        sections=[_section(bench, table)],
        n={"problems": len({s.sample.key for s in specs}), "runs": len(specs)},
        seeds=[spec.seed for spec in specs],
        more={"agreement": found.by_step("final", ends=(0, 1)).to_dicts()},
    )


def probe_chances(
    bench: Bench, clean: CleanRuns, found: AnswerTrajectories, places: Sequence[int]
) -> dict[int, dict[str, float]]:
    """By step and run: the chance of being right that a probe gives, trained on other problems only."""
    layers = len(bench.lab.pipe.transformer.blocks)
    layer = layers // 2 if bench.given.layer is None else bench.given.layer
    site = f"blocks.{layer}.hook_resid_post"
    store = bench.store(
        "plan", clean.specs, select(site, branch="cond", step=list(places)), dtype="float32", views="frame_mean"
    )
    keys = [spec.key for spec in clean.specs]
    problems = np.array([spec.sample.key for spec in clean.specs])
    right = dict(found.runs.select("run", "solved").iter_rows())
    labels = np.array([int(right[key]) for key in keys])
    said = {}
    for step in places:
        features = np.asarray(store.read(f"{site}@frame_mean", step=step, runs=keys)).reshape(len(keys), -1)
        said[step] = dict(zip(keys, held_out(features, labels, problems, bench.given.seed), strict=True))
    return said


def held_out(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Chance of label 1 for each row, from probes fitted on other groups; the base rate where one class is missing."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(groups))
    chances = np.full(len(labels), float(labels.mean()))
    for part in np.array_split(names, min(FOLDS, len(names))):
        test = np.isin(groups, part)
        if 0 < labels[~test].sum() < (~test).sum():
            probe = LogisticProbe(C=0.01).fit(features[~test], labels[~test])
            chances[test] = probe.predict_proba(features[test])[:, 1]
    return chances


def choices(
    found: AnswerTrajectories, chances: dict[int, dict[str, float]], places: Sequence[int]
) -> dict[tuple[str, int], np.ndarray]:
    """By rule and step: whether the chosen seed ends right, for each problem in the order of their keys: [problem]."""
    right = dict(found.runs.select("run", "solved").iter_rows())
    won: dict[tuple[str, int], list[bool]] = {}
    for step in places:
        said = chances[step]
        for _, of in found.steps.filter(step=step).sort("sample", "seed").group_by("sample", maintain_order=True):
            runs = of["run"].to_list()
            best = max(runs, key=said.__getitem__)
            chosen = {"one": runs[0], "entropy": surest(of), "probe": best, "majority": voted(of)}
            for rule, run in chosen.items():
                won.setdefault((rule, step), []).append(right[run])
            won.setdefault(("any", step), []).append(any(right[run] for run in runs))
    return {key: np.array(hits, dtype=float) for key, hits in won.items()}


def tabled(won: dict[tuple[str, int], np.ndarray], sigmas: Sequence[float], seeds: int) -> pl.DataFrame:
    """One row a rule and step; columns as in `COLUMNS`."""
    rows = []
    for (rule, step), hits in won.items():
        mean, low, high = cluster_mean(hits[:, None], np.arange(len(hits)), ends=(0, 1))
        one, best = won["one", step].mean(), won["any", step].mean()
        rows.append(
            {
                "rule": rule, "step": step, "sigma": sigmas[step],
                "value": float(mean[0]), "low": float(low[0]), "high": float(high[0]),
                "headroom": float((mean[0] - one) / (best - one)) if best > one else None,
                "cost": _cost(rule, step + 1, seeds, len(sigmas)), "n": len(hits),
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"headroom": pl.Float64}).select(list(COLUMNS))


def _cost(rule: str, taken: int, seeds: int, steps: int) -> int:
    if rule == "one":
        return steps
    return seeds * steps if rule == "any" else seeds * taken + steps - taken


def surest(of: pl.DataFrame) -> str:
    """The run of least entropy; the first one where there are no candidates."""
    return str(of.sort("entropy", maintain_order=True, nulls_last=True)["run"][0])


def voted(of: pl.DataFrame) -> str:
    """A run that shows the answer most shown at this step; the first run where none shows any."""
    answers = [text or NONE for text in of["answer"]]
    chosen = majority(answers)
    return str(of["run"][answers.index(chosen)])


def claims(found: AnswerTrajectories, won: dict[tuple[str, int], np.ndarray]) -> list[Claim]:
    """Prediction by x0_hat early on, and what choosing early wins."""
    steps = steps_of(found)
    quarter = steps[len(steps) // 4]
    rows = found.steps.filter(step=quarter).sort("run")
    stated = [
        above(
            f"after a quarter of the steps (step {quarter}) x0_hat mostly shows the answer that the run ends with",
            paired(rows["final"], rows["sample"], (0, 1)),
            0.5,
            matters=0.1,
            paper=PAPER,
            measure="the share of runs with an answer",
        )
    ]
    near = min((step for _, step in won), key=lambda step: abs(step - quarter))
    for rule in ("entropy", "probe", "majority"):
        difference = won[rule, near] - won["one", near]
        mean, low, high = cluster_mean(difference[:, None], np.arange(len(difference)), ends=(-1, 1))
        gain = Estimate(float(mean[0]), float(low[0]), float(high[0]), len(difference))
        stated.append(
            above(
                f"choosing a seed after step {near} by {rule} gives more right answers than one seed",
                gain,
                0.0,
                matters=MATTERS,
                paper=PAPER if rule == "entropy" else None,
                measure="the share of right answers minus that of one seed, problem by problem",
            )
        )
    return stated


def findings(found: AnswerTrajectories, table: pl.DataFrame) -> str:
    """What was found, in numbers."""
    one, any_ = (table.filter(rule=rule).row(0, named=True)["value"] for rule in ("one", "any"))
    parts = []
    for rule in ("entropy", "probe", "majority"):
        best = table.filter(rule=rule).sort("value", descending=True).row(0, named=True)
        share = "" if best["headroom"] is None else f", {best['headroom']:.0%} of the headroom"
        parts.append(f"{rule} {best['value']:.2f} (at step {best['step']}{share}, {best['cost']} steps a problem)")
    alone = f"One seed is right in {one:.2f} of the problems, any seed in {any_:.2f}."
    return f"{alone} At their best steps: {'; '.join(parts)}."


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    series = []
    for rule, colour in (("entropy", BLUE), ("probe", GREEN), ("majority", ORANGE)):
        of = table.filter(rule=rule).sort("step")
        series.append(Series(rule, colour, *(of[name].to_list() for name in ("step", "value", "low", "high"))))
    one = table.filter(rule="one").row(0, named=True)["value"]
    with bench.folder.writing("choices.png") as path:
        points(path, [("Seeds chosen early", series)], xlabel="chosen after step", ylabel="right answers", level=one)
    n = table.row(0, named=True)["n"]
    caption = (
        f"Share of {n} problems whose chosen seed (of {bench.given.seeds}) ends right; bars: 95 % intervals over "
        "problems. Dashed: one seed."
    )
    return Section("Choosing seeds early", (), (Picture(bench.folder / "choices.png", "Choices", caption),))


STUDY = Study(
    name="early_plan",
    question="Does the plan of the first steps predict the final one, and can it be used to choose among seeds?",
    needs="a task with candidate answers; a model that is right sometimes, not always",
    answer=answer,
    options=options,
    defaults={"problems": 40, "seeds": 4, "size": 6},
    quick={"problems": 12, "seeds": 3},
    minutes=(3, 1),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
