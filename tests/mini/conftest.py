"""What several files of these tests use."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from interp.mini import train


@pytest.fixture(scope="session", autouse=True)
def statistics_are_taken_once() -> Iterator[None]:
    """Of 1,500 videos a recipe, which take longer to draw than these tests train; they depend on nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "latent_statistics", cache(train.latent_statistics))
        yield
