# SPDX-License-Identifier: Apache-2.0
"""Which vTPM a folder of swtpm's --tpmstate belongs to.

The folder's file `vtpm.uuid` says it. It is made at the first use: from the uuid that is part of
the folder's path, as libvirt has it (/var/lib/libvirt/swtpm/UUID/tpm1.2), else from a new one. For
users whom [compat] of vtpm.toml lists, the vTPM's uuid is made of that uuid and of the user
(`protocol.manager.compat`), so that nobody can ask for another user's; otherwise it is the uuid
itself, for a guest that the configuration knows by it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from daemons.tpmfront.compat.errors import Refusal
from protocol.manager.compat import compat_uuid

NAME: Final = "vtpm.uuid"
"""The file; one line."""
FOREIGN: Final = "tpm-00.permall"
"""What swtpm itself keeps in such a folder."""
_LIMIT_BYTES: Final = 64
_UUID_LETTERS: Final = 36


def read_identity(folder: Path) -> UUID | None:
    """Return the uuid that a folder's file says; None if there is no file.

    Raises:
        Refusal: the file is not what it must be, or the folder is one of swtpm's own.
    """
    path = folder / NAME
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        if (folder / FOREIGN).exists():
            raise Refusal(
                f"{folder} has the state of a TPM of swtpm itself ({FOREIGN}), which cannot be "
                "taken over: use another folder, which will be another TPM"
            ) from None
        return None
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None
    with open(fd, "rb") as file:
        content = file.read(_LIMIT_BYTES)
    try:
        return UUID(content.decode("ascii").strip())
    except ValueError:
        raise Refusal(f"{path} does not hold a uuid") from None


def candidates(folder: Path, uid: int) -> Sequence[UUID]:
    """Return which vTPMs a folder without a file may be, the likeliest first.

    Args:
        folder: its absolute path counts.
        uid: of this process.
    """
    named = _uuid_in(folder.absolute())
    made = compat_uuid(uid, named or uuid4())
    return [made] if named is None else [made, named]


def write_identity(folder: Path, uuid: UUID) -> None:
    """Make the file, durably, with mode 0600; one that is there stays.

    Raises:
        Refusal: it cannot be made, or another process has just made one.
    """
    path = folder / NAME
    # Whole or not at all: made under a name of this process's own, then linked.
    draft = folder / f".{NAME}.{os.getpid()}"
    try:
        fd = os.open(
            draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with open(fd, "wb") as file:
            file.write(f"{uuid}\n".encode())
            file.flush()
            os.fsync(fd)
        try:
            path.hardlink_to(draft)
        finally:
            draft.unlink()
        _sync_folder(folder)
    except FileExistsError:
        raise Refusal(f"{path}: another process uses {folder}") from None
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None


def _uuid_in(folder: Path) -> UUID | None:
    """Return the uuid that is a component of a path, the last one if there are several."""
    for name in reversed(folder.parts):
        if len(name) == _UUID_LETTERS:
            try:
                return UUID(name)
            except ValueError:
                continue
    return None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
