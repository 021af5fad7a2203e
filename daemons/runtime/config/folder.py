# SPDX-License-Identifier: Apache-2.0
"""Reading a configuration folder: `vtpm.toml`, which may be missing, and `guests.d/NAME.toml`.

Files and folders that somebody else could have written count for nothing: they must belong to root
or to whoever reads them, and nobody else may write to them. Files in `guests.d` whose name does not
end in `.toml`, or begins with a dot, are none of ours (an editor's, a package manager's).

Everything here blocks: a daemon that serves calls it in a worker thread.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from daemons.runtime.config.endpoints import check_endpoints
from daemons.runtime.config.findings import BadConfig, Finding, Findings
from daemons.runtime.config.options import (
    MACHINE_TABLES,
    CompatOptions,
    Configuration,
    FrontOptions,
    Guest,
    GuestDefaults,
    HwtpmOptions,
    Identity,
    Machine,
    ManagerOptions,
    VtpmOptions,
)
from daemons.runtime.config.schema import names_of, read_keys
from daemons.runtime.config.values import check_guest_name, is_guest_name

MACHINE_NAME: Final = "vtpm.toml"
GUESTS_NAME: Final = "guests.d"
SUFFIX: Final = ".toml"
FILE_LIMIT_BYTES: Final = 64 * 1024
USER_PREFIX: Final = "vtpm-"

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_POSITION: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)")

FindUid = Callable[[str], int | None]
"""Gives the uid of a user by name; None if there is no such user."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What is in a folder, and what is wrong with it.

    Attributes:
        configuration: with those guests whose file has no finding.
        findings: in the order of the files; those about the machine come first.
        excluded: names of the guests that have findings, as far as they are names.
    """

    configuration: Configuration
    findings: tuple[Finding, ...]
    excluded: Collection[str]


def guest_path(folder: Path, name: str) -> Path:
    """Return the path of a guest's file."""
    return folder / GUESTS_NAME / f"{name}{SUFFIX}"


