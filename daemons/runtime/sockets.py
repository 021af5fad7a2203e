# SPDX-License-Identifier: Apache-2.0
"""Listening Unix sockets, made by the supervisor or by ourselves, and how they accept.

One that the supervisor made is there before we are and after: who connects while we are away waits
instead of being refused. So it is not ours to remove. One of our own replaces a dead predecessor's
file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio
from trio.socket import SocketType

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.socketpaths import PATH_LIMIT_BYTES

# What accept(2) says of such a lack; the same set as in trio.serve_listeners.
_OVERLOAD: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_OVERLOAD_PAUSE_S: Final = 0.1
# What accept(2) says of a TCP connection that was lost before it was accepted.
_GONE: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT),
        *(errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH),
    }
)


class Listeners:
    """Where a daemon listens: at what it inherits under a name, else at a socket of its own."""

    def __init__(self, inherited: Mapping[str, Sequence[int]] | None = None) -> None:
        """Args: inherited: descriptors by name; those that are asked for become ours."""
        self._inherited = {name: list(fds) for name, fds in (inherited or {}).items()}

    @contextlib.contextmanager
    def listen(
        self,
        name: str,
        path: Path,
        *,
        kind: int = socket.SOCK_STREAM,
        mode: int = 0o600,
        backlog: int = 128,
    ) -> Iterator[SocketType]:
        """Listen; on leaving the context the socket is closed, its file removed if we made it.

        Args:
            name: of the inherited listener; asked for again, it is the next one of that name.
            path: of the socket's file, and as below, if there is no inherited one.
            kind: SOCK_STREAM or SOCK_SEQPACKET.
            mode: of a socket of our own.
            backlog: of a socket of our own.

        Raises:
            DaemonError: what is inherited is no listening Unix socket of that kind; or as
                `listen_unix`.
            OSError: it cannot be bound.
        """
        fds = self._inherited.get(name)
        if fds:
            with _adopt(fds.pop(0), name, kind) as listener:
                yield listener
        else:
            with listen_unix(path, kind=kind, mode=mode, backlog=backlog) as listener:
                yield listener

    def take(self, name: str) -> Sequence[int]:
        """Return all inherited descriptors of a name; they are the caller's from now on."""
        return self._inherited.pop(name, [])


@contextlib.contextmanager
def _adopt(fd: int, name: str, kind: int) -> Iterator[SocketType]:
    """Take over a listening socket that the supervisor made, which stays open there."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise DaemonError(f"inherited descriptor {name} is not a socket")
    with socket.socket(fileno=fd) as listener:
        if listener.family != socket.AF_UNIX or listener.type != kind:
            wanted = socket.SocketKind(kind).name
            raise DaemonError(
                f"inherited socket {name} is {listener.family.name} {listener.type.name}, "
                f"should be AF_UNIX {wanted}"
            )
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise DaemonError(f"inherited socket {name} does not listen")
        yield trio.socket.from_stdlib_socket(listener)


@contextlib.contextmanager
def listen_unix(
    path: Path,
    *,
    kind: int = socket.SOCK_STREAM,
    mode: int = 0o600,
    backlog: int = 128,
) -> Iterator[SocketType]:
    """Listen at `path`; on leaving the context the socket is closed and its file removed.

    A socket file that nobody listens to is replaced; any other kind of file is not touched. There
    is no moment at which the file has a wider mode than asked for.

    Args:
        path: at most 107 bytes; its folder must exist.
        kind: SOCK_STREAM or SOCK_SEQPACKET.
        mode: permissions of the file; connecting takes write permission.
        backlog: connections that may wait for accept.

    Raises:
        DaemonError: the path is too long, is in use or is no socket.
        OSError: it cannot be bound.
    """
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise DaemonError(f"socket path {path} is longer than {PATH_LIMIT_BYTES} bytes")
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(listener.close)
        _remove_stale(path, kind)
        # The new file's mode is the socket's own, cut by the umask: set before bind, so it is never
        # too wide ...
        os.fchmod(listener.fileno(), mode)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        made = path.lstat()
        cleanup.callback(_remove_own, path, (made.st_dev, made.st_ino))
        path.chmod(mode)  # ... and after, so it is not too narrow.
        listener.listen(backlog)
        yield trio.socket.from_stdlib_socket(listener)


def _remove_stale(path: Path, kind: int) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise DaemonError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        outcome = probe.connect_ex(os.fspath(path))
    if outcome != errno.ECONNREFUSED:
        raise DaemonError(f"{path} is in use by another process")
    path.unlink()


def _remove_own(path: Path, identity: tuple[int, int]) -> None:
    # A successor may have put its own socket there in the meantime: that one stays.
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if (found.st_dev, found.st_ino) == identity:
            path.unlink()


async def accept(listener: SocketType, log: Log) -> SocketType:
    """Return the next connection of a listener.

    While the process or the system is out of something that comes back (descriptors, memory), it
    asks again now and then; the connections wait in the backlog.

    Raises:
        OSError: the listener itself is broken.
    """
    while True:
        try:
            return (await listener.accept())[0]
        except OSError as error:
            if error.errno in _GONE:
                continue
            if error.errno not in _OVERLOAD:
                raise
            log.warning("cannot accept", reason=error.strerror)
            await trio.sleep(_OVERLOAD_PAUSE_S)
