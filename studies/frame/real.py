"""How each study is run on published weights, and what that costs: commands and estimates, computed from the code.

The commands name the paper's model and a folder DIR in VBVR layout, since only such problems come at the size of video
that the model was made for.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from studies.frame.cost import Cost, cost_of
from studies.frame.study import Study
from studies.runs.work import Terms

MODEL = "Video-Reason/VBVR-Wan2.2"
VIDEO = (81, 512, 512)
"""Frames, height and width."""
SETTINGS = ("--preset", "vbvr-diffsynth", "--device", "cuda", "--dtype", "bfloat16", "--batch-size", "1")
FOLDER = "DIR"


def arguments(study: Study, model: str = MODEL) -> list[str]:
    """The command line of a study on published weights, after its name.

    Args:
        study: which; its `Study.real` comes last, so that it wins.
        model: hub id.
    """
    own = shlex.split(study.real)
    problems = [] if "--task" in own else ["--folder", FOLDER, "--video", *map(str, VIDEO)]
    return ["--model", model, *SETTINGS, *problems, *own, "--out", f"out/{study.name}"]


def terms_of(study: Study, given: Sequence[str]) -> Terms:
    """The terms of such a command line; the folder need not be there."""
    parsed = study.parse(given)
    return Terms.of(parsed, tuple(parsed.video) if parsed.task == FOLDER else None)


def cost(study: Study, model: str = MODEL) -> Cost | None:
    """What the command of `arguments` costs; None if the study does not count its work."""
    return cost_of(study, terms_of(study, arguments(study, model)))
