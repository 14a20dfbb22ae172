"""Set-up of the whole suite: offline, one thread a worker, shapes checked, slow and GPU tests left out by default."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# Before anything imports huggingface_hub, torch or matplotlib.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TQDM_DISABLE", "1")

import jaxtyping
import pytest

import tests.shapes  # so that the name below can be resolved

CHECKED = ("interp", "probes")

early = sorted(name for name in sys.modules if name.split(".")[0] in CHECKED)
if early:
    raise pytest.UsageError(f"imported before the shape checks were in place: {', '.join(early)}")
jaxtyping.jaxtyped = tests.shapes.watched
jaxtyping.install_import_hook(CHECKED, f"{tests.shapes.__name__}.check")

import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out ``gpu`` tests where there is no CUDA device (``slow`` ones: see ``addopts``)."""
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(autouse=True)
def _global_state_is_kept() -> None:
    """Every test starts from the same global random state, so that their order does not matter."""
    torch.manual_seed(0)


@pytest.fixture
def nobody_checks_types() -> Iterator[None]:
    """As it is outside of this suite: what comes in is what a user wrote."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
