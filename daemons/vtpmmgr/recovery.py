# SPDX-License-Identifier: Apache-2.0
"""GROUP_RECOVER1 and GROUP_RECOVER2: how an agent opens a group that is closed.

    manager -> agent   its half of an exchange, and a quote over it and the agent's nonce, by an
                       identity that a Privacy CA certified: this TPM, these PCRs
    agent -> manager   its half, and the group's key as only the owner of the manager's half reads
                       it. The agent had the key since GROUP_REGISTER.

Each half is used once. What comes back must open what lies under the group's key, else nothing
changes. The group is then open until the manager ends: what makes that last is a new list
(GROUP_UPDATE) that approves the present configuration.

The same exchange recovers group 0, and with it the manager itself, while its database is not even
verified (`startup.NotApproved`): then `opened` starts the manager.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import trio

from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.groupview import Group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.management import Answer, Command, Commands, refused_by_hardware
from protocol.manager import quotes
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.exchange import BadExchange, Exchange
from protocol.manager.management import (
    EXCHANGE_BYTES,
    GroupRecover1,
    GroupRecover2,
    Nothing,
    RecoveryAsked,
)


class RecoveryCommands:
    """What management commands do about closed groups.

    Args:
        identity_auth: of identities that MakeIdentity makes.
        read: gives a group by number; CommandRefused(BADINDEX) if there is none.
        opened: gets a group and the key that its agent gave, and opens it; CommandRefused if the
            key is not the group's.
    """

    def __init__(
        self,
        hardware: Hardware,
        identity_auth: Secret,
        read: Callable[[int], Awaitable[Group]],
        opened: Callable[[Group, Secret], Awaitable[None]],
        log: Log,
    ) -> None:
        self._hardware = hardware
        self._identity_auth = identity_auth
        self._read = read
        self._opened = opened
        self._log = log
        # Our side of the newest exchange of each group, by its uuid.
        self._exchanges: dict[bytes, Exchange] = {}

    @property
    def commands(self) -> Commands:
        """The commands."""
        return {
            ManagementOrdinal.GROUP_RECOVER1: Command(GroupRecover1, self._ask),
            ManagementOrdinal.GROUP_RECOVER2: Command(GroupRecover2, self._answer),
        }

    async def _closed(self, number: int) -> Group:
        group = await self._read(number)
        if group.is_open or group.policy is None:
            raise CommandRefused(ManagerCode.FAIL)
        return group

    async def _ask(self, request: GroupRecover1) -> Answer:
        group = await self._closed(request.group)
        exchange = await trio.to_thread.run_sync(_new_exchange)
        external_data = quotes.recovery_external_data(request.nonce, exchange.public)
        with refused_by_hardware():
            quoted = await self._hardware.quote(
                request.proxy_aik.encode(),
                self._identity_auth,
                external_data=external_data,
                selection=request.selection,
            )
        self._exchanges[group.record.uuid.bytes] = exchange
        self._log.info("recovery asked for", group=group.record.uuid)
        values = tuple(value for _, value in quoted.pcr_values)
        return RecoveryAsked(exchange.public, quoted.signature, values)

    async def _answer(self, request: GroupRecover2) -> Answer:
        group = await self._closed(request.group)
        exchange = self._exchanges.pop(group.record.uuid.bytes, None)
        if exchange is None:
            raise CommandRefused(ManagerCode.FAIL)
        try:
            masked = await trio.to_thread.run_sync(
                exchange.mask, request.exchange, request.recover_blob
            )
        except BadExchange as error:
            raise CommandRefused(ManagerCode.BAD_PARAMETER) from error
        await self._opened(group, Secret(masked))
        self._log.info("group recovered", group=group.record.uuid)
        return Nothing()


def _new_exchange() -> Exchange:
    return Exchange(os.urandom(EXCHANGE_BYTES))
