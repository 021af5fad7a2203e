# SPDX-License-Identifier: Apache-2.0
"""How the newest state is told from an older copy of the database, while the manager runs.

An area in the NV of the hardware TPM, the *anchor*, says which mode is in force and, in NV mode,
which commit is the newest. 44 bytes, readable and writable with the area's authorization value
only, which is in the root secret; FF throughout between its definition and its first write.

    mode     anchor                                        bound
    -------  --------------------------------------------  --------------------------------------
    nv       "VMF1", sequence 8, root of the hash tree 32  each commit, before it is answered
    counter  "VMC1", number of a monotonic counter 4, 0 36  at start, at stop, and at most every few
                                                           seconds in between
    none     "VMN1", 0 40                                  never

In counter mode a record of the database names the counter's value from which it counts: a commit
that binds is written with the present value plus one, then the counter is incremented. So an older
copy is noticed if a binding lies between it and the newest state, and only then. A chip need stand
an increment each 5 s; faster ones may be refused for a while (TPM_RETRY).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hardware import Hardware, NvArea
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.ledger import Transaction
from daemons.vtpmmgr.records import COUNTER_KEY, CounterRecord
from daemons.vtpmmgr.store import CommitRow
from protocol.tpm12 import ReturnCode
from tpmcore.errors import TpmError

_MARK: Final = struct.Struct(">4sQ32s")
_MARK_MAGIC: Final = b"VMF1"
_COUNTER: Final = struct.Struct(">4sI36x")
_COUNTER_MAGIC: Final = b"VMC1"
_NONE: Final = b"VMN1" + bytes(40)

NV_BYTES: Final = _MARK.size
BIND_INTERVAL_S: Final = 5.0
"""Least time between two increments while the manager serves."""


class BadAnchor(Exception):
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


@dataclass(frozen=True, slots=True)
class CounterAnchor:
    """A monotonic counter of the hardware TPM tells what is older.

    Attributes:
        count_id: which.
    """

    count_id: int


@dataclass(frozen=True, slots=True)
class NoAnchor:
    """Nothing tells what is older; somebody wanted it so."""


Anchor = Mark | CounterAnchor | NoAnchor


def encode_anchor(anchor: Anchor) -> bytes:
    """Return what the area holds, 44 bytes."""
    match anchor:
        case Mark():
            return _MARK.pack(_MARK_MAGIC, anchor.sequence, anchor.root)
        case CounterAnchor():
            return _COUNTER.pack(_COUNTER_MAGIC, anchor.count_id)
        case NoAnchor():
            return _NONE
        case _:
            assert_never(anchor)


async def read_anchor(area: NvArea) -> Anchor | None:
    """Return what the area says, None if it was never written.

    Raises:
        TpmError: the chip refuses.
        HardwareLost: no answer.
        BadAnchor: what is there is none.
    """
    data = await area.read()
    if data == b"\xff" * NV_BYTES:
        return None
    if len(data) == NV_BYTES and data[:4] == _MARK_MAGIC:
        _, sequence, root = _MARK.unpack(data)
        return Mark(sequence, root)
    if len(data) == NV_BYTES and data[:4] == _COUNTER_MAGIC and not any(data[8:]):
        return CounterAnchor(_COUNTER.unpack(data)[1])
    if data == _NONE:
        return NoAnchor()
    raise BadAnchor(f"{len(data)} bytes beginning with {data[:4].hex()}")


class Freshness(Protocol):
    """How commits are bound to the hardware TPM."""

    @property
    def mode(self) -> FreshnessMode:
        """Which one it is."""

    def stamp(self, transaction: Transaction, *, last: bool = False) -> None:
        """Add to a commit, just before it is written, what makes it the newest (in a thread).

        Args:
            last: it is the last of this process.
        """

    async def bind(self, mark: Mark) -> None:
        """Make a commit that was written the newest; doing it twice does no harm.

        Raises:
            TpmError, HardwareLost: it may or may not be.
        """

    @property
    def wants_last(self) -> bool:
        """Whether one more commit at the end of the process would bind what is not bound yet."""


class NvFreshness:
    """The mark in the NV area, written at each commit.

    Args:
        area: NV_BYTES long.
    """

    mode = FreshnessMode.NV
    wants_last = False

    def __init__(self, area: NvArea) -> None:
        self._area = area

    def stamp(self, transaction: Transaction, *, last: bool = False) -> None:
        """Add nothing: the mark says it all."""

    async def bind(self, mark: Mark) -> None:
        """Write the mark."""
        await self._area.write(encode_anchor(mark))


class CounterFreshness:
    """A monotonic counter, incremented now and then.

    Args:
        record: as it is in the newest commit.
        clock: seconds that only grow.
    """

    mode = FreshnessMode.COUNTER

    def __init__(
        self, hardware: Hardware, keys: KeyRing, record: CounterRecord, clock: Callable[[], float]
    ) -> None:
        self._hardware = hardware
        self._auth: Secret = keys.unwrap_counter_auth(record)
        self._record = record
        self._clock = clock
        self._bound_at_s = clock()
        # The record was in a commit.
        self._is_stored = False
        # The value that the commit under way names, while the counter is not there yet.
        self._wanted: int | None = None
        # The chip does not take an increment before.
        self._not_before_s = self._bound_at_s
        self._is_bound = True

    @property
    def wants_last(self) -> bool:
        """Whether a commit came after the last increment."""
        return not self._is_bound

    def stamp(self, transaction: Transaction, *, last: bool = False) -> None:
        """Name the next value if it is time."""
        self._is_bound = False
        if self._wanted is None and (last or self._clock() - self._bound_at_s >= BIND_INTERVAL_S):
            self._wanted = self._record.value + 1
        if self._wanted is None:
            return
        stored = transaction.get(CounterRecord, COUNTER_KEY)
        # Of a counter that is in use only the value is ours to change.
        base = stored if stored is not None and self._is_stored else self._record
        transaction.put(base.at(self._wanted))
        self._is_stored = True

    async def bind(self, mark: Mark) -> None:
        """Increment the counter if the commit names the next value.

        A chip that wants to be left alone for a while is: the commit is accepted at a later start
        all the same, only what is older is not refused yet.
        """
        if self._wanted is None or self._clock() < self._not_before_s:
            return
        value = await self._hardware.read_counter(self._record.count_id)
        if value is None:
            raise DaemonError(f"counter {self._record.count_id} of the hardware TPM is gone")
        # what an attempt did whose answer was lost is not done again
        if value == self._record.value:
            try:
                await self._hardware.increment_counter(self._record.count_id, self._auth)
            except TpmError as error:
                if error.code != ReturnCode.RETRY:
                    raise
                self._not_before_s = self._clock() + BIND_INTERVAL_S
                return
        self._record = self._record.at(self._wanted)
        self._wanted = None
        self._bound_at_s = self._clock()
        self._is_bound = True


class NoFreshness:
    """Nothing; an older copy of the database is not noticed."""

    mode = FreshnessMode.NONE
    wants_last = False

    def stamp(self, transaction: Transaction, *, last: bool = False) -> None:
        """Add nothing."""

    async def bind(self, mark: Mark) -> None:
        """Bind nothing."""
