"""What several files of these tests use."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def nobody_checks_types() -> Iterator[None]:
    """As it is outside of this suite: what comes in is what a user wrote."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
