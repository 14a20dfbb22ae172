"""All studies, on one model or several, with one cache, one folder each, and an index page of their claims.

A study whose summary is there and was made by the same command is not run again; one that was stopped goes on. A study
that fails does not stop the others: the index says what happened, and the exit status is not 0.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InterpError, OutputError, suggest
from interp.kept_pictures import keeping_pictures
from interp.model import bundled_models
from studies import NAMES, study_named
from studies.base.folder import StudyFolder
from studies.frame.index import Entry, write_index

INDEX = "all"


@dataclass(frozen=True)
class Call:
    """One study to be run on one model.

    Attributes:
        name: of the study.
        model: see `studies.frame.study.common_options`.
        place: its folder within the folder of all.
        arguments: of its command line.
    """

    name: str
    model: str
    place: str
    arguments: tuple[str, ...]


def run_all(arguments: Sequence[str]) -> Path:
    """Run the studies; the path of the index page.

    Raises:
        InterpError: unknown studies were named, or some study failed (after all others were run).
    """
    given, passed_on = _parser().parse_known_args(arguments)
    names = _chosen(given.only, given.skip)
    folders = [Path(model).name for model in given.model]
    if len(set(folders)) < len(folders):
        raise InterpError(f"--model {' '.join(given.model)}: two would have one folder; give each its own name")
    folder = StudyFolder(given.out, INDEX)
    calls = [call for model in given.model for call in _calls(names, model, folder, given, passed_on)]
    for call in calls:
        study_named(call.name).parse(call.arguments)  # a wrong option is found before the first study runs
    command = f"python -m studies all {shlex.join(arguments)}"
    entries: list[Entry] = []
    with keeping_pictures():
        for number, call in enumerate(calls, 1):
            print(f"[{number}/{len(calls)}] {call.name} on {call.model}", flush=True)
            entries.append(_one(call, folder))
            write_index(folder, [*entries, *_others(folder, {entry.place for entry in entries})], command)
    failed = [entry for entry in entries if entry.error]
    if failed:
        raise InterpError(
            f"{len(failed)} of {len(entries)} studies failed: "
            + "; ".join(f"{entry.place}: {entry.error}" for entry in failed)
            + f"; the others are in {folder / 'index.html'}, and the same command goes on"
        )
    print(f"index: {folder / 'index.html'}")
    return folder / "index.html"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies all",
        description="Run all studies. Options that are not listed here go to every study, such as --model or --steps.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder: one folder a study, the cache, and index.html")
    add(
        "--model", nargs="+", default=list(bundled_models()), metavar="NAME",
        help="bundled names, folders or hub ids; each has a folder; every bundled model if not given",
    )  # fmt: skip
    add("--only", nargs="+", default=list(NAMES), metavar="NAME", help="these studies")
    add("--skip", nargs="+", default=[], metavar="NAME", help="not these")
    add("--quick", action="store_true", help="fewer problems: a first look, with wide intervals")
    return parser


def _chosen(only: Sequence[str], skip: Sequence[str]) -> list[str]:
    for name in (*only, *skip):
        if name not in NAMES:
            raise InterpError(f"no study is called {name!r}{suggest(name, NAMES)}; there are: {', '.join(NAMES)}")
    return [name for name in NAMES if name in only and name not in skip]


def _calls(
    names: Sequence[str], model: str, folder: StudyFolder, given: argparse.Namespace, passed_on: Sequence[str]
) -> Iterator[Call]:
    """The studies on one model."""
    within = f"{Path(model).name}/"
    shared = ["--cache", str(folder / "cache"), "--model", model, *(["--quick"] if given.quick else [])]
    for name in names:
        yield Call(name, model, within + name, ("--out", str(folder / (within + name)), *shared, *passed_on))


def _one(call: Call, folder: StudyFolder) -> Entry:
    study = study_named(call.name)
    done = summary_of(folder / call.place)
    about = {"name": call.name, "question": study.question, "model": call.model, "place": call.place}
    command = study.parse(call.arguments).command
    if done is not None and done.get("command") == command:
        print("  finished before", flush=True)
        return Entry(**about, summary=done, seconds=None, error=None)
    begun = time.perf_counter()
    try:
        study.run(call.arguments)
    except InterpError as error:
        print(f"  failed: {error}", flush=True)
        return Entry(**about, summary=None, seconds=None, error=" ".join(str(error).split()))
    took = time.perf_counter() - begun
    return Entry(**about, summary=summary_of(folder / call.place), seconds=took, error=None)


def _others(folder: StudyFolder, places: Collection[str]) -> list[Entry]:
    """Studies that are finished in the folder, from whichever call, but for those at some places."""
    found = []
    for path in sorted(folder.path.glob("*/*/summary.json")):
        name, place = path.parent.name, path.parent.relative_to(folder.path).as_posix()
        summary = summary_of(path.parent) if name in NAMES and place not in places else None
        if summary is not None:
            found.append(Entry(name, study_named(name).question, summary["model"], place, summary, None, None))
    return found


def summary_of(folder: Path) -> dict[str, Any] | None:
    """A finished study's summary, or None.

    Raises:
        OutputError: there is one that cannot be read.
    """
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove it to run the study again") from error
    return found
