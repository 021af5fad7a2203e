# SPDX-License-Identifier: Apache-2.0
"""Telling the supervisor how the daemon is: sd_notify(3) datagrams, by systemd or `vtpmctl up`.

Nobody may be listening: everything here does nothing then, and a message that cannot be delivered
is dropped, as sd_notify(3) advises.
"""

from __future__ import annotations

import array
import contextlib
import os
import re
import socket
import time
from collections.abc import MutableMapping
from typing import Self

ENVIRONMENT_NAME = "NOTIFY_SOCKET"

_FD_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Notifier:
    """Where to send; None is nowhere."""

    def __init__(self, address: str | None) -> None:
        """Args: address: a path, "@" and an abstract name, or None."""
        self._address = address

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Take the address out of the environment, so that children of ours do not speak for us."""
        address = (os.environ if environ is None else environ).pop(ENVIRONMENT_NAME, None)
        return cls(address if address and address[0] in "/@" else None)

    def ready(self) -> None:
        """Start-up is finished: every socket answers."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + text.replace("\n", " "))

    def reloading(self) -> None:
        """The configuration is being read again; `ready` says when that is over."""
        # systemd drops a message whose time is older than its own request (Type=notify-reload).
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """An orderly stop has begun."""
        self._send("STOPPING=1")

    def store_fd(self, name: str, fd: int) -> None:
        """Have the supervisor keep a duplicate of `fd` and pass it to the next start under this
        name."""
        # FDPOLL=0: a memfd cannot be polled, so there is nothing to watch it for.
        self._send(f"FDSTORE=1\nFDNAME={_fd_name(name)}\nFDPOLL=0", fd)

    def remove_fd(self, name: str) -> None:
        """Have the supervisor drop what it keeps under this name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={_fd_name(name)}")

    def _send(self, text: str, fd: int | None = None) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        ancillary = []
        if fd is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            # A supervisor that is stopped (Ctrl-Z) must not stop the TPM of a guest.
            flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
            sender.sendmsg([text.encode()], ancillary, flags, address)


def _fd_name(name: str) -> str:
    if _FD_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name for a kept descriptor")
    return name
