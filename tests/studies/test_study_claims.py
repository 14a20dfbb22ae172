"""The page of what was found says what the table of claims says, and nothing else."""

from __future__ import annotations

import polars as pl

from docs.make_study_claims import first_of, render
from studies.base.claim import Estimate, above
from studies.frame.index import Entry, claims_table


def test_every_claim_of_every_model_has_a_line() -> None:
    claims = [
        above("it is | so", Estimate(0.5, 0.25, 0.75, 7), 0.1, matters=0.1, paper="1 %"),
        above("and so", Estimate(0.05, 0.01, 0.09, 7), 0.1, matters=0.1, placebo=0.02),
    ]
    summary = {"seeds": [1, 2, 3], "command": "python", "claims": [claim.row() for claim in claims]}
    entries = [Entry("noise", "?", model, f"{model}/noise", summary, None, None) for model in ("one", "two")]
    page = render(claims_table(entries)).replace("\u00a0", " ")
    for model in ("one", "two"):
        assert (
            f"| It is \\| so | 1 % | `{model}` | 0.50 (0.25 to 0.75) | 0.1 | \u2013 | 7 | 3 | full | \u25cf shows |"
            in page
        )
        assert (
            f"| And so | \u2013 | `{model}` | 0.050 (0.010 to 0.090) | 0.1 | 0.02 | 7 | 3 | full | \u25cb does not"
            in page
        )
        assert f"| `{model}` | 1 | 1 | 0 |" in page
    assert page.count("## ") == 1


def test_the_first_folder_that_has_a_study_counts() -> None:
    claim = above("it is", Estimate(0.5, 0.25, 0.75, 7), 0.1, matters=0.1).row()

    def table(command: str, *names: str) -> pl.DataFrame:
        summary = {"seeds": [1], "command": command, "claims": [claim]}
        return claims_table([Entry(name, "?", "one", name, summary, None, None) for name in names])

    found = first_of([table("python", "noise"), table("python --quick", "noise", "swap")])
    assert found.select("study", "command").rows() == [("noise", "python"), ("swap", "python --quick")]
    assert [word in render(found) for word in ("| full |", "| quick |")] == [True, True]
