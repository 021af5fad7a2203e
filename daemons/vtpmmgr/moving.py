# SPDX-License-Identifier: Apache-2.0
"""Commands that move a vTPM to another manager or take one in.

Each makes at most one commit, while nothing else is committed, and that commit is bound to the
hardware TPM before the answer, in counter mode too. So what `movestates` says of a crash between
two states holds: there is none in between, and an answer that was lost is given again. In a mode
that notices no older copy of the database moving is refused: such a copy would be a second live
vTPM.

The key to which others encrypt is made when it is first shown, for one group, in the hardware TPM,
and used only while its PCRs are those that opened the root secret. In another approved
configuration another key takes its place; what was packed for the old one is cancelled at its
source and packed anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer, Exclusive
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.groups import GROUPS, Group, read_group
from daemons.vtpmmgr.hardware import BindingKey, Hardware
from daemons.vtpmmgr.keyring import GroupClosed
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from daemons.vtpmmgr.movestates import Action, Event, NotNow, Standing, advance, standing_in
from daemons.vtpmmgr.openings import Openings
from daemons.vtpmmgr.records import (
    PCR_COUNT,
    GroupRecord,
    MoveRecord,
    PolicyRecord,
    TransportKeyRecord,
    VtpmRecord,
)
from daemons.vtpmmgr.sealing import composite_of
from protocol.manager import approval as approvals
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import (
    NONCE_BYTES,
    SECRET_BYTES,
    BadPackage,
    Contents,
    Move,
    MoveApproval,
    MoveEntry,
    MoveExport,
    MoveList,
    MovePackage,
    MoveReceipt,
    MoveRelease,
    MovesListed,
    MoveState,
    TransportKey,
    TransportKeyRequest,
    key_digest,
)
from protocol.manager.transportkey import BadTransportKey, check_transport_key, is_quoted
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import Reader
from tpmcore import tss12

_PAGE: Final = 1000
"""Entries in one answer of MOVE_LIST."""


@dataclass(frozen=True, slots=True)
class _Found:
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


class MoveCommands:
    """What management commands do to move vTPMs.

    Args:
        openings: who has which vTPM open.
    """

    def __init__(
        self, committer: Committer, hardware: Hardware, openings: Openings, log: Log
    ) -> None:
        self._committer = committer
        self._hardware = hardware
        self._openings = openings
        self._log = log

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.TRANSPORT_KEY: Command(TransportKeyRequest, self._transport_key),
            ManagementOrdinal.MOVE_EXPORT: Command(MoveExport, self._export),
            ManagementOrdinal.MOVE_IMPORT: Command(MovePackage, self._import),
            ManagementOrdinal.MOVE_RELEASE: Command(MoveReceipt, self._release),
            ManagementOrdinal.MOVE_ACTIVATE: Command(MoveRelease, self._activate),
            ManagementOrdinal.MOVE_CANCEL: Command(VtpmName, self._cancel),
            ManagementOrdinal.MOVE_ABANDON: Command(VtpmName, self._abandon),
            ManagementOrdinal.MOVE_LIST: Command(MoveList, self._list),
        }

    @property
    def _manager(self) -> UUID:
        return self._committer.keys.manager

    # --- the transport key -------------------------------------------------------------------

    async def _transport_key(self, request: TransportKeyRequest) -> Answer:
        async def show(alone: Exclusive) -> TransportKey:
            return await self._show_key(alone, request)

        return await self._committer.exclusively(show)

    async def _show_key(self, alone: Exclusive, request: TransportKeyRequest) -> TransportKey:
        def read(ledger: Ledger) -> tuple[Group, TransportKeyRecord | None]:
            group = read_group(ledger, request.group)
            return group, ledger.get(TransportKeyRecord, group.record.uuid.bytes)

        group, record = await alone.read(read)
        if group.policy is None:
            raise CommandRefused(ManagerCode.FAIL)
        keys = self._committer.keys
        aik_auth = keys.unwrap_aik_auth(group.record, group.policy)
        with refused_by_hardware():
            selection, composite = await self._configuration(alone)
            if record is None or record.release != selection.encode() + composite:
                record = await self._make_key(alone, group, group.policy, selection, composite)
            certificate = await self._hardware.certify(
                BindingKey(record.key, record.public_key),
                keys.unwrap_transport_auth(group.record, record.auth),
                by=group.policy.aik,
                by_auth=aik_auth,
                nonce=request.nonce,
            )
        return TransportKey(
            self._manager,
            PubKey.decode(record.public_key),
            record.aik_modulus,
            request.nonce,
            certificate.info,
            certificate.signature,
        )

    async def _configuration(self, alone: Exclusive) -> tuple[PcrSelection, bytes]:
        """Return the PCRs and their composite hash that open the root secret now.

        Raises:
            CommandRefused: FAIL, none does: the manager was recovered and got no new list yet.
        """
        manager = self._manager
        seals = await alone.read(lambda ledger: ledger.seals_of(manager))
        now = await self._hardware.read_pcrs(range(PCR_COUNT))
        for seal in seals:
            selection, composite = self._hardware.sealed_to(seal.blob)
            if not selection.is_empty and composite_of(selection, now) == composite:
                return selection, composite
        self._log.warning("no transport key", reason="this configuration is not an approved one")
        raise CommandRefused(ManagerCode.FAIL)

    async def _make_key(
        self,
        alone: Exclusive,
        group: Group,
        policy: PolicyRecord,
        selection: PcrSelection,
        composite: bytes,
    ) -> TransportKeyRecord:
        auth = Secret(os.urandom(AUTH_BYTES))
        made = await self._hardware.make_binding_key(auth, selection, composite)
        record = TransportKeyRecord(
            group.record.uuid,
            made.key,
            self._committer.keys.wrap_transport_auth(group.record, auth),
            made.public_key,
            self._hardware.identity_modulus(policy.aik),
            selection.encode() + composite,
        )
        await alone.commit(lambda transaction: transaction.put(record))
        self._log.info("transport key made", group=group.record.uuid)
        return record

    # --- the source --------------------------------------------------------------------------

    async def _export(self, request: MoveExport) -> Answer:
        target = TransportKey.decode(request.target)
        approval = MoveApproval.decode(request.approval) if request.approval else None

        async def pack(alone: Exclusive) -> bytes:
            found, action = await self._advance(alone, request.vtpm, Event.EXPORT)
            if action is Action.PACK_AGAIN and found.move is not None:
                package = MovePackage.decode(found.move.message)
                if package.approval.target_key != target.digest:
                    raise self._refusal(ManagerCode.FAIL, request.vtpm, "leaves for another target")
                return found.move.message
            return await self._pack(alone, found, request.vtpm, target, approval)

        with self._openings.reserved((request.vtpm,)):
            return await self._committer.exclusively(pack)

    async def _pack(
        self,
        alone: Exclusive,
        found: _Found,
        vtpm: UUID,
        target: TransportKey,
        approval: MoveApproval | None,
    ) -> bytes:
        self._check_freshness(vtpm)
        group, record, transport = found.group, found.vtpm, found.transport
        if record is None or group is None or group.policy is None or transport is None:
            raise self._refusal(ManagerCode.FAIL, vtpm, "its group has no agent or transport key")
        if approval is None:
            raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "no approval of its group's agent")
        policy, keys = group.policy, self._committer.keys
        self._check_target(vtpm, target)
        self._check_approval(vtpm, group, policy, transport, target, approval)
        secret, key = Secret(os.urandom(SECRET_BYTES)), Secret(os.urandom(KEY_BYTES))
        contents = Contents(keys.unwrap_data(group.record, record), secret, record.flags)
        move = Move(uuid4(), self._manager, target.manager, vtpm)
        nonce = os.urandom(NONCE_BYTES)
        unsigned = MovePackage(
            identifier=move.identifier,
            vtpm=vtpm,
            source_public_key=PubKey.decode(transport.public_key),
            source_aik=transport.aik_modulus,
            approval=approval,
            wrapped_key=tss12.bind(target.public_key, key),
            nonce=nonce,
            box=move.encrypt(key, nonce, contents),
        )
        package = await self._quoted(group, policy, transport, unsigned)
        leaving = MoveRecord(
            uuid=vtpm,
            group=group.record.uuid,
            state=MoveState.LEAVING,
            identifier=move.identifier,
            peer=target.manager,
            secret=keys.wrap_move(group.record, vtpm, contents.encode()),
            message=package.encode(),
        )

        def change(transaction: Transaction) -> None:
            transaction.delete(VtpmRecord, vtpm.bytes)
            transaction.put(leaving)

        await alone.commit(change, bind_now=True)
        self._log.info("vTPM leaves", uuid=vtpm, move=move.identifier, target=target.manager)
        return leaving.message

    async def _quoted(
        self,
        group: Group,
        policy: PolicyRecord,
        transport: TransportKeyRecord,
        package: MovePackage,
    ) -> MovePackage:
        """Have the group's AIK vouch for a package."""
        selection = PcrSelection.read(Reader(transport.release))
        with refused_by_hardware():
            quoted = await self._hardware.quote(
                policy.aik,
                self._committer.keys.unwrap_aik_auth(group.record, policy),
                external_data=package.external_data,
                selection=selection,
            )
        signed = package.quoted(composite_of(selection, quoted.pcr_values), quoted.signature)
        if not is_quoted(signed):
            # better now than at the target, when nobody serves the vTPM
            raise self._refusal(ManagerCode.FAIL, package.vtpm, "the quote does not verify")
        return signed

    def _check_target(self, vtpm: UUID, target: TransportKey) -> None:
        try:
            check_transport_key(target)
        except BadTransportKey as error:
            raise self._refusal(ManagerCode.BAD_PARAMETER, vtpm, str(error)) from error
        if target.manager == self._manager:
            raise self._refusal(ManagerCode.BAD_PARAMETER, vtpm, "the target is the source")

    def _check_approval(
        self,
        vtpm: UUID,
        group: Group,
        policy: PolicyRecord,
        transport: TransportKeyRecord,
        target: TransportKey,
        approval: MoveApproval,
    ) -> None:
        """See that the group's agent approved this move."""
        try:
            approvals.check_move(policy.saa_modulus, approval)
        except approvals.BadSignature as error:
            raise self._refusal(error.code, vtpm, str(error)) from error
        own = key_digest(self._manager, PubKey.decode(transport.public_key), transport.aik_modulus)
        if (approval.source, approval.source_key) != (self._manager, own):
            reason = "the approval is of another source"
        elif (approval.target, approval.target_key) != (target.manager, target.digest):
            reason = "the approval is of another target"
        elif not approval.covers(vtpm):
            reason = "the approval is of another vTPM"
        elif approval.sequence < group.config_list.sequence:
            reason = f"a list is in force that is newer than the approval ({approval.sequence})"
        else:
            return
        raise self._refusal(ManagerCode.AUTHFAIL, vtpm, reason)

    async def _release(self, receipt: MoveReceipt) -> Answer:
        vtpm = receipt.vtpm

        async def let_go(alone: Exclusive) -> bytes:
            found, action = await self._advance(alone, vtpm, Event.RECEIPT)
            noted = _noted(found)
            said = receipt.encode()
            if action is Action.LET_GO_AGAIN:
                if not noted.message.startswith(said):
                    raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "gone with another receipt")
                return noted.message[len(said) :]
            contents, _ = self._contents(found)
            move = Move(noted.identifier, self._manager, noted.peer, vtpm)
            if not move.check_receipt(contents.secret, receipt):
                raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "not a receipt of this move")
            release = move.release(contents.secret, receipt.challenge).encode()
            gone = _with(noted, MoveState.GONE, message=said + release)
            await alone.commit(lambda transaction: transaction.put(gone), bind_now=True)
            self._log.info("vTPM gone", uuid=vtpm, move=noted.identifier, target=noted.peer)
            return release

        return await self._committer.exclusively(let_go)

    async def _cancel(self, request: VtpmName) -> Answer:
        vtpm = request.uuid

        async def take_back(alone: Exclusive) -> None:
            found, _ = await self._advance(alone, vtpm, Event.CANCEL)
            noted = _noted(found)
            contents, _ = self._contents(found)
            held = self._in_service(found, contents)

            def change(transaction: Transaction) -> None:
                transaction.delete(MoveRecord, vtpm.bytes)
                transaction.put(held)

            await alone.commit(change, bind_now=True)
            self._log.info("move cancelled", uuid=vtpm, move=noted.identifier)

        await self._committer.exclusively(take_back)
        return Nothing()

    # --- the target --------------------------------------------------------------------------

    async def _import(self, package: MovePackage) -> Answer:
        vtpm = package.vtpm

        async def take_in(alone: Exclusive) -> bytes:
            found, action = await self._advance(alone, vtpm, Event.IMPORT)
            if action is Action.TAKE_IN_AGAIN:
                noted = _noted(found)
                if noted.identifier != package.identifier:
                    raise self._refusal(ManagerCode.FAIL, vtpm, "arrives by another move")
                return noted.message
            return await self._take_in(alone, package)

        return await self._committer.exclusively(take_in)

    async def _take_in(self, alone: Exclusive, package: MovePackage) -> bytes:
        vtpm, keys = package.vtpm, self._committer.keys
        self._check_freshness(vtpm)
        group, policy, transport = await self._addressed(alone, package)
        self._check_origin(policy, package)
        auth = keys.unwrap_transport_auth(group.record, transport.auth)
        with refused_by_hardware():
            key = await self._hardware.unbind(transport.key, auth, package.wrapped_key)
        try:
            contents = package.open(key)
        except (BadPackage, ValueError) as error:
            raise self._refusal(ManagerCode.DECRYPT_ERROR, vtpm, str(error)) from error
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

    async def _addressed(
        self, alone: Exclusive, package: MovePackage
    ) -> tuple[Group, PolicyRecord, TransportKeyRecord]:
        """Return the group to whose transport key a package is encrypted."""

        def read(ledger: Ledger) -> list[tuple[Group, TransportKeyRecord | None]]:
            return [
                (
                    read_group(ledger, record.number),
                    ledger.get(TransportKeyRecord, record.uuid.bytes),
                )
                for record in ledger.groups()
            ]

        if package.approval.target == self._manager:
            for group, transport in await alone.read(read):
                if group.policy is None or transport is None:
                    continue
                public_key = PubKey.decode(transport.public_key)
                digest = key_digest(self._manager, public_key, transport.aik_modulus)
                if digest == package.approval.target_key:
                    return group, group.policy, transport
        raise self._refusal(
            ManagerCode.BAD_PARAMETER, package.vtpm, "the package is for another target or key"
        )

    def _check_origin(self, policy: PolicyRecord, package: MovePackage) -> None:
        """See that our agent approved the source, and that the source made the package."""
        vtpm, approval = package.vtpm, package.approval
        try:
            approvals.check_move(policy.saa_modulus, approval)
        except approvals.BadSignature as error:
            raise self._refusal(error.code, vtpm, str(error)) from error
        named = key_digest(approval.source, package.source_public_key, package.source_aik)
        if named != approval.source_key or not approval.covers(vtpm):
            raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "the approval is of another move")
        if not is_quoted(package):
            raise self._refusal(
                ManagerCode.AUTHFAIL, vtpm, "the package is not of the source that was approved"
            )

    async def _activate(self, release: MoveRelease) -> Answer:
        vtpm = release.vtpm

        async def go_live(alone: Exclusive) -> None:
            found, action = await self._advance(alone, vtpm, Event.RELEASE)
            noted = _noted(found)
            if action is Action.BE_LIVE:
                if noted.identifier != release.move:
                    raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "came by another move")
                return
            contents, challenge = self._contents(found)
            move = Move(noted.identifier, noted.peer, self._manager, vtpm)
            if not move.check_release(contents.secret, challenge, release):
                raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "not a release of this import")
            held = self._in_service(found, contents)
            arrived = _with(noted, MoveState.ARRIVED, message=b"")

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
            found, _ = await self._advance(alone, vtpm, Event.ABANDON)
            await alone.commit(
                lambda transaction: transaction.delete(MoveRecord, vtpm.bytes), bind_now=True
            )
            self._log.warning("move abandoned", uuid=vtpm, was=found.standing.name)

        await self._committer.exclusively(forget)
        return Nothing()

    # --- both --------------------------------------------------------------------------------

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

        return await self._committer.read(GROUPS, read)

    async def _advance(self, alone: Exclusive, vtpm: UUID, event: Event) -> tuple[_Found, Action]:
        """Return what is known of a vTPM and what this event asks to be done."""
        found = await alone.read(lambda ledger: _find(ledger, vtpm))
        try:
            _, action = advance(found.standing, event)
        except NotNow as error:
            raise self._refusal(ManagerCode.FAIL, vtpm, str(error)) from error
        return found, action

    def _contents(self, found: _Found) -> tuple[Contents, bytes]:
        """Return what a vTPM takes along, and the challenge of one that is arriving."""
        noted = _noted(found)
        if found.group is None:
            raise GroupClosed(f"the group of vTPM {noted.uuid} is gone")
        data = self._committer.keys.unwrap_move(found.group.record, noted.uuid, noted.secret)
        reader = Reader(data)
        return Contents.read(reader), reader.rest()

    def _in_service(self, found: _Found, contents: Contents) -> VtpmRecord:
        """Return the record of a vTPM that is served from now on."""
        noted = _noted(found)
        if found.group is None:
            raise GroupClosed(f"the group of vTPM {noted.uuid} is gone")
        group: GroupRecord = found.group.record
        envelope = self._committer.keys.wrap_data(group, noted.uuid, contents.key_data)
        return VtpmRecord(noted.uuid, group.uuid, contents.flags, envelope)

    def _check_freshness(self, vtpm: UUID) -> None:
        if self._committer.freshness.mode is FreshnessMode.NONE:
            raise self._refusal(
                ManagerCode.DISABLED_CMD, vtpm, "freshness is off: a copy could live a second time"
            )

    def _refusal(self, code: ManagerCode, vtpm: UUID, reason: str) -> CommandRefused:
        self._log.warning("move refused", uuid=vtpm, reason=reason)
        return CommandRefused(code)


def _find(ledger: Ledger, vtpm: UUID) -> _Found:
    record = ledger.get(VtpmRecord, vtpm.bytes)
    move = ledger.get(MoveRecord, vtpm.bytes)
    uuid = record.group if record is not None else None if move is None else move.group
    stored = None if uuid is None else ledger.get(GroupRecord, uuid.bytes)
    return _Found(
        standing_in(ledger, vtpm),
        record,
        move,
        None if stored is None else read_group(ledger, stored.number),
        None if uuid is None else ledger.get(TransportKeyRecord, uuid.bytes),
    )


def _noted(found: _Found) -> MoveRecord:
    """Return the note of a move, where the standing says that there is one."""
    assert found.move is not None
    return found.move


def _with(move: MoveRecord, state: MoveState, *, message: bytes) -> MoveRecord:
    """Return the note in a state in which there is no secret any more."""
    return MoveRecord(
        move.uuid, move.group, state, move.identifier, move.peer, secret=b"", message=message
    )
