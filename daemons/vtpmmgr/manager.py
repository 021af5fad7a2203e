# SPDX-License-Identifier: Apache-2.0
"""The parts of a manager that has its database, put together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.arriving import ArrivingCommands
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.envelope import NotAuthentic
from daemons.vtpmmgr.groups import GroupCommands
from daemons.vtpmmgr.groupview import GROUPS, Group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.identity import ClientTable
from daemons.vtpmmgr.leaving import LeavingCommands
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.management import Management
from daemons.vtpmmgr.moves import Moves
from daemons.vtpmmgr.openings import Openings
from daemons.vtpmmgr.platform import PlatformCommands
from daemons.vtpmmgr.records import GroupRecord, PolicyRecord
from daemons.vtpmmgr.recovery import RecoveryCommands
from daemons.vtpmmgr.rotation import RotationCommands
from daemons.vtpmmgr.sealing import nv_indices
from daemons.vtpmmgr.service import ManagerService
from daemons.vtpmmgr.startup import Started
from daemons.vtpmmgr.statetargets import StateTargetCommands
from daemons.vtpmmgr.transportkeys import TransportKeyCommands
from daemons.vtpmmgr.vtpms import VtpmCommands
from protocol.manager.constants import ManagerCode


@dataclass(frozen=True, slots=True)
class ManagementOptions:
    """What management commands need to know.

    Attributes:
        identity_auth: of identities that belong to no group (`platform.proxy_auth`).
        boot: of this system, 16 bytes; another after each start of the machine.
        xen_lists: whether configuration lists signed as in Xen are taken.
    """

    identity_auth: Secret
    boot: bytes
    xen_lists: bool = False


class Manager:
    """A manager that may serve.

    Attributes:
        committer: its `run` has to be kept running.
        management: all commands, for the admin socket.
        service: handler of the split driver's backend.
    """

    def __init__(
        self,
        started: Started,
        clients: ClientTable,
        hardware: Hardware,
        options: ManagementOptions,
        log: Log,
        connections_changed: Callable[[int], None] = lambda _count: None,
    ) -> None:
        openings = Openings()
        self.committer = Committer(started.ledger, started.freshness, hardware, log)
        groups = GroupCommands(
            self.committer,
            hardware,
            openings,
            boot=options.boot,
            xen_lists=options.xen_lists,
            log=log,
        )
        platform = PlatformCommands(hardware, options.identity_auth, log, self._own_areas)
        recovery = RecoveryCommands(
            hardware, options.identity_auth, groups.read, self._open_recovered, log
        )
        for_vtpms = (
            groups.commands,
            VtpmCommands(self.committer, self._gives_admin, openings, log).commands,
            platform.commands,
            RotationCommands(self.committer, hardware, options.boot, log).commands,
            recovery.commands,
        )
        moves = Moves(self.committer, log)
        self.management = Management(
            *for_vtpms,
            TransportKeyCommands(self.committer, hardware, log).commands,
            LeavingCommands(moves, hardware, openings, log).commands,
            ArrivingCommands(moves, hardware, log).commands,
            moves.commands,
            StateTargetCommands(self.committer, hardware, log).commands,
        )
        # a vTPM, ADMIN or not, moves nobody and says of nobody where its state may go
        self.service = ManagerService(
            clients,
            self.committer,
            hardware,
            Management(*for_vtpms),
            openings,
            log,
            connections_changed,
        )

    def _gives_admin(self, uuid: UUID) -> bool:
        return self.service.gives_admin(uuid)

    def _own_areas(self) -> Collection[int]:
        return nv_indices(self.committer.keys.root.nv_index)

    async def _open_recovered(self, group: Group, key: Secret) -> None:
        """Open a group with the key that its agent gave back."""

        def open_now(ledger: Ledger) -> None:
            # as it is now: the manager may have got new keys since the group was read
            record = ledger.get(GroupRecord, group.record.uuid.bytes)
            policy = ledger.get(PolicyRecord, group.record.uuid.bytes)
            if record is None or policy is None:
                raise CommandRefused(ManagerCode.FAIL)
            try:
                ledger.keys.open_recovered(record, policy, key)
            except NotAuthentic as error:
                raise CommandRefused(ManagerCode.DECRYPT_ERROR) from error

        await self.committer.read(GROUPS, open_now)
