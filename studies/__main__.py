"""``python -m studies list``: which studies there are."""

from __future__ import annotations

import sys

from interp.errors import suggest
from studies import STUDIES

USAGE = "usage: python -m studies list, or python -m studies.NAME --help"


def main(arguments: list[str]) -> int:
    """Print the list, or say how to run one."""
    if arguments in ([], ["list"]):
        width = max(map(len, STUDIES))
        for name, question in sorted(STUDIES.items()):
            print(f"{name:{width}}  {question}")
        print(f"\nRun one with: python -m studies.{min(STUDIES)} --out DIR")
        return 0
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    asked = arguments[0]
    hint = (
        f"run it with python -m studies.{asked}" if asked in STUDIES else f"unknown{suggest(asked, [*STUDIES, 'list'])}"
    )
    print(f"error: {asked}: {hint}; {USAGE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
