# SPDX-License-Identifier: Apache-2.0
"""What one vTPM daemon runs with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from daemons.runtime.config.values import EndorsementKey, LocalityRule, StartupKind
from daemons.runtime.log import Level


@dataclass(frozen=True, slots=True)
class Config:
    """What one vTPM daemon runs with.

    Attributes:
        state: folder of the slots.
        socket: where fronts connect (split driver).
        control: where `vtpmctl` connects.
        manager: the manager's socket.
        uuid: identity towards the manager and the fronts.
        name: of the guest, for the log and the process list.
        front_uid: the only uid that may connect.
        startup: after power-on.
        hw_init_pcrs: PCRs that start with the hardware TPM's value.
        maintenance_commands: whether ordinals 44-48 answer.
        locality_rules: empty means that every locality is open to every client.
        ek: whether a new TPM gets its endorsement key at once.
        locks_nv: whether permissions of NV areas count in a new TPM.
        opted_in: whether a new TPM comes enabled and activated.
        level: of the log.
    """

    state: Path
    socket: Path
    control: Path
    manager: Path
    uuid: UUID
    name: str
    front_uid: int
    startup: StartupKind = StartupKind.CLEAR
    hw_init_pcrs: frozenset[int] = frozenset()
    maintenance_commands: bool = False
    locality_rules: tuple[LocalityRule, ...] = ()
    ek: EndorsementKey = EndorsementKey.CREATE
    locks_nv: bool = True
    opted_in: bool = True
    level: Level = Level.INFO
