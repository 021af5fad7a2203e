# SPDX-License-Identifier: Apache-2.0
"""A System Approval Agent and an operator, for tests of groups."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.management import Management
from protocol.manager.approval import config_message
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.exchange import Exchange
from protocol.manager.framing import parse_request
from protocol.manager.management import (
    ConfigList,
    GroupMade,
    GroupNew,
    GroupNumber,
    GroupRegister,
    GroupRegistered,
    GroupShown,
    GroupUpdate,
    encode_management,
)
from protocol.manager.moving import ANY_VTPM, MoveApproval, TransportKey
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import Structure
from tests.unit.manager.fakes import rsa_key

LABEL = "system_u:vm_r:vtpm_t"
LABEL_DIGEST = hashlib.sha1(b"label of an identity").digest()
S = TypeVar("S", bound=Structure)


def composite(selection: PcrSelection, values: Mapping[int, bytes]) -> bytes:
    """Return the composite hash of PCR values, by its definition (TPM Main Part 2, 8.2)."""
    chosen = b"".join(values[index] for index in selection.indices)
    encoded = b"\0\x03" + selection.select + len(chosen).to_bytes(4, "big") + chosen
    return hashlib.sha1(encoded).digest()


def kernel(label: str) -> bytes:
    """Return the entry of a label in a list."""
    return hashlib.sha1(label.encode()).digest()


class Agent:
    """Who decides about groups.

    Attributes:
        escrow: keys of groups, by group.
    """

    def __init__(self, number: int = 7) -> None:
        self.key: RSAPrivateKey = rsa_key(number)
        self.modulus = self.key.public_key().public_numbers().n.to_bytes(256, "big")
        self.escrow: dict[UUID, bytes] = {}

    def sign_list(
        self,
        group: UUID,
        configurations: Iterable[tuple[PcrSelection, bytes]],
        *,
        sequence: int = 1,
        labels: Iterable[str] = (LABEL,),
        number: int = 0,
        as_xen: bool = False,
    ) -> GroupUpdate:
        """Return a GROUP_UPDATE for the group with this uuid and number."""
        pairs = tuple(configurations)
        selections = tuple(selection for selection, _ in pairs)
        approved = ConfigList(
            sequence, tuple(each for _, each in pairs), tuple(kernel(label) for label in labels)
        )
        if as_xen:
            signature = self.key.sign(approved.encode(), PKCS1v15(), SHA1())
        else:
            message = config_message(group, approved, selections)
            signature = self.key.sign(message, PKCS1v15(), SHA256())
        return GroupUpdate(number, signature, approved, selections)

    def approve(
        self,
        source: TransportKey,
        target: TransportKey,
        *,
        vtpm: UUID = ANY_VTPM,
        sequence: int = 0,
    ) -> MoveApproval:
        """Return an approval of moves from one manager to another."""
        unsigned = MoveApproval(
            source.manager, source.digest, target.manager, target.digest, vtpm, sequence
        )
        return self.sign_approval(unsigned)

    def sign_approval(self, approval: MoveApproval) -> MoveApproval:
        """Return an approval with this agent's signature."""
        signature = self.key.sign(approval.message, PKCS1v15(), SHA256())
        return replace(approval, signature=signature)


class Operator:
    """Somebody at the admin socket."""

    def __init__(self, management: Management, *, limit_bytes: int = 1 << 20) -> None:
        self._management = management
        self._limit_bytes = limit_bytes

    async def send(self, ordinal: ManagementOrdinal, request: Structure) -> bytes:
        """Send a command and return the body of the answer."""
        message = parse_request(encode_management(ordinal, request))
        return await self._management.execute(message, self._limit_bytes)

    async def ask(self, ordinal: ManagementOrdinal, request: Structure, kind: type[S]) -> S:
        """Send a command and return the answer."""
        return kind.decode(await self.send(ordinal, request))

    async def refused(self, ordinal: ManagementOrdinal, request: Structure) -> int:
        """Send a command and return the code with which it is refused."""
        try:
            await self.send(ordinal, request)
        except CommandRefused as refusal:
            return refusal.code
        raise AssertionError("not refused")

    async def new_group(self, agent: Agent) -> GroupMade:
        """Provision group 0, or make another group."""
        request = GroupNew(LABEL_DIGEST, agent.modulus)
        return await self.ask(ManagementOrdinal.GROUP_NEW, request, GroupMade)

    async def show(self, number: int = 0) -> GroupShown:
        """Show a group."""
        return await self.ask(ManagementOrdinal.GROUP_SHOW, GroupNumber(number), GroupShown)

    async def register(self, agent: Agent, group: UUID, number: int = 0) -> GroupRegistered:
        """Give the agent the key of a group."""
        exchange = Exchange(os.urandom(256))
        proof = agent.key.sign(exchange.public, PKCS1v15(), SHA1())
        answer = await self.ask(
            ManagementOrdinal.GROUP_REGISTER,
            GroupRegister(number, exchange.public, proof, PcrSelection.of(range(8))),
            GroupRegistered,
        )
        agent.escrow[group] = exchange.mask(answer.exchange, answer.recover_blob)
        return answer
