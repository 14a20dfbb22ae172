"""What several files of these tests use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.store.making import make_store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three runs, not to be changed."""
    return make_store(tmp_path_factory.mktemp("original") / "s", seeds=3).path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "s"))
