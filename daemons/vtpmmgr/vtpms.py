# SPDX-License-Identifier: Apache-2.0
"""Commands about vTPMs: VTPM_LIST, SHOW, EDIT, NEW and DEL.

A vTPM is found in open groups only, as in Xen; one of a closed group is there all the same, so its
uuid cannot be taken a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID, uuid4

from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.groupview import GROUPS, read_group
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands
from daemons.vtpmmgr.movestates import Event, NotNow, advance, standing_in
from daemons.vtpmmgr.openings import Openings
from daemons.vtpmmgr.records import ADMIN_SUSPENDED, GroupRecord, MoveRecord, VtpmRecord
from daemons.vtpmmgr.stateways import forget_ways
from protocol.manager.constants import (
    DIGEST_BYTES,
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    ManagementOrdinal,
    ManagerCode,
    VtpmFlag,
)
from protocol.manager.management import (
    UUID_BYTES,
    Nothing,
    VtpmEdit,
    VtpmList,
    VtpmName,
    VtpmNew,
    VtpmShown,
    VtpmsListed,
)
from protocol.manager.messages import NO_IMAGE

_PAGE: Final = (MAX_MESSAGE_BYTES - HEADER_BYTES - 4) // UUID_BYTES
"""uuids in one answer: what the shared page of the split driver carries."""
_FLAGS: Final = int(VtpmFlag.ADMIN)  # the complement of a flag is within its own enumeration


@dataclass(frozen=True, slots=True)
class _NewVtpm:
    """Register a vTPM that never saved."""

    uuid: UUID
    group: UUID

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change."""
        group = transaction.get(GroupRecord, self.group.bytes)
        if group is None:
            raise CommandRefused(ManagerCode.BADINDEX)
        try:
            advance(standing_in(transaction, self.uuid), Event.CREATE)
        except NotNow as error:
            raise CommandRefused(ManagerCode.FAIL) from error
        data = transaction.keys.wrap_data(group, self.uuid, NO_IMAGE)
        transaction.put(VtpmRecord(self.uuid, group.uuid, 0, data))
        return b""


@dataclass(frozen=True, slots=True)
class _DeleteVtpm:
    """Remove a vTPM."""

    uuid: UUID

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change."""
        if transaction.get(VtpmRecord, self.uuid.bytes) is None:
            raise CommandRefused(ManagerCode.FAIL)
        transaction.delete(VtpmRecord, self.uuid.bytes)
        transaction.delete(MoveRecord, self.uuid.bytes)
        forget_ways(transaction, self.uuid)
        return b""


@dataclass(frozen=True, slots=True)
class _EditVtpm:
    """Take the ADMIN right from a vTPM, or give it back."""

    uuid: UUID
    suspended: bool

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change."""
        record = transaction.get(VtpmRecord, self.uuid.bytes)
        if record is None:
            raise CommandRefused(ManagerCode.FAIL)
        transaction.put(replace(record, flags=ADMIN_SUSPENDED if self.suspended else 0))
        return b""


class VtpmCommands:
    """What management commands do with vTPMs.

    Args:
        gives_admin: says whether the configuration gives a vTPM the ADMIN right.
        openings: who has which vTPM open.
    """

    def __init__(
        self,
        committer: Committer,
        gives_admin: Callable[[UUID], bool],
        openings: Openings,
        log: Log,
    ) -> None:
        self._committer = committer
        self._gives_admin = gives_admin
        self._openings = openings
        self._log = log

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.VTPM_LIST: Command(VtpmList, self._list),
            ManagementOrdinal.VTPM_SHOW: Command(VtpmName, self._show),
            ManagementOrdinal.VTPM_EDIT: Command(VtpmEdit, self._edit),
            ManagementOrdinal.VTPM_NEW: Command(VtpmNew, self._new),
            ManagementOrdinal.VTPM_DEL: Command(VtpmName, self._delete),
        }

    async def _list(self, request: VtpmList) -> Answer:

        page = slice(request.offset, request.offset + _PAGE)

        def query(ledger: Ledger) -> VtpmsListed:
            group = read_group(ledger, request.group)
            if not group.is_open:
                raise CommandRefused(ManagerCode.AUTHFAIL)
            uuid = group.record.uuid
            found = ledger.vtpms_of(uuid, page)
            return VtpmsListed(ledger.number_of_vtpms(uuid), tuple(each.bytes for each in found))

        return await self._committer.read(GROUPS, query)

    async def _show(self, request: VtpmName) -> Answer:
        uuid = request.uuid

        def query(ledger: Ledger) -> tuple[VtpmRecord, GroupRecord, Secret]:
            record, group = _find(ledger, uuid)
            return record, group, ledger.keys.unwrap_data(group, record)

        record, group, data = await self._committer.read(uuid, query)
        holder = self._openings.holder(uuid)
        return VtpmShown(
            group=group.number,
            flags=VtpmFlag.ADMIN if self._has_admin(record) else 0,
            open=int(holder is not None),
            saved=int(data != NO_IMAGE),
            kern_hash=bytes(DIGEST_BYTES) if holder is None else holder.kern_hash,
        )

    async def _edit(self, request: VtpmEdit) -> Answer:
        if (request.mask | request.flags) & ~_FLAGS:
            raise CommandRefused(ManagerCode.BAD_PARAMETER)
        await self._check_there(request.uuid)
        if request.mask & VtpmFlag.ADMIN:
            given = bool(request.flags & VtpmFlag.ADMIN)
            if given and not self._gives_admin(request.uuid):
                raise CommandRefused(ManagerCode.AUTHFAIL)
            await self._committer.submit(_EditVtpm(request.uuid, suspended=not given))
            self._log.info("vTPM edited", uuid=request.uuid, admin=given)
        return Nothing()

    def _has_admin(self, record: VtpmRecord) -> bool:
        return self._gives_admin(record.uuid) and not record.flags & ADMIN_SUSPENDED

    async def _new(self, request: VtpmNew) -> Answer:
        group = await self._committer.read(GROUPS, lambda ledger: read_group(ledger, request.group))
        if not group.is_open:
            raise CommandRefused(ManagerCode.AUTHFAIL)
        uuid = uuid4() if request.uuid is None else request.uuid
        await self._committer.submit(_NewVtpm(uuid, group.record.uuid))
        self._log.info("vTPM registered", uuid=uuid, group=group.record.uuid)
        return VtpmName(uuid)

    async def _delete(self, request: VtpmName) -> Answer:
        await self._check_there(request.uuid)
        with self._openings.reserved((request.uuid,)):
            await self._committer.submit(_DeleteVtpm(request.uuid))
        self._log.info("vTPM deleted", uuid=request.uuid)
        return Nothing()

    async def _check_there(self, uuid: UUID) -> None:
        await self._committer.read(uuid, lambda ledger: _find(ledger, uuid))


def _find(ledger: Ledger, uuid: UUID) -> tuple[VtpmRecord, GroupRecord]:
    """Return a vTPM of an open group; CommandRefused(FAIL) if there is none."""
    record = ledger.get(VtpmRecord, uuid.bytes)
    group = None if record is None else ledger.get(GroupRecord, record.group.bytes)
    if record is None or group is None or not ledger.keys.is_open(group):
        raise CommandRefused(ManagerCode.FAIL)
    return record, group
