# SPDX-License-Identifier: Apache-2.0
"""How the newest state is told from an older copy of the database.

In NV mode an area of the hardware TPM holds the newest commit, written before the commit is
answered:

    offset  size  field
         0     4  "VMF1"
         4     8  sequence, big-endian
        12    32  root of the hash tree

44 bytes, readable and writable with the area's authorization value only, which is in the root
secret. The area reads as FF throughout between its definition and its first write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Protocol

from daemons.vtpmmgr.hardware import NvArea
from daemons.vtpmmgr.store import CommitRow

_MARK: Final = struct.Struct(">4sQ32s")
_MAGIC: Final = b"VMF1"

NV_BYTES: Final = _MARK.size


class BadMark(Exception):
    """The area holds something that no manager wrote."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A commit, as the hardware TPM knows it.

    Attributes:
        sequence: number of the commit.
        root: root of the hash tree, 32 bytes.
    """

    sequence: int
    root: bytes

    @classmethod
    def of(cls, commit: CommitRow) -> Mark:
        """Return the mark of a commit."""
        return cls(commit.sequence, commit.root)


class Freshness(Protocol):
    """Where the mark of the newest commit is kept."""

    async def read(self) -> Mark | None:
        """Return the mark, None if none was ever written.

        Raises:
            TpmError: the chip refuses.
            HardwareLost: no answer.
            BadMark: what is there is no mark.
        """

    async def bind(self, mark: Mark) -> None:
        """Make `mark` the newest; writing the same twice does no harm.

        Raises:
            TpmError, HardwareLost: it may or may not be written.
        """


class NvFreshness:
    """The mark in an NV area, written at each commit.

    Args:
        area: NV_BYTES long.
    """

    def __init__(self, area: NvArea) -> None:
        self._area = area

    async def read(self) -> Mark | None:
        """Return the mark, None if the area was never written."""
        data = await self._area.read()
        if data == b"\xff" * NV_BYTES:
            return None
        if len(data) != NV_BYTES or data[:4] != _MAGIC:
            raise BadMark(f"{len(data)} bytes beginning with {data[:4].hex()}")
        _, sequence, root = _MARK.unpack(data)
        return Mark(sequence, root)

    async def bind(self, mark: Mark) -> None:
        """Write the mark."""
        await self._area.write(_MARK.pack(_MAGIC, mark.sequence, mark.root))
