# SPDX-License-Identifier: Apache-2.0
"""Keys under which a vTPM's state leaves its daemon, for a vTPM that asks for itself.

A new key is for the vTPM that asks, and for no other: a vTPM that was taken over and is shown
another's state must not read it. What the operator says (`statetargets`) changes that. With another
manager as the target it is for the vTPM of the same uuid there, and for nobody here; with another
vTPM of the group as the target it is for that one too, as long as the operator leaves it so.

Nothing is noted of a key that was given out; the log has a line for each, and for each that was
asked for again.

    secret of the group   made when the first key is asked for, and kept when the group's key
                          changes, so that what was saved stays loadable. Who has it derives all
                          keys of the group's local descriptors

Whoever is refused is told AUTHFAIL, whatever the reason: it would tell the maker of a forged
descriptor how far it got. The log has the reason.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.crossings import Crossings, Party
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.groupview import Group, read_group_of
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.identity import Client
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.management import refused_by_hardware
from daemons.vtpmmgr.records import GroupRecord, TransportKeyRecord
from daemons.vtpmmgr.staterecords import StateSecretRecord, StateTargetRecord
from daemons.vtpmmgr.stateways import may_load
from protocol.manager.constants import ManagerCode
from protocol.manager.descriptors import (
    BadDescriptor,
    LocalDescriptor,
    StatePackage,
    decode_descriptor,
)
from protocol.manager.moving import MoveApproval, TransportKey
from protocol.manager.statekeys import STATE_KEY_BYTES, StateKey
from protocol.tpm12.keys import PubKey
from tpmcore import tss12

_IDENTIFIER_BYTES: Final = 16
_ANOTHER_VTPM: Final = "the state is of another vTPM"


class NotGiven(CommandRefused):
    """A key that this vTPM does not get.

    Args:
        reason: for the log; one of few.
    """

    def __init__(self, reason: str, code: ManagerCode = ManagerCode.AUTHFAIL) -> None:
        super().__init__(code, usual=True)
        self.reason = reason


def _not_given(code: ManagerCode, _vtpm: UUID, reason: str) -> CommandRefused:
    """Return a refusal for what `Crossings` found; FAIL says that the chip is not as it should."""
    return NotGiven(reason, code if code is ManagerCode.FAIL else ManagerCode.AUTHFAIL)


@dataclass(frozen=True, slots=True, repr=False)
class _Here:
    """What a key for this manager takes.

    Attributes:
        group: uuid of the vTPM's group.
        secret: of the group; None if none was made yet.
    """

    group: UUID
    secret: Secret | None


@dataclass(frozen=True, slots=True, repr=False)
class _There:
    """What a key for another manager takes, all of one moment.

    Attributes:
        source: the vTPM's group.
        aik_auth: secret to use its AIK.
    """

    source: Party
    aik_auth: Secret
    target: TransportKey
    approval: MoveApproval


@dataclass(frozen=True, slots=True, repr=False)
class _Arrived:
    """What opening a package takes, all of one moment.

    Attributes:
        target: the vTPM's group.
        auth: secret to use its transport key.
    """

    target: Party
    auth: Secret


@dataclass(frozen=True, slots=True)
class _MakeSecret:
    """Give a group its secret if it has none.

    Attributes:
        uuid: of the vTPM that needs it.
        group: uuid of its group.
    """

    uuid: UUID
    group: UUID

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change; gives the secret."""
        group = transaction.get(GroupRecord, self.group.bytes)
        if group is None:
            raise CommandRefused(ManagerCode.FAIL)
        keys = transaction.keys
        record = transaction.get(StateSecretRecord, self.group.bytes)
        if record is not None:
            return keys.unwrap_state_secret(group, record.secret)
        secret = Secret(os.urandom(KEY_BYTES))
        wrapped = keys.wrap_state_secret(group, secret)
        transaction.put(StateSecretRecord(self.group, wrapped))
        return secret


