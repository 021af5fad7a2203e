# SPDX-License-Identifier: Apache-2.0
"""A daemon that runs for as long as one command of `vtpmctl` needs it, and ends with it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from daemons.runtime.daemon import SUPERVISOR
from daemons.runtime.errors import DaemonError
from daemons.runtime.notify import ENVIRONMENT_NAME

_START_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 30.0
_NOTIFICATION_LIMIT_BYTES: Final = 4096

# Descriptor 3 is the pipe that tells the daemon of our end, whatever that is; nobody but a shell
# can tell a program its own process id.
_SHELL: Final = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@" 3<&0 </dev/null'


@asynccontextmanager
async def running_alone(
    module: str, arguments: tuple[str, ...], notify: Path
) -> AsyncIterator[None]:
    """Run a daemon; it is ready in the block, and has stopped in order behind it.

    Args:
        module: that runs it, for `python -m`.
        notify: path for its notify socket; removed at the end.

    Raises:
        DaemonError: it does not come up.
    """
    await trio.Path(notify).unlink(missing_ok=True)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        await told.bind(os.fspath(notify))
        process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", _SHELL, "sh", sys.executable, "-m", module, *arguments],
            stdin=-1,
            cwd="/",
            env={
                **os.environ,
                ENVIRONMENT_NAME: os.fspath(notify),
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": SUPERVISOR,
            },
        )
        try:
            await _wait_ready(process, told, module)
            yield
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
                await trio.Path(notify).unlink(missing_ok=True)


async def _wait_ready(process: trio.Process, told: trio.socket.SocketType, module: str) -> None:
    ready = trio.Event()

    async def follow() -> None:
        while b"READY=1" not in await told.recv(_NOTIFICATION_LIMIT_BYTES):
            pass
        ready.set()
        nursery.cancel_scope.cancel()

    async def wait_end() -> None:
        await process.wait()
        nursery.cancel_scope.cancel()

    with trio.move_on_after(_START_LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            nursery.start_soon(wait_end)
    if ready.is_set():
        return
    if process.returncode is not None:
        raise DaemonError(f"{module} ended with {process.returncode}; the reason is above")
    raise DaemonError(f"{module} is not ready after {_START_LIMIT_S:g} s")


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    with trio.move_on_after(_STOP_LIMIT_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
