# SPDX-License-Identifier: Apache-2.0
"""A suite under systemd: the manager of the units tells the daemons, by `systemctl show`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from daemons.hwtpm.filenames import STATE_NAME
from daemons.runtime.config.folder import (
    GUESTS_NAME,
    MACHINE_NAME,
    Examination,
    examine,
    guest_path,
)
from daemons.runtime.config.options import CONFIG_FOLDER
from daemons.runtime.errors import DaemonError, ExitCode
from daemons.vtpm.filenames import SLOT_NAMES
from daemons.vtpmctl.site import (
    Daemon,
    FolderRule,
    Kind,
    Premises,
    SocketRule,
    UnitState,
)
from daemons.vtpmmgr.filenames import DATABASE_NAME
from protocol.tis.mmio import locality_socket
from protocol.tis.registers import LOCALITIES

TARGET: Final = "vtpm.target"
SYSTEMCTL_TIMEOUT_S: Final = 10.0

Show = Callable[[Sequence[str]], Awaitable[str]]
"""Runs `systemctl show` with these arguments and returns what it wrote."""

_PROPERTIES: Final = (
    *("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "MainPID"),
    *("ExecMainStatus", "NRestarts", "StatusText", "ExecStart"),
)
_SECRET_FILE: Final = re.compile(r"--(?:owner|srk)-auth[ =]file:([^\s;]+)")
_CREDENTIALS: Final = Path("/run/credentials")
_MANAGERS_LOCALITY: Final = 2
"""The one whose socket the units give to the manager's group."""
_OTHERS: Final = 0o077
_OTHERS_WRITING: Final = 0o022
_WORLD: Final = 0o007


@dataclass(frozen=True, slots=True)
class Places:
    """Where the units keep their things.

    Attributes:
        state: %S/vtpm.
        run: %t/vtpm.
        configuration: %E/vtpm.
    """

    state: Path = Path("/var/lib/vtpm")
    run: Path = Path("/run/vtpm")
    configuration: Path = CONFIG_FOLDER

    @property
    def hwtpm_run(self) -> Path:
        """Sockets of the chip."""
        return self.run / "hwtpm"

    @property
    def manager_run(self) -> Path:
        """Sockets of the manager."""
        return self.run / "vtpmmgr"

    def vtpm_run(self, guest: str) -> Path:
        """Sockets of a guest's vtpm."""
        return self.run / "vtpms" / guest

    def front_run(self, guest: str) -> Path:
        """Sockets of a guest's front."""
        return self.run / "guests" / guest

    def guest_state(self, guest: str) -> Path:
        """What a guest's vtpm keeps."""
        return self.state / "guests" / guest

    def control(self, kind: Kind, guest: str | None) -> Path:
        """Return where a daemon answers `vtpmctl`."""
        match kind, guest:
            case Kind.HWTPM, _:
                folder = self.hwtpm_run
            case Kind.MANAGER, _:
                folder = self.manager_run
            case Kind.VTPM, str(name):
                folder = self.vtpm_run(name)
            case Kind.FRONT, str(name):
                folder = self.front_run(name)
            case _:
                raise ValueError(f"{kind.value} without a guest")
        return folder / "control.sock"


