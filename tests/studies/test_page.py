"""Figures and pages: drawn without warnings, with ink in them, self-contained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.base.words import interval, shown
from studies.drawing import figures
from studies.drawing.canvas import figure, legends
from studies.drawing.figures import Line
from studies.drawing.heat import Heat, heatmaps
from studies.drawing.report import Noted, Picture, Report, Section, render
from studies.drawing.strips import StripRow, strips


def ink(path: Path) -> float:
    """Share of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_strips_show_their_pictures(tmp_path: Path) -> None:
    red, blue = np.zeros((8, 8, 3)), np.zeros((8, 8, 3))
    red[..., 0], blue[..., 2] = 1, 1
    rows = [StripRow("maze 1", red, [blue, blue], red, "route A"), StripRow("maze 2", red, [blue, red], red)]
    strips(tmp_path / "s.png", rows, [0, 5], [1.0, 0.2])
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).reshape(-1, 3)
    reds, blues = ((pixels == colour).all(1).sum() for colour in ([255, 0, 0], [0, 0, 255]))
    assert reds / blues == pytest.approx(5 / 3, rel=0.05)


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
def test_lines_and_heatmaps_draw_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    values = np.linspace(0.5, 1, steps)
    lines = [Line("a", values, values - 0.1, values + 0.05), Line("b", values, dashed=True)]
    sigmas = np.linspace(1, 0.1, steps)
    chance = ([0.5] * steps, [0.55] * steps)
    figures.lines(tmp_path / "l.png", [("one", lines), ("two", lines[:1])], sigmas, ylabel="share", chance=chance)
    grid = np.tile(values, (3, 1))
    heats = [Heat("real", grid, grid > 0.6, {"x": values, "first frame": values}), Heat("control", grid, grid > 2, {})]
    heatmaps(tmp_path / "h.png", heats, sigmas, low=0.5, high=1, label="accuracy")
    assert ink(tmp_path / "l.png") > 0.005
    assert ink(tmp_path / "h.png") > 0.1


@pytest.mark.parametrize(
    ("names", "where", "count"),
    [(("a", "b"), "below", 1), (("a", "b"), "right", 1), (("a", "c"), "below", 2)],
)
def test_legends_cover_nothing_and_are_not_repeated(
    tmp_path: Path, names: tuple[str, str], where: str, count: int
) -> None:
    with figure(tmp_path / "l.png", (8, 3), 1, 2) as axes:
        for axis, last in zip(axes[0], ("b", names[1]), strict=True):
            axis.plot([0, 1], label="a")
            axis.plot([1, 0], label=last)
            axis.set_xlabel("step")
        legends(axes[0], where)
        drawn = axes[0, 0].figure
        drawn.draw_without_rendering()
        found = [*drawn.legends, *(axis.get_legend() for axis in axes[0] if axis.get_legend())]
        boxes = [legend.get_window_extent() for legend in found]
        assert len(found) == count
        assert not any(box.overlaps(axis.bbox) for box in boxes for axis in axes[0])
        assert all(drawn.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.lines(tmp_path / "l.png", [("one", [Line("a", [0.1, 0.2])])], [1, 0.5], ylabel="y")
    assert dict(matplotlib.rcParams) == before


def test_the_page_is_one_file_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    Image.new("RGB", (300, 16), "red").save(tmp_path / "p.png")
    rows = [{"name": Noted("a<b", "c>d"), "value": 0.12345, "none": None}]
    page = render(
        Report(
            title="A & B",
            question="why < how?",
            findings="It is <b>not</b> bold.",
            facts={"n": 3},
            sections=[
                Section("Part", ["text"], [Picture(tmp_path / "p.png", "A picture", "n = 3")], [rows, []]),
                Section("Method", explained="- *one* `two`\n\n<b>three</b>", commands=["a & b"]),
            ],
            command="python -m studies.x --out 'a b'",
        )
    )
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "A &amp; B" in page
    assert "&lt;b&gt;not&lt;/b&gt;" in page
    assert "a&lt;b <small>c&gt;d</small>" in page
    assert "<li><em>one</em> <code>two</code></li>" in page
    assert "&lt;b&gt;three&lt;/b&gt;" in page
    assert "<pre>a &amp; b</pre>" in page
    assert 'width="200"' in page
    assert ">0.12<" in page
    assert page.count("<table") == 1


def test_numbers_as_readers_see_them() -> None:
    assert [shown(v) for v in (1.0, 3, 0.917, 20.83, 0.0042, True, "x")] == [
        "1",
        "3",
        "0.92",
        "20.8",
        "0.0042",
        "yes",
        "x",
    ]
    assert shown(None) == shown(float("nan"))
    assert shown(-0.0001, 2) == "0.00"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.0, 1.0), ("0.50", "0.00 1.00")),
        ((0.49, 0.51), ("0.500", "0.490 0.510")),
        ((0.5, 0.5), ("0.50", "0.50 0.50")),
    ],
)
def test_an_interval_bears_out_its_decimals(ends: tuple[float, float], said: tuple[str, str]) -> None:
    value, between = interval(0.5, *ends)
    assert (value, " ".join(between.replace("to", "").split())) == said
    assert interval(float("nan"), *ends)[0] == shown(None)
