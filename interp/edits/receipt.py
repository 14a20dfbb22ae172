"""What fired: every application of every edit, with the size of the change it made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from interp.edits.graph import EditGraph
from interp.errors import InterpError


@dataclass(frozen=True)
class Fired:
    """One edit at one address.

    Attributes:
        edit: its number in the graph.
        site, step, branch, expert: where.
        rows: worlds that were changed.
        change: L2 norm of what the edit changed; for a knock-out, of the change of z. Where scores or pattern are
            edited in the forward of a knock-out, of the change of the pattern, for the knock-out and for edits of
            scores.
        size: L2 norm of what was there before.
    """

    edit: int
    site: str
    step: int
    branch: str
    expert: str
    rows: tuple[int, ...]
    change: float
    size: float


@dataclass(frozen=True)
class EditReceipt:
    """What a run's edits did.

    Attributes:
        graph: the edits.
        fired: every application, in order.
    """

    graph: EditGraph
    fired: tuple[Fired, ...]

    @property
    def key(self) -> str:
        """16 hexadecimal digits of the edits and of all that fired, norms included: equal runs have equal ones."""
        return hashlib.sha256(repr((str(self.graph), self.fired)).encode()).hexdigest()[:16]

    def count(self, edit: int) -> int:
        """How many addresses an edit fired at."""
        return sum(one.edit == edit for one in self.fired)

    def __str__(self) -> str:
        lines = []
        for i, edit in enumerate(self.graph):
            own = [one for one in self.fired if one.edit == i]
            steps, sites = sorted({one.step for one in own}), list(dict.fromkeys(one.site for one in own))
            change = sum(one.change**2 for one in own) ** 0.5
            size = sum(one.size**2 for one in own) ** 0.5
            share = f"{change / size:.3g} of its norm" if size else "it was zero"
            more = sites[0] + (f" and {len(sites) - 1} more" if len(sites) > 1 else "")
            lines.append(
                f"{i}. {edit}\n   fired {len(own)} times: {more}, steps {steps[0]} to {steps[-1]}; "
                f"changed by {change:.4g} ({share})"
            )
        return "\n".join([*lines, f"receipt {self.key}"]) if lines else "no edits"


def check_fired(fired: tuple[Fired, ...], planned: dict[tuple[int, str, int, str], tuple[int, ...]]) -> None:
    """Compare what fired with what was planned.

    Args:
        fired: every application.
        planned: (edit, site, step, branch) to the rows that were to be changed.

    Raises:
        InterpError: an edit fired somewhere less or more than once, or on other rows.
    """
    seen: dict[tuple[int, str, int, str], int] = {}
    for one in fired:
        key = (one.edit, one.site, one.step, one.branch)
        seen[key] = seen.get(key, 0) + 1
        if one.rows != planned.get(key):
            raise InterpError(
                f"edit {one.edit} changed worlds {one.rows} at {key[1:]}, not {planned.get(key)} as planned"
            )
    missed = [key for key in planned if key not in seen]
    doubled = [key for key, count in seen.items() if count > 1]
    if missed or doubled:
        edit, *where = (missed or doubled)[0]
        how = "never" if missed else f"{seen[doubled[0]]} times"
        raise InterpError(
            f"edit {edit} fired {how} at {tuple(where)}: {len(missed)} of {len(planned)} planned places were missed "
            f"and {len(doubled)} fired more than once, so the run's result is not what was asked for"
        )
