"""A deeper model made from a bundled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from interp.errors import ModelError
from interp.mini.expert import build_transformer
from interp.mini.grow import grow, places, statistics_of
from interp.mini.recipe import PuzzleRecipe
from interp.mini.train import train
from interp.model import bundled_folder

SOURCE = "wan-maze-mini"
ONE_BATCH = PuzzleRecipe(batch=2, batches=2, split_at=1.0, dtype="float32")


@pytest.mark.parametrize(("old", "new"), [(6, 6), (6, 10), (6, 11), (2, 7)])
def test_blocks_keep_their_order_and_ends(old: int, new: int) -> None:
    where = places(old, new)
    assert where == sorted(set(where))
    assert (where[0], where[-1]) == (0, new - 1)


@torch.no_grad()
def test_grown_model_computes_what_the_shallow_one_does() -> None:
    source = WanTransformer3DModel.from_pretrained(bundled_folder(SOURCE) / "transformer").eval()
    model = build_transformer(PuzzleRecipe()).eval()
    x, text = torch.randn(2, 36, 3, 8, 8), torch.randn(2, 12, 64)
    time = torch.tensor([950.0, 100.0])
    assert not torch.equal(model(x, time, text).sample, source(x, time, text).sample)
    grow(model, SOURCE)
    assert len(model.blocks) > len(source.blocks)
    assert torch.equal(model(x, time, text).sample, source(x, time, text).sample)


def test_new_blocks_learn(tmp_path: Path) -> None:
    state = train(ONE_BATCH, tmp_path, looks=0)
    trained = state["experts"]["main"]["model"]
    new = set(range(ONE_BATCH.layers)) - set(places(6, ONE_BATCH.layers))
    assert new
    for number in new:
        for name in ("attn1.to_out.0", "attn2.to_out.0", "ffn.net.2"):
            assert trained[f"blocks.{number}.{name}.weight"].abs().max() > 0, (number, name)


def test_training_uses_the_latents_of_the_model_that_it_grows_from(tmp_path: Path) -> None:
    state = train(ONE_BATCH, tmp_path, stop_after=0, looks=0)
    statistics = statistics_of(SOURCE)
    np.testing.assert_array_equal(state["statistics"]["std"].numpy(), statistics.std)
    np.testing.assert_array_equal(state["statistics"]["mean"].numpy(), statistics.mean)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [(PuzzleRecipe(layers=4), "6 blocks, more than the 4"), (PuzzleRecipe(width=64, ffn=256), "another width")],
)
def test_a_model_of_another_shape_is_refused(recipe: PuzzleRecipe, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        grow(build_transformer(recipe), SOURCE)
