"""Documentation that is true: its source files exist, its scripts run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from studies import NAMES, study_named
from studies.base.signs import X0

ROOT = Path(__file__).parent.parent
BUILT = ("_build", "tutorials", "build")
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if not set(p.relative_to(ROOT / "docs").parts) & set(BUILT))
SOURCES = re.compile(r"\bSource(?:s| files): ((?:`[^`]+`(?:, | and )?)+)")
TUTORIALS = sorted((ROOT / "docs" / "gallery").glob("plot_*.py"))


def names(paths: list[Path]) -> list[str]:
    return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_source_files_that_a_page_describes_exist(page: Path) -> None:
    text = page.read_text()
    described = [name for found in SOURCES.findall(text) for name in found.split("`")[1::2]]
    assert described or "toctree" in text, (
        "name what this page describes: Source files: `interp/grid.py`, `interp/store/`."
    )
    missing = [name for name in described if not (ROOT / name).exists()]
    assert not missing


def test_the_page_of_studies_has_the_question_and_the_command_of_each() -> None:
    page = " ".join((ROOT / "docs" / "studies.md").read_text().split())
    for name in NAMES:
        assert study_named(name).question.replace(X0, "x0_hat") in page, name
        assert f"python -m studies.{name}" in page, name


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=names(TUTORIALS))
def test_a_tutorial_is_short(tutorial: Path) -> None:
    assert ast.get_docstring(ast.parse(tutorial.read_text()))
    assert len(tutorial.read_text().splitlines()) < 40


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=names(TUTORIALS))
def test_a_tutorial_runs(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables: dict[str, object] = {"__name__": "__main__"}
    exec(compile(tutorial.read_text(), str(tutorial), "exec"), variables)
    plt.close("all")
    assert list(tmp_path.glob("*.png"))


def test_the_script_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    small = script.replace("size=5", "size=4").replace("sample(128", "sample(12").replace("steps=20", "steps=2")
    assert small.count("size=4") == small.count("sample(12,") == small.count("steps=2") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(small, "README.md", "exec"), {})
    assert (tmp_path / "when.png").is_file()
