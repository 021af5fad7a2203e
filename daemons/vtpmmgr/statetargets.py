# SPDX-License-Identifier: Apache-2.0
"""Commands by which an operator says where the state of a running vTPM may go.

A target is what live migration needs. There is at most one for a vTPM, of one of two kinds:

    another manager   while it is set, keys of the vTPM's state are for that manager alone. It takes
                      the same approval as a move of the vTPM, and is looked at again whenever a key
                      is made, so a newer list of the group revokes it
    another vTPM      of this manager and the same group: while it is set, that one too gets the
                      keys of the vTPM's state (`stateways`), also those that were made before

It is forgotten with the vTPM, and when the vTPM leaves by a move.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from daemons.runtime.log import Log
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.crossings import Crossings, Party
from daemons.vtpmmgr.groupview import read_group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands
from daemons.vtpmmgr.records import GroupRecord, TransportKeyRecord, VtpmRecord
from daemons.vtpmmgr.staterecords import LocalTargetRecord, StateTargetRecord
from daemons.vtpmmgr.stateways import set_way
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.descriptors import LocalTarget, StateTarget, StateTargetShown
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import MoveApproval, TransportKey


@dataclass(frozen=True, slots=True)
class _SetTarget:
    """Note a target, or that there is none any more."""

    uuid: UUID
    record: StateTargetRecord | LocalTargetRecord | None

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change."""
        group, record = _find_group(transaction, self.uuid), self.record
        other = (
            _find_group(transaction, record.target)
            if isinstance(record, LocalTargetRecord)
            else group
        )
        if other.uuid != group.uuid:
            # It was deleted meanwhile, and made anew.
            raise CommandRefused(ManagerCode.BAD_PARAMETER)
        set_way(transaction, self.uuid, self.record)
        return b""


class StateTargetCommands:
    """What management commands do with targets."""

    def __init__(self, committer: Committer, hardware: Hardware, log: Log) -> None:
        self._committer = committer
        self._log = log
        self._crossings = Crossings(committer, hardware, self._refusal)

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.STATE_TARGET_SET: Command(StateTarget, self._set),
            ManagementOrdinal.STATE_TARGET_LOCAL: Command(LocalTarget, self._set_local),
            ManagementOrdinal.STATE_TARGET_CLEAR: Command(VtpmName, self._clear),
            ManagementOrdinal.STATE_TARGET_SHOW: Command(VtpmName, self._show),
        }

    async def _set(self, request: StateTarget) -> Answer:
        vtpm = request.vtpm
        source, _ = await self._committer.read(vtpm, lambda ledger: _find(ledger, vtpm))
        if source is None:
            raise self._refusal(ManagerCode.FAIL, vtpm, "its group has no agent or transport key")
        self._crossings.check_target(vtpm, request.target)
        self._crossings.check_departure(vtpm, source, request.target, request.approval)
        record = StateTargetRecord(vtpm, request.target.encode(), request.approval.encode())
        await self._committer.submit(_SetTarget(vtpm, record))
        self._log.info("state target set", uuid=vtpm, target=request.target.manager)
        return Nothing()

    async def _set_local(self, request: LocalTarget) -> Answer:
        vtpm, target = request.vtpm, request.target

        def read(ledger: Ledger) -> tuple[UUID, UUID]:
            return _find_group(ledger, vtpm).uuid, _find_group(ledger, target).uuid

        own, other = await self._committer.read(vtpm, read)
        if vtpm == target:
            raise self._refusal(ManagerCode.BAD_PARAMETER, vtpm, "the second vTPM is the first")
        if own != other:
            raise self._refusal(
                ManagerCode.BAD_PARAMETER, vtpm, "the second vTPM is of another group"
            )
        await self._committer.submit(_SetTarget(vtpm, LocalTargetRecord(vtpm, target)))
        self._log.info("local state target set", uuid=vtpm, target=target)
        return Nothing()

    async def _clear(self, request: VtpmName) -> Answer:
        await self._committer.submit(_SetTarget(request.uuid, None))
        self._log.info("state target cleared", uuid=request.uuid)
        return Nothing()

    async def _show(self, request: VtpmName) -> Answer:
        vtpm = request.uuid
        source, record = await self._committer.read(vtpm, lambda ledger: _find(ledger, vtpm))
        if record is None:
            return StateTargetShown()
        if isinstance(record, LocalTargetRecord):
            return StateTargetShown(vtpm=record.target)
        target, approval = (
            TransportKey.decode(record.target),
            MoveApproval.decode(record.approval),
        )
        counts = (
            source is not None and self._crossings.objection(vtpm, source, target, approval) is None
        )
        return StateTargetShown(target.manager, approval.sequence, counts)

    def _refusal(self, code: ManagerCode, vtpm: UUID, reason: str) -> CommandRefused:
        self._log.warning("state target refused", uuid=vtpm, reason=reason)
        return CommandRefused(code)


def _find_group(ledger: Ledger | Transaction, vtpm: UUID) -> GroupRecord:
    """Return the group of a vTPM; FAIL if there is no such vTPM."""
    record = ledger.get(VtpmRecord, vtpm.bytes)
    stored = None if record is None else ledger.get(GroupRecord, record.group.bytes)
    if stored is None:
        raise CommandRefused(ManagerCode.FAIL)
    return stored


def _find(
    ledger: Ledger, vtpm: UUID
) -> tuple[Party | None, StateTargetRecord | LocalTargetRecord | None]:
    """Return the group of a vTPM as an end of crossings, and the target that is set; FAIL if there
    is no such vTPM."""
    stored = _find_group(ledger, vtpm)
    group = read_group(ledger, stored.number)
    source = Party.of(group, ledger.get(TransportKeyRecord, stored.uuid.bytes))
    target = ledger.get(StateTargetRecord, vtpm.bytes)
    return source, target or ledger.get(LocalTargetRecord, vtpm.bytes)
