"""Views of attention against a dense softmax of the same run's queries and keys, in every kind of pipeline."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import views
from interp.errors import SelectionError
from interp.lab import load
from interp.selection import AddressSpace, select
from interp.tasks import get
from interp.views import ViewPlan, rows
from tests import pipelines
from tests.tracer.runs import KINDS, arguments_of, bare_latents, seeds_of, specs_of

FRAMES, ROWS, COLS = pipelines.GRID
SELF, CROSS = "blocks.*.attn.hook_pattern", "blocks.*.cross_attn.hook_pattern"
WORDS = {"word": range(3, 7), "rest": [0, 9]}
CORNERS = {"first": "frames=0", "corner": [0, 5, 11]}
MASSES = [views.attention_mass("frames", "frames"), views.attention_mass(CORNERS, CORNERS | {"all": None})]
EACH = [views.attention_mass(None, "frames"), views.attention_top(4)]
ENTROPIES = [views.attention_entropy(), views.attention_entropy("frames"), views.attention_entropy(CORNERS)]
OF_SELF = [*MASSES, *EACH, *ENTROPIES]
OF_TEXT = [views.attention_mass("frames", WORDS), views.attention_mass(None, WORDS), *ENTROPIES, views.attention_top(4)]


@cache
def both_runs(kind: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], bool]:
    """Queries, keys and views of one run, and whether its latents are the bare pipeline's."""
    pipe = KINDS[kind](scheduler="unipc", dtype=dtype)
    arguments, seeds = arguments_of(kind, pipe, guidance=5.0, steps=2), seeds_of(kind)
    expected = bare_latents(pipe, arguments, seeds)
    lab = load(pipe)
    specs = specs_of(lab, arguments, seeds)
    results = lab.run(specs, SELF, views=OF_SELF)
    crossed = lab.run(specs, CROSS, views=OF_TEXT)
    given = lab.run(specs, ["blocks.*.attn.hook_rot_{q,k}", "blocks.*.cross_attn.hook_{q,k}"])
    same = [
        torch.equal(torch.stack([r.trajectory.result for r in some]), expected.float()) for some in (results, crossed)
    ]
    return {**results[-1].captured, **crossed[-1].captured, **given[-1].captured}, all(same)


