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

from daemons.hwtpm.store import STATE_NAME
from daemons.runtime.errors import DaemonError, ExitCode
from daemons.vtpm.selection import SLOT_NAMES
from daemons.vtpmctl.layout import check_guest_name
from daemons.vtpmctl.site import (
    Daemon,
    FolderRule,
    Kind,
    Premises,
    SocketRule,
    UnitState,
)
from daemons.vtpmmgr.config import DATABASE_NAME, DEFAULT_LOCALITY
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
_GUEST_CONFIGURATION: Final = re.compile(r"^UUID=\s*(\S+)\s*$", re.MULTILINE)
_CREDENTIALS: Final = Path("/run/credentials")
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
    configuration: Path = Path("/etc/vtpm")

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

    def configured_guests(self) -> Mapping[str, str | None]:
        """Return the uuid of each guest that is configured, None where it cannot be read."""
        found: dict[str, str | None] = {}
        try:
            paths = sorted((self.configuration / "guests").glob("*.conf"))
        except OSError:
            return found
        for path in paths:
            try:
                name = check_guest_name(path.stem)
                match = _GUEST_CONFIGURATION.search(path.read_text())
            except DaemonError:
                continue
            except (OSError, UnicodeDecodeError):
                match = None
            found[name] = match[1] if match else None
        return found


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

    async def is_installed(self) -> bool:
        """Whether systemd knows the target of the suite."""
        try:
            told = await self._show(["--property=LoadState", TARGET])
        except DaemonError:
            return False
        return "LoadState=loaded" in told.splitlines()

    async def daemons(self) -> tuple[Daemon, ...]:
        """Ask systemd.

        Raises:
            DaemonError: there is no systemd, or it does not know the units.
        """
        uuids = self._places.configured_guests()
        units = await self._units(uuids)
        if all(unit["LoadState"] == "not-found" for unit in units.values()):
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
        uuids = places.configured_guests()
        units = await self._units(uuids)
        guests = list(dict.fromkeys([*uuids, *[g for g in map(_guest_of, units) if g]]))
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
            sockets=tuple(_sockets(places, guests)),
            locks=tuple([(folder / ".lock", daemon) for folder, daemon in locks]),
            state=places.state,
            clients=places.configuration / "clients.toml",
            tis=places.hwtpm_run,
            locality=DEFAULT_LOCALITY,
            fronts=tuple([(name, places.front_run(name) / "tpm.sock") for name in guests]),
            users=("vtpm-hwtpm", "vtpm-manager", *[f"vtpm-{name}" for name in guests]),
            groups=("vtpm", "vtpm-hwtpm"),
            units=tuple([_unit_state(unit) for unit in units.values()]),
        )

    async def _units(self, guests: Mapping[str, str | None]) -> dict[str, dict[str, str]]:
        """Return the properties of every unit of ours by its name."""
        names = [TARGET, "hwtpm.service", "vtpmmgr.service"]
        names += [f"{kind}@{guest}.service" for guest in guests for kind in ("vtpm", "tpmfront")]
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
        if name == TARGET:
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
    _, at, guest = unit.removesuffix(".service").partition("@")
    return guest if at else None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _rules(places: Places, guests: Sequence[str]) -> Iterator[FolderRule]:
    yield FolderRule(places.configuration, _OTHERS_WRITING)
    yield FolderRule(places.configuration / "clients.toml", _OTHERS_WRITING)
    chip, manager = places.state / "hwtpm", places.state / "vtpmmgr"
    yield FolderRule(chip, _OTHERS, owner="vtpm-hwtpm")
    yield FolderRule(chip / STATE_NAME, _OTHERS, owner="vtpm-hwtpm", secret=True)
    yield FolderRule(manager, _OTHERS, owner="vtpm-manager")
    yield FolderRule(manager / DATABASE_NAME, _OTHERS, owner="vtpm-manager", secret=True)
    yield FolderRule(places.hwtpm_run, 0o027, owner="vtpm-hwtpm", must_be_there=False)
    yield FolderRule(places.manager_run, 0o027, owner="vtpm-manager", must_be_there=False)
    for guest in guests:
        user = f"vtpm-{guest}"
        yield FolderRule(places.configuration / "guests" / f"{guest}.conf", _OTHERS_WRITING)
        yield FolderRule(places.guest_state(guest), _OTHERS, owner=user)
        for slot in SLOT_NAMES:
            path = places.guest_state(guest) / slot
            yield FolderRule(path, _OTHERS, owner=user, must_be_there=False, secret=True)
        yield FolderRule(places.vtpm_run(guest), _OTHERS, owner=user, must_be_there=False)
        yield FolderRule(places.front_run(guest), _OTHERS_WRITING, owner=user, must_be_there=False)


def _sockets(places: Places, guests: Sequence[str]) -> Iterator[SocketRule]:
    chip, manager = "hwtpm.service", "vtpmmgr.service"
    yield SocketRule(places.control(Kind.HWTPM, None), chip, _OTHERS, is_stream=True)
    for locality in range(LOCALITIES):
        path = locality_socket(places.hwtpm_run, locality)
        # The manager reaches its locality by its group.
        forbidden = _WORLD if locality == DEFAULT_LOCALITY else _OTHERS
        yield SocketRule(path, chip, forbidden, is_stream=False)
    yield SocketRule(places.manager_run / "vtpmmgr.sock", manager, _WORLD, is_stream=False)
    yield SocketRule(places.control(Kind.MANAGER, None), manager, _OTHERS, is_stream=True)
    for guest in guests:
        vtpm, front = f"vtpm@{guest}.service", f"tpmfront@{guest}.service"
        back = places.vtpm_run(guest) / "tpmback.sock"
        yield SocketRule(back, vtpm, _OTHERS, is_stream=False)
        yield SocketRule(places.control(Kind.VTPM, guest), vtpm, _OTHERS, is_stream=True)
        yield SocketRule(places.control(Kind.FRONT, guest), front, _OTHERS, is_stream=True)
        # Every local user may use it.
        yield SocketRule(places.front_run(guest) / "tpm.sock", front, 0, is_stream=True)
