# SPDX-License-Identifier: Apache-2.0
"""Commands about the hardware TPM itself: identities of no group, endorsement key, NV areas.

Xen only declared them. An identity made here is for GROUP_RECOVER1, when the AIKs of groups cannot
be used; the secret to use it is derived from the owner's, so that nothing has to be kept. NV areas
are guarded by a secret of their own, which the caller keeps; the manager's own area is not theirs
to touch.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from typing import Final

from daemons.runtime.log import Log
from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import (
    ActivateIdentity,
    MakeIdentity,
    Nothing,
    NvDefineSpace,
    NvReadValue,
    NvValue,
    NvWriteValue,
)

_NV_INDEX_FIRST: Final = 0x00000002
_NV_INDEX_LIMIT: Final = 0x0FFFFFFF
"""Areas that an owner defines; above are the bits T, P, U and D (TPM Main Part 2, 19.1)."""
_NV_BYTES_LIMIT: Final = 2048


def proxy_auth(owner_auth: Secret) -> Secret:
    """Return the secret of identities that `MakeIdentity` makes, 20 bytes."""
    digest = hmac.digest(owner_auth, b"vtpmmgr identity of no group", hashlib.sha256)
    return Secret(digest[:AUTH_BYTES])


class PlatformCommands:
    """What management commands do with the hardware TPM.

    Args:
        identity_auth: of `proxy_auth`.
        own_areas: gives the indices of the manager's own areas.
    """

    def __init__(
        self,
        hardware: Hardware,
        identity_auth: Secret,
        log: Log,
        own_areas: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._hardware = hardware
        self._identity_auth = identity_auth
        self._own_areas = own_areas
        self._log = log

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            **self.identity_commands,
            ManagementOrdinal.NV_DEFINE_SPACE: Command(NvDefineSpace, self._define),
            ManagementOrdinal.NV_WRITE_VALUE: Command(NvWriteValue, self._write),
            ManagementOrdinal.NV_READ_VALUE: Command(NvReadValue, self._read),
        }

    @property
    def identity_commands(self) -> Commands:
        """Those that a manager answers which cannot open its database."""
        return {
            ManagementOrdinal.MAKE_IDENTITY: Command(MakeIdentity, self._make_identity),
            ManagementOrdinal.ACTIVATE_IDENTITY: Command(ActivateIdentity, self._activate),
            ManagementOrdinal.READ_PUBEK: Command(Nothing, self._pubek),
        }

    async def _make_identity(self, request: MakeIdentity) -> Answer:
        with refused_by_hardware():
            made = await self._hardware.make_identity(request.label_digest, self._identity_auth)
        return made.key + made.binding

    async def _activate(self, request: ActivateIdentity) -> Answer:
        with refused_by_hardware():
            return await self._hardware.activate_identity(
                request.aik.encode(), self._identity_auth, request.blob
            )

    async def _pubek(self, request: Nothing) -> Answer:
        with refused_by_hardware():
            return await self._hardware.read_pubek()

    async def _define(self, request: NvDefineSpace) -> Answer:
        self._check_index(request.index)
        if request.size_bytes > _NV_BYTES_LIMIT:
            raise CommandRefused(ManagerCode.BAD_PARAMETER)
        with refused_by_hardware():
            if request.size_bytes:
                auth = Secret(request.auth)
                await self._hardware.nv_define(request.index, request.size_bytes, auth)
            else:
                await self._hardware.nv_delete(request.index)
        self._log.info("NV area defined", index=request.index, bytes=request.size_bytes)
        return Nothing()

    async def _write(self, request: NvWriteValue) -> Answer:
        self._check_index(request.index)
        with refused_by_hardware():
            await self._hardware.nv_write(
                request.index, request.offset, request.data, Secret(request.auth)
            )
        return Nothing()

    async def _read(self, request: NvReadValue) -> Answer:
        self._check_index(request.index)
        if request.size_bytes > _NV_BYTES_LIMIT:
            raise CommandRefused(ManagerCode.BAD_PARAMETER)
        with refused_by_hardware():
            data = await self._hardware.nv_read(
                request.index, request.offset, request.size_bytes, Secret(request.auth)
            )
        return NvValue(data)

    def _check_index(self, index: int) -> None:
        if index in self._own_areas() or not _NV_INDEX_FIRST <= index <= _NV_INDEX_LIMIT:
            raise CommandRefused(ManagerCode.DISABLED_CMD)
