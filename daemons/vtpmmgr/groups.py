# SPDX-License-Identifier: Apache-2.0
"""Commands about groups: making them, who decides about them, what was decided, and quotes.

The life of a group:

    GROUP_NEW        an AIK is made in the hardware TPM and the agent's key noted; for the first
                     call that is done for group 0, which exists since the first start
    GROUP_ACTIVATE   a Privacy CA's certificate for the AIK is opened
    GROUP_REGISTER   the agent gets the group's key into escrow; once, in the boot of GROUP_NEW
    GROUP_UPDATE     the agent's list of configurations comes into force: the group's secret is
                     sealed to each of them, for group 0 the root secret too
    GROUP_POLICY     what is in force, as the agent signed it, for who checks elsewhere (ours)
    GROUP_DEL        the group and its vTPMs are removed; later groups move down by one

What the hardware TPM does for a command is done before the commit, so that a refusal of it changes
nothing; the commit checks again whatever another command may have changed meanwhile.

Source: Xen stubdom/vtpmmgr (vtpm_manager.h and its code).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import trio

from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.groupview import GROUPS, Group, OpenGroup, read_group
from daemons.vtpmmgr.hardware import Hardware, NewIdentity
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.ledger import Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from daemons.vtpmmgr.openings import Openings
from daemons.vtpmmgr.records import (
    PCR_COUNT,
    GroupRecord,
    MoveRecord,
    PolicyRecord,
    SealRecord,
    TransportKeyRecord,
    VtpmRecord,
)
from daemons.vtpmmgr.sealing import (
    Configuration,
    RootSecret,
    composite_of,
    encode_group_secret,
)
from daemons.vtpmmgr.staterecords import StateSecretRecord
from daemons.vtpmmgr.stateways import forget_ways
from protocol.manager import approval, quotes
from protocol.manager.constants import ManagementOrdinal, ManagerCode, QuoteFlags
from protocol.manager.exchange import BadExchange, Exchange
from protocol.manager.management import (
    EMPTY_LIST,
    EXCHANGE_BYTES,
    MODULUS_BYTES,
    ConfigList,
    GroupActivate,
    GroupCount,
    GroupMade,
    GroupNew,
    GroupNumber,
    GroupPolicy,
    GroupQuote,
    GroupRegister,
    GroupRegistered,
    GroupShown,
    GroupUpdate,
    Nothing,
    SignedPcrs,
    decode_selections,
)
from protocol.manager.moving import MoveState
from protocol.tpm12.keys import Key


@dataclass(frozen=True, slots=True, repr=False)
class _NewGroup:
    """Give group 0 its agent if it has none, else make another group."""

    saa_modulus: bytes
    identity: NewIdentity
    auth: Secret
    boot: bytes
    uuid: UUID = GROUPS

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change; gives the group's uuid."""
        groups = transaction.groups()
        group = groups[0]
        if transaction.get(PolicyRecord, group.uuid.bytes) is not None:
            group = transaction.keys.new_group(len(groups))
            transaction.put(group)
        keys = transaction.keys
        transaction.put(
            PolicyRecord(
                group=group.uuid,
                saa_modulus=self.saa_modulus,
                aik=self.identity.key,
                aik_auth=keys.wrap_aik_auth(group, self.auth),
                boot=self.boot,
                registered=0,
                config_list=EMPTY_LIST.encode(),
                config_signature=b"",
                selections=b"",
                recovery=keys.wrap_recovery(group) if group.number == 0 else b"",
            )
        )
        return group.uuid.bytes


