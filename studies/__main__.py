"""``python -m studies list`` says what each study asks; ``python -m studies all --out DIR`` runs them all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.errors import InterpError, suggest
from studies import NAMES, study_named

if TYPE_CHECKING:
    from studies.frame.cost import Cost

USAGE = (
    "usage: python -m studies list, python -m studies cost NAME [options of NAME], python -m studies all --help, or "
    "python -m studies.NAME --help"
)


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
        from studies.base.command import run_command
        from studies.frame.every import run_all

        return run_command(run_all, arguments[1:])
    if asked == "cost":
        from studies.base.command import run_command

        return run_command(print_cost, arguments[1:])
    known = [*NAMES, "list", "cost", "all"]
    hint = f"run it with python -m studies.{asked}" if asked in NAMES else f"unknown{suggest(asked, known)}"
    print(f"error: {asked}: {hint}; {USAGE}", file=sys.stderr)
    return 2


def listing() -> str:
    """Every study: what it asks, needs and costs."""
    from studies.frame.real import cost as real_cost

    lines = []
    studies = [study_named(name) for name in NAMES]
    for study in studies:
        full, quick = study.minutes
        lines += [
            f"{study.name}",
            f"    {study.question}",
            f"    needs {study.needs}; about {full:g} min on both bundled models and two cores, {quick:g} with --quick",
            f"    on published weights: {_told(real_cost(study))}",
        ]
    full, quick = (sum(study.minutes[which] for study in studies) for which in (0, 1))
    whole = f"All on both bundled models: about {full:g} min, {quick:g} with --quick: python -m studies all --out DIR"
    return "\n".join([*lines, "", whole, f"Run one with: python -m studies.{min(NAMES)} --out DIR"])


def print_cost(arguments: Sequence[str]) -> None:
    """Print what a study asks of a model; without options, of the paper's, as on the page of costs.

    Raises:
        InterpError: there is no such study, model or task.
    """
    from studies.frame.cost import cost_of
    from studies.frame.real import arguments as real_arguments
    from studies.frame.real import terms_of

    if not arguments or arguments[0] not in NAMES:
        asked = arguments[0] if arguments else ""
        raise InterpError(f"cost {asked}: no such study{suggest(asked, NAMES)}; there are: {', '.join(NAMES)}")
    study = study_named(arguments[0])
    given = [*arguments[1:], "--out", "out"] if arguments[1:] else real_arguments(study)
    found = cost_of(study, terms_of(study, given))
    print(f"{study.name} with {' '.join(given)}\n{_told(found)}")
    for one, count in sorted(found.work.forwards.items(), key=str) if found else ():
        print(f"  {count:,} calls of the {one.expert} transformer on {one.rows} rows of {one.tokens:,} tokens")


def _told(cost: Cost | None) -> str:
    from studies.frame.cost import hours_text, size_text

    if cost is None:
        return "not counted"
    fits = ", ".join(f"{card}: {said}" for card, said in cost.fits().items())
    return (
        f"{cost.work.row_forwards:,} forwards ({cost.petaflops:,.2f} PFLOP), {cost.work.videos.total():,} videos "
        f"decoded: {hours_text(cost.hours)} on an H100 or H200 (estimated), {size_text(cost.resident)} of memory, "
        f"{size_text(cost.offloaded)} with offload ({fits}), {size_text(cost.disk)} of disk"
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
