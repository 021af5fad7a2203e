# SPDX-License-Identifier: Apache-2.0
"""The TPM in a folder of `tpmfront swtpm-compat`, started for as long as it is needed."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from uuid import UUID

import trio

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.documents import read_file
from daemons.vtpmctl.tpmstream import GuestTpm

_IDENTITY: Final = "vtpm.uuid"
_END_LIMIT_S: Final = 15.0
_COMMAND: Final = (sys.executable, "-P", "-m", "daemons.tpmfront", "swtpm-compat", "socket")


def identity_of(folder: Path) -> UUID:
    """Return the vTPM of a folder whose TPM was started before.

    Raises:
        DaemonError: the folder does not say it.
    """
    path = folder / _IDENTITY
    try:
        return UUID(read_file(path).decode("ascii").strip())
    except ValueError as error:
        raise DaemonError(f"{path} does not hold a uuid") from error


@contextlib.asynccontextmanager
async def running_tpm(folder: Path) -> AsyncIterator[GuestTpm]:
    """Start the TPM of a folder, and give a connection to it.

    What keeps it from starting goes to standard error.

    Raises:
        DaemonError: it does not come up, or does not end in order.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await trio.lowlevel.open_process(
            [
                *_COMMAND,
                f"--tpmstate=dir={folder}",
                "--flags=not-need-init,startup-clear",
                # It ends when the connection does.
                f"--fd={theirs.fileno()}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    try:
        try:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
                yield GuestTpm(stream, folder)
        finally:
            # Also after a failure: it is about to say why.
            with trio.move_on_after(_END_LIMIT_S, shield=True):
                await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()
    if process.returncode:
        raise DaemonError(f"the TPM in {folder} ended with exit code {process.returncode}")
