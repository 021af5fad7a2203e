# SPDX-License-Identifier: Apache-2.0
"""Guests as units of systemd: `vtpm-guest@NAME.target`, which wants the guest's vtpm and tpmfront,
each with the user `vtpm-NAME`."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from daemons.runtime.config.endpoints import TcpEndpoint
from daemons.runtime.config.findings import BadConfig
from daemons.runtime.config.folder import (
    GUESTS_NAME,
    SUFFIX,
    USER_PREFIX,
    FindUid,
    find_uid,
    guest_path,
    load_guest,
)
from daemons.runtime.config.options import CONFIG_FOLDER
from daemons.runtime.config.text import TomlTable, make_file, remove_file, toml_text
from daemons.runtime.config.values import is_guest_name
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.host import STOPPED, ManagerCommand

NAME_LIMIT: Final = 31 - len(USER_PREFIX)
"""Linux lets a user name have 31 characters; systemd-sysusers(8) refuses longer ones."""

_TARGET: Final = "vtpm.target"
_MANAGER: Final = "vtpmmgr.service"
_MANAGER_SOCKETS: Final = ("vtpmmgr.socket", "vtpmmgr-control.socket", "vtpmmgr-admin.socket")
_HWTPM: Final = "hwtpm.service"
_TCP_FILE: Final = "50-vtpm-guest.conf"
_RUNNING: Final = frozenset({"active", "reloading"})
_COMMAND_TIMEOUT_S: Final = 330.0
"""A bit more than the units themselves may take to start."""
_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Places:
    """Where the units keep their things.

    Attributes:
        config: %E/vtpm.
        state: %S/vtpm.
        run: %t/vtpm.
        sysusers: where sysusers.d(5) has an administrator's files.
        units: where systemd has them.
    """

    config: Path = CONFIG_FOLDER
    state: Path = Path("/var/lib/vtpm")
    run: Path = Path("/run/vtpm")
    sysusers: Path = Path("/etc/sysusers.d")
    units: Path = Path("/etc/systemd/system")


class SystemdHost:
    """The units of this machine; a `daemons.vtpmctl.host.Host`."""

    def __init__(self, places: Places | None = None, find_uid: FindUid = find_uid) -> None:
        """Args:
        places: by default those of the system's units.
        find_uid: by default what the system knows.
        """
        self._places = places or Places()
        self._find_uid = find_uid

    @property
    def config(self) -> Path:
        """See `Host`."""
        return self._places.config

    @property
    def find_uid(self) -> FindUid:
        """See `Host`."""
        return self._find_uid

    @property
    def admin_socket(self) -> Path:
        """See `Host`."""
        return self._places.run / "vtpmmgr" / "admin.sock"

    async def is_installed(self) -> bool:
        """Whether systemd runs and knows the target of the suite."""
        try:
            told = await self._run("systemctl", "show", "--value", "-p", "LoadState", _TARGET)
        except DaemonError:
            return False
        return told.strip() == "loaded"

    def check_name(self, name: str) -> None:
        """See `Host`."""
        if len(name) > NAME_LIMIT:
            raise DaemonError(
                f"{name!r} is too long: the name of its user, {USER_PREFIX}{name}, ends at "
                f"{NAME_LIMIT + len(USER_PREFIX)} characters, a guest's at {NAME_LIMIT}"
            )

    def make_file(self, name: str, keys: TomlTable, front: TomlTable | None = None) -> bool:
        """See `Host`."""
        for folder in (self.config, self.config / GUESTS_NAME):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                folder.chmod(_FOLDER_MODE)  # whatever the umask is: others must not write to it
        tables = {"front": front} if front else {}
        text = toml_text(f"Guest {name}, see vtpm-guest.toml(5).", keys, tables)
        return make_file(guest_path(self.config, name), text, _FILE_MODE)

    def state(self, name: str) -> Path:
        """See `Host`."""
        return self._places.state / "guests" / name

    def tpm_socket(self, name: str) -> Path:
        """See `Host`."""
        return self._places.run / "guests" / name / "tpm.sock"

    def control_socket(self, name: str) -> Path:
        """See `Host`."""
        return self._places.run / "vtpms" / name / "control.sock"

    def front_control_socket(self, name: str) -> Path:
        """See `Host`."""
        return self._places.run / "guests" / name / "control.sock"

    async def make_user(self, name: str) -> bool:
        """See `Host`."""
        user = f"{USER_PREFIX}{name}"
        path = self._sysusers_path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make_file(path, f'u {user} - "vTPM of guest {name}"\n', _FILE_MODE)
        except OSError as error:
            raise DaemonError(f"{path}: {error.strerror}") from error
        if self._find_uid(user) is not None:
            return False
        try:
            await self._run("systemd-sysusers", str(path))
            if self._find_uid(user) is None:
                raise DaemonError(f"systemd-sysusers has not made the user {user}")
        except DaemonError:
            if made:
                remove_file(path)
            raise
        return True

    async def remove_user(self, name: str) -> None:
        """See `Host`."""
        user = f"{USER_PREFIX}{name}"
        path = self._sysusers_path(name)
        if self._find_uid(user) is not None:
            await self._run("userdel", user)
        try:
            remove_file(path)
        except OSError as error:
            raise DaemonError(f"{path}: {error.strerror}") from error

    async def running(self) -> Mapping[str, Path]:
        """See `Host`. A daemon that does not run is left out: asking its socket would start it."""
        run = self._places.run
        sockets = {
            _MANAGER: run / "vtpmmgr" / "control.sock",
            _HWTPM: run / "hwtpm" / "control.sock",
        }
        names = [path.stem for path in (self.config / GUESTS_NAME).glob(f"*{SUFFIX}")]
        for name in sorted(filter(is_guest_name, names)):
            sockets[f"vtpm@{name}.service"] = self.control_socket(name)
            sockets[f"tpmfront@{name}.service"] = run / "guests" / name / "control.sock"
        states = await self._active_states(list(sockets))
        return {unit: path for unit, path in sockets.items() if states[unit] in _RUNNING}

    async def manager_socket(self) -> Path | None:
        """See `Host`."""
        return (await self.running()).get(_MANAGER)

    @asynccontextmanager
    async def manager_alone(self) -> AsyncIterator[ManagerCommand]:
        """See `Host`."""
        # Its sockets too: whoever connects would have it started.
        states = await self._active_states([_MANAGER, *_MANAGER_SOCKETS])
        if not set(states.values()) <= {"inactive", "failed"}:
            raise DaemonError(f"the manager runs, or would: systemctl stop {_TARGET} first")
        await self._run("systemctl", "start", _HWTPM)
        places = self._places
        yield ManagerCommand(
            (
                *("--state", str(places.state / "vtpmmgr")),
                *("--socket", str(places.run / "vtpmmgr" / "vtpmmgr.sock")),
                *("--tis", str(places.run / "hwtpm")),
                *("--config", str(places.config)),
            ),
            "vtpm-manager",
            ("vtpm", "vtpm-hwtpm"),
        )

    async def states(self, names: Sequence[str]) -> Mapping[str, str]:
        """See `Host`."""
        units = [f"vtpm@{name}.service" for name in names]
        active = await self._active_states(units)
        words = [STOPPED if active[unit] == "inactive" else active[unit] for unit in units]
        return dict(zip(names, words, strict=True))

    async def is_started(self, name: str) -> bool:
        """See `Host`."""
        target = _target(name)
        told = await self._run(
            "systemctl", "show", "--value", "-p", "ActiveState", "-p", "UnitFileState", target
        )
        return {"active", "enabled"} <= set(told.split())

    async def add(self, name: str) -> bool:
        """See `Host`."""
        await self._run("systemctl", "enable", _target(name))
        await self.start(name)
        return True

    async def discard(self, name: str) -> None:
        """See `Host`."""
        await self._run("systemctl", "disable", _target(name))
        await self.stop(name)
        # A failure that is remembered would be that of the next guest of this name.
        await self._run("systemctl", "reset-failed", *_services(name), check=False)
        await self._drop_tcp(name)

    async def start(self, name: str) -> None:
        """See `Host`."""
        await self._provide_tcp(name)
        await self._run("systemctl", "start", _target(name))
        # The target wants its services, so it is reached even if they fail.
        states = await self._active_states(_services(name))
        for unit, state in states.items():
            if state not in _RUNNING:
                raise DaemonError(f"{unit} is {state}; see journalctl -u {unit}")

    async def stop(self, name: str) -> None:
        """See `Host`."""
        # By name as well: the target is gone before what belongs to it, a service before its
        # sockets, which take connections until then.
        await self._run("systemctl", "stop", _target(name), *_services(name), *_sockets(name))

    async def _provide_tcp(self, name: str) -> None:
        """Have systemd make the TCP sockets that the guest's file says, and no others."""
        try:
            endpoints = load_guest(self.config, name).front.tcp
        except BadConfig:
            return  # its daemons say so
        path = self._tcp_path(name)
        if not endpoints:
            await self._drop_tcp(name)
            return
        text = tcp_socket_text(guest_path(self.config, name), endpoints)
        try:
            if not path.is_file() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.parent.chmod(_FOLDER_MODE)
                remove_file(path)
                make_file(path, text, _FILE_MODE)
        except OSError as error:
            raise DaemonError(f"{path}: {error.strerror}") from error
        # Which has systemd read the file as well.
        await self._run("systemctl", "enable", _tcp_socket(name))

    async def _drop_tcp(self, name: str) -> None:
        path = self._tcp_path(name)
        if not path.is_file():
            return  # one that an administrator has made by another file stays
        # Disabled before the file goes, so that a second attempt finds what is left of the first.
        await self._run("systemctl", "disable", "--now", _tcp_socket(name))
        try:
            remove_file(path)
            path.parent.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise DaemonError(f"{path}: {error.strerror}") from error
        await self._run("systemctl", "daemon-reload")

    def _tcp_path(self, name: str) -> Path:
        return self._places.units / f"{_tcp_socket(name)}.d" / _TCP_FILE

    def _sysusers_path(self, name: str) -> Path:
        return self._places.sysusers / f"vtpm-guest-{name}.conf"

    async def _active_states(self, units: Sequence[str]) -> Mapping[str, str]:
        if not units:
            return {}
        # Exit code 3 says that some are not active, which is an answer.
        told = await self._run("systemctl", "is-active", *units, check=False)
        states = told.split()
        if len(states) != len(units):
            raise DaemonError(f"systemctl is-active does not tell of {', '.join(units)}")
        return dict(zip(units, states, strict=True))

    async def _run(self, *command: str, check: bool = True) -> str:
        """Run a command and return what it wrote to standard output."""
        try:
            with trio.fail_after(_COMMAND_TIMEOUT_S):
                done = await trio.run_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise DaemonError(f"{command[0]}: {error.strerror}") from error
            raise DaemonError(f"{command[0]} is missing: is this a systemd machine?") from error
        except trio.TooSlowError as error:
            raise DaemonError(
                f"{' '.join(command)} takes longer than {_COMMAND_TIMEOUT_S:g} s"
            ) from error
        if check and done.returncode:
            reason = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            raise DaemonError(f"{' '.join(command)}: {reason}")
        return done.stdout.decode(errors="replace")


def _target(name: str) -> str:
    return f"vtpm-guest@{name}.target"


def _tcp_socket(name: str) -> str:
    return f"tpmfront-tcp@{name}.socket"


def tcp_socket_text(source: Path, endpoints: Sequence[TcpEndpoint]) -> str:
    """Return what tpmfront-tcp@NAME.socket needs besides the installed unit.

    Args:
        source: the guest's file, to be named.
        endpoints: from there.
    """
    lines = [
        f"# Written by vtpmctl: what [front] tcp of {source} says.",
        "[Socket]",
        "ListenStream=",
    ]
    lines += [f"ListenStream={endpoint.place}" for endpoint in endpoints]
    if not all(endpoint.is_loopback for endpoint in endpoints):
        lines.append("IPAddressAllow=any")
    return "\n".join([*lines, ""])


def _sockets(name: str) -> tuple[str, ...]:
    kinds = (
        "vtpm",
        "vtpm-control",
        "tpmfront",
        "tpmfront-ctrl",
        "tpmfront-control",
        "tpmfront-tcp",
    )
    return tuple(f"{kind}@{name}.socket" for kind in kinds)


def _services(name: str) -> tuple[str, str]:
    return f"vtpm@{name}.service", f"tpmfront@{name}.service"
