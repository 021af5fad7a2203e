# SPDX-License-Identifier: Apache-2.0
"""Commands by which a vTPM leaves for another manager; see `movestates` and `moves`."""

from __future__ import annotations

import os
from uuid import UUID, uuid4

from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import Exclusive
from daemons.vtpmmgr.crossings import Crossings, Party
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.ledger import Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands
from daemons.vtpmmgr.moves import Found, Moves, noted_in, with_state
from daemons.vtpmmgr.movestates import Action, Event
from daemons.vtpmmgr.openings import Openings
from daemons.vtpmmgr.records import MoveRecord, VtpmRecord
from daemons.vtpmmgr.stateways import forget_ways
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import (
    NONCE_BYTES,
    SECRET_BYTES,
    Contents,
    Move,
    MoveApproval,
    MoveExport,
    MovePackage,
    MoveReceipt,
    MoveState,
    TransportKey,
)
from protocol.tpm12.keys import PubKey
from tpmcore import tss12


class LeavingCommands:
    """What management commands do at the source of a move.

    Args:
        moves: of the same manager.
        openings: who has which vTPM open.
    """

    def __init__(self, moves: Moves, hardware: Hardware, openings: Openings, log: Log) -> None:
        self._moves = moves
        self._committer = moves.committer
        self._log = log
        self._crossings = Crossings(moves.committer, hardware, moves.refusal)
        self._openings = openings

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.MOVE_EXPORT: Command(MoveExport, self._export),
            ManagementOrdinal.MOVE_RELEASE: Command(MoveReceipt, self._release),
            ManagementOrdinal.MOVE_CANCEL: Command(VtpmName, self._cancel),
        }

    async def _export(self, request: MoveExport) -> Answer:
        target = TransportKey.decode(request.target)
        approval = MoveApproval.decode(request.approval) if request.approval else None

        async def pack(alone: Exclusive) -> bytes:
            found, action = await self._moves.advance(alone, request.vtpm, Event.EXPORT)
            if action is Action.PACK_AGAIN and found.move is not None:
                package = MovePackage.decode(found.move.message)
                if package.approval.target_key != target.digest:
                    raise self._moves.refusal(
                        ManagerCode.FAIL, request.vtpm, "leaves for another target"
                    )
                return found.move.message
            return await self._pack(alone, found, request.vtpm, target, approval)

        with self._openings.reserved((request.vtpm,)):
            return await self._committer.exclusively(pack)

    async def _pack(
        self,
        alone: Exclusive,
        found: Found,
        vtpm: UUID,
        target: TransportKey,
        approval: MoveApproval | None,
    ) -> bytes:
        record, source = found.vtpm, Party.of(found.group, found.transport)
        if record is None or source is None:
            raise self._moves.refusal(
                ManagerCode.FAIL, vtpm, "its group has no agent or transport key"
            )
        if approval is None:
            raise self._moves.refusal(
                ManagerCode.AUTHFAIL, vtpm, "no approval of its group's agent"
            )
        group, keys = source.group.record, self._committer.keys
        self._crossings.check_target(vtpm, target)
        self._crossings.check_departure(vtpm, source, target, approval)
        secret, key = Secret(os.urandom(SECRET_BYTES)), Secret(os.urandom(KEY_BYTES))
        contents = Contents(keys.unwrap_data(group, record), secret, record.flags)
        move = Move(uuid4(), self._moves.manager, target.manager, vtpm)
        nonce = os.urandom(NONCE_BYTES)
        unsigned = MovePackage(
            identifier=move.identifier,
            vtpm=vtpm,
            source_public_key=PubKey.decode(source.transport.public_key),
            source_aik=source.transport.aik_modulus,
            approval=approval,
            wrapped_key=tss12.bind(target.public_key, key),
            nonce=nonce,
            box=move.encrypt(key, nonce, contents),
        )
        aik_auth = keys.unwrap_aik_auth(group, source.policy)
        package = await self._crossings.vouched(source, aik_auth, unsigned)
        leaving = MoveRecord(
            uuid=vtpm,
            group=group.uuid,
            state=MoveState.LEAVING,
            identifier=move.identifier,
            peer=target.manager,
            secret=keys.wrap_move(group, vtpm, contents.encode()),
            message=package.encode(),
        )

        def change(transaction: Transaction) -> None:
            transaction.delete(VtpmRecord, vtpm.bytes)
            forget_ways(transaction, vtpm)
            transaction.put(leaving)

        await alone.commit(change, bind_now=True)
        self._log.info("vTPM leaves", uuid=vtpm, move=move.identifier, target=target.manager)
        return leaving.message

    async def _release(self, receipt: MoveReceipt) -> Answer:
        vtpm = receipt.vtpm

        async def let_go(alone: Exclusive) -> bytes:
            found, action = await self._moves.advance(alone, vtpm, Event.RECEIPT)
            noted = noted_in(found)
            said = receipt.encode()
            if action is Action.LET_GO_AGAIN:
                if not noted.message.startswith(said):
                    raise self._moves.refusal(
                        ManagerCode.AUTHFAIL, vtpm, "gone with another receipt"
                    )
                return noted.message[len(said) :]
            contents, _ = self._moves.contents(found)
            move = Move(noted.identifier, self._moves.manager, noted.peer, vtpm)
            if not move.check_receipt(contents.secret, receipt):
                raise self._moves.refusal(ManagerCode.AUTHFAIL, vtpm, "not a receipt of this move")
            release = move.release(contents.secret, receipt.challenge).encode()
            gone = with_state(noted, MoveState.GONE, message=said + release)
            await alone.commit(lambda transaction: transaction.put(gone), bind_now=True)
            self._log.info("vTPM moved away", uuid=vtpm, move=noted.identifier, target=noted.peer)
            return release

        return await self._committer.exclusively(let_go)

    async def _cancel(self, request: VtpmName) -> Answer:
        vtpm = request.uuid

        async def take_back(alone: Exclusive) -> None:
            found, _ = await self._moves.advance(alone, vtpm, Event.CANCEL)
            noted = noted_in(found)
            contents, _ = self._moves.contents(found)
            held = self._moves.in_service(found, contents)

            def change(transaction: Transaction) -> None:
                transaction.delete(MoveRecord, vtpm.bytes)
                transaction.put(held)

            await alone.commit(change, bind_now=True)
            self._log.info("move cancelled", uuid=vtpm, move=noted.identifier)

        await self._committer.exclusively(take_back)
        return Nothing()