class UnitsSite:
    """The units of this machine."""

    def __init__(self, places: Places | None = None, show: Show | None = None) -> None:
        """Args:
        places: by default those of the system's units.
        show: by default the system's systemctl.
        """
        self._places = places or Places()
        self._show = show or show_units

    @property
    def where(self) -> str:
        """systemd."""
        return "systemd"

    def _examine(self) -> Examination:
        return examine(self._places.configuration)

    async def daemons(self) -> tuple[Daemon, ...]:
        """Ask systemd.

        Raises:
            DaemonError: there is no systemd, or it does not know the units.
        """
        uuids = _uuids(self._examine())
        units = await self._units(uuids)
        services = [unit for name, unit in units.items() if name.endswith(".service")]
        if all(unit["LoadState"] == "not-found" for unit in services):
            raise DaemonError("systemd does not know the units hwtpm, vtpmmgr, vtpm@, tpmfront@")
        found = [self._daemon(unit, uuids) for unit in units.values()]
        order = list(Kind)
        return tuple(
            sorted(
                [daemon for daemon in found if daemon is not None],
                key=lambda daemon: (daemon.guest or "", order.index(daemon.kind)),
            )
        )

    async def premises(self) -> Premises:
        """Return what the units consist of.

        Raises:
            DaemonError: there is no systemd.
        """
        places = self._places
        examination = self._examine()
        configured = examination.configuration
        uuids = _uuids(examination)
        units = await self._units(uuids)
        guests = list(dict.fromkeys([*uuids, *[g for g in map(_guest_of, units) if g]]))
        streamless = {one.name for one in configured.guests.values() if not one.front.stream}
        streams = [name for name in guests if name not in streamless]
        without = {one.name for one in configured.guests.values() if not one.front.control}
        controlled = [name for name in guests if name not in without]
        start = units.get("vtpmmgr.service", {}).get("ExecStart", "")
        # What systemd hands over as credentials is its own, in a folder of its own.
        given = [Path(path) for path in _SECRET_FILE.findall(start)]
        secrets = [path for path in given if not path.is_relative_to(_CREDENTIALS)]
        locks = [
            (places.state / "hwtpm", "hwtpm.service"),
            (places.state / "vtpmmgr", "vtpmmgr.service"),
            *((places.guest_state(name), f"vtpm@{name}.service") for name in guests),
        ]
        return Premises(
            folders=(
                *_rules(places, guests),
                *[FolderRule(path, _OTHERS, secret=True) for path in secrets],
            ),
            sockets=(
                *_sockets(places, guests),
                *_streams(places, streams),
                *_control_channels(places, controlled),
            ),
            locks=tuple([(folder / ".lock", daemon) for folder, daemon in locks]),
            state=places.state,
            configuration=places.configuration,
            tis=places.hwtpm_run,
            locality=configured.machine.manager.locality,
            fronts=tuple([(name, places.front_run(name) / "tpm.sock") for name in streams]),
            users=("vtpm-hwtpm", "vtpm-manager", *[f"vtpm-{name}" for name in guests]),
            groups=("vtpm", "vtpm-hwtpm"),
            units=tuple([_unit_state(unit) for unit in units.values()]),
        )

    async def _units(self, guests: Mapping[str, str | None]) -> dict[str, dict[str, str]]:
        """Return the properties of every unit of ours by its name."""
        names = [TARGET, "hwtpm.service", "vtpmmgr.service"]
        names += [f"{kind}@{guest}.service" for guest in guests for kind in ("vtpm", "tpmfront")]
        names += [f"vtpm-guest@{guest}.target" for guest in guests]
        # The patterns find what runs without being configured any more.
        patterns = ["vtpm@*.service", "tpmfront@*.service"]
        told = await self._show([f"--property={','.join(_PROPERTIES)}", *names, *patterns])
        units: dict[str, dict[str, str]] = {}
        for block in told.split("\n\n"):
            unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if "Id" in unit:
                units[unit["Id"]] = dict.fromkeys(_PROPERTIES, "") | unit
        return units

    def _daemon(self, unit: Mapping[str, str], uuids: Mapping[str, str | None]) -> Daemon | None:
        name = unit["Id"]
        if not name.endswith(".service"):
            return None
        guest = _guest_of(name)
        kind = Kind(name.removesuffix(".service").partition("@")[0])
        pid = _number(unit["MainPID"])
        state, note = _state(unit)
        return Daemon(
            name=name,
            kind=kind,
            state=state,
            is_ready=state == "ready",
            pid=pid or None,
            restarts=_number(unit["NRestarts"]),
            note=note,
            guest=guest,
            uuid=uuids.get(guest) if guest else None,
            control=self._places.control(kind, guest),
        )


