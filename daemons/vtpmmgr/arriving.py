# SPDX-License-Identifier: Apache-2.0
"""Commands by which a vTPM arrives from another manager; see `movestates` and `moves`.

ABANDON is among them though it also forgets what is gone: both give up what a move has left.
"""

from __future__ import annotations

import os

from daemons.runtime.log import Log
from daemons.vtpmmgr.commits import Exclusive
from daemons.vtpmmgr.crossings import Crossings, Party
from daemons.vtpmmgr.groupview import read_group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from daemons.vtpmmgr.moves import Moves, noted_in, with_state
from daemons.vtpmmgr.movestates import Action, Event
from daemons.vtpmmgr.records import (
    MoveRecord,
    TransportKeyRecord,
)
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import (
    SECRET_BYTES,
    BadPackage,
    Move,
    MovePackage,
    MoveRelease,
    MoveState,
)


class ArrivingCommands:
    """What management commands do at the target of a move.

    Args:
        moves: of the same manager.
    """

    def __init__(self, moves: Moves, hardware: Hardware, log: Log) -> None:
        self._moves = moves
        self._committer = moves.committer
        self._log = log
        self._hardware = hardware
        self._crossings = Crossings(moves.committer, hardware, moves.refusal)

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.MOVE_IMPORT: Command(MovePackage, self._import),
            ManagementOrdinal.MOVE_ACTIVATE: Command(MoveRelease, self._activate),
            ManagementOrdinal.MOVE_ABANDON: Command(VtpmName, self._abandon),
        }

    async def _import(self, package: MovePackage) -> Answer:
        vtpm = package.vtpm

        async def take_in(alone: Exclusive) -> bytes:
            found, action = await self._moves.advance(alone, vtpm, Event.IMPORT)
            if action is Action.TAKE_IN_AGAIN:
                noted = noted_in(found)
                if noted.identifier != package.identifier:
                    raise self._moves.refusal(ManagerCode.FAIL, vtpm, "arrives by another move")
                return noted.message
            return await self._take_in(alone, package)

        return await self._committer.exclusively(take_in)

    async def _take_in(self, alone: Exclusive, package: MovePackage) -> bytes:
        vtpm, keys = package.vtpm, self._committer.keys
        target = await self._addressed(alone, package)
        self._crossings.check_origin(target, package)
        group, transport = target.group, target.transport
        auth = keys.unwrap_transport_auth(group.record, transport.auth)
        with refused_by_hardware():
            key = await self._hardware.unbind(transport.key, auth, package.wrapped_key)
        try:
            contents = package.open(key)
        except (BadPackage, ValueError) as error:
            raise self._moves.refusal(ManagerCode.DECRYPT_ERROR, vtpm, str(error)) from error
        challenge = os.urandom(SECRET_BYTES)
        move = package.move
        arriving = MoveRecord(
            uuid=vtpm,
            group=group.record.uuid,
            state=MoveState.ARRIVING,
            identifier=move.identifier,
            peer=move.source,
            secret=keys.wrap_move(group.record, vtpm, contents.encode() + challenge),
            message=move.receipt(contents.secret, challenge).encode(),
        )
        await alone.commit(lambda transaction: transaction.put(arriving), bind_now=True)
        self._log.info("vTPM arrives", uuid=vtpm, move=move.identifier, source=move.source)
        return arriving.message

    async def _addressed(self, alone: Exclusive, package: MovePackage) -> Party:
        """Return the group to whose transport key a package is encrypted."""

        def read(ledger: Ledger) -> list[Party | None]:
            return [
                Party.of(
                    read_group(ledger, record.number),
                    ledger.get(TransportKeyRecord, record.uuid.bytes),
                )
                for record in ledger.groups()
            ]

        for party in await alone.read(read):
            if party is not None and self._crossings.is_addressed(party, package.approval):
                return party
        raise self._moves.refusal(
            ManagerCode.BAD_PARAMETER, package.vtpm, "the package is for another target or key"
        )

    async def _activate(self, release: MoveRelease) -> Answer:
        vtpm = release.vtpm

        async def go_live(alone: Exclusive) -> None:
            found, action = await self._moves.advance(alone, vtpm, Event.RELEASE)
            noted = noted_in(found)
            if action is Action.BE_LIVE:
                if noted.identifier != release.move:
                    raise self._moves.refusal(ManagerCode.AUTHFAIL, vtpm, "came by another move")
                return
            contents, challenge = self._moves.contents(found)
            move = Move(noted.identifier, noted.peer, self._moves.manager, vtpm)
            if not move.check_release(contents.secret, challenge, release):
                raise self._moves.refusal(
                    ManagerCode.AUTHFAIL, vtpm, "not a release of this import"
                )
            held = self._moves.in_service(found, contents)
            arrived = with_state(noted, MoveState.ARRIVED, message=b"")

            def change(transaction: Transaction) -> None:
                transaction.put(held)
                transaction.put(arrived)

            await alone.commit(change, bind_now=True)
            self._log.info("vTPM arrived", uuid=vtpm, move=noted.identifier, source=noted.peer)

        await self._committer.exclusively(go_live)
        return Nothing()

    async def _abandon(self, request: VtpmName) -> Answer:
        vtpm = request.uuid

        async def forget(alone: Exclusive) -> None:
            found, _ = await self._moves.advance(alone, vtpm, Event.ABANDON)
            await alone.commit(
                lambda transaction: transaction.delete(MoveRecord, vtpm.bytes), bind_now=True
            )
            self._log.warning("move abandoned", uuid=vtpm, was=found.standing.name)

        await self._committer.exclusively(forget)
        return Nothing()
