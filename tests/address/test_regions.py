"""Task regions and mask files in selections: the tokens that the sample's task names, in captures and edits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from interp import edits
from interp.errors import SelectionError, TaskError
from interp.lab import Lab, load
from interp.runspec import RunSpec
from interp.selection import Selection, select
from interp.tasks import get
from tests import pipelines

SITE = "blocks.0.hook_resid_post"


@cache
def maze_runs() -> tuple[Lab, list[RunSpec]]:
    """Two mazes with goals at different places."""
    task = get("maze", size=4)
    first, *rest = task.sample(8, seed=0)
    lab = load(pipelines.tiny_i2v())
    grid = lab.grid(first)
    other = next(s for s in rest if task.region(s, "goal", grid) != task.region(first, "goal", grid))
    return lab, lab.plan([first, other], steps=1)


def test_a_region_is_where_each_sample_has_it() -> None:
    lab, runs = maze_runs()
    task = get("maze", size=4)
    for run in runs:
        grid = lab.grid(run.sample)
        goal, path = (task.region(run.sample, name, grid) for name in ("goal", "path"))
        space = lab.space(run)
        assert select(SITE, region="goal").resolve(space).tokens == tuple(sorted(goal))
        assert select(SITE, region=["path", "goal"]).resolve(space).tokens == tuple(sorted({*goal, *path}))
        last = select(SITE, region="goal", frames=-1).resolve(space).tokens
        assert last == tuple(t for t in sorted(goal) if grid.coords(t)[0] == grid.frames - 1)


def test_it_prints_and_parses() -> None:
    for text in (f"{SITE}[region=goal]", f"{SITE}[frames=1:, region={{goal,path}}]", "[region=start]"):
        assert str(Selection.parse(text)) == text
    assert select(SITE, region=("path", "goal")) == Selection.parse(f"{SITE}[region={{goal,path}}]")
    assert select(SITE, region="goal") != select(SITE, region="start")


def test_captures_and_edits_are_at_the_region() -> None:
    lab, runs = maze_runs()
    run = runs[1]
    goal = sorted(get("maze", size=4).region(run.sample, "goal", lab.grid(run.sample)))
    chosen = select(SITE, region="goal")
    whole, some = lab.run(run, SITE), lab.run(run, chosen)
    assert torch.equal(some.captured[SITE], whole.captured[SITE][:, :, goal])
    got = lab.run(run, SITE, edits=edits.zero(chosen)).captured[SITE]
    assert (got[:, :, goal] == 0).all()
    rest = [token for token in range(got.shape[2]) if token not in goal]
    assert torch.equal(got[:, :, rest], whole.captured[SITE][:, :, rest])


def test_samples_that_differ_share_no_region(tmp_path: Path) -> None:
    lab, runs = maze_runs()
    chosen = select(SITE, region="goal")
    with pytest.raises(SelectionError, match="no sample is known, or several are"):
        lab.run(runs, chosen)
    with pytest.raises(SelectionError, match="one sample at a time"):
        lab.run(runs, edits=edits.zero(chosen))
    with pytest.raises(SelectionError, match="region_mean"):
        lab.capture(runs, chosen, to=tmp_path / "s", progress=False)
    with pytest.raises(TaskError, match="no region 'gaol'"):
        lab.run(runs[0], select(SITE, region="gaol"))
    with pytest.raises(SelectionError, match="region='a b'"):
        select(SITE, region="a b")


def test_a_mask_is_read_from_an_image_file(tmp_path: Path) -> None:
    lab, runs = maze_runs()
    space = lab.space(runs[0])
    array = np.zeros((space.grid.height, space.grid.width), np.uint8)
    array[:17, -1] = 255
    Image.fromarray(array).save(tmp_path / "mask.png")
    assert select(SITE, mask=tmp_path / "mask.png") == select(SITE, mask=array)
    assert select(SITE, mask=str(tmp_path / "mask.png")) == select(SITE, mask=array)
    tokens = select(SITE, mask=tmp_path / "mask.png").resolve(space).tokens
    assert tokens == space.grid.tokens_in_mask(array)
    with pytest.raises(SelectionError, match="no image can be read there"):
        select(SITE, mask=tmp_path / "none.png")