async def show_units(arguments: Sequence[str]) -> str:
    """Run the system's `systemctl show`.

    Raises:
        DaemonError: there is none, or it fails.
    """
    if shutil.which("systemctl") is None:
        raise DaemonError("there is no systemctl on this machine")
    with trio.move_on_after(SYSTEMCTL_TIMEOUT_S):
        done = await trio.run_process(
            ["systemctl", "show", "--no-pager", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr or b"").decode(errors="replace").strip()
            raise DaemonError(f"systemctl show: {reason or f'exit code {done.returncode}'}")
        return done.stdout.decode(errors="replace")
    raise DaemonError(f"systemctl show did not answer within {SYSTEMCTL_TIMEOUT_S:g} s")


def _state(unit: Mapping[str, str]) -> tuple[str, str]:
    """Return a daemon's state in the words of `vtpmctl up`, and a note."""
    text = unit["StatusText"]
    if unit["LoadState"] != "loaded":
        return "not installed", unit["LoadState"]
    match unit["ActiveState"]:
        case "active" | "reloading":
            return "ready", text
        case "activating":
            if unit["SubState"] == "auto-restart":
                return "waiting to be started again", f"ended by {unit['Result']}"
            return "starting", text
        case "deactivating":
            return "stopping", text
        case "failed":
            code = _number(unit["ExecMainStatus"])
            if code == ExitCode.REFUSED and unit["Result"] == "exit-code":
                return "refused to start", f"exit code {code}"
            return "failed", f"{unit['Result']}, exit code {code}"
        case _:
            return "stopped", text


def _unit_state(unit: Mapping[str, str]) -> UnitState:
    return UnitState(
        name=unit["Id"],
        load=unit["LoadState"],
        active=unit["ActiveState"],
        file_state=unit["UnitFileState"],
        result=unit["Result"],
        exit_status=_number(unit["ExecMainStatus"]),
    )


def _guest_of(unit: str) -> str | None:
    _, at, guest = unit.rpartition(".")[0].partition("@")
    return guest if at else None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _rules(places: Places, guests: Sequence[str]) -> Iterator[FolderRule]:
    configuration = places.configuration
    yield FolderRule(configuration, _OTHERS_WRITING)
    yield FolderRule(configuration / MACHINE_NAME, _OTHERS_WRITING, must_be_there=False)
    yield FolderRule(configuration / GUESTS_NAME, _OTHERS_WRITING, must_be_there=False)
    credentials = configuration / "credentials"
    yield FolderRule(credentials, _OTHERS, must_be_there=False)
    for name in ("owner-auth", "srk-auth"):
        yield FolderRule(credentials / name, _OTHERS, must_be_there=False, secret=True)
    chip, manager = places.state / "hwtpm", places.state / "vtpmmgr"
    yield FolderRule(chip, _OTHERS, owner="vtpm-hwtpm")
    yield FolderRule(chip / STATE_NAME, _OTHERS, owner="vtpm-hwtpm", secret=True)
    yield FolderRule(manager, _OTHERS, owner="vtpm-manager")
    yield FolderRule(manager / DATABASE_NAME, _OTHERS, owner="vtpm-manager", secret=True)
    yield FolderRule(places.hwtpm_run, 0o027, must_be_there=False)
    yield FolderRule(places.manager_run, 0o027, must_be_there=False)
    for guest in guests:
        user = f"vtpm-{guest}"
        yield FolderRule(guest_path(configuration, guest), _OTHERS_WRITING)
        yield FolderRule(places.guest_state(guest), _OTHERS, owner=user)
        for slot in SLOT_NAMES:
            path = places.guest_state(guest) / slot
            yield FolderRule(path, _OTHERS, owner=user, must_be_there=False, secret=True)
        for folder in (places.vtpm_run(guest), places.front_run(guest)):
            yield FolderRule(folder, _OTHERS_WRITING, must_be_there=False)


def _sockets(places: Places, guests: Sequence[str]) -> Iterator[SocketRule]:
    chip, manager = "hwtpm.service", "vtpmmgr.service"
    yield SocketRule(places.control(Kind.HWTPM, None), chip, _OTHERS, is_stream=True)
    for locality in range(LOCALITIES):
        path = locality_socket(places.hwtpm_run, locality)
        # The manager reaches its locality by its group.
        forbidden = _WORLD if locality == _MANAGERS_LOCALITY else _OTHERS
        yield SocketRule(path, chip, forbidden, is_stream=False)
    yield SocketRule(places.manager_run / "vtpmmgr.sock", manager, _WORLD, is_stream=False)
    yield SocketRule(places.control(Kind.MANAGER, None), manager, _OTHERS, is_stream=True)
    for guest in guests:
        vtpm, front = f"vtpm@{guest}.service", f"tpmfront@{guest}.service"
        back = places.vtpm_run(guest) / "tpmback.sock"
        yield SocketRule(back, vtpm, _OTHERS, is_stream=False)
        yield SocketRule(places.control(Kind.VTPM, guest), vtpm, _OTHERS, is_stream=True)
        yield SocketRule(places.control(Kind.FRONT, guest), front, _OTHERS, is_stream=True)


def _streams(places: Places, guests: Sequence[str]) -> Iterator[SocketRule]:
    for guest in guests:
        # Who may use it is the socket unit's to say.
        path = places.front_run(guest) / "tpm.sock"
        yield SocketRule(path, f"tpmfront@{guest}.service", 0, is_stream=True)


def _control_channels(places: Places, guests: Sequence[str]) -> Iterator[SocketRule]:
    for guest in guests:
        # The unit leaves others out; a drop-in may let in whom it likes but them.
        path = places.front_run(guest) / "ctrl.sock"
        yield SocketRule(path, f"tpmfront@{guest}.service", _WORLD, is_stream=True)


def _uuids(examination: Examination) -> dict[str, str | None]:
    """Return the uuid of each guest that is configured, None where its file has mistakes."""
    guests = examination.configuration.guests
    found: dict[str, str | None] = {name: str(one.identity.uuid) for name, one in guests.items()}
    return found | dict.fromkeys(sorted(examination.excluded))
