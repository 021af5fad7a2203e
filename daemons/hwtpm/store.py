# SPDX-License-Identifier: Apache-2.0
"""The chip's own memory: its permanent state in one file.

    offset  size  file `chip.state`
    0       8     magic "vTPMchip"
    8       2     format version, big-endian: 1
    10      2     reserved, 0
    12      4     length of the state in bytes, big-endian
    16      32    SHA-256 of the state
    48      n     permanent state of the engine in its own format

The file is replaced as a whole. It holds secrets in the clear, as the flash of a chip does: the
folder's mode is its only protection. The hash finds damage; it is not there against forgers.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

import trio

from daemons.hwtpm.filenames import STATE_NAME
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.files import StateFolder, WriteFailed
from daemons.runtime.host import PersistOutcome
from daemons.runtime.log import Log

STATE_LIMIT: Final = 1024 * 1024
"""Upper limit of the file in bytes; a chip with every slot used has some 100 KB."""

_MAGIC: Final = b"vTPMchip"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sHHI32s")


def encode_record(state: bytes) -> bytes:
    """Return the file content for a permanent state."""
    digest = hashlib.sha256(state).digest()
    return _HEADER.pack(_MAGIC, _VERSION, 0, len(state), digest) + state


def decode_record(data: bytes) -> bytes:
    """Return the permanent state in a file's content.

    Raises:
        RefusedToStart: the content is not what `encode_record` makes; the message says which field.
    """
    if len(data) < _HEADER.size:
        raise RefusedToStart(
            f"{STATE_NAME} is truncated: {len(data)} bytes, the header has {_HEADER.size}"
        )
    magic, version, reserved, length, digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise RefusedToStart(f"{STATE_NAME}: magic does not match, this is no chip state")
    if version != _VERSION or reserved:
        raise RefusedToStart(
            f"{STATE_NAME}: format version {version}.{reserved}, this program knows {_VERSION}.0"
        )
    state = data[_HEADER.size :]
    if len(state) != length:
        raise RefusedToStart(
            f"{STATE_NAME}: length does not match, {len(state)} bytes of state where the header"
            f" says {length}"
        )
    if not hmac.compare_digest(hashlib.sha256(state).digest(), digest):
        raise RefusedToStart(f"{STATE_NAME}: digest of the state does not match, it was changed")
    return state


class ChipStore:
    """The file of one chip in its locked folder."""

    def __init__(self, folder: StateFolder, log: Log) -> None:
        self._folder = folder
        self._log = log

    def load(self) -> bytes | None:
        """Return the permanent state, durable; None if the chip was never made.

        Raises:
            RefusedToStart: the file does not verify; it is left as it is.
            OSError: it cannot be read or made durable.
        """
        data = self._folder.read(STATE_NAME, STATE_LIMIT)
        if data is None:
            return None
        state = decode_record(data)
        # The last process may have ended because it did not know whether this was durable.
        self._folder.settle(STATE_NAME)
        return state

    def save_first(self, state: bytes) -> None:
        """Write the state of a chip just made.

        Raises:
            WriteFailed: it may or may not be there; the next start sees which.
        """
        self._folder.replace(STATE_NAME, encode_record(state))

    async def persist(self, state: bytes) -> PersistOutcome:
        """Replace the permanent state; the persister of `EngineHost`.

        Raises:
            WriteFailed: whether the old or the new state is there is not certain. The process must
                end: its successor reads which one it is.
        """
        try:
            await trio.to_thread.run_sync(self._folder.replace, STATE_NAME, encode_record(state))
        except WriteFailed as error:
            if not error.certain:
                raise
            self._log.error("state not saved, the command fails", reason=error.strerror)
            return PersistOutcome.NOT_SAVED
        return PersistOutcome.SAVED
