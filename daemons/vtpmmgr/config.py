# SPDX-License-Identifier: Apache-2.0
"""What the manager runs with: options and the configuration's files, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemons.runtime.log import Level
from daemons.runtime.secret import Secret

DATABASE_NAME: Final = "manager.db"


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """Everything that the daemon is told but who its guests are.

    Attributes:
        state: folder of the database.
        socket: where vTPMs connect.
        socket_mode: permissions of that socket; the guests' files decide beyond them.
        control: control socket.
        tis: folder of the hardware TPM's locality sockets.
        owner_auth: of the hardware TPM.
        srk_auth: likewise.
        locality: at which the hardware TPM is used.
        interrupts: whether to wait for the chip's interrupts; polling otherwise.
        seal_pcrs: PCRs to which a new root secret is sealed, ascending.
        nv_index: of the freshness area.
        level: of the log.
    """

    state: Path
    socket: Path
    socket_mode: int
    control: Path
    tis: Path
    owner_auth: Secret
    srk_auth: Secret
    locality: int
    interrupts: bool
    seal_pcrs: tuple[int, ...]
    nv_index: int
    level: Level

    @property
    def database(self) -> Path:
        """Path of the SQLite file."""
        return self.state / DATABASE_NAME
