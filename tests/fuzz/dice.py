# SPDX-License-Identifier: Apache-2.0
"""Chance that comes out the same for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_BLOCK_BYTES = 4096


class Dice:
    """A seeded source of decisions: SHAKE-128 of the seed and a counter.

    Args:
        seed: any text; two dice with the same one fall alike.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._count = 0
        self._block = b""
        self._position = 0

    def bytes(self, size: int) -> bytes:
        """Return `size` bytes, at most 4096."""
        end = self._position + size
        if end > len(self._block):
            self._count += 1
            name = self._seed + self._count.to_bytes(8, "big")
            self._block = hashlib.shake_128(name).digest(_BLOCK_BYTES)
            self._position, end = 0, size
        taken = self._block[self._position : end]
        self._position = end
        return taken

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1."""
        return int.from_bytes(self.bytes(4), "big") % limit

    def chance(self, percent: int) -> bool:
        """Return True that often."""
        return self.below(100) < percent

    def pick(self, values: Sequence[T]) -> T:
        """Return one of the values."""
        return values[self.below(len(values))]