class StateKeys:
    """What is answered to STATE_KEY_NEW and STATE_KEY_OPEN.

    Raises, from each:
        NotGiven: the vTPM does not get the key, or the chip signed what does not verify.
        CommandRefused: FAIL, its group has another number by now; a code of the hardware TPM, or
            IOERROR where it gave no answer.
        GroupClosed: its group is.
        Withdrawn: the client gave its command up while it waited for the chip.
    """

    def __init__(self, committer: Committer, hardware: Hardware, log: Log) -> None:
        self._committer = committer
        self._hardware = hardware
        self._log = log
        self._crossings = Crossings(committer, hardware, _not_given)

    async def new(self, client: Client, source: Hashable) -> StateKey:
        """Return a new key.

        Args:
            client: the vTPM that asks.
            source: the client in whose turn the chip signs.
        """

        def read(ledger: Ledger) -> _Here | _There:
            group = read_group_of(ledger, client.group, client.uuid)
            target = ledger.get(StateTargetRecord, client.uuid.bytes)
            if target is not None:
                return _way_out(ledger, group, target)
            uuid = group.record.uuid
            record = ledger.get(StateSecretRecord, uuid.bytes)
            if record is None:
                return _Here(uuid, None)
            return _Here(uuid, ledger.keys.unwrap_state_secret(group.record, record.secret))

        found = await self._committer.read(client.uuid, read)
        if isinstance(found, _There):
            return await self._for_target(client.uuid, found, source)
        secret = found.secret
        if secret is None:
            made = await self._committer.submit(_MakeSecret(client.uuid, found.group))
            secret = Secret(made)
        return self._for_group(client.uuid, found.group, secret)

    def _for_group(self, vtpm: UUID, group: UUID, secret: Secret) -> StateKey:
        descriptor, key = LocalDescriptor(
            self._committer.keys.manager, group, vtpm, _identifier()
        ).signed(secret)
        self._log.info("state key made", uuid=vtpm, descriptor=descriptor.identifier, group=group)
        return StateKey(key, descriptor.encode())

    async def _for_target(self, vtpm: UUID, way: _There, source: Hashable) -> StateKey:
        # a list that came into force since the target was set revokes the approval
        self._crossings.check_departure(vtpm, way.source, way.target, way.approval)
        key = Secret(os.urandom(STATE_KEY_BYTES))
        transport = way.source.transport
        package = StatePackage(
            identifier=_identifier(),
            vtpm=vtpm,
            source_public_key=PubKey.decode(transport.public_key),
            source_aik=transport.aik_modulus,
            approval=way.approval,
            wrapped_key=tss12.bind(way.target.public_key, key),
        )
        signed = await self._crossings.vouched(way.source, way.aik_auth, package, client=source)
        self._log.info(
            "state key made for another manager",
            uuid=vtpm,
            descriptor=signed.identifier,
            target=way.target.manager,
        )
        return StateKey(key, signed.encode())

    async def open(self, client: Client, descriptor: bytes) -> Secret:
        """Return the key that a descriptor stands for.

        Raises:
            WireError: it is no descriptor.
        """
        decoded = decode_descriptor(descriptor)
        if isinstance(decoded, StatePackage):
            return await self._open_package(client, decoded)
        return await self._open_local(client, decoded)

    async def _open_local(self, client: Client, descriptor: LocalDescriptor) -> Secret:
        def read(ledger: Ledger) -> Secret:
            group = read_group_of(ledger, client.group, client.uuid)
            if descriptor.manager != ledger.keys.manager:
                raise NotGiven("the state is of another manager, and for that one only")
            if descriptor.group != group.record.uuid:
                raise NotGiven("the state is of another group")
            record = ledger.get(StateSecretRecord, group.record.uuid.bytes)
            if record is None:
                raise NotGiven("no key was ever made for the group")
            secret = ledger.keys.unwrap_state_secret(group.record, record.secret)
            try:
                key = Secret(descriptor.open(secret))
            except BadDescriptor as error:
                raise NotGiven("the descriptor was changed") from error
            # only now is it known that the descriptor says the truth
            if not may_load(ledger, client.uuid, descriptor.vtpm):
                raise NotGiven(_ANOTHER_VTPM)
            return key

        key = await self._committer.read(client.uuid, read)
        vtpm, identifier, source = client.uuid, descriptor.identifier, descriptor.vtpm
        if vtpm == source:
            self._log.info("state key given again", uuid=vtpm, descriptor=identifier)
        else:
            self._log.info(
                "state key given to another vTPM",
                uuid=vtpm,
                descriptor=identifier,
                made_for=source,
            )
        return key

    async def _open_package(self, client: Client, package: StatePackage) -> Secret:
        def read(ledger: Ledger) -> _Arrived:
            group = read_group_of(ledger, client.group, client.uuid)
            target = Party.of(group, ledger.get(TransportKeyRecord, group.record.uuid.bytes))
            if target is None:
                raise NotGiven("its group has no agent or transport key")
            auth = ledger.keys.unwrap_transport_auth(group.record, target.transport.auth)
            return _Arrived(target, auth)

        found = await self._committer.read(client.uuid, read)
        if package.vtpm != client.uuid:
            raise NotGiven(_ANOTHER_VTPM)
        if not self._crossings.is_addressed(found.target, package.approval):
            raise NotGiven("the state is for another target or key")
        self._crossings.check_origin(found.target, package)
        with refused_by_hardware():
            key = await self._hardware.unbind(
                found.target.transport.key, found.auth, package.wrapped_key
            )
        if len(key) != STATE_KEY_BYTES:
            raise NotGiven("what the source encrypted is no key")
        self._log.info(
            "state key of another manager opened",
            uuid=client.uuid,
            descriptor=package.identifier,
            source=package.approval.source,
        )
        return key


def _way_out(ledger: Ledger, group: Group, target: StateTargetRecord) -> _There:
    source = Party.of(group, ledger.get(TransportKeyRecord, group.record.uuid.bytes))
    if source is None:
        raise NotGiven("its group has no agent or transport key")
    return _There(
        source,
        ledger.keys.unwrap_aik_auth(group.record, source.policy),
        TransportKey.decode(target.target),
        MoveApproval.decode(target.approval),
    )


def _identifier() -> UUID:
    return UUID(bytes=os.urandom(_IDENTIFIER_BYTES))
