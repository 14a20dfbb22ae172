"""First frames encoded once for many batches: the same bits as encoding them each time."""

from __future__ import annotations

import pytest
import torch

from interp.kept_pictures import KeptPictures, keeping_pictures
from tests.edits.labs import lab_and_runs, results


class Row:
    def __init__(self, numbers: int) -> None:
        self.numbers, self.name = torch.zeros(numbers, dtype=torch.float32), "row"


@pytest.mark.parametrize("kind", ["i2v two experts", "ti2v image"])
def test_what_is_kept_is_what_is_encoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the same runs without keeping; how often the VAE is asked is counted."""
    lab, runs = lab_and_runs(kind, steps=2)
    encoded: list[int] = []
    own = lab.pipe.vae.encode
    monkeypatch.setattr(lab.pipe.vae, "encode", lambda x: encoded.append(1) or own(x))
    plain = [results(lab.run([run])) for run in runs[:2]]
    each = len(encoded)
    assert each == 2
    with keeping_pictures() as kept:
        with keeping_pictures() as same:
            first = results(lab.run([runs[0]]))
        assert same is kept
        assert torch.equal(first, plain[0])
        assert torch.equal(results(lab.run([runs[1]])), plain[1])
        assert len(encoded) == each + 1
        next(lab.pipe.vae.parameters()).data.mul_(1.5)
        again = lab.plan(runs[0].sample, [runs[0].seed], steps=2, guidance_scale=4.0)
        lab.run(again)
        assert len(encoded) == each + 2  # another VAE encodes anew
    lab.run(again)
    assert len(encoded) == each + 3  # nothing is kept after the block


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    kept, made = KeptPictures(room=100), []

    def ask(key: str, numbers: int = 10) -> None:
        kept.get(key, lambda: made.append(key) or Row(numbers))

    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key)
    assert made == ["a", "b", "c", "b"]
    assert (len(kept), kept.nbytes) == (2, 80)
    ask("large", 1000)
    assert (len(kept), kept.nbytes) == (0, 0)
