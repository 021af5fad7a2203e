# SPDX-License-Identifier: Apache-2.0
"""Opening what --ctrl and --server name: sockets of our own, and those that were inherited.

This is done before anything heavy is imported: libvirt gives a TPM up whose control socket is not
there within a second of its start, also on a machine that is busy starting others.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemons.runtime.socketpaths import PATH_LIMIT_BYTES
from daemons.tpmfront.compat.errors import Refusal
from daemons.tpmfront.compat.options import (
    Channel,
    CompatOptions,
    Descriptor,
    Place,
    TcpPlace,
    UnixPlace,
)

BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class Opened:
    """A place.

    Attributes:
        socket: listening, or the one connection that there is.
        is_listening: which of the two.
    """

    socket: socket.socket
    is_listening: bool


@dataclass(frozen=True, slots=True)
class Channels:
    """What --ctrl and --server name.

    Attributes:
        data: None: there is no data channel.
        control: None: there is no control channel.
    """

    data: Opened | None
    control: Opened | None


@contextlib.contextmanager
def open_channels(options: CompatOptions) -> Iterator[Channels]:
    """Give the sockets of a command line: who connects from now on waits. On leaving they are
    closed, and the files of those that we made removed.

    Raises:
        Refusal: one cannot be had.
    """
    with contextlib.ExitStack() as stack:
        yield Channels(_open(options.data, stack), _open(options.control, stack))


def _open(channel: Channel | None, stack: contextlib.ExitStack) -> Opened | None:
    return None if channel is None else stack.enter_context(open_place(channel.place))


@contextlib.contextmanager
def open_place(place: Place) -> Iterator[Opened]:
    """Give a socket; on leaving it is closed, and its file removed if we made it.

    Raises:
        Refusal: it cannot be had.
    """
    match place:
        case UnixPlace():
            with _listen_unix(place) as listener:
                yield Opened(listener, True)
        case TcpPlace():
            with _listen_tcp(place) as listener:
                yield Opened(listener, True)
        case Descriptor(number):
            with _adopt(number) as opened:
                yield opened


@contextlib.contextmanager
def _listen_unix(place: UnixPlace) -> Iterator[socket.socket]:
    path = place.path
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise Refusal(f"Path for UnixIO socket is too long: {path}")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        )
        try:
            # As swtpm, whoever made it: a start after a crash must not need a hand. That it is not
            # the socket of the TPM in the same folder while that is served, sees to `folderlock`.
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            # Never wider than asked for, see `daemons.runtime.sockets`.
            os.fchmod(listener.fileno(), place.mode)
            listener.bind(os.fspath(path))
            # Absolute, since a process in the background is elsewhere; a relative path may be
            # the only one that is short enough to be bound.
            stack.callback(remove_own, path.absolute(), path.lstat())
            path.chmod(place.mode)
            if place.uid is not None or place.gid is not None:
                os.chown(
                    path,
                    -1 if place.uid is None else place.uid,
                    -1 if place.gid is None else place.gid,
                )
            listener.listen(BACKLOG)
        except OSError as error:
            raise Refusal(f"Could not open UnixIO socket {path}: {error.strerror}") from None
        yield listener


def remove_own(path: Path, made: os.stat_result) -> None:
    """Remove a file, if it is there and the one that was made."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.lstat(), made):
            path.unlink()


@contextlib.contextmanager
def _listen_tcp(place: TcpPlace) -> Iterator[socket.socket]:
    is_six = ":" in place.address
    family = socket.AF_INET6 if is_six else socket.AF_INET
    try:
        socket.inet_pton(family, place.address)
    except OSError:
        raise Refusal(f"Could not parse the bind address '{place.address}'") from None
    scope = 0
    if is_six and place.interface is not None:
        try:
            scope = socket.if_nametoindex(place.interface)
        except OSError as error:
            raise Refusal(
                f"Could not convert interface name '{place.interface}' to index: {error.strerror}"
            ) from None
    address = (place.address, place.port, 0, scope) if is_six else (place.address, place.port)
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(
                socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            )
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise Refusal(f"Could not open TCP socket: {error.strerror}") from None
        yield listener


@contextlib.contextmanager
def _adopt(number: int) -> Iterator[Opened]:
    try:
        os.set_inheritable(number, False)
        made = socket.socket(fileno=number)
    except OSError as error:
        raise Refusal(f"Bad filedescriptor {number}: {error.strerror}") from None
    with made as found:
        if found.type != socket.SOCK_STREAM:
            raise Refusal(f"Bad filedescriptor {number}: it is no stream socket")
        is_listening = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        yield Opened(found, is_listening)
