"""A random order of n things that is computed place by place, so that a billion rows need no list of a billion numbers.

A Feistel network over the smallest even number of bits that holds n is a permutation whatever its round function is;
numbers of n or more are sent through again until they fall below n ("cycle walking"; Black and Rogaway 2002, "Ciphers
with arbitrary finite domains").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ROUNDS = 8


@dataclass(frozen=True)
class Shuffle:
    """One order of n things.

    Attributes:
        n: how many.
        seed: numbers that determine the order, as (seed, epoch).
    """

    n: int
    seed: tuple[int, ...]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Which things, int64 [k], stand at ``places``, int64 [k] of 0 to n - 1."""
        found = places.astype(np.uint64)
        todo = np.arange(len(found))
        while len(todo):
            found[todo] = self._once(found[todo])
            todo = todo[found[todo] >= self.n]
        return found.astype(np.int64)

    @cached_property
    def _half(self) -> int:
        return max(1, -(-max(1, self.n - 1).bit_length() // 2))

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.random.SeedSequence(self.seed).generate_state(ROUNDS, np.uint64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = x >> half, x & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        return (left << half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the result depends on every bit given."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
