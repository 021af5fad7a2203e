# SPDX-License-Identifier: Apache-2.0
"""Log entries for systemd's journal in its native protocol: one datagram per entry, with fields.

    MESSAGE=image saved slot=1            a value of one line: NAME=value, line feed
    VTPM_REASON                           any other value: NAME, line feed,
    <8 bytes, little-endian: length>      the length, the value as it is, line feed
    <value>

An entry that is too long for a datagram goes into a sealed memfd, whose descriptor is passed in an
empty datagram. Nothing here waits: an entry that the journal does not take at once is not sent.

Source: systemd.exec(5), JOURNAL_STREAM; systemd's description of the native journal protocol.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Final, Self

SOCKET: Final = "/run/systemd/journal/socket"
ENVIRONMENT_NAME: Final = "JOURNAL_STREAM"

_STDERR: Final = 2
_LENGTH: Final = struct.Struct("<Q")
# What a journal takes for a field of a client's; a leading underscore is its own.
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Journal:
    """Where entries go, with the fields that every entry of this process carries."""

    def __init__(self, fields: Mapping[str, str], *, address: str = SOCKET) -> None:
        """Args:
        fields: such as SYSLOG_IDENTIFIER.
        address: path of the journal's socket.
        """
        self._constant = encode(fields.items())
        self._address = address
        # Made at the first entry; never connected, so that a journal that was restarted is found.
        self._socket: socket.socket | None = None

    @classmethod
    def of_stderr(cls, environ: Mapping[str, str], fields: Mapping[str, str]) -> Self | None:
        """Return the journal that standard error leads to, or None if it leads elsewhere.

        systemd names device and inode of the stream that it made; a standard error that was
        redirected since then has others.
        """
        found = os.fstat(_STDERR)
        if environ.get(ENVIRONMENT_NAME) != f"{found.st_dev}:{found.st_ino}":
            return None
        return cls(fields)

    def add(self, fields: Mapping[str, str]) -> None:
        """Have every further entry carry these fields as well."""
        self._constant += encode(fields.items())

    def send(self, fields: Iterable[tuple[str, str]]) -> bool:
        """Send one entry; False if the journal did not take it."""
        entry = self._constant + encode(fields)
        try:
            if self._socket is None:
                kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                self._socket = socket.socket(socket.AF_UNIX, kind)
            try:
                self._socket.sendmsg([entry], [], _FLAGS, self._address)
            except OSError as error:
                if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                    raise
                self._send_memory(self._socket, entry)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_memory(self, sender: socket.socket, entry: bytes) -> None:
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with contextlib.closing(os.fdopen(fd, "wb", buffering=0)) as memory:
            memory.write(entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = array.array("i", [fd])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            sender.sendmsg([], ancillary, _FLAGS, self._address)


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return fields as a datagram has them.

    Raises:
        ValueError: a name that the journal would drop.
    """
    parts = []
    for name, text in fields:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a journal field")
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            parts += [name.encode(), b"\n", _LENGTH.pack(len(value)), value, b"\n"]
        else:
            parts += [name.encode(), b"=", value, b"\n"]
    return b"".join(parts)
