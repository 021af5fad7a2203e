# SPDX-License-Identifier: Apache-2.0
"""What must be there before the TPM is started: the image for itself, and a manager that lets us be
its vTPM."""

from __future__ import annotations

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
from daemons.tpmfront.compat.folderlock import try_lock
from daemons.tpmfront.compat.identity import NAME, candidates, read_identity, write_identity
from daemons.tpmfront.compat.standing import Standing, is_admitted, standing_of
from protocol.manager.compat import compat_uuid, uid_of

_IMAGE_LOCK: Final = ".lock"
_RUN_PREFIX: Final = "vtpm-swtpm-"
_LOCK_FILE_LIMIT_BYTES: Final = 4096
"""What is read of a lock file: a path, of whatever length."""
_ORPHAN_S: Final = 15.0
"""How long the vtpm of a process that was killed may take to end."""
_POLL_S: Final = 0.05


def make_run_folder(lock: int) -> Path:
    """Make a private folder for sockets, and remove that of a process that was killed.

    Args:
        lock: of `folderlock.locked`; the file says where the folder is.

    Raises:
        OSError: it cannot be made.
    """
    left = Path(os.fsdecode(os.pread(lock, _LOCK_FILE_LIMIT_BYTES, 0)))
    if left.parent == Path(tempfile.gettempdir()) and left.name.startswith(_RUN_PREFIX):
        # Does not follow links, and cannot remove what is another user's.
        shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix=_RUN_PREFIX)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, os.fsencode(made), 0)
    except OSError:
        os.rmdir(made)
        raise
    return Path(made)


async def wait_image_free(state: Path) -> None:
    """Wait until no vtpm has its state folder: that of a process that was killed is ending.

    Raises:
        Refusal: another one has it.
    """
    try:
        fd = os.open(state / _IMAGE_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # none was ever there
    try:
        with trio.move_on_after(_ORPHAN_S):
            while True:
                if try_lock(fd):
                    return
                await trio.sleep(_POLL_S)
        raise Refusal(f"{state} is in use by another vtpm")
    finally:
        os.close(fd)


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