@dataclass(frozen=True, slots=True)
class _DeleteGroup:
    """Remove a group with all that is in it.

    Attributes:
        vtpms: that were seen to be closed, and are kept so.
    """

    group: UUID
    vtpms: tuple[UUID, ...]
    uuid: UUID = GROUPS

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change; later groups get the number below."""
        groups = transaction.groups()
        number = next((each.number for each in groups if each.uuid == self.group), None)
        if number is None:
            raise CommandRefused(ManagerCode.BADINDEX)
        if transaction.vtpms_of(self.group) != list(self.vtpms):
            raise CommandRefused(ManagerCode.FAIL)
        for move in transaction.moves():
            if move.group == self.group:
                _forget_move(transaction, move)
        for vtpm in self.vtpms:
            transaction.delete(VtpmRecord, vtpm.bytes)
            forget_ways(transaction, vtpm)
        for seal in transaction.seals_of(self.group):
            transaction.delete(SealRecord, seal.identifier.bytes)
        transaction.delete(PolicyRecord, self.group.bytes)
        transaction.delete(TransportKeyRecord, self.group.bytes)
        transaction.delete(StateSecretRecord, self.group.bytes)
        transaction.delete(GroupRecord, self.group.bytes)
        for later in groups[number + 1 :]:
            transaction.put(replace(later, number=later.number - 1))
        return b""


def _forget_move(transaction: Transaction, move: MoveRecord) -> None:
    """Let go of a move with its group; of vTPMs that are gone the note stays, it has no secret."""
    if move.state in (MoveState.LEAVING, MoveState.ARRIVING):
        # it may be the only copy
        raise CommandRefused(ManagerCode.FAIL)
    if move.state == MoveState.ARRIVED:
        transaction.delete(MoveRecord, move.uuid.bytes)


@dataclass(frozen=True, slots=True)
class _Registered:
    """Note that the agent has a group's key.

    Attributes:
        aik_auth: of the policy as it was; lies under the key that the agent has.
    """

    group: UUID
    aik_auth: bytes
    uuid: UUID = GROUPS

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change."""
        policy = transaction.get(PolicyRecord, self.group.bytes)
        if policy is None or policy.registered or policy.aik_auth != self.aik_auth:
            raise CommandRefused(ManagerCode.FAIL)
        transaction.put(replace(policy, registered=1))
        return b""


