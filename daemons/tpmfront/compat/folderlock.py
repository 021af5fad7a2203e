# SPDX-License-Identifier: Apache-2.0
"""The lock on a folder of --tpmstate, whose holder alone touches what else belongs to the TPM.

That is its sockets as well, so it comes before them, and goes after them; see `places` for what
must not be imported until then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemons.tpmfront.compat.errors import Refusal

LOCK_NAME: Final = ".vtpm.lock"
_PREDECESSOR_S: Final = 3.0
"""How long a process that was told to end may take: swtpm is gone when SHUTDOWN is answered."""
_POLL_S: Final = 0.02


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other processes away from a folder; give the descriptor of the file that is locked.

    Waits a little for one that is about to end.

    Raises:
        Refusal: it is no folder of ours, or another process has it.
    """
    try:
        fd = _lock(folder / LOCK_NAME)
    except OSError as error:
        raise Refusal(f"Could not lock access to {folder}: {error.strerror}") from None
    if fd is None:
        raise Refusal(f"{folder} is in use by another process")
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(path: Path) -> int | None:
    """Return the descriptor of a file that is locked; None if others have it for too long."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    deadline = time.monotonic() + _PREDECESSOR_S
    while True:
        fd = os.open(path, flags, 0o600)
        try:
            # A file that was removed, or another one put in its place, keeps nobody away.
            if try_lock(fd) and _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if time.monotonic() >= deadline:
            return None
        select.select([], [], [], _POLL_S)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def try_lock(fd: int) -> bool:
    """Lock a file if nobody else has; whether it is locked. That ends when the descriptor is
    closed, in every process that got it by a fork."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
