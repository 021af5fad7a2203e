# SPDX-License-Identifier: Apache-2.0
"""Memory that outlives a daemon: what a TPM must not forget while its guest runs, kept in a memfd.

Somebody else (`vtpmctl up`, systemd's descriptor store) holds the memfd while the daemon is dead.
Layout, in the machine's own byte order, as it never leaves it:

    offset              size      content
    0                   8         magic "vTPMvol1"
    8                   4         capacity of a half in bytes, C
    4096                16 + C    half 0: header, data
    4096 + 16 + C       16 + C    half 1 (rounded up to a page)

    header: u64 sequence number (0: never written), u32 length of the data, u32 CRC-32 of sequence,
    length and data

`store` writes the half that is not current, data first. SIGKILL in the middle leaves a half whose
CRC does not match, and the other one with its lower number is what `load` finds. A CRC is enough:
what is guarded against is a torn write, not a hostile one, as only the daemon and its supervisor
can reach the memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import zlib
from typing import Self

from daemons.runtime.errors import DaemonError

CAPACITY_BYTES = 256 * 1024
"""Per half; a TPM 1.2 with all slots full has some 20 KB. Pages that were never written take no
memory."""

_MAGIC = b"vTPMvol1"
_HEAD = struct.Struct("=8sI")
_PREFIX = struct.Struct("=QI")
_CRC = struct.Struct("=I")
_HALF_HEADER_BYTES = _PREFIX.size + _CRC.size
_PAGE_BYTES = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def _half_bytes(capacity_bytes: int) -> int:
    return -(-(_HALF_HEADER_BYTES + capacity_bytes) // _PAGE_BYTES) * _PAGE_BYTES


class VolatileMemory:
    """The two halves, mapped. One user at a time."""

    def __init__(self, fd: int, *, capacity_bytes: int) -> None:
        """Use `create` or `adopt`."""
        self.fd = fd
        self._capacity_bytes = capacity_bytes
        half = _half_bytes(capacity_bytes)
        self._offsets = (_PAGE_BYTES, _PAGE_BYTES + half)
        self._map = mmap.mmap(fd, _PAGE_BYTES + 2 * half)
        # Secrets: not into core files. Refused by kernels without the option, which is no reason to
        # stop.
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_DONTDUMP)
        self._sequence = 0  # of the current half; 0 if none is valid
        self._current = 1  # index of the current half; the other one is written next
        self._find_current()

    @classmethod
    def create(cls, name: str, capacity_bytes: int = CAPACITY_BYTES) -> Self:
        """Make an empty memory; `name` is only seen in /proc."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            return cls._initialize(fd, capacity_bytes)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def adopt(cls, fd: int, capacity_bytes: int = CAPACITY_BYTES) -> Self:
        """Take over a memfd: one of size 0 becomes an empty memory, another must be one that
        `create` made.

        The descriptor belongs to the memory from now on; if this raises it is still the caller's.

        Raises:
            DaemonError: it is no memfd, cannot be written, or has another size or content than its
                header says.
        """
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            size = os.fstat(fd).st_size
        except OSError as error:
            raise DaemonError(f"descriptor {fd} for volatile state is no memfd") from error
        if seals & fcntl.F_SEAL_WRITE:
            raise DaemonError("the memfd for volatile state is sealed against writing")
        if size == 0:
            return cls._initialize(fd, capacity_bytes)
        head = os.pread(fd, _HEAD.size, 0)
        magic, found_capacity = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
        if magic != _MAGIC or size != _PAGE_BYTES + 2 * _half_bytes(found_capacity):
            raise DaemonError(f"the memfd for volatile state ({size} bytes) is not one of ours")
        cls._seal(fd, seals)
        return cls(fd, capacity_bytes=found_capacity)

    @classmethod
    def _initialize(cls, fd: int, capacity_bytes: int) -> Self:
        try:
            os.ftruncate(fd, _PAGE_BYTES + 2 * _half_bytes(capacity_bytes))
            os.pwrite(fd, _HEAD.pack(_MAGIC, capacity_bytes), 0)
        except OSError as error:
            raise DaemonError(f"the memfd for volatile state cannot be sized: {error}") from error
        cls._seal(fd, fcntl.fcntl(fd, fcntl.F_GET_SEALS))
        return cls(fd, capacity_bytes=capacity_bytes)

    @staticmethod
    def _seal(fd: int, seals: int) -> None:
        # A mapping beyond the end of a file that shrank is SIGBUS: nobody may shrink it.
        if not seals & fcntl.F_SEAL_SEAL:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        elif not seals & fcntl.F_SEAL_SHRINK:
            raise DaemonError("the memfd for volatile state can be shrunk by others")

    def load(self) -> bytes | None:
        """Return what was stored last, None if nothing was or it was cleared."""
        return None if self._sequence == 0 else self._read(self._current)[1]

    def store(self, data: bytes) -> None:
        """Keep `data` in place of what was stored before.

        Raises:
            DaemonError: it is longer than the capacity; what was stored before stays.
        """
        length = len(data)
        if length > self._capacity_bytes:
            raise DaemonError(
                f"volatile state of {length} bytes, there is room for {self._capacity_bytes}"
            )
        sequence = self._sequence + 1
        half = 1 - self._current
        prefix = _PREFIX.pack(sequence, length)
        start = self._offsets[half]
        body = start + _HALF_HEADER_BYTES
        view = self._map
        view[body : body + length] = data
        view[start:body] = prefix + _CRC.pack(zlib.crc32(data, zlib.crc32(prefix)))
        self._sequence = sequence
        self._current = half

    def clear(self) -> None:
        """Forget everything: the next start is a fresh power-on."""
        for start in self._offsets:
            self._map[start : start + _HALF_HEADER_BYTES] = bytes(_HALF_HEADER_BYTES)
        for start in self._offsets:
            self._map[start : start + _HALF_HEADER_BYTES + self._capacity_bytes] = bytes(
                _HALF_HEADER_BYTES + self._capacity_bytes
            )
        self._sequence = 0

    def close(self) -> None:
        """Unmap and close; the memory lives on while somebody else holds the memfd."""
        self._map.close()
        os.close(self.fd)

    def _find_current(self) -> None:
        for half in (0, 1):
            sequence, data = self._read(half)
            if data is not None and sequence > self._sequence:
                self._sequence = sequence
                self._current = half

    def _read(self, half: int) -> tuple[int, bytes | None]:
        """Return sequence number and data of a half, data None if it is not whole."""
        start = self._offsets[half]
        body = start + _HALF_HEADER_BYTES
        prefix = self._map[start : start + _PREFIX.size]
        sequence, length = _PREFIX.unpack(prefix)
        (crc,) = _CRC.unpack(self._map[start + _PREFIX.size : body])
        if sequence == 0 or length > self._capacity_bytes:
            return 0, None
        data = self._map[body : body + length]
        if crc != zlib.crc32(data, zlib.crc32(prefix)):
            return 0, None
        return sequence, data
