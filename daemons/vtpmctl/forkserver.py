# SPDX-License-Identifier: Apache-2.0
"""A process that has imported the daemons and forks them on request.

Importing trio, the cryptographic library and the engine takes a daemon some 0.5 s of processor time
and 30 MB of memory; forked from a process that has done it, a daemon starts in 10 ms and shares
most of that memory with the others. The server is one thread, opens nothing, and serves one
supervisor over a SOCK_SEQPACKET pair:

    supervisor -> server   {"name", "module", "args", "fd_names", "notify", "watchdog_usec"},
                           with the descriptors
    server -> supervisor   {"started": pid} with a pidfd, in the order of the requests
    server -> supervisor   {"exited": pid, "code": as of subprocess}

It ends when the supervisor does. A daemon finds what it would find under systemd: its descriptors
from 3 on, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES, NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn, Self

from daemons.runtime.inherited import FIRST_FD

MESSAGE_LIMIT_BYTES = 64 * 1024
FD_LIMIT = 253
"""What one message carries (unix(7))."""

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HIGH_FD = 256
"""Descriptors are moved above all their targets first, so that no copy hits a source."""

_PR_SET_NAME = 15  # linux/prctl.h
_NAME_LIMIT_BYTES = 15
_STAT_ARG_START = 48 - 3  # proc(5), fields of /proc/PID/stat from 1; the first two are cut off
_STAT_ARG_END = 49 - 3


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """What is to be started.

    Attributes:
        name: for the process list.
        module: a module with a click command `main`.
        args: its command line; may hold secrets, so it is not shown and not in the process list.
        fd_names: names of the descriptors that come along, in their order.
        notify: path of the socket for sd_notify(3).
        watchdog_usec: how long it may be silent there.
    """

    name: str
    module: str
    args: tuple[str, ...] = field(repr=False)
    fd_names: tuple[str, ...]
    notify: str
    watchdog_usec: int

    def encode(self) -> bytes:
        """Return the message to the server."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Return the request in a message of our own supervisor."""
        fields = json.loads(message)
        fields["args"] = tuple(fields["args"])
        fields["fd_names"] = tuple(fields["fd_names"])
        return cls(**fields)


def serve(supervisor: socket.socket, modules: Sequence[str]) -> NoReturn:
    """Be the server until the supervisor hangs up, then exit.

    Args:
        supervisor: the server's end of the pair.
        modules: what to import before the first request is looked at.
    """
    # Ctrl-C at the terminal is for the supervisor, which tells the daemons in order.
    os.setpgid(0, 0)
    # Blocked, not ignored: what is sent to a daemon before it has its own dispositions must wait
    # for it, and an ignored signal would be thrown away.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    for module in modules:
        importlib.import_module(module)
    # Collections in the daemons would write to, and so unshare, pages that only hold modules.
    gc.collect()
    gc.freeze()
    children: dict[int, int] = {}  # pidfd to pid
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == supervisor.fileno():
                pid = _start(supervisor)
                pidfd = os.pidfd_open(pid)
                socket.send_fds(supervisor, [_encode(started=pid)], [pidfd])
                children[pidfd] = pid
                poll.register(pidfd, select.POLLIN)
            else:
                pid = children.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                supervisor.send(_encode(exited=pid, code=code))


def _encode(**fields: int) -> bytes:
    return json.dumps(fields).encode()


def _start(supervisor: socket.socket) -> int:
    """Take one request and fork; ends the server if there is none any more."""
    try:
        message, fds, _flags, _address = socket.recv_fds(supervisor, MESSAGE_LIMIT_BYTES, FD_LIMIT)
    except ConnectionResetError:
        message, fds = b"", []
    if not message:
        os._exit(0)
    request = SpawnRequest.decode(message)
    pid = os.fork()
    if pid == 0:
        _become(request, fds)
    for fd in fds:
        os.close(fd)
    return pid


def _become(request: SpawnRequest, fds: Sequence[int]) -> NoReturn:
    """Turn this fresh fork into the daemon; never returns into the server's loop."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        _place(fds)
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(request.fd_names))
        os.environ["LISTEN_FDNAMES"] = ":".join(request.fd_names)
        os.environ["NOTIFY_SOCKET"] = request.notify
        os.environ["WATCHDOG_PID"] = str(os.getpid())
        os.environ["WATCHDOG_USEC"] = str(request.watchdog_usec)
        _show_name(request.name)
        main = importlib.import_module(request.module).main
        main(args=list(request.args), prog_name=request.name)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _place(fds: Sequence[int]) -> None:
    """Put the descriptors where sd_listen_fds(3) looks, and close everything else."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for fd in fds]
    for target, fd in enumerate(high, start=FIRST_FD):
        os.dup2(fd, target)
    os.closerange(FIRST_FD + len(fds), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)


def _show_name(name: str) -> None:
    """Make `ps` and `top` show the daemon and not the supervisor's command line; best effort."""
    encoded = name.encode()
    with contextlib.suppress(OSError, AttributeError, ValueError, IndexError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, encoded[:_NAME_LIMIT_BYTES], 0, 0, 0)
        # What follows the command's name, which may hold blanks and brackets.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_STAT_ARG_START]), int(fields[_STAT_ARG_END])
        room = end - start
        if start and room > 0:
            ctypes.memmove(start, encoded[: room - 1].ljust(room, b"\0"), room)
