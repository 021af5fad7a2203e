# SPDX-License-Identifier: Apache-2.0
"""A manager in the test's own process, without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import cast
from uuid import UUID

import trio

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import Committer
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.identity import Client, ClientTable
from daemons.vtpmmgr.manager import ManagementOptions, Manager
from daemons.vtpmmgr.service import ManagerService
from daemons.vtpmmgr.startup import Started, StartOptions, start
from protocol.manager.messages import (
    decode_load_hash_key_response,
    decode_save_hash_key_response,
    encode_load_hash_key,
    encode_save_hash_key,
)
from protocol.manager.statekeys import (
    StateKey,
    decode_state_key_new_response,
    decode_state_key_open_response,
    encode_state_key_new,
    encode_state_key_open,
)
from protocol.tpmif.unix import BackendDevice, PeerCredentials
from tests.unit.manager.fakes import Lines

UID = 1000
NV_INDEX = 0x15654
A, B, C = (UUID(int=n) for n in (0xA, 0xB, 0xC))

BOOT = bytes(range(16))
OPTIONS = ManagementOptions(Secret(b"secret of identities"), BOOT)

_serials = count(1)


def client(uuid: UUID, *, uid: int = UID, group: int = 0, admin: bool = False) -> Client:
    return Client(uuid, uid, "system_u:vm_r:vtpm_t", group, admin)


@dataclass
class FakeDevice:
    """A connection as the service sees it."""

    uuid: UUID
    peer: PeerCredentials = field(default_factory=lambda: PeerCredentials(1, UID, UID, ""))
    serial: int = field(default_factory=lambda: next(_serials))
    gone: bool = False

    def hung_up(self) -> bool:
        return self.gone


class Guest:
    """A vTPM that is connected to the manager."""

    def __init__(self, service: ManagerService, device: FakeDevice) -> None:
        self._service = service
        self.device = device
        self._as_device = cast(BackendDevice, device)

    async def open(self) -> Guest:
        self._service.admit(self.device.peer, self.device.uuid)
        await self._service.opened(self._as_device)
        return self

    async def close(self) -> None:
        await self._service.closed(self._as_device)

    async def send(self, request: bytes) -> bytes:
        response = await self._service.request(self._as_device, request, 0)
        assert response is not None
        return response

    async def save(self, data: bytes) -> None:
        decode_save_hash_key_response(await self.send(encode_save_hash_key(data)))

    async def load(self) -> bytes:
        return decode_load_hash_key_response(await self.send(encode_load_hash_key()))

    async def new_state_key(self) -> StateKey:
        return decode_state_key_new_response(await self.send(encode_state_key_new()))

    async def open_state_key(self, descriptor: bytes) -> bytes:
        return decode_state_key_open_response(await self.send(encode_state_key_open(descriptor)))


@dataclass
class Managed:
    """A manager that serves."""

    started: Started
    parts: Manager
    lines: Lines

    @property
    def committer(self) -> Committer:
        return self.parts.committer

    @property
    def service(self) -> ManagerService:
        return self.parts.service

    async def guest(self, uuid: UUID, *, uid: int = UID) -> Guest:
        peer = PeerCredentials(1, uid, uid, "")
        return await Guest(self.service, FakeDevice(uuid, peer)).open()


def options(
    folder: Path,
    *,
    vfs: str | None = None,
    pcrs: Iterable[int] = range(8),
    nv: int = NV_INDEX,
    freshness: FreshnessMode = FreshnessMode.NV,
) -> StartOptions:
    return StartOptions(folder / "manager.db", tuple(pcrs), nv, freshness, vfs)


@asynccontextmanager
async def managed(
    start_options: StartOptions,
    hardware: Hardware,
    clients: Iterable[Client] = (client(A), client(B), client(C)),
    management_options: ManagementOptions = OPTIONS,
    *,
    recovered: Secret | None = None,
) -> AsyncIterator[Managed]:
    """Start a manager; at the end its files stay as they are, as if it had been killed."""
    lines = Lines()
    started = await start(start_options, hardware, lines.log, recovered=recovered)
    try:
        parts = Manager(started, ClientTable(clients), hardware, management_options, lines.log)
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.committer.run)
            yield Managed(started, parts, lines)
            nursery.cancel_scope.cancel()
    finally:
        started.ledger.abandon()
