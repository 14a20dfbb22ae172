"""Does a video of fewer frames give fewer right answers?

The same problems with the same seeds are asked for in several numbers of frames, 4k + 1 each. The answer is read off
the last frame. A model that was trained on one length only, as the bundled ones were, is out of its depth at the
others: a drop then says nothing of reasoning, and the report says so.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import polars as pl

from interp.errors import TaskError
from studies.base.claim import Claim, above
from studies.base.words import counted
from studies.drawing.canvas import BLUE
from studies.drawing.figures import Series, points
from studies.drawing.report import Picture, Section
from studies.frame.outcome import Outcome
from studies.frame.study import Parser, Study, positive
from studies.measures.answers import read_video
from studies.runs.bench import Bench
from studies.runs.conditions import paired
from studies.runs.work import Terms, Work

PAPER = "100 frames 0.685; 17: 0.663; 9: 0.632; 5: 0.619; 1: 0.581 (another model)"
MATTERS = 0.05
COLUMNS = {
    "frames": "frames of the video",
    "run": "key of the run",
    "problem": "key of the problem",
    "seed": "of its noise",
    "right": "1 if the last frame shows the right answer",
    "answer": "the answer it shows, empty for none",
}


def options(parser: Parser) -> None:
    """What only this study asks for."""
    parser.add_argument(
        "--counts", type=positive, nargs="+", default=[1, 5, 9, 17], metavar="FRAMES", help="frames, 4k + 1 each"
    )


def answer(bench: Bench) -> Outcome:
    """Run the study; see the module.

    Raises:
        TaskError: a number of frames is not 4k + 1.
    """
    counts = checked(bench)
    rows = []
    for count in counts:
        samples = [dataclasses.replace(sample, num_frames=count) for sample in bench.samples()]
        clean = bench.clean(bench.specs(samples))
        for spec, video in zip(clean.specs, clean.videos(clean.steps - 1), strict=True):
            about = {"frames": count, "run": spec.key, "problem": spec.sample.key, "seed": spec.seed}
            rows.append({**about, **read_video(bench.task, spec.sample, video)})
    table = pl.DataFrame(rows)
    trained = bench.samples(1)[0].num_frames
    return Outcome(
        table=table,
        columns=COLUMNS,
        claims=claims(table, counts),
        findings=findings(table, counts, trained),
        sections=[_section(bench, table, counts)],
        n={"problems": table["problem"].n_unique(), "runs": len(table)},
        seeds=sorted(set(table["seed"].to_list())),
        settings={"frames": ", ".join(map(str, counts))},
    )


def work(terms: Terms) -> Work:
    """What it takes; see `studies.runs.work`."""
    return sum((terms.with_video(count).clean(read=1) for count in set(terms.given.counts)), Work())


def checked(bench: Bench) -> list[int]:
    """The numbers of frames, ascending."""
    t = bench.lab.pipe.vae_scale_factor_temporal
    wrong = [count for count in bench.given.counts if (count - 1) % t]
    if wrong:
        raise TaskError(
            f"--counts {wrong[0]}: this model makes videos of {t}k + 1 frames, such as {t + 1} or {2 * t + 1}"
        )
    return sorted(set(bench.given.counts))


def claims(table: pl.DataFrame, counts: Sequence[int]) -> list[Claim]:
    """Every shorter length against the longest, run by run."""
    longest = _of(table, counts[-1])
    return [
        above(
            f"{counted(count, 'frame')} {'gives' if count == 1 else 'give'} fewer right answers than {counts[-1]}",
            paired(longest["right"] - _of(table, count)["right"], longest["problem"], (-1, 1)),
            0.0,
            matters=MATTERS,
            paper=PAPER,
            measure=f"the share of right answers, {counts[-1]} frames minus {count}",
        )
        for count in counts[:-1]
    ]


def _of(table: pl.DataFrame, count: int) -> pl.DataFrame:
    return table.filter(pl.col("frames") == count).sort("problem", "seed")


def findings(table: pl.DataFrame, counts: Sequence[int], trained: int) -> str:
    """What was found, in numbers."""
    shares = []
    for count in counts:
        of = _of(table, count)
        found = paired(of["right"], of["problem"], (0, 1))
        shares.append(f"{counted(count, 'frame')} {found.value:.2f} ({found.low:.2f} to {found.high:.2f})")
    return (
        f"Right answers by number of frames: {', '.join(shares)}. The task's own videos have {trained} frames; where a "
        "model was trained on that length only, the others are new to it, and a drop need not speak of reasoning."
    )


def _section(bench: Bench, table: pl.DataFrame, counts: Sequence[int]) -> Section:
    found = [paired(_of(table, count)["right"], _of(table, count)["problem"], (0, 1)) for count in counts]
    series = Series(
        "right", BLUE, range(len(counts)), [e.value for e in found], [e.low for e in found], [e.high for e in found]
    )
    with bench.folder.writing("frames.png") as path:
        points(
            path,
            [("Right answers", [series])],
            xlabel="frames",
            ylabel="share of runs",
            ticks={0: [str(c) for c in counts]},
        )
    caption = (
        "Share of runs whose last frame shows the right answer, by the number of frames that were asked for; bars: 95 "
        f"% intervals over {found[0].n} problems."
    )
    return Section("Numbers of frames", (), (Picture(bench.folder / "frames.png", "By number of frames", caption),))


STUDY = Study(
    name="frames",
    question="Does a video of fewer frames give fewer right answers?",
    needs="any task whose answer is read off the last frame; a model trained on several lengths",
    answer=answer,
    options=options,
    defaults={"problems": 32, "seeds": 1, "size": 5},
    quick={"problems": 8},
    minutes=(0.7, 0.2),
    work=work,
    real="--problems 20 --seeds 1 --counts 1 5 9 17 81",
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(sys.argv[1:]))
