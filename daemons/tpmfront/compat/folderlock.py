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
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(folder / LOCK_NAME, flags, 0o600)
    except OSError as error:
        raise Refusal(f"Could not lock access to {folder}: {error.strerror}") from None
    try:
        deadline = time.monotonic() + _PREDECESSOR_S
        while not try_lock(fd):
            if time.monotonic() >= deadline:
                raise Refusal(f"{folder} is in use by another process")
            select.select([], [], [], _POLL_S)
        yield fd
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Lock a file if nobody else has; whether it is locked. Closing the descriptor ends that, with
    all that were inherited from it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
