# SPDX-License-Identifier: Apache-2.0
"""New keys in place of old ones, while the vTPMs run.

| command       | what is new                                                              |
|---------------|--------------------------------------------------------------------------|
| MANAGER_REKEY | the manager key: root secret, its seals, outer envelopes, MACs of rows   |
| GROUP_REKEY   | a group's key: inner envelope and seals, all that lies under the key     |
| NV_REKEY      | the freshness area's secret: an area under the other index, then the     |
|               | root secret names that one, then the old one is removed                  |
| COUNTER_REKEY | the counter of counter mode, at the first start after one of the chip    |

Each is one commit, made while nothing else is committed; saves that arrive meanwhile wait. The
seals are made before, since there may be many and each takes a while: if a new list came into force
since, that counts and the rotation is refused. Before the commit nothing counts, after it the old
keys open nothing. What is left over in the chip after a crash is removed at the next start.

A group's agent has the key in escrow that was; after GROUP_REKEY it may register again, in this
boot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID, uuid4

import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer, Exclusive
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.freshness import NV_BYTES, NvFreshness
from daemons.vtpmmgr.groupview import GROUPS, read_group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.ledger import Transaction
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from daemons.vtpmmgr.records import (
    COUNTER_KEY,
    CounterRecord,
    GroupRecord,
    PolicyRecord,
    SealRecord,
    TransportKeyRecord,
    VtpmRecord,
)
from daemons.vtpmmgr.sealing import encode_group_secret, nv_indices
from daemons.vtpmmgr.staterecords import StateSecretRecord
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import GroupNumber, Nothing


@dataclass(frozen=True, slots=True)
class _Resealed:
    """A new secret, sealed to all that the former one is sealed to.

    Attributes:
        scope: whose secret it is.
        former: the seals that were in force.
        seals: those that are to be.
    """

    scope: UUID
    former: tuple[SealRecord, ...]
    seals: tuple[SealRecord, ...]

    def replace(self, transaction: Transaction) -> None:
        """Put the new seals in place; CommandRefused(FAIL) if others are in force by now."""
        in_force = {seal.identifier for seal in transaction.seals_of(self.scope)}
        if in_force != {seal.identifier for seal in self.former}:
            raise CommandRefused(ManagerCode.FAIL)
        for seal in self.former:
            transaction.delete(SealRecord, seal.identifier.bytes)
        for seal in self.seals:
            transaction.put(seal)


class RotationCommands:
    """What management commands do with keys.

    Args:
        boot: of this system, 16 bytes.
    """

    def __init__(self, committer: Committer, hardware: Hardware, boot: bytes, log: Log) -> None:
        self._committer = committer
        self._hardware = hardware
        self._boot = boot
        self._log = log
        # one after another, so that none is refused because of the next
        self._lock = trio.StrictFIFOLock()

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.MANAGER_REKEY: Command(Nothing, self._manager),
            ManagementOrdinal.GROUP_REKEY: Command(GroupNumber, self._group),
            ManagementOrdinal.NV_REKEY: Command(Nothing, self._area),
            ManagementOrdinal.COUNTER_REKEY: Command(Nothing, self._counter),
        }

    # --- the manager's -----------------------------------------------------------------------

    async def _manager(self, request: Nothing) -> Answer:
        async with self._lock:
            old = self._committer.keys
            keys = KeyRing(replace(old.root, manager_key=Secret(os.urandom(KEY_BYTES))))
            resealed = await self._reseal(keys.manager, keys.root.encode())

            async def rekey(alone: Exclusive) -> None:
                await self._check_root_open(alone)
                await alone.commit(partial(_rekey_manager, old, keys, resealed), keys=keys)

            await self._committer.exclusively(rekey)
        self._log.info("manager key changed")
        return Nothing()

    async def _area(self, request: Nothing) -> Answer:
        async with self._lock:
            old = self._committer.keys
            former, index = nv_indices(old.root.nv_index)
            root = replace(old.root, nv_index=index, nv_auth=Secret(os.urandom(AUTH_BYTES)))
            resealed = await self._reseal(root.manager, root.encode())

            async def rekey(alone: Exclusive) -> None:
                await self._check_root_open(alone)
                await self._rekey_area(alone, old.with_root(root), former, resealed)

            await self._committer.exclusively(rekey)
        self._log.info("secret of the NV area changed")
        return Nothing()

    async def _rekey_area(
        self, alone: Exclusive, keys: KeyRing, former: int, resealed: _Resealed
    ) -> None:
        root = keys.root
        area = self._hardware.nv_area(root.nv_index, NV_BYTES, root.nv_auth)
        with refused_by_hardware():
            if await self._hardware.nv_area_size(root.nv_index) is not None:
                await self._hardware.nv_delete(root.nv_index)
            await self._hardware.nv_define(root.nv_index, NV_BYTES, root.nv_auth)
            current = self._hardware.nv_area(former, NV_BYTES, self._committer.keys.root.nv_auth)
            await area.write(await current.read())
        in_nv = self._committer.freshness.mode is FreshnessMode.NV
        await alone.commit(
            partial(_put_root, keys, resealed),
            keys=keys,
            freshness=NvFreshness(area) if in_nv else None,
        )

        async def remove_former() -> None:
            # an attempt whose answer was lost may have removed it
            if await self._hardware.nv_area_size(former) is not None:
                await self._hardware.nv_delete(former)

        # else an older copy of the database would go with it
        await alone.insist("removal of the former NV area", remove_former)

    async def _check_root_open(self, alone: Exclusive) -> None:
        """See that the copy of the root secret under the key of group 0 can be renewed."""
        group = await alone.read(lambda ledger: read_group(ledger, 0))
        if group.policy is not None and not group.is_open:
            raise CommandRefused(ManagerCode.AUTHFAIL)

    async def _reseal(self, scope: UUID, secret: Secret) -> _Resealed:
        former = await self._committer.read(GROUPS, lambda ledger: ledger.seals_of(scope))
        seals = [await self._seal_again(seal, secret) for seal in former]
        return _Resealed(scope, tuple(former), tuple(seals))

    async def _seal_again(self, seal: SealRecord, secret: Secret) -> SealRecord:
        with refused_by_hardware():
            blob = await self._hardware.seal(secret, *self._hardware.sealed_to(seal.blob))
        return SealRecord(uuid4(), seal.scope, self._hardware.locality, seal.pcr_values, blob)

    async def _counter(self, request: Nothing) -> Answer:
        async def retire(alone: Exclusive) -> None:
            def change(transaction: Transaction) -> None:
                record = transaction.get(CounterRecord, COUNTER_KEY)
                if record is None or self._committer.freshness.mode is not FreshnessMode.COUNTER:
                    raise CommandRefused(ManagerCode.FAIL)
                transaction.put(replace(record, retired=1))

            await alone.commit(change)

        await self._committer.exclusively(retire)
        self._log.info("counter is to be replaced")
        return Nothing()

    # --- a group's ---------------------------------------------------------------------------

    async def _group(self, request: GroupNumber) -> Answer:
        async with self._lock:
            group = await self._committer.read(
                GROUPS, lambda ledger: read_group(ledger, request.group)
            )
            if not group.is_open:
                raise CommandRefused(ManagerCode.AUTHFAIL)
            uuid = group.record.uuid
            secret = Secret(os.urandom(KEY_BYTES))
            encoded = encode_group_secret(self._committer.keys.manager, uuid, secret)
            resealed = await self._reseal(uuid, encoded)
            change = partial(self._rekey_group, secret if resealed.former else None, resealed)
            await self._committer.exclusively(lambda alone: alone.commit(change))
        self._log.info("group key changed", group=uuid)
        return Nothing()

    def _rekey_group(
        self, secret: Secret | None, resealed: _Resealed, transaction: Transaction
    ) -> None:
        """Put all that lies under a group's key under a new one (in a thread)."""
        keys = transaction.keys
        group = transaction.get(GroupRecord, resealed.scope.bytes)
        if group is None:
            raise CommandRefused(ManagerCode.BADINDEX)
        new = keys.rewrapped(group, secret, key=Secret(os.urandom(KEY_BYTES)))
        transaction.put(new)
        for vtpm in transaction.vtpms_of(group.uuid):
            record = transaction.get(VtpmRecord, vtpm.bytes)
            if record is not None:
                data = keys.unwrap_data(group, record)
                transaction.put(replace(record, data=keys.wrap_data(new, vtpm, data)))
        for move in transaction.moves():
            if move.group == group.uuid and move.secret:
                contents = keys.unwrap_move(group, move.uuid, move.secret)
                renewed = keys.wrap_move(new, move.uuid, contents)
                transaction.put(replace(move, secret=renewed))
        transport = transaction.get(TransportKeyRecord, group.uuid.bytes)
        if transport is not None:
            auth = keys.unwrap_transport_auth(group, transport.auth)
            transaction.put(replace(transport, auth=keys.wrap_transport_auth(new, auth)))
        state = transaction.get(StateSecretRecord, group.uuid.bytes)
        if state is not None:
            # the same secret: what was saved under keys of it must stay loadable
            kept = keys.unwrap_state_secret(group, state.secret)
            transaction.put(replace(state, secret=keys.wrap_state_secret(new, kept)))
        policy = transaction.get(PolicyRecord, group.uuid.bytes)
        if policy is not None:
            transaction.put(self._renewed(policy, group, new, keys))
        resealed.replace(transaction)

    def _renewed(
        self, policy: PolicyRecord, old: GroupRecord, new: GroupRecord, keys: KeyRing
    ) -> PolicyRecord:
        """Return a policy with its secrets under the group's new key, which nobody has yet."""
        return replace(
            policy,
            aik_auth=keys.wrap_aik_auth(new, keys.unwrap_aik_auth(old, policy)),
            boot=self._boot,
            registered=0,
            recovery=keys.wrap_recovery(new) if new.number == 0 else b"",
        )


def _rekey_manager(
    old: KeyRing, keys: KeyRing, resealed: _Resealed, transaction: Transaction
) -> None:
    """Put all that lies under the manager key under a new one (in a thread)."""
    for group in transaction.groups():
        transaction.put(keys.with_outer_of(old, group))
    counter = transaction.get(CounterRecord, COUNTER_KEY)
    if counter is not None:
        auth = old.unwrap_counter_auth(counter)
        renewed = keys.counter_record(counter.count_id, auth, counter.value)
        transaction.put(replace(renewed, retired=counter.retired))
    _put_root(keys, resealed, transaction)


def _put_root(keys: KeyRing, resealed: _Resealed, transaction: Transaction) -> None:
    """Replace the seals of the root secret and its copy under the key of group 0."""
    resealed.replace(transaction)
    group = transaction.group(0)
    policy = None if group is None else transaction.get(PolicyRecord, group.uuid.bytes)
    if group is not None and policy is not None:
        transaction.put(replace(policy, recovery=keys.wrap_recovery(group)))