def find_uid(user: str) -> int | None:
    """Return the uid of a system user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def load_machine(folder: Path) -> Machine:
    """Read `vtpm.toml`; the defaults if there is none.

    Raises:
        BadConfig: with all that is wrong with it.
    """
    findings = Findings(folder / MACHINE_NAME)
    machine = _read_machine(folder, findings)
    findings.raise_any()
    return machine


def load_guest(folder: Path, name: str) -> Guest:
    """Read what concerns one guest: its own file and `vtpm.toml`. A uid that is not in the file
    stays None: whoever looks at one guest only does not need it.

    Raises:
        BadConfig: with all that is wrong with both.
    """
    machine_findings = Findings(folder / MACHINE_NAME)
    machine = _read_machine(folder, machine_findings)
    findings = Findings(guest_path(folder, name))
    _check_name(name, findings)
    guest = None
    if not findings.found and _is_safe_folder(findings, folder / GUESTS_NAME):
        guest = _read_guest(name, machine, findings)
    if guest is None or findings.found or machine_findings.found:
        raise BadConfig([*machine_findings.found, *findings.found])
    return guest


def load_guest_defaults(folder: Path | None, name: str | None) -> GuestDefaults:
    """Read what a daemon of one guest goes by: nothing but the built-in defaults without a folder,
    and what holds for all guests without a name.

    Raises:
        BadConfig: with all that is wrong with the files.
    """
    if folder is None:
        return GuestDefaults()
    if name is None:
        machine = load_machine(folder)
        return GuestDefaults(vtpm=machine.vtpm, front=machine.front)
    guest = load_guest(folder, name)
    return GuestDefaults(guest.name, guest.identity.uuid, guest.vtpm, guest.front)


def load(folder: Path, find_uid: FindUid = find_uid) -> Configuration:
    """Read a whole folder.

    Raises:
        BadConfig: with all that is wrong with all files.
    """
    examination = examine(folder, find_uid)
    if examination.findings:
        raise BadConfig(examination.findings)
    return examination.configuration


def load_without_bad_guests(
    folder: Path, find_uid: FindUid = find_uid
) -> tuple[Configuration, tuple[Finding, ...]]:
    """Read a whole folder for a start, where one guest's mistake must not keep all others out.

    Returns: the configuration without the guests that have findings, and those.

    Raises:
        BadConfig: `vtpm.toml` or a folder is not what it must be.
    """
    examination = examine(folder, find_uid)
    guests = folder / GUESTS_NAME
    general = [finding for finding in examination.findings if finding.file.parent != guests]
    if general:
        raise BadConfig(general)
    return examination.configuration, examination.findings


def examine(folder: Path, find_uid: FindUid = find_uid) -> Examination:
    """Read a whole folder and find all that is wrong with it.

    Args:
        folder: with `vtpm.toml` and `guests.d`, either of which may be missing.
        find_uid: for guests whose file has no uid.
    """
    machine_findings = Findings(folder / MACHINE_NAME)
    machine = _read_machine(folder, machine_findings)
    guests_findings = Findings(folder / GUESTS_NAME)
    names = _guest_names(folder / GUESTS_NAME, guests_findings)
    of_guest = {name: Findings(guest_path(folder, name)) for name in names}
    guests: dict[str, Guest] = {}
    for name, findings in of_guest.items():
        _check_name(name, findings)
        guest = None if findings.found else _read_guest(name, machine, findings)
        if guest is not None:
            guests[name] = _with_uid(guest, find_uid, findings)
    _check_unique(guests, of_guest, shared_uid=machine.manager.shared_uid)
    if not machine.manager.shared_uid:
        _check_compat(guests, of_guest, machine.compat)
    excluded = {
        name for name, findings in of_guest.items() if findings.found and is_guest_name(name)
    }
    good = {name: guest for name, guest in guests.items() if name not in excluded}
    in_order = (machine_findings, guests_findings, *of_guest.values())
    return Examination(
        Configuration(folder, machine, good),
        tuple(finding for findings in in_order for finding in findings.found),
        excluded,
    )


def _read_machine(folder: Path, findings: Findings) -> Machine:
    if not _is_safe_folder(findings, folder, must_exist=True):
        return Machine()
    content = _read_toml(findings, must_exist=False)
    findings.check_known(content, MACHINE_TABLES)
    hwtpm = findings.table(content, "hwtpm")
    manager = findings.table(content, "manager")
    vtpm = findings.table(content, "vtpm")
    front = findings.table(content, "front")
    compat = findings.table(content, "compat")
    tables = {"hwtpm": hwtpm, "manager": manager, "vtpm": vtpm, "front": front, "compat": compat}
    for name, table in tables.items():
        findings.check_known(table, names_of(MACHINE_TABLES[name]), f"{name}.")
    front_options = read_keys(FrontOptions, front, findings, prefix="front.") or FrontOptions()
    _check_tcp(front_options, findings)
    return Machine(
        read_keys(HwtpmOptions, hwtpm, findings, prefix="hwtpm.") or HwtpmOptions(),
        read_keys(ManagerOptions, manager, findings, prefix="manager.") or ManagerOptions(),
        read_keys(VtpmOptions, vtpm, findings, prefix="vtpm.") or VtpmOptions(),
        front_options,
        read_keys(CompatOptions, compat, findings, prefix="compat.") or CompatOptions(),
    )


def _read_guest(name: str, machine: Machine, findings: Findings) -> Guest | None:
    before = len(findings.found)
    content = _read_toml(findings, must_exist=True)
    if len(findings.found) > before:
        return None
    findings.check_known(content, [*names_of(Identity), *names_of(VtpmOptions), "front"])
    front_table = findings.table(content, "front")
    findings.check_known(front_table, names_of(FrontOptions), "front.")
    identity = read_keys(Identity, content, findings)
    vtpm = read_keys(VtpmOptions, content, findings, defaults=machine.vtpm)
    front = read_keys(FrontOptions, front_table, findings, prefix="front.", defaults=machine.front)
    if identity is None or vtpm is None or front is None:
        return None
    _check_tcp(front, findings)
    return Guest(name, identity, vtpm, front)


def _check_tcp(front: FrontOptions, findings: Findings) -> None:
    try:
        check_endpoints(front.tcp, any_address=front.tcp_any_address)
    except ValueError as error:
        findings.add("front.tcp", str(error))


def _with_uid(guest: Guest, find_uid: FindUid, findings: Findings) -> Guest:
    if guest.identity.uid is not None:
        return guest
    user = f"{USER_PREFIX}{guest.name}"
    uid = find_uid(user)
    if uid is None:
        findings.add("uid", f"is missing, and there is no system user {user}")
        return guest
    return replace(guest, identity=replace(guest.identity, uid=uid))


def _check_unique(
    guests: Mapping[str, Guest], of_guest: Mapping[str, Findings], *, shared_uid: bool
) -> None:
    """Find values that separate guests and that two of them have; neither of the two counts."""

    def check(key: str, values: Callable[[Guest], Collection[object]], why: str) -> None:
        by_value: dict[object, list[str]] = {}
        for name, guest in guests.items():
            for value in values(guest):
                by_value.setdefault(value, []).append(name)
        for same, names in by_value.items():
            for name in names if len(names) > 1 else ():
                others = ", ".join(other for other in names if other != name)
                of_guest[name].add(key, f"{same} is also that of {others}{why}")

    def uid(guest: Guest) -> Collection[object]:
        return () if guest.identity.uid is None else (guest.identity.uid,)

    check("uuid", lambda guest: (guest.identity.uuid,), "")
    if not shared_uid:
        check("uid", uid, "; nothing else separates them")
    check("front.tcp", lambda guest: [endpoint.place for endpoint in guest.front.tcp], "")


def _check_compat(
    guests: Mapping[str, Guest], of_guest: Mapping[str, Findings], compat: CompatOptions
) -> None:
    """Find guests whose user [compat] lists: what it starts could be the guest's daemons."""
    for name, guest in guests.items():
        if guest.identity.uid in compat.uids:
            of_guest[name].add(
                "uid", f"{guest.identity.uid} is also in compat.uids; nothing else separates them"
            )


