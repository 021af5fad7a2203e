# SPDX-License-Identifier: Apache-2.0
"""What the manager runs with: options and the configuration's files, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.log import Level
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.filenames import DATABASE_NAME
from daemons.vtpmmgr.startup import StartOptions


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """Everything that the daemon is told but who its guests are.

    Attributes:
        state: folder of the database.
        socket: where vTPMs connect.
        socket_mode: permissions of that socket; the guests' files decide beyond them.
        control: control socket.
        admin: socket for management commands.
        tis: folder of the hardware TPM's locality sockets.
        owner_auth: of the hardware TPM.
        srk_auth: likewise.
        locality: at which the hardware TPM is used.
        interrupts: whether to wait for the chip's interrupts; polling otherwise.
        seal_pcrs: PCRs to which a new root secret is sealed, ascending.
        nv_index: of the freshness area.
        xen_lists: whether configuration lists signed as in Xen are taken.
        freshness: how an older copy of the database is noticed.
        accept_rollback: instead of serving, make the database that is there the newest.
        dry_run: with that: only say what would be done.
        level: of the log.
    """

    state: Path
    socket: Path
    socket_mode: int
    control: Path
    admin: Path
    tis: Path
    owner_auth: Secret
    srk_auth: Secret
    locality: int
    interrupts: bool
    seal_pcrs: tuple[int, ...]
    nv_index: int
    xen_lists: bool
    freshness: FreshnessMode
    accept_rollback: bool
    dry_run: bool
    level: Level

    @property
    def database(self) -> Path:
        """Path of the SQLite file."""
        return self.state / DATABASE_NAME

    @property
    def start_options(self) -> StartOptions:
        """What a start needs to know."""
        return StartOptions(self.database, self.seal_pcrs, self.nv_index, self.freshness)