def dense(queries: Tensor, keys: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) in full: [step, branch, head, query, key]."""
    return torch.einsum("...qhd,...khd->...hqk", queries * queries.shape[-1] ** -0.5, keys).softmax(-1)


def by_frame(pattern: Tensor, dim: int) -> Tensor:
    return pattern.unflatten(dim, (FRAMES, ROWS * COLS))


def of_corners(tensor: Tensor, dim: int) -> list[Tensor]:
    return [tensor.index_select(dim, torch.tensor(at)) for at in ([0, 1, 2, 3], [0, 5, 11])]


def naive(view: views.View, pattern: Tensor) -> Tensor:
    """The view of a pattern [..., head, query, key]."""
    entropy = -(pattern * pattern.log()).sum(-1)
    words = torch.stack([pattern[..., 3:7].sum(-1), pattern[..., [0, 9]].sum(-1)], -1)
    corners = [*of_corners(pattern, -1), pattern]
    cornered = torch.stack([some.sum(-1) for some in corners], -1)
    made: dict[str, Any] = {
        MASSES[0].name: lambda: by_frame(by_frame(pattern, -1).sum(-1), -2).mean(-2),
        MASSES[1].name: lambda: torch.stack([some.mean(-2) for some in of_corners(cornered, -2)], -2),
        EACH[0].name: lambda: by_frame(pattern, -1).sum(-1),
        EACH[1].name: lambda: torch.stack([t.float() for t in reversed(pattern.sort(-1, descending=True))], -1)[
            ..., :4, :
        ],
        ENTROPIES[0].name: lambda: entropy,
        ENTROPIES[1].name: lambda: by_frame(entropy, -1).mean(-1),
        ENTROPIES[2].name: lambda: torch.stack([some.mean(-1) for some in of_corners(entropy, -1)], -1),
        OF_TEXT[0].name: lambda: by_frame(words, -2).mean(-2),
        OF_TEXT[1].name: lambda: words,
    }
    return made[view.name]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_what_a_dense_softmax_gives_and_looking_changes_nothing(kind: str, dtype: torch.dtype) -> None:
    got, unchanged = both_runs(kind, dtype)
    assert unchanged
    for layer in range(pipelines.LAYERS):
        at = f"blocks.{layer}.attn"
        pattern = dense(got[f"{at}.hook_rot_q"], got[f"{at}.hook_rot_k"])
        for view in OF_SELF:
            torch.testing.assert_close(got[f"{at}.hook_pattern@{view}"], naive(view, pattern), rtol=1e-4, atol=1e-6)
        at = f"blocks.{layer}.cross_attn"
        pattern = dense(got[f"{at}.hook_q"], got[f"{at}.hook_k"])
        for view in OF_TEXT:
            if view != views.attention_top(4):  # padding tokens tie, and any of a tie will do
                torch.testing.assert_close(got[f"{at}.hook_pattern@{view}"], naive(view, pattern), rtol=1e-4, atol=1e-6)
        top = got[f"{at}.hook_pattern@attention_top-4"]
        torch.testing.assert_close(top[..., 1], pattern.topk(4, -1).values, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(top[..., 1], pattern.gather(-1, top[..., 0].long()), rtol=1e-4, atol=1e-6)


def test_only_the_chosen_heads_and_tokens_are_seen() -> None:
    lab = load(pipelines.tiny_i2v())
    run = specs_of(lab, pipelines.call_arguments(lab.pipe), [0])[0]
    site = "blocks.0.attn.hook_pattern"
    chosen = select(site, head=1, frames="1:", cols=0)
    late = views.attention_mass({"late": "frames=-1, cols=0"}, {"first": "frames=0"})
    got = lab.run(run, chosen, views=["full", late, "attention_entropy"]).captured
    whole = lab.run(run, site).captured[site]
    assert torch.equal(got[site], whole[:, :, 1:, [4, 6, 8, 10]])
    mass = whole[:, :, 1:, [8, 10], :4].sum(-1).mean(-1)
    torch.testing.assert_close(got[f"{site}@{late}"][..., 0, 0], mass)
    torch.testing.assert_close(got[f"{site}@attention_entropy"], -(got[site] * got[site].log()).sum(-1))


def test_blocks_make_no_difference_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = torch.randn(2, 37, 3, 8), torch.randn(2, 50, 3, 8)
    whole = rows.reduced_rows(q, k, lambda scores, _: scores.softmax(-1))
    torch.testing.assert_close(whole, torch.einsum("bqhd,bkhd->bhqk", q * 8**-0.5, k).softmax(-1))
    for block in (1, 50, 700, 4000):
        monkeypatch.setattr(rows, "BLOCK", block)
        seen = []

        def softmax(scores: Tensor, batch: Tensor, seen: list[tuple[int, set[int]]] = seen) -> Tensor:
            seen.append((scores.numel(), set(batch.tolist())))
            return scores.softmax(-1)

        torch.testing.assert_close(rows.reduced_rows(q, k, softmax), whole)
        assert max(size for size, _ in seen) <= max(block, 50)
        assert sum(size for size, _ in seen) == whole.numel()
        assert set().union(*(batch for _, batch in seen)) == {0, 1}


def test_nothing_of_the_size_of_a_pattern_is_planned_for_a14b() -> None:
    """A pattern of one layer is 80 GiB; keeping or forming all of it is refused, its views take megabytes."""
    from docs.make_hook_points import CONFIGS, VIDEOS
    from interp.grid import TokenGrid

    grid = TokenGrid.from_video(*VIDEOS["A14B"])
    space = AddressSpace.of_model(CONFIGS["A14B"], grid, sigmas=(1.0,))
    every = select("blocks.*.attn.hook_pattern").resolve(space)
    assert ViewPlan.of(every, views.views_of("attention_mass-frames-to-frames")).nbytes == 40 * 40 * 21 * 21 * 4
    for view in ("full", "frame_mean"):
        with pytest.raises(SelectionError, match=r"would form 160 GiB .* attention_mass"):
            ViewPlan.of(every, views.views_of(view))
    some = select("blocks.*.attn.hook_pattern", tokens=[5, 6]).resolve(space)
    assert ViewPlan.of(some, views.views_of("full")).nbytes == 40 * 40 * 2 * 32760 * 2


def test_regions_of_a_task_are_found_anew_in_each_run() -> None:
    task = get("maze", size=4)
    first, *rest = task.sample(8, seed=0)
    lab = load(pipelines.tiny_i2v())
    grid = lab.grid(first)
    other = next(s for s in rest if task.region(s, "goal", grid) != task.region(first, "goal", grid))
    site, view = "blocks.1.attn.hook_pattern", views.attention_mass("goal", "start")
    for sample, result in zip(
        (first, other), lab.run(lab.plan([first, other], steps=1), site, views=["full", view]), strict=True
    ):
        goal, start = (list(task.region(sample, name, grid)) for name in ("goal", "start"))
        expected = result.captured[site][..., goal, :][..., start].sum(-1).mean(-1)
        torch.testing.assert_close(result.captured[f"{site}@{view}"][..., 0, 0], expected)


def test_a_store_keeps_them_with_named_axes(tmp_path: Path) -> None:
    lab = load(pipelines.tiny_i2v())
    runs = specs_of(lab, pipelines.call_arguments(lab.pipe, guidance=5.0), [0, 1])
    given = ["attention_mass-frames-to-frames", MASSES[1], "attention_entropy", "attention_top-3"]
    site = "blocks.0.attn.hook_pattern"
    store = lab.capture(runs, site, to=tmp_path / "s", views=given, progress=False)
    expected = lab.run(runs, site, views=given)
    assert list(views.kept_views(store)) == [str(view) for view in given]
    assert views.kept_views(store)[MASSES[1].name] == MASSES[1]
    layout = store.layout(store.runs[0])
    axes = {one.site.partition("@")[2]: (one.axes[2:], one.dtype) for one in layout.sites}
    assert axes == {
        "attention_mass-frames-to-frames": (("head", "region", "key_region"), "float32"),
        MASSES[1].name: (("head", "region", "key_region"), "float32"),
        "attention_entropy": (("head", "token"), "float32"),
        "attention_top-3": (("head", "token", "rank", "entry"), "float32"),
    }
    coords = layout.provenance["views"]["coords"]
    assert coords[f"{site}@{MASSES[1]}"] == {"region": ["first", "corner"], "key_region": ["first", "corner", "all"]}
    assert coords[f"{site}@attention_top-3"] == {"entry": ["key", "weight"]}
    for name in store.sites:
        got = store.read(name, step=1, branch="uncond", runs=[run.key for run in runs])
        assert np.array_equal(got, torch.stack([r.captured[name][1, 1] for r in expected]).numpy()), name


def test_watching_a_call_gives_the_same_views() -> None:
    pipe = pipelines.tiny_i2v(two_experts=True)
    arguments = pipelines.call_arguments(pipe, guidance=5.0, steps=3)
    lab = load(pipe)
    given = [*OF_SELF[:3], "full"]
    expected = lab.run(specs_of(lab, arguments, [3])[0], SELF, views=given).captured
    with lab.observe(SELF, views=given) as seen:
        bare_latents(pipe, arguments, [3])
    assert {name for name, _, _ in seen.tensors} == set(expected)
    for name, kept in expected.items():
        for b, branch in enumerate(("cond", "uncond")):
            assert torch.equal(seen.stack(name, branch)[:, 0], kept[:, b]), (name, branch)


@pytest.mark.parametrize(
    ("view", "site", "message"),
    [
        ("attention_entropy", "blocks.0.attn.hook_z", "is a view of a pattern; select"),
        ("attention_top-13", "blocks.0.attn.hook_pattern", "there are 12 keys"),
        ("attention_mass-frames-to-frames", "blocks.0.cross_attn.hook_pattern", "'frames' is no set on the axis"),
        (views.attention_mass("all", {"x": [600]}), "blocks.0.cross_attn.hook_pattern", "out of range"),
        (views.attention_mass("goal"), "blocks.0.attn.hook_pattern", "belongs to no task"),
        ("attention_mass-all-to-all", select("blocks.0.attn.hook_pattern", frames=1), "'all' has 8 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(view: Any, site: Any, message: str) -> None:
    lab = load(pipelines.tiny_i2v())
    run = specs_of(lab, pipelines.call_arguments(lab.pipe), [0])[0]
    with pytest.raises(SelectionError, match=message):
        lab.run(run, site, views=view)
