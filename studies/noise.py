"""Does noise at one denoising step hurt more than noise in one frame at every step?

"At step" disturbs all latent frames at one step; "at frame" disturbs one latent frame at every step. What disturbing
means was not published, so there are four kinds: the latents are replaced by noise, replaced by x0_hat re-noised to the
right level, or get noise on top, or the velocity is replaced by noise of its own size. Matched controls disturb as many
(step, frame) cells as one step has: one frame at that many steps, and cells scattered at random. Every "at step"
condition is measured with all frames and with the first and the last latent frame left out.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import polars as pl

from interp.edits import EditedRun, EditGraph
from studies.base.claim import Claim, above
from studies.base.columns import INTERVAL, PROBLEMS
from studies.drawing.canvas import BLUE, ORANGE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.disturbing import KINDS, TITLES, disturb
from studies.runs.bench import Bench
from studies.runs.conditions import CLEAN, contrast, measure, shares, spread
from studies.runs.work import Terms, Work

PAPER = "score 0.685 undisturbed; below 0.3 with noise at a step, far less of a drop with noise at a frame"
CELLS = "as many (step, frame) cells as one step has"
PANELS = {
    "At one step": {"step": "all latent frames", "inner": "without first and last"},
    "In one latent frame": {"frame": "at all steps", "matched": "at as many cells"},
    "In cells at random": {"scattered": "as many cells"},
}
MATTERS = 0.05
DRAWS = 3
COLUMNS = {
    "condition": "kind, place, and which step or latent frame",
    "kind": f"how: {'; '.join(f'{k}: {v}' for k, v in KINDS.items())}; null without noise",
    "place": "step: all latent frames at one step; inner: the same without the first and the last; frame: one latent "
    "frame at every step; matched: one latent frame at as many steps as there are frames; scattered: as many cells, "
    "drawn at random; clean: no noise",
    "at": "the step or the latent frame; the number of the draw for scattered",
    "value": "share of runs that end with the right answer",
    **INTERVAL,
    **PROBLEMS,
    "runs": "runs",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="kinds of noise")
    parser.add_argument("--places", type=positive, default=7, help="steps at which noise is tried, spread evenly")
    parser.add_argument(
        "--in-frames", type=positive, default=None, help="latent frames in which noise is tried, spread evenly; or all"
    )


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module."""
    specs = bench.specs(bench.samples())
    grid, steps = bench.lab.grid(specs[0].sample), bench.lab.schedule(specs[0].settings).steps
    conditions = asked(bench.given, steps, grid.frames)
    found = measure(bench, specs, conditions, lambda run: read(bench, run))
    table = described(shares(found, "right"))
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(found, table, bench.given.kinds),
        findings=findings(table, bench.given.kinds),
        sections=[_section(bench, table)],
        n={"problems": len({s.sample.key for s in specs}), "runs": len(specs), "conditions": len(conditions) + 1},
        seeds=[spec.seed for spec in specs],
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    return terms.measured(asked(terms.given, terms.steps, terms.grid.frames).values())


def asked(given: Namespace, steps: int, frames: int) -> dict[str, EditGraph]:
    """Every condition of the command line by name."""
    places = spread(steps, given.places)
    inside = spread(frames, given.in_frames or frames)
    return {
        name: graph
        for kind in given.kinds
        for name, graph in of_kind(kind, places, inside, steps, frames, given.seed).items()
    }


def read(bench: Bench, run: EditedRun) -> dict[str, int]:
    """Whether the finished video shows the right answer."""
    return {"right": int(bench.task.score(run.spec.sample, run.frames).solved)}


