# SPDX-License-Identifier: Apache-2.0
"""The manager's configuration: what its options and files say, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Level
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.freshness import FreshnessMode
from daemons.vtpmmgr.records import PCR_COUNT
from daemons.vtpmmgr.startup import StartOptions

DATABASE_NAME: Final = "manager.db"
DEFAULT_LOCALITY: Final = 2
DEFAULT_SEAL_PCRS: Final = "0-7"
"""What the static root of trust measures: firmware, its options, boot loader."""
DEFAULT_NV_INDEX: Final = 0x00015654

_NV_INDEX_LIMIT: Final = 0x0FFFFFFF
"""Above are the bits T, P, U and D of an NV index (TPM Main Part 2, 19.1), which are not an owner's
to use.
"""
_NV_INDEX_FIRST: Final = 0x00000002
"""0 writes the DIR of TPM 1.1 and 1 is no index for use."""
_PCR_RANGE: Final = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """Everything that the daemon is told.

    Attributes:
        state: folder of the database.
        socket: where vTPMs connect.
        socket_mode: permissions of that socket; the clients file decides beyond them.
        control: control socket.
        admin: socket for management commands.
        tis: folder of the hardware TPM's locality sockets.
        clients: path of the clients file.
        owner_auth: of the hardware TPM.
        srk_auth: likewise.
        locality: at which the hardware TPM is used.
        interrupts: whether to wait for the chip's interrupts; polling otherwise.
        seal_pcrs: PCRs to which a new root secret is sealed, ascending.
        nv_index: of the freshness area.
        xen_lists: whether configuration lists signed as in Xen are taken.
        freshness: how an older copy of the database is noticed.
        accept_rollback: instead of serving, make the database that is there the newest.
        level: of the log.
    """

    state: Path
    socket: Path
    socket_mode: int
    control: Path
    admin: Path
    tis: Path
    clients: Path
    owner_auth: Secret
    srk_auth: Secret
    locality: int
    interrupts: bool
    seal_pcrs: tuple[int, ...]
    nv_index: int
    xen_lists: bool
    freshness: FreshnessMode
    accept_rollback: bool
    level: Level

    @property
    def database(self) -> Path:
        """Path of the SQLite file."""
        return self.state / DATABASE_NAME

    @property
    def start_options(self) -> StartOptions:
        """What a start needs to know."""
        return StartOptions(self.database, self.seal_pcrs, self.nv_index, self.freshness)


def parse_pcrs(text: str) -> tuple[int, ...]:
    """Return the PCRs of a list, ascending: `none`, `all`, or N and N-M with commas.

    Raises:
        DaemonError: not such a list, a PCR above 23, or swapped bounds.
    """
    if text == "none":
        return ()
    if text == "all":
        return tuple(range(PCR_COUNT))
    found: set[int] = set()
    for part in text.split(","):
        match = _PCR_RANGE.fullmatch(part.strip())
        if match is None:
            raise DaemonError(f"PCR list {text!r}: {part!r} is neither N nor N-M")
        first = int(match[1])
        last = int(match[2] or match[1])
        if not first <= last < PCR_COUNT:
            raise DaemonError(f"PCR list {text!r}: {part!r} is not within 0-{PCR_COUNT - 1}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def parse_nv_index(text: str) -> int:
    """Return an NV index given in decimal or, with 0x, in hexadecimal.

    Raises:
        DaemonError: no number, or one that an owner cannot define.
    """
    try:
        index = int(text, 0)
    except ValueError:
        raise DaemonError(f"NV index {text!r} is not a number") from None
    if not _NV_INDEX_FIRST <= index <= _NV_INDEX_LIMIT:
        raise DaemonError(
            f"NV index {index:#x} is not within {_NV_INDEX_FIRST:#x}-{_NV_INDEX_LIMIT:#x}"
        )
    return index
