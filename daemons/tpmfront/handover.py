# SPDX-License-Identifier: Apache-2.0
"""Clients' connections over a restart of tpmfront: kept by the supervisor, taken up by the next
process.

A tcsd makes one connection and never another; a QEMU makes one to the control channel, and passes
one more over it. So the supervisor is asked to keep a duplicate of each (FDSTORE of sd_notify(3))
under the name "client-N", and under "clients" a memfd that says what it is and what of its bytes
has been read and not answered. Layout, in the machine's own byte order:

    offset           size   content
    0                8      magic "vTPMcli1"
    4096 + 12288 N   1      low four bits: state of connection N, see `State`; high four: see `Role`
                     1      locality of its commands; of a control connection: last set over it
                     2      zero
                     4      length of the data, 0 to 12280
                     ...    data

There is at most one connection of each role but STREAM. A process that does not know a role takes
the byte for no state, and closes the connection.

A process sets BUSY before it reads from a connection and takes that back when all that it read is
answered or written down here, the state last. So what is found after a SIGKILL is true, or it is
BUSY: then a command may have been executed, it must not be executed twice, and the connection is
closed. An orderly stop finishes it first.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import mmap
import os
import re
import select
import socket
import stat
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, Self

import trio

from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier

MEMORY: Final = "clients"
SLOTS: Final = 240
"""Connections that can be kept: the descriptors that fit into one message are 253 (unix(7)). Others
end with the process."""
RESERVED: Final = 2
"""Of them for a control client and what it passes: it could not connect again, and streams come in
any number."""
STORE_PERIOD_S: Final = 0.5
"""How often the supervisor is told at most: whoever connects and hangs up again and again must not
keep it busy, which may be systemd."""

_NAME: Final = re.compile(r"client-([0-9]{1,3})", re.ASCII)
_MAGIC: Final = b"vTPMcli1"
_PAGE_BYTES: Final = 4096
_SLOT_BYTES: Final = 3 * _PAGE_BYTES
_HEADER_BYTES: Final = 8
DATA_LIMIT_BYTES: Final = _SLOT_BYTES - _HEADER_BYTES
_SIZE: Final = _PAGE_BYTES + SLOTS * _SLOT_BYTES
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class State(enum.IntEnum):
    """What is known of a connection."""

    FREE = 0
    """There is none."""
    RESTING = 1
    """What was read of it and not answered is the slot's data."""
    BUSY = 2
    """Some of what was read is in nobody's hands but the process's."""


class Role(enum.IntEnum):
    """What a connection is for."""

    STREAM = 0
    """A client of the raw stream."""
    DATA = 1
    """What a control client passed for its commands (SET_DATAFD)."""
    CONTROL = 2
    """The client of the control channel."""


_ROLE_SHIFT: Final = 4
_STATE_MASK: Final = (1 << _ROLE_SHIFT) - 1


class Slot:
    """One connection in the memory."""

    __slots__ = ("_busy", "_has_data", "_memory", "_offset", "_resting", "is_stored", "number")

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        """Use `Handover.take`."""
        self.number = number
        # The supervisor was asked to keep the connection.
        self.is_stored = False
        self._memory = memory
        self._offset = _PAGE_BYTES + number * _SLOT_BYTES
        self._has_data = False
        self._use(Role.STREAM)

    def _use(self, role: Role) -> None:
        self._busy = State.BUSY | role << _ROLE_SHIFT
        self._resting = State.RESTING | role << _ROLE_SHIFT

    @property
    def name(self) -> str:
        """Under which the supervisor keeps the connection."""
        return f"client-{self.number}"

    def begin(self, locality: int, role: Role = Role.STREAM, data: bytes = b"") -> None:
        """Make the slot a connection's, of which this much was read."""
        self._use(role)
        self.set_locality(locality)
        self._has_data = True
        self.rest(data)

    def set_locality(self, locality: int) -> None:
        """From now on this is the locality."""
        self._memory[self._offset + 1] = locality

    def busy(self) -> None:
        """Something is about to be read."""
        self._memory[self._offset] = self._busy

    def rest(self, data: bytes) -> None:
        """All that was read is answered but for `data`, at most `DATA_LIMIT_BYTES`."""
        memory, offset = self._memory, self._offset
        if data or self._has_data:
            memory[offset + 4 : offset + 8] = len(data).to_bytes(4, sys.byteorder)
            memory[offset + 8 : offset + 8 + len(data)] = data
            self._has_data = bool(data)
        memory[offset] = self._resting

    def free(self) -> None:
        """The connection is over."""
        self._memory[self._offset] = State.FREE

    def read(self) -> tuple[State, Role, int, bytes]:
        """Return state, role, locality and data.

        Raises:
            ValueError: they are none.
        """
        header = self._memory[self._offset : self._offset + _HEADER_BYTES]
        state, role = State(header[0] & _STATE_MASK), Role(header[0] >> _ROLE_SHIFT)
        locality = header[1]
        length = int.from_bytes(header[4:8], sys.byteorder)
        if length > DATA_LIMIT_BYTES:
            raise ValueError(f"{length} bytes, there is room for {DATA_LIMIT_BYTES}")
        start = self._offset + _HEADER_BYTES
        return state, role, locality, self._memory[start : start + length]


