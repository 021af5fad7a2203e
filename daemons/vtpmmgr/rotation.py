# SPDX-License-Identifier: Apache-2.0
"""New keys in place of old ones, while the vTPMs run.

| command       | what is new                                                              |
|---------------|--------------------------------------------------------------------------|
| MANAGER_REKEY | the manager key: root secret, its seals, outer envelopes, MACs of rows   |
| GROUP_REKEY   | a group's key: inner envelope and seals, all that lies under the key     |
| NV_REKEY      | the freshness area's secret: an area under the other index, then the     |
|               | root secret names that one, then the old one is removed                  |
| COUNTER_REKEY | the counter of counter mode, at the first start after one of the chip    |

Each is one commit, made while nothing else is committed; saves that arrive meanwhile wait. Before
the commit nothing counts, after it the old keys open nothing. What is left over in the chip after
a crash is removed at the next start.

A group's agent has the key in escrow that was; after GROUP_REKEY it may register again, in this
boot.
"""

from __future__ import annotations

import os
from dataclasses import replace
from uuid import uuid4

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer, Exclusive
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.freshness import NV_BYTES, NvFreshness
from daemons.vtpmmgr.groups import Group, read_group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.keyring import KeyRing
from daemons.vtpmmgr.ledger import Ledger, Transaction
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
from daemons.vtpmmgr.sealing import RootSecret, encode_group_secret, nv_indices
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import GroupNumber, Nothing


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
        await self._committer.exclusively(self._rekey_manager)
        self._log.info("manager key changed")
        return Nothing()

    async def _rekey_manager(self, alone: Exclusive) -> None:
        old = self._committer.keys
        keys = KeyRing(replace(old.root, manager_key=Secret(os.urandom(KEY_BYTES))))
        await self._check_root_open(alone)
        seals = await self._root_seals(alone, keys.root)

        def change(transaction: Transaction) -> None:
            for group in transaction.groups():
                transaction.put(keys.with_outer_of(old, group))
            counter = transaction.get(CounterRecord, COUNTER_KEY)
            if counter is not None:
                auth = old.unwrap_counter_auth(counter)
                renewed = keys.counter_record(counter.count_id, auth, counter.value)
                transaction.put(replace(renewed, retired=counter.retired))
            _put_root(transaction, keys, seals)

        await alone.commit(change, keys=keys)

    async def _area(self, request: Nothing) -> Answer:
        await self._committer.exclusively(self._rekey_area)
        self._log.info("secret of the NV area changed")
        return Nothing()

    async def _rekey_area(self, alone: Exclusive) -> None:
        await self._check_root_open(alone)
        old = self._committer.keys
        former, index = nv_indices(old.root.nv_index)
        root = replace(old.root, nv_index=index, nv_auth=Secret(os.urandom(AUTH_BYTES)))
        area = self._hardware.nv_area(index, NV_BYTES, root.nv_auth)
        with refused_by_hardware():
            if await self._hardware.nv_area_size(index) is not None:
                await self._hardware.nv_delete(index)
            await self._hardware.nv_define(index, NV_BYTES, root.nv_auth)
            current = self._hardware.nv_area(former, NV_BYTES, old.root.nv_auth)
            await area.write(await current.read())
        seals = await self._root_seals(alone, root)
        keys = old.with_root(root)
        in_nv = self._committer.freshness.mode is FreshnessMode.NV
        await alone.commit(
            lambda transaction: _put_root(transaction, keys, seals),
            keys=keys,
            freshness=NvFreshness(area) if in_nv else None,
        )
        with refused_by_hardware():
            await self._hardware.nv_delete(former)

    async def _check_root_open(self, alone: Exclusive) -> None:
        """See that the copy of the root secret under the key of group 0 can be renewed."""
        group = await alone.read(lambda ledger: read_group(ledger, 0))
        if group.policy is not None and not group.is_open:
            raise CommandRefused(ManagerCode.AUTHFAIL)

    async def _root_seals(self, alone: Exclusive, root: RootSecret) -> list[SealRecord]:
        """Seal a root secret to all that the present one is sealed to."""
        seals = await alone.read(lambda ledger: ledger.seals_of(root.manager))
        return [await self._seal_again(seal, root.encode()) for seal in seals]

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
        async def rekey(alone: Exclusive) -> None:
            await self._rekey_group(alone, request.group)

        await self._committer.exclusively(rekey)
        self._log.info("group key changed", group=request.group)
        return Nothing()

    async def _rekey_group(self, alone: Exclusive, number: int) -> None:
        def read(ledger: Ledger) -> tuple[Group, list[SealRecord]]:
            group = read_group(ledger, number)
            return group, ledger.seals_of(group.record.uuid)

        group, former = await alone.read(read)
        if not group.is_open:
            raise CommandRefused(ManagerCode.AUTHFAIL)
        uuid = group.record.uuid
        secret = Secret(os.urandom(KEY_BYTES)) if former else None
        seals: list[SealRecord] = []
        if secret is not None:
            encoded = encode_group_secret(self._committer.keys.manager, uuid, secret)
            seals = [await self._seal_again(seal, encoded) for seal in former]

        def change(transaction: Transaction) -> None:
            keys = transaction.keys
            new = keys.rewrapped(group.record, secret, key=Secret(os.urandom(KEY_BYTES)))
            transaction.put(new)
            for vtpm in transaction.vtpms_of(uuid):
                record = transaction.get(VtpmRecord, vtpm.bytes)
                if record is not None:
                    data = keys.unwrap_data(group.record, record)
                    transaction.put(replace(record, data=keys.wrap_data(new, vtpm, data)))
            for move in transaction.moves():
                if move.group == uuid and move.secret:
                    contents = keys.unwrap_move(group.record, move.uuid, move.secret)
                    renewed = keys.wrap_move(new, move.uuid, contents)
                    transaction.put(replace(move, secret=renewed))
            transport = transaction.get(TransportKeyRecord, uuid.bytes)
            if transport is not None:
                auth = keys.unwrap_transport_auth(group.record, transport.auth)
                transaction.put(replace(transport, auth=keys.wrap_transport_auth(new, auth)))
            policy = transaction.get(PolicyRecord, uuid.bytes)
            if policy is not None:
                transaction.put(self._renewed(policy, group.record, new, keys))
            _replace_seals(transaction, former, seals)

        await alone.commit(change)

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


def _put_root(transaction: Transaction, keys: KeyRing, seals: list[SealRecord]) -> None:
    """Replace the seals of the root secret and its copy under the key of group 0."""
    _replace_seals(transaction, transaction.seals_of(keys.manager), seals)
    group = transaction.group(0)
    policy = None if group is None else transaction.get(PolicyRecord, group.uuid.bytes)
    if group is not None and policy is not None:
        transaction.put(replace(policy, recovery=keys.wrap_recovery(group)))


def _replace_seals(
    transaction: Transaction, former: list[SealRecord], seals: list[SealRecord]
) -> None:
    for seal in former:
        transaction.delete(SealRecord, seal.identifier.bytes)
    for seal in seals:
        transaction.put(seal)
