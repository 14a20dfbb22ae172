"""Render the page of commands and costs from the code: ``python -m docs.make_study_costs``. A test compares both."""

from __future__ import annotations

import shlex
from pathlib import Path

from studies import NAMES, study_named
from studies.base.signs import SPACE
from studies.frame.cost import DECODE_SPEED, HIDDEN, MEMORY, SPEEDS, STREAMS, hours_text, size_text
from studies.frame.real import FOLDER, MODEL, VIDEO, arguments, cost
from studies.frame.study import Study

INTRO = f"""# Studies on published weights

The exact command of every study for `{MODEL}` on one GPU, and what it takes. `{FOLDER}` is a folder in VBVR layout (see
[Tasks](tasks.md)); where a study needs what a folder does not have, its command names a task instead.

No number here was measured on a GPU: this page is computed by `python -m docs.make_study_costs` from each study's own
plan, and `python -m studies cost NAME` does the same for any command line. Forwards by expert, rows and tokens, and
bytes of stores are counted exactly: a test compares them with the calls that small pipelines get. What turns them into
hours and bytes of memory is assumed:

- forwards: operations of matrix products and attention, at {SPEEDS[0] / 1e12:.0f} to {SPEEDS[1] / 1e12:.0f} TFLOP/s in
  bf16 (an H100 or H200; 14 billion parameters at {VIDEO[0]} x {VIDEO[1]} x {VIDEO[2]} pixels);
- decoding in fp32 at {DECODE_SPEED / 1e12:.0f} TFLOP/s;
- memory: weights in bf16 (the VAE in fp32), at the peak of a block {STREAMS} bytes a token and channel and {HIDDEN} a
  token and MLP channel, and, of every step, six latents in fp32;
- *with offload*: the text encoder, and the expert that is not in use, are elsewhere: `pipe.enable_model_cpu_offload()`;
- each study alone, in a folder of its own. `python -m studies all` samples the clean runs that studies share once.

Time grows in proportion to problems, seeds and conditions, which the options set (`python -m studies.NAME --help`).
"""


def render() -> str:
    """The page as MyST Markdown."""
    studies = [study_named(name) for name in NAMES]
    lines = [INTRO, *_table(studies), "", "## Commands", ""]
    for study in studies:
        lines += [f"`{study.name}`: {study.question}", "", "```sh", _command(study), "```", ""]
    lines += [
        "Source files: `studies/runs/work.py`, `studies/frame/cost.py`, `studies/frame/real.py`, "
        "`studies/base/blueprint.py`, `docs/make_study_costs.py`.",
        "",
    ]
    return "\n".join(lines)


def _command(study: Study) -> str:
    words = shlex.join(arguments(study)).split(" --")
    return f"python -m studies.{study.name} " + " \\\n    --".join(words)


def _table(studies: list[Study]) -> list[str]:
    head = ["study", "forwards", "PFLOP", "videos decoded", "time", "memory", "with offload", *MEMORY, "disk"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for study in studies:
        found = cost(study)
        if found is None:
            lines.append(f"| `{study.name}` | not counted |" + " |" * (len(head) - 2))
            continue
        cells = [
            f"{found.work.row_forwards:,}", f"{found.petaflops:,.0f}", f"{found.work.videos.total():,}",
            hours_text(found.hours).replace(" ", SPACE), size_text(found.resident), size_text(found.offloaded),
            *found.fits().values(), size_text(found.disk),
        ]  # fmt: skip
        lines.append("| " + " | ".join([f"`{study.name}`", *cells]) + " |")
    return lines


if __name__ == "__main__":
    page = Path(__file__).with_name("study_costs.md")
    page.write_text(render())
    print(page)
