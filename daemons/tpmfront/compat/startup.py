# SPDX-License-Identifier: Apache-2.0
"""What must be there before the TPM is started: the folder for itself, and a manager that lets us
be its vTPM."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import trio

from daemons.runtime.log import Log
from daemons.tpmfront.compat.capabilities import STATE_NAME
from daemons.tpmfront.compat.errors import Refusal
from daemons.tpmfront.compat.identity import NAME, candidates, read_identity, write_identity
from daemons.tpmfront.compat.standing import Standing, is_admitted, standing_of
from protocol.manager.compat import compat_uuid, uid_of

LOCK_NAME: Final = ".vtpm.lock"
_IMAGE_LOCK: Final = ".lock"
_RUN_PREFIX: Final = "vtpm-swtpm-"
_PATH_LIMIT_BYTES: Final = 4096
_PREDECESSOR_S: Final = 3.0
"""How long a process that was told to end may take: swtpm is gone when SHUTDOWN is answered."""
_ORPHAN_S: Final = 15.0
"""How long the vtpm of a process that was killed may take to end."""
_POLL_S: Final = 0.05


async def lock_folder(folder: Path) -> int:
    """Keep other processes away from a folder of --tpmstate; return the descriptor whose closing
    ends that.

    Waits a little for one that is about to end, and for the vtpm of one that was killed.

    Raises:
        Refusal: it is no folder of ours, or another process has it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(folder / LOCK_NAME, flags, 0o600)
    except OSError as error:
        raise Refusal(f"Could not lock access to {folder}: {error.strerror}") from None
    try:
        if not await _lock(fd, _PREDECESSOR_S):
            raise Refusal(f"{folder} is in use by another process")
        await _wait_image_free(folder / STATE_NAME)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_run_folder(lock: int) -> Path:
    """Make a private folder for sockets, and remove that of a process that was killed.

    Args:
        lock: of `lock_folder`; the file says where the folder is.

    Raises:
        OSError: it cannot be made.
    """
    left = Path(os.fsdecode(os.pread(lock, _PATH_LIMIT_BYTES, 0)))
    if left.parent == Path(tempfile.gettempdir()) and left.name.startswith(_RUN_PREFIX):
        # Does not follow links, and cannot remove what is another user's.
        shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix=_RUN_PREFIX)
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(made), 0)
    return Path(made)


async def _wait_image_free(state: Path) -> None:
    """Wait until no vtpm has its state folder."""
    try:
        fd = os.open(state / _IMAGE_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # none was ever there
    try:
        if not await _lock(fd, _ORPHAN_S):
            raise Refusal(f"{state} is in use by another vtpm")
    finally:
        os.close(fd)


async def _lock(fd: int, limit_s: float) -> bool:
    """Lock a file within a time; whether it is locked."""
    with trio.move_on_after(limit_s):
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                await trio.sleep(_POLL_S)
    return False


async def find_identity(folder: Path, manager: Path, log: Log) -> UUID:
    """Return the vTPM of a folder, which the manager admits; what was found is written down.

    Args:
        folder: of --tpmstate; ours alone.
        manager: its socket.
        log: of this process.

    Raises:
        Refusal: there is no manager, or it admits none; or nobody can say which one it is.
    """
    known, uid = read_identity(folder), os.geteuid()
    if known is not None:
        if await is_admitted(manager, known):
            return known
        raise _not_admitted(folder, manager, f"uid {uid} may not be vTPM {known}")
    if _has_images(folder / STATE_NAME):
        raise Refusal(
            f"{folder} has images of a TPM and no {NAME}, which says whose they are: put it back"
        )
    for uuid in candidates(folder, uid):
        if not await is_admitted(manager, uuid):
            continue
        # A folder that was removed, as by `virsh undefine`, and made anew is another TPM, as with
        # swtpm. What an operator has configured is another matter.
        if uid_of(uuid) == uid and await standing_of(manager, uuid) is Standing.USED:
            log.warning("folder made anew is another TPM", former=uuid)
            uuid = compat_uuid(uid, uuid4())
        write_identity(folder, uuid)
        return uuid
    raise _not_admitted(folder, manager, f"uid {uid} has no vTPM")


def _has_images(state: Path) -> bool:
    """Say whether a state folder has a slot file.

    Raises:
        Refusal: it cannot be told.
    """
    try:
        return any(name.startswith("slot") for name in os.listdir(state))
    except FileNotFoundError:
        if state.is_symlink():
            raise Refusal(f"{state} is a link to nowhere") from None
        return False
    except OSError as error:
        raise Refusal(f"{state}: {error.strerror}") from None


def _not_admitted(folder: Path, manager: Path, what: str) -> Refusal:
    return Refusal(
        f"the manager at {manager} refuses: {what}. Put {os.geteuid()} into uids of [compat] in "
        "its vtpm.toml and run vtpmctl reload; or give a guest of guests.d this uid, and its uuid "
        f"to {folder / NAME}"
    )
