# SPDX-License-Identifier: Apache-2.0
"""Guests of a stack of `vtpmctl up`: its supervisor starts and stops them on request."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from daemons.runtime.config.folder import GUESTS_NAME, FindUid
from daemons.runtime.config.text import TomlTable
from daemons.runtime.control import Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.vtpmctl.alone import running_alone
from daemons.vtpmctl.host import STOPPED, ManagerCommand
from daemons.vtpmctl.layout import Layout
from daemons.vtpmctl.plan import UpConfig, plan_machine
from daemons.vtpmctl.stackconfig import make_guest

START_GUEST: Final = "start-guest"
STOP_GUEST: Final = "stop-guest"
"""Verbs of the supervisor's control socket; the argument is `name`."""
START_LIMIT_S: Final = 120.0
"""How long the supervisor waits for a guest that it has started."""

_TIMEOUT_S: Final = START_LIMIT_S + 60.0
_MANAGER: Final = "vtpmmgr"


class SupervisorHost:
    """A stack in a folder; a `daemons.vtpmctl.host.Host`."""

    def __init__(self, layout: Layout) -> None:
        """Args:
        layout: the folder.
        """
        self._layout = layout

    @property
    def config(self) -> Path:
        """See `Host`."""
        return self._layout.etc

    @property
    def find_uid(self) -> FindUid:
        """See `Host`. All guests are this user, and their files say so."""
        return lambda _user: None

    @property
    def admin_socket(self) -> Path:
        """See `Host`."""
        return self._layout.vtpmmgr_admin_socket

    def check_name(self, name: str) -> None:
        """See `Host`."""
        self._layout.check_lengths([name])

    def make_file(self, name: str, keys: TomlTable, front: TomlTable | None = None) -> bool:
        """See `Host`."""
        if not self._layout.state.is_dir():
            raise DaemonError(f"{self._layout.root} has no stack yet: start it with vtpmctl up")
        found = self._layout.state.stat().st_uid
        if found != os.geteuid():
            raise DaemonError(f"{self._layout.root} belongs to uid {found}: be that user")
        StateFolder(self.config)
        StateFolder(self.config / GUESTS_NAME)
        return make_guest(self._layout, name, keys, front)

    def state(self, name: str) -> Path:
        """See `Host`."""
        return self._layout.guest(name).state

    def tpm_socket(self, name: str) -> Path:
        """See `Host`."""
        return self._layout.guest(name).tpm_socket

    def control_socket(self, name: str) -> Path:
        """See `Host`."""
        return self._layout.guest(name).control_socket

    def front_control_socket(self, name: str) -> Path:
        """See `Host`."""
        return self._layout.guest(name).front_control_socket

    async def make_user(self, name: str) -> bool:
        """See `Host`: there are no users."""
        del name
        return False

    async def remove_user(self, name: str) -> None:
        """See `Host`: there are no users."""

    async def running(self) -> Mapping[str, Path]:
        """See `Host`."""
        rows = await self._daemons() if self._is_up else []
        sockets = {
            str(row["daemon"]): Path(str(row["control"]))
            for row in rows
            if row.get("pid") is not None and row.get("control") is not None
        }
        return dict(sorted(sockets.items(), key=lambda item: item[0] != _MANAGER))

    async def manager_socket(self) -> Path | None:
        """See `Host`."""
        return (await self.running()).get(_MANAGER)

    @asynccontextmanager
    async def manager_alone(self) -> AsyncIterator[ManagerCommand]:
        """See `Host`. A stack whose manager refuses has ended, and its chip with it."""
        if self._is_up:
            raise DaemonError(f"the stack in {self._layout.root} runs: stop vtpmctl up first")
        if not self._layout.vtpmmgr_state.is_dir():
            raise DaemonError(f"{self._layout.root} has no manager's state")
        hwtpm, manager = plan_machine(UpConfig(self._layout))
        with self._layout.prepare():
            notify = self._layout.notify / hwtpm.name
            async with running_alone("daemons.hwtpm", hwtpm.args, notify):
                yield ManagerCommand(manager.args)

    async def states(self, names: Sequence[str]) -> Mapping[str, str]:
        """See `Host`."""
        rows = await self._daemons() if self._is_up else []
        found = {str(row.get("daemon")): str(row.get("state")) for row in rows}
        return {name: found.get(f"vtpm-{name}", STOPPED) for name in names}

    async def is_started(self, name: str) -> bool:
        """See `Host`."""
        return (await self.states([name]))[name] != STOPPED

    async def add(self, name: str) -> bool:
        """See `Host`: whoever has a file starts with the stack."""
        if not self._is_up:
            return False
        await self.start(name)
        return True

    async def discard(self, name: str) -> None:
        """See `Host`."""
        if self._is_up:
            await self.stop(name)

    async def start(self, name: str) -> None:
        """See `Host`."""
        await self._ask(START_GUEST, name=name)

    async def stop(self, name: str) -> None:
        """See `Host`."""
        await self._ask(STOP_GUEST, name=name)

    @property
    def _is_up(self) -> bool:
        # Its socket goes with it, unless it was killed.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            return probe.connect_ex(os.fspath(self._layout.control_socket)) == 0

    async def _daemons(self) -> list[dict[str, Json]]:
        rows = (await self._ask("status")).get("daemons")
        if not isinstance(rows, list):
            raise DaemonError(f"{self._layout.control_socket}: a status without daemons")
        return [row for row in rows if isinstance(row, dict)]

    async def _ask(self, verb: str, **args: Json) -> Mapping[str, Json]:
        return await control_request(
            self._layout.control_socket, verb, timeout_s=_TIMEOUT_S, **args
        )
