# SPDX-License-Identifier: Apache-2.0
"""Listening TCP sockets: those that the supervisor made, and our own.

A daemon in its sandbox has no network and cannot bind; then systemd makes the sockets, outside, and
passes them under the name "tcp". Whichever of the configured endpoints is among them is that one;
what else is passed is served at locality 0, since whoever made it meant it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Final

import trio
from trio.socket import SocketType

from daemons.runtime.config.endpoints import TcpEndpoint, check_endpoints
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log

LISTENER: Final = "tcp"
"""Name of inherited listeners."""
_NOT_HERE: Final = frozenset({errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL})


def listen_tcp(
    inherited: Sequence[int],
    endpoints: Sequence[TcpEndpoint],
    stack: ExitStack,
    log: Log,
    *,
    any_address: bool,
    backlog: int,
) -> list[tuple[SocketType, TcpEndpoint]]:
    """Listen at all endpoints, and at what was passed besides.

    Args:
        inherited: listening sockets; they become ours.
        endpoints: that are asked for.
        stack: closes the sockets.
        log: warned of each that other machines reach.
        any_address: whether those are wanted.
        backlog: of sockets of our own.

    Raises:
        DaemonError: what is passed is no listening TCP socket, an endpoint is in use or cannot be
            had from here, or it is for other machines and that is not wanted.
    """
    bound: list[tuple[SocketType, TcpEndpoint]] = []
    wanted = {endpoint.place: endpoint for endpoint in endpoints}
    for fd in inherited:
        listener = stack.enter_context(_adopt(fd))
        found = _endpoint_of(listener)
        endpoint = wanted.pop(found.place, found)
        bound.append((trio.socket.from_stdlib_socket(listener), endpoint))
    _check([endpoint for _, endpoint in bound] + list(wanted.values()), any_address=any_address)
    for endpoint in wanted.values():
        listener = stack.enter_context(_bind(endpoint, backlog))
        bound.append((trio.socket.from_stdlib_socket(listener), endpoint))
    for _, endpoint in bound:
        if not endpoint.is_loopback:
            log.warning("other machines may use this TPM, unencrypted", address=endpoint.place)
    return bound


def _check(endpoints: Sequence[TcpEndpoint], *, any_address: bool) -> None:
    try:
        check_endpoints(tuple(endpoints), any_address=any_address)
    except ValueError as error:
        raise DaemonError(f"tcp: {error}") from error


def _adopt(fd: int) -> socket.socket:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise DaemonError(f"inherited descriptor {LISTENER} is not a socket")
    listener = socket.socket(fileno=fd)
    if (
        listener.family not in (socket.AF_INET, socket.AF_INET6)
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.close()
        raise DaemonError(f"inherited socket {LISTENER} is no listening TCP socket")
    return listener


def _endpoint_of(listener: socket.socket) -> TcpEndpoint:
    address, port = listener.getsockname()[:2]
    return TcpEndpoint(ip_address(address.partition("%")[0]), port)


def _bind(endpoint: TcpEndpoint, backlog: int) -> socket.socket:
    is_six = endpoint.address.version == 6
    family = socket.AF_INET6 if is_six else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise _refusal(endpoint, error) from error
    try:
        # Connections of the last process that are still being closed do not hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_six:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((str(endpoint.address), endpoint.port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise _refusal(endpoint, error) from error
    return listener


def _refusal(endpoint: TcpEndpoint, error: OSError) -> DaemonError:
    if error.errno == errno.EADDRINUSE:
        return DaemonError(f"TCP {endpoint.place} is in use by another process")
    if error.errno in _NOT_HERE:
        return DaemonError(
            f"TCP {endpoint.place} cannot be had from here ({error.strerror}); under systemd "
            "tpmfront-tcp@NAME.socket makes it"
        )
    return DaemonError(f"TCP {endpoint.place}: {error.strerror}")
