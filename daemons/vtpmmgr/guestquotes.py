# SPDX-License-Identifier: Apache-2.0
"""Quotes of the hardware TPM for a vTPM that asks for itself (GET_QUOTE)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.groupview import read_group_of
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.identity import Client
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.management import refused_by_hardware
from protocol.manager import quotes
from protocol.manager.constants import ManagerCode, QuoteFlags
from protocol.tpm12.pcr import PcrSelection

_ALL_FLAGS: Final = sum(QuoteFlags)


@dataclass(frozen=True, slots=True, repr=False)
class _Question:
    """What a quote for a vTPM takes, of its group.

    Attributes:
        aik: of the group, as the hardware TPM wrapped it.
        auth: secret to use it.
        hashes: what the quote names, 20 bytes each.
        identification: for PCRs 20-23.
    """

    aik: bytes
    auth: Secret
    hashes: list[bytes]
    identification: quotes.Identification


class GuestQuotes:
    """What is answered to GET_QUOTE."""

    def __init__(self, committer: Committer, hardware: Hardware) -> None:
        self._committer = committer
        self._hardware = hardware

    async def quote(
        self,
        client: Client,
        kern_hash: bytes,
        *,
        extern_data: bytes,
        selection: PcrSelection,
        flags: int,
        source: Hashable,
    ) -> bytes:
        """Have the group's AIK sign for a vTPM: signature, hashes, PCR values.

        Args:
            client: the vTPM.
            kern_hash: of the label with which it is open.
            extern_data: what it vouches for, 20 bytes.
            source: the client in whose turn the chip signs.

        Raises:
            CommandRefused: INVALID_REQUEST, unknown flags; FAIL, its group has no agent; a code of
                the hardware TPM, or IOERROR.
            GroupClosed: its group is.
            Withdrawn: the client gave its command up.
        """
        if flags & ~_ALL_FLAGS:
            raise CommandRefused(ManagerCode.INVALID_REQUEST)
        known = QuoteFlags(flags)
        freshness = self._committer.freshness.mode.value

        def read(ledger: Ledger) -> _Question:
            group = read_group_of(ledger, client.group, client.uuid)
            if group.policy is None:
                raise CommandRefused(ManagerCode.FAIL)
            config_list = group.config_list
            hashes = quotes.quoted_hashes(
                known,
                uuid=client.uuid,
                kern_hash=kern_hash,
                saa_modulus=group.saa_modulus,
                config_list=config_list,
                freshness=freshness,
            )
            identification = quotes.identification(
                group.record.uuid,
                group.saa_modulus,
                config_list,
                vtpm=(client.uuid, kern_hash),
            )
            auth = ledger.keys.unwrap_aik_auth(group.record, group.policy)
            return _Question(group.policy.aik, auth, hashes, identification)

        question = await self._committer.read(client.uuid, read)
        with refused_by_hardware():
            quoted = await self._hardware.quote(
                question.aik,
                question.auth,
                external_data=quotes.external_data(known, extern_data, question.hashes),
                selection=selection,
                identification=question.identification,
                source=source,
            )
        values = b"".join([value for _, value in quoted.pcr_values])
        return quoted.signature + b"".join(question.hashes) + values
