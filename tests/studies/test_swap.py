"""Swaps: parts of pictures, whose answer a picture shows, and cells that are the naive patched runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp import Lab, tasks
from interp.edits import patch, run_with
from studies.base.claim import NOT, OPEN, SHOWS
from studies.base.folder import StudyFolder
from studies.base.ledger import Ledger
from studies.base.tasks import hardest_size, tasks_of
from studies.ensemble import STUDY as ENSEMBLE
from studies.measures.masks import disputed, elsewhere, foreground, named, tokens_of
from studies.measures.trials import DIRECTIONS, Swaps, Trial, measure_swaps
from studies.runs.bench import Bench
from studies.runs.pairs import Between, draw_pairs
from studies.swap import STUDY, claims, planned, summarised
from tests.pipelines import tiny_i2v


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(tiny_i2v(), "tiny")


def bench_of(lab: Lab, task: object, folder: Path, **options: object) -> Bench:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    given = STUDY.parse(["--out", str(folder), "--seeds", "1", "--guidance-scale", "1", *words])
    return Bench(StudyFolder(folder, "swap"), given, lab, task, folder / "cache", Ledger(folder / "measured.jsonl"))


@pytest.mark.parametrize("name", ["grounding", "maze", "reappearance", "bounce"])
def test_masks_are_the_regions_of_the_task(name: str, lab: Lab) -> None:
    task = tasks.get(name)
    for sample in task.sample(4):
        grid = lab.grid(sample)
        parts = ["start", "goal"] if name == "maze" else ["foreground"]
        wanted = {token for part in parts for token in task.region(sample, part, grid)}
        assert set(tokens_of(foreground(task, sample, grid), grid)) == wanted
    first, second = task.pair(3)
    grid = lab.grid(first)
    mask = disputed(task, first, second, grid)
    assert mask.any()
    assert not mask.all()
    if name == "grounding":
        objects = {token for sample in (first, second) for token in task.region(sample, "object", grid)}
        assert set(tokens_of(mask, grid)) == objects
        this, others = named(first, grid) or (mask, mask)
        assert not (this & others).any()


def test_random_tokens_are_as_many_and_elsewhere() -> None:
    mask = np.zeros((5, 5), dtype=bool)
    mask[1:3, 1:4] = True
    other = elsewhere(mask, seed=1)
    assert other.sum() == mask.sum()
    assert not (other & mask).any()
    assert (other != elsewhere(mask, seed=2)).any()
    mask[:, 1:] = True
    assert elsewhere(mask, seed=1).sum() == mask.sum()  # no room: some lie inside


@pytest.mark.parametrize("name", ["grounding", "maze", "reappearance", "bounce"])
def test_a_place_between_two_answers(name: str) -> None:
    task = tasks.get(name)
    one, other = task.pair(1)
    between = Between.of(task, one, other)
    first, second = task.render(one), task.render(other)
    assert between(first) == -1
    assert between(second) == 1
    assert between((first // 2 + second // 2)[-1:]) == pytest.approx(0, abs=0.02)
    assert Between.of(task, other, one)(first) == 1
    half = (0.75 * first[-1:] + 0.25 * second[-1:]).astype(np.uint8)
    assert between(half) == pytest.approx(-0.5, abs=0.02)


def test_cells_are_the_naive_patched_runs(lab: Lab, tmp_path: Path) -> None:
    task = tasks.get("maze", size=4)
    bench = bench_of(lab, task, tmp_path, problems=1, steps=2)
    pairs = draw_pairs(bench, more=1)
    trials = [
        Trial((0, 1), (0, 1), "mlp"),
        Trial((0,), (1,), read="final", tokens="object"),
        Trial((1,), (1,), read="final", until=True, source="third"),
        Trial((1,), (0,), source="self"),
    ]
    found = measure_swaps(bench, pairs, trials)
    (one, other), (third, _) = pairs
    spec = bench.specs([one])[0]
    theirs, beyond = replace(spec, sample=other), replace(spec, sample=third)
    between = Between.of(task, one, other)
    assert found.directions.tolist() == list(DIRECTIONS)

    def early(step: int, layer: int) -> float:
        edit = patch(f"blocks.{layer}.hook_mlp_update", theirs, step=step)
        return between(run_with(lab, spec, edit, stop=step + 1).early_frames)

    tokens = tokens_of(disputed(task, one, other, lab.grid(one)), lab.grid(one))
    lasting = patch("blocks.1.hook_resid_post", theirs, step=0, tokens=tokens)
    until = patch("blocks.1.hook_resid_post", beyond, step=slice(0, 2))
    naive = [early(step, layer) for step in (0, 1) for layer in (0, 1)]
    naive += [between(run_with(lab, spec, edit).frames) for edit in (lasting, until)]
    np.testing.assert_allclose(found.value[0, :6], naive, atol=2e-3)  # frames are rounded to 8 bits
    undisturbed = [between(run_with(lab, run, (), stop=2).early_frames) for run in (spec, theirs)]
    np.testing.assert_allclose(found.clean[0, 6:], undisturbed[0], atol=2e-3)
    np.testing.assert_allclose(found.target[0, 6:], undisturbed[1], atol=2e-3)
    np.testing.assert_allclose(found.value[:, 6:], found.clean[:, 6:], atol=2e-3)  # from itself: nothing

    again = Ledger(tmp_path / "measured.jsonl")
    assert len(again) == 2 * len(trials)
    repeated = measure_swaps(replace(bench, ledger=again, lab=lab), pairs, trials)
    np.testing.assert_array_equal(repeated.value, found.value)


def made_up(turned: float, *, problems: int = 12) -> Swaps:
    """Every swap from the other run goes ``turned`` of the way, most at the middle layer; placebos go nowhere."""
    trials = planned(["resid", "update", "attn", "cross_attn"], 8, 4, 4, 0, ("cond", "uncond"))
    cells = [{**t.facts, "step": step, "layer": layer} for t in trials for step in t.steps for layer in t.layers]
    rng = np.random.default_rng(0)
    share = np.array([turned * (1 - 0.1 * abs(c["layer"] - 4)) * (c["source"] == "other") for c in cells])
    share *= np.array([(c["tokens"] != "random") & (c["branch"] != "uncond") for c in cells])
    value = -1 + 2 * share + rng.normal(0, 0.02, (2 * problems, len(cells)))
    ones = np.ones_like(value)
    names = np.repeat([str(k) for k in range(problems)], 2)
    return Swaps(cells, names, np.array(DIRECTIONS * problems), value, -ones, ones)


def test_claims_follow_the_numbers() -> None:
    turned, still = claims(made_up(1.0), 0), claims(made_up(0.0), 0)
    assert [claim.verdict for claim in turned] == [*[SHOWS] * 6, OPEN]  # the last: equal ones
    assert {claim.verdict for claim in still[:3]} == {OPEN}  # a dozen pairs without a flip leave room for one in ten
    assert {claim.verdict for claim in claims(made_up(0.0, problems=60), 0)[:3]} == {NOT}
    assert SHOWS not in {claim.verdict for claim in still}
    assert turned[0].value == 1
    few = claims(made_up(1.0, problems=1), 0)
    assert few[0].low < 0.9  # one pair is no proof

    nobody = made_up(1.0)
    nobody = replace(nobody, clean=nobody.value)  # undisturbed runs that show nothing
    assert {claim.verdict for claim in claims(nobody, 0)[:3]} == {OPEN}
    assert summarised(nobody, [1.0, 0.9, 0.7, 0.4, 0.0]).filter(direction="both")["n_flip"].min() == 0


def test_the_default_task_is_one_that_the_model_knows(tmp_path: Path) -> None:
    assert tasks_of("wan-maze-mini") == ("maze",)
    board = {"parts": [["maze-5", 0.5], ["grounding", 0.5]]}
    card = json.dumps({"recipe": {"name": "wan-puzzle-mini", "stages": [{"boards": [board]}]}})
    (tmp_path / "card.json").write_text(card)
    assert tasks_of(str(tmp_path)) == ("grounding", "maze")
    assert STUDY.parse(["--out", "x", "--model", str(tmp_path)]).task == "grounding"
    assert STUDY.parse(["--out", "x"]).task == "maze"


def test_hard_problems_are_of_the_largest_size_that_the_model_knows(tmp_path: Path) -> None:
    board = {"parts": [["maze-5", 0.5], ["maze-8", 0.3], ["grounding", 0.2]]}
    (tmp_path / "card.json").write_text(json.dumps({"recipe": {"stages": [{"boards": [board]}, {"sizes": [4, 6]}]}}))
    assert hardest_size(str(tmp_path), "maze") == 8
    assert hardest_size(str(tmp_path), "grounding") is None
    assert hardest_size("somebody/elses-model", "maze") is None
    of = ["--out", "x", "--model", str(tmp_path)]
    assert ENSEMBLE.parse(of).size == 8
    assert ENSEMBLE.parse([*of, "--size", "5"]).size == 5
    assert ENSEMBLE.parse([*of, "--quick"]).size == 6
