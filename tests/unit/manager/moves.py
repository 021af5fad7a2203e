# SPDX-License-Identifier: Apache-2.0
"""Two managers on two chips, and somebody who carries files between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.secret import Secret
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import (
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
)
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import Agent, Operator
from tests.unit.manager.fakes import Chip, FakeHardware, Power, faulty_disk
from tests.unit.manager.harness import Managed, managed, options

NONCE = b"nonce of an operator"
KEY = b"key data of a vTPM".ljust(64, b".")


@dataclass
class Side:
    """One of the two machines.

    Attributes:
        power: of chip and disk; replaced after each cut.
    """

    folder: Path
    chip: Chip
    freshness: FreshnessMode = FreshnessMode.NV
    power: Power = field(default_factory=Power)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """Run its manager on what is there."""
        with faulty_disk(self.power) as disk:
            start = options(self.folder, vfs=disk.name, freshness=self.freshness)
            async with managed(start, FakeHardware(self.chip, self.power)) as manager:
                yield Running(manager, Operator(manager.parts.management))


@dataclass
class Running:
    """A manager that runs, and the operator at its admin socket."""

    manager: Managed
    operator: Operator

    async def transport_key(self, group: int = 0) -> TransportKey:
        request = TransportKeyRequest(group, NONCE)
        return await self.operator.ask(ManagementOrdinal.TRANSPORT_KEY, request, TransportKey)

    async def export(
        self, vtpm: UUID, target: TransportKey, approval: MoveApproval | None = None
    ) -> MovePackage:
        request = MoveExport(vtpm, target.encode(), b"" if approval is None else approval.encode())
        return await self.operator.ask(ManagementOrdinal.MOVE_EXPORT, request, MovePackage)

    async def take_in(self, package: MovePackage) -> MoveReceipt:
        return await self.operator.ask(ManagementOrdinal.MOVE_IMPORT, package, MoveReceipt)

    async def release(self, receipt: MoveReceipt) -> MoveRelease:
        return await self.operator.ask(ManagementOrdinal.MOVE_RELEASE, receipt, MoveRelease)

    async def activate(self, release: MoveRelease) -> None:
        await self.operator.ask(ManagementOrdinal.MOVE_ACTIVATE, release, Nothing)

    async def cancel(self, vtpm: UUID) -> None:
        await self.operator.ask(ManagementOrdinal.MOVE_CANCEL, VtpmName(vtpm), Nothing)

    async def abandon(self, vtpm: UUID) -> None:
        await self.operator.ask(ManagementOrdinal.MOVE_ABANDON, VtpmName(vtpm), Nothing)

    async def moves(self) -> dict[UUID, MoveState]:
        listed = await self.operator.ask(ManagementOrdinal.MOVE_LIST, MoveList(0), MovesListed)
        entries = [MoveEntry.decode(entry) for entry in listed.entries]
        assert len(entries) == listed.total
        return {entry.vtpm: MoveState(entry.state) for entry in entries}

    async def load(self, vtpm: UUID) -> bytes | int:
        """Return what a guest gets, the key data or a return code."""
        guest = await self.manager.guest(vtpm)
        try:
            return await guest.load()
        except ManagerRefused as refusal:
            return refusal.code
        finally:
            await guest.close()

    async def save(self, vtpm: UUID, data: bytes = KEY) -> int:
        """Save as a guest; gives the return code."""
        guest = await self.manager.guest(vtpm)
        try:
            await guest.save(data)
        except ManagerRefused as refusal:
            return refusal.code
        finally:
            await guest.close()
        return 0


async def transport_key(chip: Chip) -> TransportKey:
    """Return a transport key in a chip of which nobody knows more."""
    hardware = FakeHardware(chip)
    await hardware.take_ownership()
    auth = Secret(bytes(20))
    selection = PcrSelection.of(range(8))
    identity = await hardware.make_identity(bytes(20), auth)
    key = await hardware.make_binding_key(auth, selection, chip.composite(selection))
    certificate = await hardware.certify(key, auth, by=identity.key, by_auth=auth, nonce=NONCE)
    return TransportKey(
        UUID(int=0xF),
        PubKey.decode(key.public_key),
        identity.modulus,
        NONCE,
        certificate.info,
        certificate.signature,
    )


@dataclass
class Pair:
    """Source and target, with one agent for group 0 of both."""

    source: Side
    target: Side
    agent: Agent = field(default_factory=Agent)

    @classmethod
    def new(cls, folder: Path, freshness: FreshnessMode = FreshnessMode.NV) -> Pair:
        """Make two machines that were never started."""
        for name in ("source", "target"):
            (folder / name).mkdir(parents=True)
        return cls(
            Side(folder / "source", Chip(name=b"source"), freshness),
            Side(folder / "target", Chip(name=b"target"), freshness),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Running, Running]]:
        """Run both."""
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(self.source.running())
            target = await stack.enter_async_context(self.target.running())
            yield source, target

    async def provision(self, vtpm: UUID) -> tuple[TransportKey, MoveApproval]:
        """Give both groups their agent, let the vTPM save, and let the agent approve its move."""
        async with self.running() as (source, target):
            for each in (source, target):
                await each.operator.new_group(self.agent)
            assert await source.save(vtpm) == 0
            keys = await source.transport_key(), await target.transport_key()
            return keys[1], self.agent.approve(*keys, vtpm=vtpm)
