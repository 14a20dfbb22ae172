"""A study: one question, its options, and the function that answers it.

A module of a study defines ``STUDY`` and runs nothing at import; ``python -m studies.NAME`` and
``python -m studies all`` go through it. What all studies take from the command line, and how they write, is here once.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.base.command import run_command
from studies.base.folder import StudyFolder
from studies.base.signs import X0
from studies.base.tasks import default_task, hardest_size

if TYPE_CHECKING:
    from studies.frame.outcome import Outcome
    from studies.runs.bench import Bench
    from studies.runs.work import Terms, Work

Parser = argparse.ArgumentParser


def _no_options(parser: Parser) -> None:
    del parser


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: of its module, and of its folder under ``python -m studies all``.
        question: what it asks.
        needs: what of a model and of a task it asks for, in words.
        answer: from a `Bench` to an `Outcome`.
        options: adds the study's own options to the parser.
        tasks: names of tasks, the best one first; without ``--task``, the first that the model was trained on, see
            `studies.base.tasks.default_task`.
        hardest: whether problems are, unless ``--size`` is given, of the largest size that the model was trained on:
            where one run is nearly always right, nothing can be gained.
        defaults: values of options where they differ from the common ones.
        quick: the same for ``--quick``.
        minutes: on both bundled models, one after the other, and two cores, with the defaults and ``--quick``.
        work: counts what it will ask of a model, see `studies.runs.work`; None: not counted.
        real: arguments with which it is run on published weights, see `studies.frame.real`.
    """

    name: str
    question: str
    needs: str
    answer: Callable[[Bench], Outcome]
    options: Callable[[Parser], None] = _no_options
    tasks: Sequence[str] = ("maze",)
    hardest: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    minutes: tuple[float, float] = (5.0, 1.0)
    work: Callable[[Terms], Work] | None = None
    real: str = "--problems 20 --seeds 1"

    @property
    def method(self) -> str:
        """How it is measured: what the study's module says of itself after its first line, in Markdown."""
        said = inspect.getdoc(inspect.getmodule(self.answer)) or ""
        return re.sub(r"\bx0_hat\b(?!\.)", X0, said.partition("\n\n")[2])

    def parser(self, quick: bool = False) -> Parser:
        """The command line; with ``quick``, the defaults are those of ``--quick``."""
        parser = Parser(
            prog=f"python -m studies.{self.name}",
            description=self.question,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        common_options(parser)
        self.options(parser)
        parser.set_defaults(**{**self.defaults, **(self.quick if quick else {})})
        return parser

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options of a command line. What is given wins over ``--quick``, which wins over the defaults."""
        quick = self.parser().parse_args(arguments).quick
        given = self.parser(quick).parse_args(arguments)
        if given.task is None:
            given.task = default_task(given.model, self.tasks)
        if given.size is None and self.hardest:
            given.size = hardest_size(given.model, given.task)
        given.command = f"python -m studies.{self.name} {shlex.join(arguments)}"
        return given

    def run(self, arguments: Sequence[str]) -> Path:
        """Run the study; the path of its report."""
        given = self.parse(arguments)
        from interp.kept_pictures import keeping_pictures
        from studies.frame.outcome import write_outcome
        from studies.runs.bench import Bench

        begun = time.perf_counter()
        folder = StudyFolder(given.out, self.name)
        bench = Bench.open(folder, given)
        with keeping_pictures():
            report = write_outcome(self, bench, self.answer(bench))
        print(f"{self.name}: {time.perf_counter() - begun:.0f} s\nreport: {report}", flush=True)
        return report

    def main(self, arguments: Sequence[str]) -> int:
        """The exit status of ``python -m studies.NAME``."""
        return run_command(self.run, arguments)


def common_options(parser: Parser) -> None:
    """Options that every study has."""
    add = parser.add_argument
    add(
        "--out", required=True, metavar="DIR", help="folder to write to: new, empty, or of an earlier call (it goes on)"
    )
    add("--cache", default=None, metavar="DIR", help="stores of runs, shared between studies; DIR/cache if not given")
    add("--quick", action="store_true", help="fewer problems: a first look, with wide intervals")
    add("--model", default="wan-maze-mini", help="bundled name, folder of a diffusers pipeline, or hub id")
    what = parser.add_mutually_exclusive_group().add_argument
    what("--task", default=None, help="name of a task; one that suits study and model if not given")
    what("--folder", dest="task", metavar="DIR", help="problems in VBVR layout: every sample at or below DIR")
    add(
        "--video", type=positive, nargs=3, default=None, metavar=("FRAMES", "H", "W"),
        help="of a folder's problems: frames (4k + 1), height and width of videos; the ground truth's if not given",
    )  # fmt: skip
    add("--size", type=int, default=None, help="cells a side, for tasks that have it; the task's own if not given")
    add("--problems", type=positive, default=64, help="problems")
    add("--seeds", type=positive, default=2, help="runs of one problem, each with noise of its own")
    add("--seed", type=int, default=0, help="which problems and which noise")
    add("--steps", type=positive, default=20, help="denoising steps")
    add("--guidance-scale", type=float, default=1.0, help="classifier-free guidance; 1 is none")
    add("--preset", default=None, help="how published work samples: vbvr-diffsynth or wan22-official")
    add("--scheduler", choices=("euler", "unipc"), default=None, help="in place of the pipeline's own")
    add("--batch-size", type=positive, default=16, help="runs in one forward")
    add("--device", default=None, help="where the model runs, such as cuda")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default=None, help="load the model in this precision")


def positive(text: str) -> int:
    """An argument that counts something.

    >>> positive("3")
    3
    """
    return _at_least(1, text)


def several(text: str) -> int:
    """An argument that counts two or more of something.

    >>> several("2")
    2
    """
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
    return number
