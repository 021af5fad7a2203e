# SPDX-License-Identifier: Apache-2.0
"""Telling the supervisor how the daemon is: sd_notify(3) datagrams, by systemd or `vtpmctl up`.

A supervisor that sets WATCHDOG_USEC wants to hear WATCHDOG=1 at least that often, and ends a daemon
that stays silent (sd_watchdog_enabled(3)).

Nobody may be listening: the daemon's end does nothing then, and a message that cannot be delivered
is dropped, as sd_notify(3) advises. Who is a supervisor itself listens at a `notify_socket`.
"""

from __future__ import annotations

import array
import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Self

import trio

ENVIRONMENT_NAME = "NOTIFY_SOCKET"
WATCHDOG_LIMIT_NAME = "WATCHDOG_USEC"
WATCHDOG_PID_NAME = "WATCHDOG_PID"

STATUS_PERIOD_S = 0.5
_STATUS_LIMIT = 500
"""Characters; a supervisor takes 4096 bytes at a time."""
_FD_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Notifier:
    """Where to send; None is nowhere."""

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        """Args:
        address: a path, "@" and an abstract name, or None.
        watchdog_s: how long we may be silent; None: for ever.
        """
        self._address = address
        self.watchdog_s = watchdog_s
        self._status = ""

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Take the variables out of the environment, so that children of ours do not speak for
        us."""
        variables = os.environ if environ is None else environ
        address = variables.pop(ENVIRONMENT_NAME, None)
        limit = variables.pop(WATCHDOG_LIMIT_NAME, "")
        pid = variables.pop(WATCHDOG_PID_NAME, None)
        watched = limit.isdecimal() and int(limit) > 0 and pid in {None, str(os.getpid())}
        return cls(
            address if address and address[0] in "/@" else None,
            watchdog_s=int(limit) / 1e6 if watched else None,
        )

    def ready(self) -> None:
        """Start-up is finished: every socket answers."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; nothing is sent if it is the last one again."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + text.replace("\n", " ")[:_STATUS_LIMIT])

    def alive(self) -> None:
        """Not hung; for the watchdog."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` says when that is over."""
        # systemd drops a message whose time is older than its own request (Type=notify-reload).
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """An orderly stop has begun."""
        self._send("STOPPING=1")

    def store_fd(self, name: str, fd: int, *, poll: bool = False) -> None:
        """Have the supervisor keep a duplicate of `fd` and pass it to the next start under this
        name.

        Args:
            name: letters, digits, dots, dashes.
            fd: stays the caller's.
            poll: whether it drops the duplicate when the peer hangs up; a memfd has none.
        """
        self._send(f"FDSTORE=1\nFDNAME={_fd_name(name)}\nFDPOLL={int(poll)}", fd)

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


class StatusLine:
    """The status line of a daemon whose state may change as often as its peers like."""

    def __init__(self, notifier: Notifier, describe: Callable[[], str]) -> None:
        """Args:
        notifier: the supervisor.
        describe: the line as of now.
        """
        self._notifier = notifier
        self._describe = describe
        self._changed = trio.Event()
        self._changed.set()

    def changed(self) -> None:
        """The line is another one now, or may be."""
        self._changed.set()

    async def run(self) -> None:
        """Send the line when it has changed, but only so often, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            self._notifier.status(self._describe())
            await trio.sleep(STATUS_PERIOD_S)


@contextlib.contextmanager
def notify_socket(path: Path) -> Iterator[socket.socket]:
    """Listen for what one process tells its supervisor; the socket does not block.

    A new one for each process: a late word of the last one cannot pass for the next one's.

    Args:
        path: in a private folder; what is there is replaced, and removed at the end.
    """
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with contextlib.closing(made):
        made.setblocking(False)
        made.bind(os.fspath(path))
        try:
            yield made
        finally:
            path.unlink(missing_ok=True)


def _fd_name(name: str) -> str:
    if _FD_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name for a kept descriptor")
    return name
