# SPDX-License-Identifier: Apache-2.0
"""Listening Unix sockets that replace a dead predecessor's file, and who is at the other end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import trio
from trio.socket import SocketType

from daemons.runtime.errors import DaemonError
from protocol.tpmif.unix import PeerCredentials

PATH_LIMIT_BYTES = 107
"""sun_path is 108 bytes with its final zero (unix(7))."""

SO_PEERSEC = 31
"""asm-generic/socket.h; the socket module has no name for it."""

_UCRED = struct.Struct("=iII")  # pid, uid, gid (unix(7), struct ucred)
_LABEL_LIMIT_BYTES = 4096


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


def peer_credentials(peer: SocketType | socket.socket) -> PeerCredentials:
    """Return who connected, as the kernel recorded it at connect(2) time; the peer cannot forge
    it."""
    pid, uid, gid = _UCRED.unpack(
        peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return PeerCredentials(pid=pid, uid=uid, gid=gid, label=_security_label(peer))


def _security_label(peer: SocketType | socket.socket) -> str:
    # Only where a security module labels sockets (SELinux, Smack, AppArmor); elsewhere ENOPROTOOPT.
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, SO_PEERSEC, _LABEL_LIMIT_BYTES)
    except OSError:
        return ""
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
