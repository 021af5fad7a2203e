# SPDX-License-Identifier: Apache-2.0
"""Receiving descriptors that a peer passes with its bytes (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Final

from daemons.runtime.errors import DaemonError

_RECEIVED_AT_ONCE: Final = 4
"""The kernel closes what does not fit: one is wanted, so that is the peer's mistake."""
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


def receive(connection: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Return bytes and the descriptors that came with them, which are the caller's.

    Does not wait. They are closed at exec.

    Args:
        connection: a stream socket.
        size: at most so many bytes; none come at the end of the stream.

    Raises:
        BlockingIOError: there is nothing.
        OSError: the connection is broken.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    space = socket.CMSG_SPACE(_RECEIVED_AT_ONCE * array.array("i").itemsize)
    data, ancillary, _flags, _address = connection.recvmsg(size, space, flags)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def adopt_stream(fd: int) -> socket.socket:
    """Return the connected stream socket that a peer passed.

    Args:
        fd: becomes the socket's; closed if it is refused.

    Raises:
        DaemonError: it is something else.
    """
    try:
        stream = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise DaemonError(f"not a socket ({error.strerror})") from None
    with contextlib.ExitStack() as refused:
        refused.callback(stream.close)
        if stream.type != socket.SOCK_STREAM or stream.family not in _FAMILIES:
            raise DaemonError(f"{stream.family!r} {stream.type!r}, must be a stream socket")
        if stream.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise DaemonError("a listening socket")
        try:
            stream.getpeername()
        except OSError as error:
            raise DaemonError(f"not connected ({error.strerror})") from None
        refused.pop_all()
    return stream
