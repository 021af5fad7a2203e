# SPDX-License-Identifier: Apache-2.0
"""A suite under `vtpmctl up`: its supervisor tells the daemons, the layout everything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemons.hwtpm.filenames import STATE_NAME
from daemons.runtime.config.folder import examine
from daemons.runtime.control import Fields, Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.vtpm.filenames import SLOT_NAMES
from daemons.vtpmctl.child import ChildState
from daemons.vtpmctl.layout import Layout
from daemons.vtpmctl.site import Daemon, FolderRule, Kind, Premises, SocketRule, guests_of
from daemons.vtpmmgr.filenames import DATABASE_NAME
from protocol.tis.mmio import locality_socket
from protocol.tis.registers import LOCALITIES

SUPERVISOR_TIMEOUT_S: Final = 5.0

_OTHERS: Final = 0o077
_OTHERS_WRITING: Final = 0o022


class StackSite:
    """A `vtpmctl up` in a folder."""

    def __init__(self, layout: Layout) -> None:
        """Args:
        layout: the folder.
        """
        self._layout = layout

    @property
    def where(self) -> str:
        """The folder."""
        return str(self._layout.root)

    async def _ask(self) -> Fields:
        path = self._layout.control_socket
        return await control_request(path, "status", timeout_s=SUPERVISOR_TIMEOUT_S)

    async def daemons(self) -> tuple[Daemon, ...]:
        """Ask the supervisor.

        Raises:
            DaemonError: no supervisor runs in this folder.
        """
        rows = (await self._ask()).get("daemons")
        if not isinstance(rows, list):
            raise DaemonError(f"{self._layout.control_socket}: a status without daemons")
        return tuple([_daemon(row) for row in rows])

    async def premises(self) -> Premises:
        """Return what a stack in this folder consists of; without a supervisor, by its folders."""
        layout = self._layout
        secret_files: list[str] = []
        try:
            guests = list(guests_of(await self.daemons()))
            told = (await self._ask()).get("secret_files")
            secret_files = [str(path) for path in told] if isinstance(told, list) else []
        except DaemonError:
            guests = _kept_guests(layout)
        configured = examine(layout.etc).configuration
        streamless = {one.name for one in configured.guests.values() if not one.front.stream}
        streams = [name for name in guests if name not in streamless]
        without = {one.name for one in configured.guests.values() if not one.front.control}
        controlled = [name for name in guests if name not in without]
        owner = _owner_of(layout.root)
        locks = [
            (layout.hwtpm_state, "hwtpm"),
            (layout.vtpmmgr_state, "vtpmmgr"),
            *((layout.guest(name).state, f"vtpm-{name}") for name in guests),
        ]
        return Premises(
            folders=(
                *_rules(layout, guests, owner),
                *[FolderRule(Path(path), _OTHERS, secret=True) for path in secret_files],
            ),
            sockets=(
                *_sockets(layout, guests),
                *_streams(layout, streams),
                *_control_channels(layout, controlled),
            ),
            locks=tuple([(folder / ".lock", daemon) for folder, daemon in locks]),
            state=layout.state,
            configuration=layout.etc,
            tis=layout.hwtpm_run,
            locality=configured.machine.manager.locality,
            fronts=tuple([(name, layout.guest(name).tpm_socket) for name in streams]),
        )


def _kept_guests(layout: Layout) -> list[str]:
    folder = layout.state / "guests"
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _owner_of(root: Path) -> int | None:
    try:
        return root.stat().st_uid
    except OSError:
        return None


def _rules(layout: Layout, guests: list[str], uid: int | None) -> Iterator[FolderRule]:
    yield FolderRule(layout.root, _OTHERS_WRITING, uid=uid)
    yield FolderRule(layout.run, _OTHERS_WRITING, uid=uid, must_be_there=False)
    yield FolderRule(layout.hwtpm_run, _OTHERS, uid=uid, must_be_there=False)
    for folder in (layout.state, layout.etc, layout.hwtpm_state, layout.vtpmmgr_state):
        yield FolderRule(folder, _OTHERS, uid=uid)
    for name in (STATE_NAME,):
        yield FolderRule(layout.hwtpm_state / name, _OTHERS, uid=uid, secret=True)
    yield FolderRule(layout.vtpmmgr_state / DATABASE_NAME, _OTHERS, uid=uid, secret=True)
    for guest in guests:
        paths = layout.guest(guest)
        yield FolderRule(paths.state, _OTHERS, uid=uid)
        yield FolderRule(paths.run, _OTHERS_WRITING, uid=uid, must_be_there=False)
        for slot in SLOT_NAMES:
            yield FolderRule(paths.state / slot, _OTHERS, uid=uid, must_be_there=False, secret=True)


def _sockets(layout: Layout, guests: list[str]) -> Iterator[SocketRule]:
    yield SocketRule(layout.hwtpm_control_socket, "hwtpm", _OTHERS, is_stream=True)
    for locality in range(LOCALITIES):
        path = locality_socket(layout.hwtpm_run, locality)
        yield SocketRule(path, "hwtpm", _OTHERS, is_stream=False)
    yield SocketRule(layout.vtpmmgr_socket, "vtpmmgr", _OTHERS, is_stream=False)
    yield SocketRule(layout.vtpmmgr_control_socket, "vtpmmgr", _OTHERS, is_stream=True)
    for guest in guests:
        paths = layout.guest(guest)
        yield SocketRule(paths.back_socket, f"vtpm-{guest}", _OTHERS, is_stream=False)
        yield SocketRule(paths.control_socket, f"vtpm-{guest}", _OTHERS, is_stream=True)
        yield SocketRule(paths.front_control_socket, f"tpmfront-{guest}", _OTHERS, is_stream=True)


def _streams(layout: Layout, guests: list[str]) -> Iterator[SocketRule]:
    for guest in guests:
        # Who may use it is the configuration's to say.
        path = layout.guest(guest).tpm_socket
        yield SocketRule(path, f"tpmfront-{guest}", 0, is_stream=True)


def _control_channels(layout: Layout, guests: list[str]) -> Iterator[SocketRule]:
    for guest in guests:
        path = layout.guest(guest).ctrl_socket
        yield SocketRule(path, f"tpmfront-{guest}", 0, is_stream=True)


def _daemon(row: Json) -> Daemon:
    match row:
        case {
            "daemon": str(name),
            "kind": "hwtpm" | "vtpmmgr" | "vtpm" | "tpmfront" as kind,
            "pid": int() | None as pid,
            "state": str(state),
            "restarts": int(restarts),
            "note": str(note),
            "guest": str() | None as guest,
            "uuid": str() | None as uuid,
            "control": str() | None as control,
        }:
            return Daemon(
                name=name,
                kind=Kind(kind),
                state=state,
                is_ready=state == ChildState.READY.value,
                pid=pid,
                restarts=restarts,
                note=note,
                guest=guest,
                uuid=uuid,
                control=None if control is None else Path(control),
            )
        case _:
            raise DaemonError("the supervisor is of another version: its status is not understood")
