"""``python -m studies list`` says what each study asks; ``python -m studies all --out DIR`` runs them all."""

from __future__ import annotations

import sys

from interp.errors import suggest
from studies import NAMES, study_named

USAGE = "usage: python -m studies list, python -m studies all --help, or python -m studies.NAME --help"


def main(arguments: list[str]) -> int:
    """Print the list, run all, or say how to run one."""
    if arguments in ([], ["list"]):
        print(listing())
        return 0
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    asked = arguments[0]
    if asked == "all":
        from studies.command import run_command
        from studies.every import run_all

        return run_command(run_all, arguments[1:])
    hint = f"run it with python -m studies.{asked}" if asked in NAMES else f"unknown{suggest(asked, [*NAMES, 'list'])}"
    print(f"error: {asked}: {hint}; {USAGE}", file=sys.stderr)
    return 2


def listing() -> str:
    """Every study: what it asks, needs and costs."""
    lines = []
    for name in NAMES:
        study = study_named(name)
        full, quick = study.minutes
        lines += [
            f"{name}",
            f"    {study.question}",
            f"    needs {study.needs}; about {full:g} min on the bundled model and two cores, {quick:g} with --quick",
        ]
    return "\n".join([*lines, "", f"Run one with: python -m studies.{min(NAMES)} --out DIR"])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
