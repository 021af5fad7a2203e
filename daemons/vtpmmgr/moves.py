# SPDX-License-Identifier: Apache-2.0
"""What the commands of a move share: how the manager stands to a vTPM, and what is noted of it.

Each command makes at most one commit, while nothing else is committed, and that commit is bound to
the hardware TPM before the answer, in counter mode too. So what `movestates` says of a crash
between two states holds: there is none in between, and an answer that was lost is given again. In a
mode that notices no older copy of the database moving is refused: such a copy would be a second
live vTPM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.log import Log
from daemons.vtpmmgr.commits import CommandRefused, Committer, Exclusive
from daemons.vtpmmgr.groupview import GROUPS, Group, read_group
from daemons.vtpmmgr.keyring import GroupClosed
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.management import Answer, Command, Commands
from daemons.vtpmmgr.movestates import Action, Event, NotNow, Standing, advance, standing_in
from daemons.vtpmmgr.records import (
    GroupRecord,
    MoveRecord,
    TransportKeyRecord,
    VtpmRecord,
)
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.moving import (
    Contents,
    MoveEntry,
    MoveList,
    MovesListed,
    MoveState,
)
from protocol.tpm12.wire import Reader

_PAGE: Final = 1000
"""Entries in one answer of MOVE_LIST."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a vTPM when a command about it begins.

    Attributes:
        group: it is in, or moves out of or into; None if there is none.
        transport: that group's transport key.
    """

    standing: Standing
    vtpm: VtpmRecord | None
    move: MoveRecord | None
    group: Group | None
    transport: TransportKeyRecord | None


class Moves:
    """The moves that a manager has noted."""

    def __init__(self, committer: Committer, log: Log) -> None:
        self.committer = committer
        self._log = log

    @property
    def commands(self) -> Commands:
        """Those about all of them."""
        return {ManagementOrdinal.MOVE_LIST: Command(MoveList, self._list)}

    @property
    def manager(self) -> UUID:
        """Our own uuid."""
        return self.committer.keys.manager

    async def advance(self, alone: Exclusive, vtpm: UUID, event: Event) -> tuple[Found, Action]:
        """Return what is known of a vTPM and what this event asks to be done.

        Raises:
            CommandRefused: FAIL, the event has no place now; DISABLED_CMD, freshness is off.
        """
        if self.committer.freshness.mode is FreshnessMode.NONE:
            raise self.refusal(
                ManagerCode.DISABLED_CMD, vtpm, "freshness is off: a copy could live a second time"
            )
        found = await alone.read(lambda ledger: _find(ledger, vtpm))
        try:
            _, action = advance(found.standing, event)
        except NotNow as error:
            raise self.refusal(ManagerCode.FAIL, vtpm, str(error)) from error
        return found, action

    def contents(self, found: Found) -> tuple[Contents, bytes]:
        """Return what a vTPM takes along, and the challenge of one that is arriving."""
        noted = noted_in(found)
        if found.group is None:
            raise GroupClosed(f"the group of vTPM {noted.uuid} is gone")
        data = self.committer.keys.unwrap_move(found.group.record, noted.uuid, noted.secret)
        reader = Reader(data)
        return Contents.read(reader), reader.rest()

    def in_service(self, found: Found, contents: Contents) -> VtpmRecord:
        """Return the record of a vTPM that is served from now on."""
        noted = noted_in(found)
        if found.group is None:
            raise GroupClosed(f"the group of vTPM {noted.uuid} is gone")
        group: GroupRecord = found.group.record
        envelope = self.committer.keys.wrap_data(group, noted.uuid, contents.key_data)
        return VtpmRecord(noted.uuid, group.uuid, contents.flags, envelope)

    def refusal(self, code: ManagerCode, vtpm: UUID, reason: str) -> CommandRefused:
        """Return a refusal whose reason, which is more than a code can say, is in the log."""
        self._log.warning("move refused", uuid=vtpm, reason=reason)
        return CommandRefused(code)

    async def _list(self, request: MoveList) -> Answer:
        def read(ledger: Ledger) -> MovesListed:
            uuids = ledger.moves()
            page = uuids[request.offset : request.offset + _PAGE]
            records = [ledger.get(MoveRecord, uuid.bytes) for uuid in page]
            entries = [
                MoveEntry(record.uuid, record.identifier, record.peer, record.state).encode()
                for record in records
                if record is not None
            ]
            return MovesListed(len(uuids), tuple(entries))

        return await self.committer.read(GROUPS, read)


def _find(ledger: Ledger, vtpm: UUID) -> Found:
    record = ledger.get(VtpmRecord, vtpm.bytes)
    move = ledger.get(MoveRecord, vtpm.bytes)
    uuid = record.group if record is not None else None if move is None else move.group
    stored = None if uuid is None else ledger.get(GroupRecord, uuid.bytes)
    return Found(
        standing_in(ledger, vtpm),
        record,
        move,
        None if stored is None else read_group(ledger, stored.number),
        None if uuid is None else ledger.get(TransportKeyRecord, uuid.bytes),
    )


def noted_in(found: Found) -> MoveRecord:
    """Return the note of a move, where the standing says that there is one."""
    assert found.move is not None
    return found.move


def with_state(move: MoveRecord, state: MoveState, *, message: bytes) -> MoveRecord:
    """Return the note in a state in which there is no secret any more."""
    return MoveRecord(
        move.uuid, move.group, state, move.identifier, move.peer, secret=b"", message=message
    )