@dataclass(frozen=True, slots=True)
class Kept:
    """A connection that the last process left.

    Attributes:
        connection: to the client.
        slot: its slot.
        role: what it is for.
        locality: of its commands, or last set over it.
        data: what was read and not answered.
    """

    connection: socket.socket
    slot: Slot
    role: Role
    locality: int
    data: bytes


class Handover:
    """The memory, and what the supervisor is asked to keep."""

    def __init__(self, memory: mmap.mmap, notifier: Notifier) -> None:
        """Use `open`."""
        self._memory = memory
        self._notifier = notifier
        self._free = set(range(SLOTS))
        # Connections that the supervisor is not yet asked to keep.
        self._new: dict[Slot, socket.socket] = {}
        self._changed = trio.Event()

    @classmethod
    def open(
        cls, inherited: Mapping[str, Sequence[int]], notifier: Notifier, log: Log
    ) -> tuple[Self, Sequence[Kept]]:
        """Take over what the supervisor kept.

        What cannot be gone on with is closed, and the client told by that.
        """
        memory = None
        for fd in inherited.get(MEMORY, ()):
            if memory is None:
                memory = _adopt(fd)
            if memory is None:
                log.error("clients of the last process are lost, its memory is not usable")
                notifier.remove_fd(MEMORY)
            os.close(fd)
        if memory is None:
            fd = os.memfd_create("tpmfront-clients", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(fd, _SIZE)
                os.pwrite(fd, _MAGIC, 0)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
                memory = _map(fd)
                notifier.store_fd(MEMORY, fd)
            finally:
                os.close(fd)
        made = cls(memory, notifier)
        return made, made._take_up(inherited, log)

    def _take_up(self, inherited: Mapping[str, Sequence[int]], log: Log) -> Sequence[Kept]:
        found: dict[int, Kept] = {}
        single: set[Role] = set()
        for name, fds in inherited.items():
            match = _NAME.fullmatch(name)
            for fd in fds if match else ():
                slot = Slot(self._memory, int(match[1]) if match else 0)
                kept = self._take_one(slot, fd, single) if slot.number not in found else None
                if kept is None:
                    _end(fd)
                    self._notifier.remove_fd(slot.name)
                else:
                    found[slot.number] = kept
                    if kept.role is not Role.STREAM:
                        single.add(kept.role)
                    self._free.discard(slot.number)
        for number in self._free:
            Slot(self._memory, number).free()
        if found:
            log.info("clients go on", clients=len(found))
        return tuple(found.values())

    def _take_one(self, slot: Slot, fd: int, single: Set[Role]) -> Kept | None:
        """Return the connection if it can go on, and there is none yet of a single role."""
        if slot.number >= SLOTS or not _is_open(fd):
            return None
        try:
            state, role, locality, data = slot.read()
        except ValueError:
            return None
        if state is not State.RESTING or role in single:
            return None
        slot.is_stored = True
        slot.begin(locality, role, data)
        return Kept(socket.socket(fileno=fd), slot, role, locality, data)

    @property
    def kept(self) -> int:
        """Connections that would go on after a SIGKILL."""
        return SLOTS - len(self._free) - len(self._new)

    def take(
        self, connection: socket.socket, locality: int, role: Role = Role.STREAM
    ) -> Slot | None:
        """Return a slot for a new connection; None if it will end with this process."""
        if len(self._free) <= (RESERVED if role is Role.STREAM else 0):
            return None
        slot = Slot(self._memory, self._free.pop())
        slot.begin(locality, role)
        self._new[slot] = connection
        self._changed.set()
        return slot

    def release(self, slot: Slot) -> None:
        """The connection is over: nobody is to keep it any more."""
        slot.free()
        self._new.pop(slot, None)
        if slot.is_stored:
            self._notifier.remove_fd(slot.name)
        self._free.add(slot.number)

    def leave(self, slot: Slot) -> None:
        """Leave a connection, which is about to be closed here, to the next process."""
        connection = self._new.pop(slot, None)
        if connection is not None:
            self._store(slot, connection)

    async def run(self) -> None:
        """Have the supervisor keep connections as they come, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await trio.sleep(STORE_PERIOD_S)
            for slot, connection in self._new.items():
                self._store(slot, connection)
            self._new.clear()

    def _store(self, slot: Slot, connection: socket.socket) -> None:
        self._notifier.store_fd(slot.name, connection.fileno(), poll=True)
        slot.is_stored = True


def end(connection: socket.socket) -> None:
    """Close a connection for its peer, whoever else has a duplicate of it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _end(fd: int) -> None:
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        end(socket.socket(fileno=fd))
    else:
        os.close(fd)


def _is_open(fd: int) -> bool:
    """Whether it is a connection that nobody has ended."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    poll = select.poll()
    poll.register(fd, 0)  # POLLHUP and POLLERR are always told
    return not poll.poll(0)


def _adopt(fd: int) -> mmap.mmap | None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return None
    if seals & _SEALS != _SEALS or os.fstat(fd).st_size != _SIZE or os.pread(fd, 8, 0) != _MAGIC:
        return None
    return _map(fd)


def _map(fd: int) -> mmap.mmap:
    memory = mmap.mmap(fd, _SIZE)
    # Commands: not into core files. Refused by kernels without the option.
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_DONTDUMP)
    return memory
