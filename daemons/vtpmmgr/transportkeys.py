# SPDX-License-Identifier: Apache-2.0
"""The keys to which others encrypt the vTPMs that they move here.

A key is made when it is first shown, for one group, in the hardware TPM, and used only while its
PCRs are those that opened the root secret. In another approved configuration another key takes its
place; what was packed for the old one is cancelled at its source and packed anew.
"""

from __future__ import annotations

import os
from uuid import UUID

from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer, Exclusive
from daemons.vtpmmgr.groupview import Group, read_group
from daemons.vtpmmgr.hardware import BindingKey, Hardware
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from daemons.vtpmmgr.records import (
    PCR_COUNT,
    PolicyRecord,
    TransportKeyRecord,
)
from daemons.vtpmmgr.sealing import composite_of
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.moving import (
    TransportKey,
    TransportKeyRequest,
)
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection


class TransportKeyCommands:
    """What management commands do with transport keys."""

    def __init__(self, committer: Committer, hardware: Hardware, log: Log) -> None:
        self._committer = committer
        self._hardware = hardware
        self._log = log

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.TRANSPORT_KEY: Command(TransportKeyRequest, self._transport_key),
        }

    @property
    def _manager(self) -> UUID:
        return self._committer.keys.manager

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
