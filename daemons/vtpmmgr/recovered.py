# SPDX-License-Identifier: Apache-2.0
"""A manager whose platform is in no approved configuration, until group 0 is recovered.

Its database is not verified, for the keys are sealed. Of it only group 0 is shown, to ask that
group's agent. What the agent gives back is believed if it opens the root secret, and with that the
whole start is done, verification and freshness included, before the answer.
"""

from __future__ import annotations

import trio

from daemons.runtime.errors import RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.groupview import Group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.management import Answer, Command, Commands
from daemons.vtpmmgr.startup import Started, StartOptions, start
from daemons.vtpmmgr.unsealing import Unverified
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import GroupCount, GroupNumber, GroupShown, Nothing


class RecoveredStart:
    """The start that group 0's key makes possible."""

    def __init__(
        self, unverified: Unverified, options: StartOptions, hardware: Hardware, log: Log
    ) -> None:
        self._unverified = unverified
        self._options = options
        self._hardware = hardware
        self._log = log
        self._started: Started | None = None
        self._done = trio.Event()

    @property
    def commands(self) -> Commands:
        """What is told of the groups meanwhile; nobody vouches for it."""
        return {
            ManagementOrdinal.GROUP_LIST: Command(Nothing, self._list),
            ManagementOrdinal.GROUP_SHOW: Command(GroupNumber, self._show),
        }

    async def read(self, number: int) -> Group:
        """Return a group, closed; CommandRefused(BADINDEX) for any but group 0."""
        record = self._unverified.groups.get(number)
        if record is None or number != 0:
            raise CommandRefused(ManagerCode.BADINDEX)
        return Group(record, self._unverified.policies.get(record.uuid), is_open=False)

    async def opened(self, group: Group, key: Secret) -> None:
        """Start the manager with the key of group 0.

        Raises:
            CommandRefused: DECRYPT_ERROR, it is not that key, or what it opens does not verify.
        """
        try:
            self._started = await start(self._options, self._hardware, self._log, recovered=key)
        except RefusedToStart as error:
            self._log.warning("recovery refused", reason=str(error))
            raise CommandRefused(ManagerCode.DECRYPT_ERROR) from error
        self._done.set()

    async def wait_started(self) -> Started:
        """Return once the manager may serve."""
        await self._done.wait()
        assert self._started is not None
        return self._started

    async def _list(self, request: Nothing) -> Answer:
        return GroupCount(len(self._unverified.groups))

    async def _show(self, request: GroupNumber) -> Answer:
        group = await self.read(request.group)
        return GroupShown(group.record.uuid, group.saa_modulus, group.config_list)
