"""``wan-puzzle-mini``, where it ships: small, known by its card, and able to do what the card says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interp.fingerprint import fingerprint
from interp.lab import Lab, load
from interp.mini.evaluate import held_out_samples
from interp.mini.measure import HELD_OUT_SEED, PUZZLES, cell_name, solve_batched, solve_stock
from interp.mini.recipe import RECIPES
from interp.model import bundled_folder, bundled_models

NAME = "wan-puzzle-mini"
pytestmark = pytest.mark.skipif(NAME not in bundled_models(), reason="its weights are not bundled")
STEPS, N = 8, 6


@pytest.fixture(scope="module")
def lab() -> Lab:
    return load(NAME)


@pytest.fixture(scope="module")
def card() -> Any:
    return json.loads((bundled_folder(NAME) / "card.json").read_text())


def test_it_is_small_and_a_pair() -> None:
    folder = bundled_folder(NAME)
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 40e6
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pkl")]
    assert (folder / "transformer_2").is_dir()


def test_card_speaks_of_these_weights(lab: Lab, card: Any) -> None:
    assert card["fingerprint"] == fingerprint(lab.pipe)
    assert card["recipe"] in [json.loads(json.dumps(recipe.as_dict())) for recipe in RECIPES.values()]
    for part in PUZZLES:
        cell = card["solve_rates"][cell_name(part, 20)]
        assert cell["n"] >= 128
        assert cell["low"] <= cell["solved"] <= cell["high"]


def test_docs_page_is_the_card(card: Any) -> None:
    from docs.make_card import render

    page = Path(__file__).parents[2] / "docs" / f"{NAME}.md"
    assert page.read_text() == render(card)


@pytest.mark.parametrize("part", PUZZLES)
def test_held_out_problems_are_solved_at_about_the_cards_rate(lab: Lab, card: Any, part: str) -> None:
    """Six problems: no fewer are solved than the rate's lower bound would give but once in a thousand times."""
    from math import comb

    low = card["solve_rates"][cell_name(part, 20)]["low"]
    solved = sum(solve_batched(lab, held_out_samples(part, N, HELD_OUT_SEED), steps=STEPS))
    at_most = sum(comb(N, k) * low**k * (1 - low) ** (N - k) for k in range(solved + 1))
    assert at_most > 1e-3


def test_batched_loop_solves_what_the_stock_call_solves(lab: Lab) -> None:
    samples = held_out_samples("grounding", 3, HELD_OUT_SEED)
    assert solve_batched(lab, samples, STEPS) == solve_stock(lab, samples, STEPS)
