"""What is captured in memory: kept without a copy where that is safe, and never anything else than what was there."""

from __future__ import annotations

import pytest
import torch

from interp.capture import Captured
from interp.errors import InterpError


def kept(tensors: list[torch.Tensor], rows: int = 1) -> Captured:
    found = Captured()
    for step, tensor in enumerate(tensors):
        found.put("s", (len(tensors), 1), (step, 0), tensor, rows)
    return found


def test_cells_come_back_in_their_places() -> None:
    tensors = [torch.randn(3, 4) for _ in range(5)]
    found = kept(tensors)
    assert list(found) == ["s"]
    assert len(found) == 1
    assert torch.equal(found["s"], torch.stack(tensors)[:, None])
    assert found["s"] is found["s"]
    with pytest.raises(KeyError):
        found["t"]


def test_a_piece_of_something_larger_is_copied_so_that_the_rest_is_freed() -> None:
    large = torch.randn(100, 4)
    piece = large[:2]
    found = kept([piece])
    expected = piece.clone()
    large.zero_()
    assert torch.equal(found["s"][0, 0], expected)


def test_rows_of_a_batch_share_its_memory() -> None:
    batch = torch.randn(3, 4)
    found = kept([batch[1]], rows=3)
    assert found._cells["s"][0, 0][0].data_ptr() == batch[1].data_ptr()
    assert torch.equal(found["s"][0, 0], batch[1])


def test_a_change_in_place_is_told_and_not_kept() -> None:
    tensor = torch.randn(4)
    found = kept([tensor])
    tensor += 1
    for _ in range(2):
        with pytest.raises(InterpError, match="s was changed in place after it was captured"):
            found["s"]


def test_tensors_of_inference_mode_cannot_be_watched_and_are_copied() -> None:
    with torch.inference_mode():
        tensor = torch.ones(4)
        found = kept([tensor])
        tensor += 1
        assert torch.equal(found["s"][0, 0], torch.ones(4))