@dataclass(frozen=True, slots=True, repr=False)
class _NewList:
    """Put a list into force.

    Attributes:
        secret: of the group key's inner envelope.
        root: that was the manager's when the seals were made.
        seals: of that secret, and of the root secret for group 0.
    """

    group: UUID
    update: GroupUpdate
    secret: Secret
    root: RootSecret
    seals: tuple[SealRecord, ...]
    uuid: UUID = GROUPS

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change."""
        group = transaction.get(GroupRecord, self.group.bytes)
        policy = transaction.get(PolicyRecord, self.group.bytes)
        if group is None or policy is None:
            raise CommandRefused(ManagerCode.BADINDEX)
        _check_sequence(policy, self.update.config_list)
        if self.root is not transaction.keys.root:
            # the manager got new keys meanwhile; these seals hold the old ones
            raise CommandRefused(ManagerCode.FAIL)
        for scope in {seal.scope for seal in self.seals}:
            for seal in transaction.seals_of(scope):
                transaction.delete(SealRecord, seal.identifier.bytes)
        for seal in self.seals:
            transaction.put(seal)
        transaction.put(transaction.keys.rewrapped(group, self.secret))
        transaction.put(
            replace(
                policy,
                config_list=self.update.config_list.encode(),
                config_signature=self.update.signature,
                selections=b"".join([each.encode() for each in self.update.selections]),
            )
        )
        return b""


def _check_sequence(policy: PolicyRecord, new: ConfigList) -> None:
    if new.sequence <= ConfigList.decode(policy.config_list).sequence:
        raise CommandRefused(ManagerCode.FAIL)


class GroupCommands:
    """What management commands do with groups.

    Args:
        openings: who has which vTPM open.
        boot: of this system, 16 bytes; changes with each start of the machine.
        xen_lists: whether lists signed as in Xen are taken.
    """

    def __init__(
        self,
        committer: Committer,
        hardware: Hardware,
        openings: Openings,
        *,
        boot: bytes,
        xen_lists: bool,
        log: Log,
    ) -> None:
        self._committer = committer
        self._hardware = hardware
        self._openings = openings
        self._boot = boot
        self._xen_lists = xen_lists
        self._log = log

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.GROUP_LIST: Command(Nothing, self._list),
            ManagementOrdinal.GROUP_NEW: Command(GroupNew, self._new),
            ManagementOrdinal.GROUP_DEL: Command(GroupNumber, self._delete),
            ManagementOrdinal.GROUP_ACTIVATE: Command(GroupActivate, self._activate),
            ManagementOrdinal.GROUP_REGISTER: Command(GroupRegister, self._register),
            ManagementOrdinal.GROUP_UPDATE: Command(GroupUpdate, self._update),
            ManagementOrdinal.GROUP_SHOW: Command(GroupNumber, self._show),
            ManagementOrdinal.GROUP_QUOTE: Command(GroupQuote, self._quote),
            ManagementOrdinal.GROUP_POLICY: Command(GroupNumber, self._policy),
        }

    @property
    def _keys(self) -> KeyRing:
        return self._committer.keys

    async def read(self, number: int) -> Group:
        """Return a group as it is; CommandRefused(BADINDEX) if there is none with this number."""
        return await self._committer.read(GROUPS, lambda ledger: read_group(ledger, number))

    async def _open(self, number: int) -> Group:
        group = await self.read(number)
        if not group.is_open:
            raise CommandRefused(ManagerCode.AUTHFAIL)
        return group

    async def _with_policy(self, number: int) -> OpenGroup:
        return await self._committer.read(GROUPS, lambda ledger: OpenGroup.read(ledger, number))

    async def _list(self, request: Nothing) -> Answer:
        groups = await self._committer.read(GROUPS, lambda ledger: len(ledger.groups()))
        return GroupCount(groups)

    async def _new(self, request: GroupNew) -> Answer:
        if not approval.is_agent_modulus(request.saa_modulus):
            raise CommandRefused(ManagerCode.BAD_PARAMETER)
        auth = Secret(os.urandom(AUTH_BYTES))
        try:
            with refused_by_hardware():
                identity = await self._hardware.make_identity(request.label_digest, auth)
        except CommandRefused as refusal:
            self._log.warning("AIK not made", code=refusal.code)
            raise CommandRefused(ManagerCode.FAIL) from refusal
        made = _NewGroup(request.saa_modulus, identity, auth, self._boot)
        uuid = UUID(bytes=await self._committer.submit(made))
        self._log.info("group provisioned", group=uuid)
        return GroupMade(uuid, identity.modulus, identity.binding)

    async def _delete(self, request: GroupNumber) -> Answer:
        group = await self._open(request.group)
        if request.group == 0:
            # the manager's own keys hang on it
            raise CommandRefused(ManagerCode.FAIL)
        uuid = group.record.uuid
        vtpms = await self._committer.read(GROUPS, lambda ledger: ledger.vtpms_of(uuid))
        with self._openings.reserved(vtpms):
            await self._committer.submit(_DeleteGroup(uuid, tuple(vtpms)))
        self._log.info("group deleted", group=uuid, vtpms=len(vtpms))
        return Nothing()

    async def _activate(self, request: GroupActivate) -> Answer:
        group = await self._with_policy(request.group)
        with refused_by_hardware():
            return await self._hardware.activate_identity(
                group.policy.aik,
                group.aik_auth,
                request.blob,
                identification=group.identification,
            )

    async def _register(self, request: GroupRegister) -> Answer:
        group = await self._with_policy(request.group)
        policy = group.policy
        if policy.registered or policy.boot != self._boot:
            raise CommandRefused(ManagerCode.FAIL)
        try:
            approval.check_registration(policy.saa_modulus, request.proof, request.exchange)
            own, blob = await trio.to_thread.run_sync(_hide, request.exchange, group.key)
        except approval.BadSignature as error:
            raise CommandRefused(ManagerCode.FAIL) from error
        except BadExchange as error:
            raise CommandRefused(ManagerCode.BAD_PARAMETER) from error
        data = quotes.registration_data(request.exchange, own, blob)
        with refused_by_hardware():
            quoted = await self._hardware.quote(
                policy.aik,
                group.aik_auth,
                external_data=quotes.external_data(QuoteFlags(0), data, ()),
                selection=request.selection,
                identification=group.identification,
            )
        await self._committer.submit(_Registered(group.uuid, policy.aik_auth))
        self._log.info("group registered", group=group.uuid)
        return GroupRegistered(own, blob, quoted.signature)

    async def _update(self, request: GroupUpdate) -> Answer:
        group = await self._with_policy(request.group)
        new = request.config_list

        def check() -> None:
            _check_sequence(group.policy, new)
            # a list that approves nothing would close the group for good
            if not new.configurations or len(request.selections) != len(new.configurations):
                raise CommandRefused(ManagerCode.BAD_PARAMETER)
            # a chip compares no hash of nothing, so such an entry would approve every platform
            if any(selection.is_empty for selection in request.selections):
                raise CommandRefused(ManagerCode.BAD_PARAMETER)
            approval.check_config_list(
                group.policy.saa_modulus,
                request.signature,
                group.uuid,
                new,
                request.selections,
                xen_form=self._xen_lists,
            )

        try:
            await trio.to_thread.run_sync(check)
        except approval.BadSignature as error:
            raise CommandRefused(error.code) from error
        secret = Secret(os.urandom(KEY_BYTES))
        uuid = group.uuid
        scopes = {uuid: encode_group_secret(self._keys.manager, uuid, secret)}
        root = self._keys.root
        if request.group == 0:
            scopes[root.manager] = root.encode()
        with refused_by_hardware():
            seals = await self._seal(scopes, request)
        await self._committer.submit(_NewList(uuid, request, secret, root, seals))
        self._log.info(
            "list in force",
            group=uuid,
            sequence=new.sequence,
            configurations=len(new.configurations),
            kernels=len(new.kernels),
        )
        return Nothing()

    async def _seal(
        self, scopes: Mapping[UUID, Secret], update: GroupUpdate
    ) -> tuple[SealRecord, ...]:
        """Seal each secret to each configuration of a list."""
        now = tuple(await self._hardware.read_pcrs(range(PCR_COUNT)))
        present = False
        seals: list[SealRecord] = []
        pairs = zip(update.config_list.configurations, update.selections, strict=True)
        for composite, selection in pairs:
            values: tuple[tuple[int, bytes], ...] = ()
            if composite_of(selection, now) == composite:
                present = True
                chosen = set(selection.indices)
                values = tuple(each for each in now if each[0] in chosen)
            configuration = Configuration(selection, composite, values)
            for scope, secret in scopes.items():
                blob = await self._hardware.seal(secret, selection, composite)
                seals.append(
                    SealRecord(uuid4(), scope, self._hardware.locality, configuration.values, blob)
                )
        if not present:
            self._log.warning("the list does not approve the present configuration")
        return tuple(seals)

    async def _show(self, request: GroupNumber) -> Answer:
        group = await self.read(request.group)
        return GroupShown(group.record.uuid, group.saa_modulus, group.config_list)

    async def _policy(self, request: GroupNumber) -> Answer:
        group = await self.read(request.group)
        policy = group.policy
        aik, signature, selections = bytes(MODULUS_BYTES), b"", b""
        if policy is not None:
            aik = Key.decode(policy.aik).pub_key
            signature, selections = policy.config_signature, policy.selections
        return GroupPolicy(
            group.record.uuid,
            group.saa_modulus,
            aik,
            signature,
            group.config_list,
            decode_selections(selections),
        )

    async def _quote(self, request: GroupQuote) -> Answer:
        group = await self._with_policy(request.group)
        data = quotes.group_data(request.nonce)
        with refused_by_hardware():
            quoted = await self._hardware.quote(
                group.policy.aik,
                group.aik_auth,
                external_data=quotes.external_data(QuoteFlags(0), data, ()),
                selection=request.selection,
                identification=group.identification,
            )
        return SignedPcrs(quoted.signature, tuple(value for _, value in quoted.pcr_values))


def _hide(peer: bytes, key: Secret) -> tuple[bytes, bytes]:
    """Return our half of an exchange and the key as only the peer reads it (in a thread)."""
    exchange = Exchange(os.urandom(EXCHANGE_BYTES))
    return exchange.public, exchange.mask(peer, key)
