"""Copies arrive complete and in order, however few buffers there are, and leave the source free to change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.hostcopy import HostCopies

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("buffers", [1, 3])
def test_all_arrive_in_order_through_few_buffers(device: str, buffers: int) -> None:
    sources = [torch.randn(n, 5, device=device).to(torch.bfloat16) for n in (7, 2, 9, 9, 1, 4, 8)]
    got: list[Tensor] = []
    places: set[int] = set()

    def keep(numbers: Tensor) -> None:
        places.add(numbers.data_ptr())
        got.append(numbers.clone())

    copies = HostCopies(buffers)
    for i, source in enumerate(sources):
        copies.put(source, keep)
        assert len(got) >= i + 1 - buffers
    copies.flush()
    assert all(torch.equal(a, b.cpu()) for a, b in zip(got, sources, strict=True))
    again = len(places)
    for source in sources:
        copies.put(source, keep)
    copies.flush()
    assert len(got) == 2 * len(sources)
    if device == "cuda":
        assert again <= 2 * buffers + 1


def test_what_the_taker_raises_comes_out_and_the_buffer_is_not_lost() -> None:
    copies, got = HostCopies(buffers=1), []

    def refuse(_: Tensor) -> None:
        raise OSError("full")

    copies.put(torch.ones(3), refuse)
    with pytest.raises(OSError, match="full"):
        copies.put(torch.zeros(3), got.append)
    copies.put(torch.full((3,), 2.0), lambda numbers: got.append(numbers.clone()))
    copies.flush()
    assert [one.tolist() for one in got] == [[2.0, 2.0, 2.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_may_go_on_before_the_copy_was_made() -> None:
    copies, got = HostCopies(), []
    wanted = []
    for i in range(20):
        made = torch.full((1000, 1000), float(i), device="cuda") @ torch.eye(1000, device="cuda")
        wanted.append(float(i))
        copies.put(made, lambda numbers: got.append((numbers.min().item(), numbers.max().item())))
        del made  # its memory may be given to the next
    copies.flush()
    assert got == [(value, value) for value in wanted]