def _guest_names(folder: Path, findings: Findings) -> list[str]:
    if not _is_safe_folder(findings, folder):
        return []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        findings.add("", error.strerror or str(error))
        return []
    return [
        name.removesuffix(SUFFIX)
        for name in names
        if name.endswith(SUFFIX) and not name.startswith(".")
    ]


def _check_name(name: str, findings: Findings) -> None:
    try:
        check_guest_name(name)
    except ValueError as error:
        findings.add("", str(error))


def _is_safe_folder(findings: Findings, folder: Path, *, must_exist: bool = False) -> bool:
    """Whether the folder can be read; who may write to it may replace what is in it."""
    try:
        found = folder.stat()
    except FileNotFoundError as error:
        if must_exist:
            findings.add("", f"{folder}: {error.strerror}")
        return False
    except OSError as error:
        findings.add("", f"{folder}: {error.strerror}")
        return False
    if not stat.S_ISDIR(found.st_mode):
        findings.add("", f"{folder} is not a folder")
        return False
    _check_writers(findings, found, f"folder {folder} ")
    return True


def _check_writers(findings: Findings, found: os.stat_result, what: str = "") -> None:
    if found.st_uid not in {0, os.geteuid()}:
        findings.add("", f"{what}belongs to uid {found.st_uid}; it must be root or {os.geteuid()}")
    if found.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        findings.add("", f"{what}may be written by others than its owner (mode {mode:04o})")


def _read_toml(findings: Findings, *, must_exist: bool) -> Mapping[str, object]:
    """Return what is in the file of these findings; nothing if there is a finding about it."""
    data = _read_file(findings, must_exist=must_exist)
    if data is None:
        return {}
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.add("", "is not UTF-8 text", line)
    except tomllib.TOMLDecodeError as error:
        # The position is part of the message until Python 3.14.
        place = _POSITION.fullmatch(str(error))
        if place is None:
            findings.add("", f"is no TOML: {error}")
        else:
            last = data.count(b"\n") + (not data.endswith(b"\n"))
            findings.add("", f"is no TOML: {place[1]}", int(place[2] or last))
    except RecursionError:
        findings.add("", "is no TOML of ours: nested too deeply")
    except ValueError:
        # What Python says of numbers with thousands of digits, without a position.
        findings.add("", "is no TOML of ours: a number is too long")
    return {}


def _read_file(findings: Findings, *, must_exist: bool) -> bytes | None:
    # O_NONBLOCK: opening a FIFO that somebody put there must not hang.
    try:
        fd = os.open(findings.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if must_exist or error.errno != errno.ENOENT:
            findings.add("", error.strerror or str(error))
        return None
    try:
        # Asked of the descriptor, so that what was looked at is what is read.
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            findings.add("", "is not a regular file")
            return None
        _check_writers(findings, found)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        findings.add("", error.strerror or str(error))
        return None
    finally:
        os.close(fd)
    if len(data) > FILE_LIMIT_BYTES:
        findings.add("", f"is longer than {FILE_LIMIT_BYTES} bytes")
        return None
    return data