def of_kind(
    kind: str, at: Sequence[int], inside: Sequence[int], steps: int, frames: int, seed: int
) -> dict[str, EditGraph]:
    """The conditions of one kind of noise by name, "kind place number".

    Args:
        kind: one of `KINDS`.
        at: steps to disturb one at a time.
        inside: latent frames to disturb one at a time.
        steps: of a run.
        frames: latent frames.
        seed: of which steps and cells the controls take.
    """
    rng = np.random.default_rng(seed)
    renoised = 1 if kind == "renoise" else 0  # there is no x0_hat before the first step
    found = {}
    for step in at:
        found[f"{kind} step {step}"] = disturb(kind, [step], range(frames))
        if frames > 2:
            found[f"{kind} inner {step}"] = disturb(kind, [step], range(1, frames - 1))
    possible = np.arange(renoised, steps)
    for frame in inside:
        found[f"{kind} frame {frame}"] = disturb(kind, possible, [frame])
        some = np.sort(rng.choice(possible, min(frames, len(possible)), replace=False))
        found[f"{kind} matched {frame}"] = disturb(kind, some, [frame])
    for draw in range(DRAWS):
        cells = rng.choice(len(possible) * frames, min(frames, len(possible) * frames), replace=False)
        graph = EditGraph()
        for cell in np.sort(cells):
            graph = graph | disturb(kind, [possible[cell // frames]], [cell % frames])
        found[f"{kind} scattered {draw}"] = graph
    return found


def described(table: pl.DataFrame) -> pl.DataFrame:
    """The table of `shares` with the condition taken apart."""
    parts = [name.split() if name != CLEAN else [None, CLEAN, None] for name in table["condition"]]
    return table.with_columns(
        pl.Series("kind", [p[0] for p in parts], dtype=pl.String),
        pl.Series("place", [p[1] for p in parts], dtype=pl.String),
        pl.Series("at", [None if p[2] is None else int(p[2]) for p in parts], dtype=pl.Int64),
    ).select(list(COLUMNS))


def claims(found: pl.DataFrame, table: pl.DataFrame, kinds: Sequence[str]) -> list[Claim]:
    """At frame against at step, and against as many cells elsewhere, for every kind."""
    stated = []
    for kind in kinds:
        said = TITLES[kind].lower()

        def names(place: str, kind: str = kind) -> list[str]:
            return table.filter((pl.col("kind") == kind) & (pl.col("place") == place))["condition"].to_list()

        for place, claim, what, paper in (
            ("frame", "noise in one latent frame at all steps hurts less than noise in all frames at one step",
             "with noise in a frame minus that with noise at a step", PAPER),
            ("matched", "in equally many (step, frame) cells, noise in one latent frame hurts less than at one step",
             "with noise in a frame at so many steps minus that at a step", None),
        ):  # fmt: skip
            stated.append(
                above(
                    f"{said}: {claim}",
                    contrast(found, "right", names(place), names("step")),
                    0.0,
                    matters=MATTERS,
                    paper=paper,
                    measure=f"the share of right answers {what}",
                )
            )
    return stated


def findings(table: pl.DataFrame, kinds: Sequence[str]) -> str:
    """What was found, in numbers."""

    def mean(kind: str, place: str) -> float:
        of = table.filter((pl.col("kind") == kind) & (pl.col("place") == place))["value"].mean()
        return float(of) if isinstance(of, float) else float("nan")

    clean = table.filter(pl.col("place") == CLEAN).row(0, named=True)
    parts = [
        f"{TITLES[kind].lower()}: {mean(kind, 'step'):.2f} at one step, {mean(kind, 'frame'):.2f} in one latent frame "
        f"at all steps, {mean(kind, 'matched'):.2f} in one latent frame at as many cells as one step has"
        for kind in kinds
    ]
    undisturbed = f"Share of right answers without noise: {clean['value']:.2f}"
    return f"{undisturbed}. With noise, mean over steps or frames: {'; '.join(parts)}."


def _section(bench: Bench, table: pl.DataFrame) -> Section:
    clean = table.filter(pl.col("place") == CLEAN).row(0, named=True)
    pictures = []
    for kind in bench.given.kinds:
        panels = []
        for title, places in PANELS.items():
            rows = {name: table.filter(kind=kind, place=place).sort("at") for place, name in places.items()}
            colours = zip(rows.items(), (BLUE, ORANGE), strict=False)
            panels.append((title, [Series.of(name, colour, of, "at") for (name, of), colour in colours if len(of)]))
        name = f"noise_{kind}.png"
        with bench.folder.writing(name) as path:
            labels, draws = ("denoising step", "latent frame", ""), [f"draw {number + 1}" for number in range(DRAWS)]
            points(path, panels, ylabel="right answers", xlabel=labels, level=clean["value"], ticks={2: draws})
        caption = (
            f"Share of runs with the right answer under noise ({KINDS[kind]}): in all latent frames at one step; in "
            f"one latent frame, at all steps or at {CELLS}; and in {CELLS} of any step and frame. Bars: 95 % intervals "
            f"over {clean['n']} problems. Dashed: no noise."
        )
        pictures.append(Picture(bench.folder / name, TITLES[kind], caption))
    return Section("Noise at step, noise at frame", (), pictures)


STUDY = Study(
    name="noise",
    question="Does noise at one denoising step hurt more than noise in one frame at every step?",
    needs="any task with right answers",
    answer=answer,
    options=options,
    defaults={"problems": 16, "seeds": 1, "size": 5, "places": 5, "in_frames": 3},
    quick={"problems": 6, "places": 3, "in_frames": 2, "kinds": ["replace", "renoise"]},
    minutes=(5.4, 0.6),
    work=work,
    real="--problems 10 --kinds replace renoise --places 5 --in-frames 3",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
