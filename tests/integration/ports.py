# SPDX-License-Identifier: Apache-2.0
"""TCP ports for daemons that have to be told theirs."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

_FIRST = 1024
_LAST = 65535
_claims: list[socket.socket] = []
"""A socket of an abstract name for each port that was given out; they go with the process."""


def free_port() -> int:
    """Return a port that nobody uses, at no address, and that nobody else is given.

    Not by another test process either, for as long as this one runs: what lies between this and
    the daemon's bind is the start of a daemon, and the kernel would give the same port again. It is
    none that the kernel gives to outgoing connections.
    """
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports: list[int] = [*range(int(low) - 1, _FIRST - 1, -1), *range(int(high) + 1, _LAST + 1)]
    # Processes begin at places of their own, so that one does not look at all that another has.
    start = (os.getpid() * 61) % len(ports)
    for port in ports[start:] + ports[:start]:
        if _claim(port) and _is_free(port):
            return port
    raise AssertionError("no TCP port is free")


def _claim(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        # As ports are, these names are of the network namespace. Before anything else: who looks
        # whether a port is free has it for a moment, in which its owner's daemon may want it.
        claim.bind(f"\0vtpm-suite-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        with contextlib.suppress(OSError):
            probe.bind(("::", port))
            return True
    return False
