"""All studies with one cache, one folder each, and an index page of their claims.

A study whose summary is there and was made by the same command is not run again; one that was stopped goes on. A study
that fails does not stop the others: the index says what happened, and the exit status is not 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InterpError, OutputError, suggest
from studies import NAMES, study_named
from studies.folder import StudyFolder
from studies.index import Entry, write_index

INDEX = "all"


@dataclass(frozen=True)
class Call:
    """One study to be run: its name and the arguments of its command line."""

    name: str
    arguments: tuple[str, ...]


def run_all(arguments: Sequence[str]) -> Path:
    """Run the studies; the path of the index page.

    Raises:
        InterpError: unknown studies were named, or some study failed (after all others were run).
    """
    given, passed_on = _parser().parse_known_args(arguments)
    names = _chosen(given.only, given.skip)
    folder = StudyFolder(given.out, INDEX)
    calls = [_call(name, folder, given, passed_on) for name in names]
    for call in calls:
        study_named(call.name).parse(call.arguments)  # a wrong option is found before the first study runs
    entries: list[Entry] = []
    for number, call in enumerate(calls, 1):
        print(f"[{number}/{len(calls)}] {call.name}", flush=True)
        entries.append(_one(call, folder))
        write_index(folder, entries)
    failed = [entry for entry in entries if entry.error]
    if failed:
        raise InterpError(
            f"{len(failed)} of {len(entries)} studies failed: "
            + "; ".join(f"{entry.name}: {entry.error}" for entry in failed)
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
    add("--only", nargs="+", default=list(NAMES), metavar="NAME", help="these studies")
    add("--skip", nargs="+", default=[], metavar="NAME", help="not these")
    add("--quick", action="store_true", help="fewer problems: a first look, with wide intervals")
    return parser


def _chosen(only: Sequence[str], skip: Sequence[str]) -> list[str]:
    for name in (*only, *skip):
        if name not in NAMES:
            raise InterpError(f"no study is called {name!r}{suggest(name, NAMES)}; there are: {', '.join(NAMES)}")
    return [name for name in NAMES if name in only and name not in skip]


def _call(name: str, folder: StudyFolder, given: argparse.Namespace, passed_on: Sequence[str]) -> Call:
    own = ["--out", str(folder / name), "--cache", str(folder / "cache"), *(["--quick"] if given.quick else [])]
    return Call(name, (*own, *passed_on))


def _one(call: Call, folder: StudyFolder) -> Entry:
    study = study_named(call.name)
    done = summary_of(folder / call.name)
    command = study.parse(call.arguments).command
    if done is not None and done.get("command") == command:
        print("  finished before", flush=True)
        return Entry(call.name, study.question, done, None, None)
    begun = time.perf_counter()
    try:
        study.run(call.arguments)
    except InterpError as error:
        print(f"  failed: {error}", flush=True)
        return Entry(call.name, study.question, None, None, " ".join(str(error).split()))
    return Entry(call.name, study.question, summary_of(folder / call.name), time.perf_counter() - begun, None)


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
