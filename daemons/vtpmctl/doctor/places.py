# SPDX-License-Identifier: Apache-2.0
"""Folders, files, sockets, locks, users: what the daemons find on the disk."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from daemons.runtime.marker import MARKER_NAME
from daemons.vtpmctl.doctor.finding import Finding, fail, ok, warn
from daemons.vtpmctl.site import Daemon, FolderRule, Premises, SocketRule

_LOCKS: Final = Path("/proc/locks")
_LOCK_LINE: Final = re.compile(
    r"^\d+: FLOCK +ADVISORY +WRITE +(?P<pid>-?\d+) "
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) ",
    re.MULTILINE,
)
_SOCKETS: Final = Path("/proc/net/unix")
_SO_ACCEPTCON: Final = 1 << 16  # linux/net.h
_AS_ROOT: Final = "run vtpmctl doctor as root"
_CONNECT_TIMEOUT_S: Final = 2.0


def check_folders(rules: Iterable[FolderRule]) -> Iterator[Finding]:
    """Judge owners and modes."""
    right = {"files of secrets": 0, "folders": 0}
    for rule in rules:
        check = "secrets" if rule.secret else "folders"
        finding = _check_folder(rule, check)
        if finding is not None:
            yield finding
        elif rule.path.exists():
            right["files of secrets" if rule.secret else "folders"] += 1
    if right["folders"]:
        yield ok("folders", f"{right['folders']} have the owner and mode that they should")
    if right["files of secrets"]:
        number = right["files of secrets"]
        yield ok("secrets", f"{number} files can be read by their owner only")


def _check_folder(rule: FolderRule, check: str) -> Finding | None:
    path = rule.path
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not rule.must_be_there:
            return None
        return fail(check, f"{path} is missing", "start the daemon that keeps it, or restore it")
    except OSError as error:
        return warn(check, f"{path} cannot be looked at: {error.strerror}", _AS_ROOT)
    if stat.S_ISLNK(found.st_mode):
        return fail(check, f"{path} is a link, which is not followed", "put the real one there")
    wanted_uid = _uid_of(rule.owner) if rule.owner is not None else rule.uid
    if wanted_uid is not None and found.st_uid != wanted_uid:
        owner = rule.owner or wanted_uid
        return fail(check, f"{path} belongs to uid {found.st_uid}", f"chown {owner} {path}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & rule.forbidden:
        remedy = f"chmod {mode & ~rule.forbidden:o} {path}"
        return fail(check, f"{path} has mode {mode:04o}, others get at it", remedy)
    return None


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None  # said by `check_users`


def check_users(users: Iterable[str], groups: Iterable[str]) -> Iterator[Finding]:
    """Look whether users and groups exist."""
    remedy = "systemd-sysusers, after a line for it in /etc/sysusers.d"
    known = []
    for name, find in (
        *((user, pwd.getpwnam) for user in users),
        *((group, grp.getgrnam) for group in groups),
    ):
        kind = "user" if find is pwd.getpwnam else "group"
        try:
            find(name)
        except KeyError:
            yield fail("users", f"there is no {kind} {name}", remedy)
        else:
            known.append(name)
    if known:
        yield ok("users", f"{len(known)} users and groups exist")


def check_sockets(rules: Iterable[SocketRule], daemons: Iterable[Daemon]) -> Iterator[Finding]:
    """Judge the sockets: of a daemon that is ready they answer, of another nobody needs them."""
    ready = {daemon.name for daemon in daemons if daemon.is_ready}
    try:
        listening = _listening(_SOCKETS.read_text())
    except OSError:
        listening = frozenset()
    right = 0
    for rule in rules:
        finding = _check_socket(rule, listening, is_ready=rule.daemon in ready)
        if finding is not None:
            yield finding
        elif rule.daemon in ready:
            right += 1
    if right:
        yield ok("sockets", f"{right} are there, take connections, and are closed to others")


def _listening(table: str) -> frozenset[str]:
    """Return the paths of the sockets of our network namespace that are listened at."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return frozenset([row[7] for row in rows if len(row) > 7 and int(row[3], 16) & _SO_ACCEPTCON])


def _check_socket(rule: SocketRule, listening: frozenset[str], *, is_ready: bool) -> Finding | None:
    path = rule.path
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not is_ready:
            return None
        return fail("sockets", f"{path} is missing, {rule.daemon} runs", f"restart {rule.daemon}")
    except OSError as error:
        return warn("sockets", f"{path} cannot be looked at: {error.strerror}", _AS_ROOT)
    if not stat.S_ISSOCK(found.st_mode):
        remedy = f"move it away: {rule.daemon} does not replace it"
        return fail("sockets", f"{path} is not a socket", remedy)
    if not is_ready:
        # A connection would have systemd start a daemon that is started when somebody wants it.
        if os.fspath(path) in listening:
            return None
        if _connect(path, is_stream=rule.is_stream) == errno.ECONNREFUSED:
            remedy = "nothing: the next start replaces it"
            return warn("sockets", f"{path} is left over, nobody listens", remedy)
        return None
    code = _connect(path, is_stream=rule.is_stream)
    mode = stat.S_IMODE(found.st_mode)
    if mode & rule.forbidden:
        remedy = f"chmod {mode & ~rule.forbidden:o} {path}, and see who changed it"
        return fail("sockets", f"{path} has mode {mode:04o}, others get at it", remedy)
    if code in {errno.EACCES, errno.EPERM}:
        return warn("sockets", f"{path} may not be used by us", _AS_ROOT)
    if code:
        what = f"{path} does not take connections: {os.strerror(code)}"
        return fail("sockets", what, f"restart {rule.daemon}")
    return None


def _connect(path: Path, *, is_stream: bool) -> int:
    """Connect and hang up; the error number, 0 if it went well."""
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return errno.ETIMEDOUT
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def lock_holders(locks: str | None = None) -> Callable[[Path], int | None]:
    """Return what tells the process that has a lock file locked.

    By the kernel's list: to try the lock would keep out a daemon that starts at that moment. Where
    a file system shows files another device than the kernel (btrfs, overlayfs), nobody is found.

    Args:
        locks: what is in /proc/locks, by default that of this machine.
    """
    try:
        text = _LOCKS.read_text() if locks is None else locks
    except OSError:
        text = ""
    holders = {
        (int(found["major"], 16), int(found["minor"], 16), int(found["inode"])): int(found["pid"])
        for found in _LOCK_LINE.finditer(text)
    }

    def holder(path: Path) -> int | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return holders.get((os.major(found.st_dev), os.minor(found.st_dev), found.st_ino))

    return holder


def check_locks(
    locks: Iterable[tuple[Path, str]],
    daemons: Iterable[Daemon],
    holder: Callable[[Path], int | None],
) -> Iterator[Finding]:
    """Look for locks that somebody else holds, and for daemons that were killed."""
    pids = {daemon.name: daemon.pid for daemon in daemons}
    clean = 0
    for path, name in locks:
        pid, held_by = pids.get(name), holder(path)
        if held_by is not None and held_by != pid:
            what = f"{path} is held by process {held_by}, which is not {name}"
            yield fail("locks", what, f"see what it is (ps {held_by}) and end it")
        elif pid is None and os.path.exists(path.parent / MARKER_NAME):
            what = f"{name} was killed and does not run"
            remedy = "start it: if its memory is lost, PCRs 0-7 get capped, until the guest reboots"
            yield warn("locks", what, remedy)
        else:
            clean += 1
    if clean:
        yield ok("locks", f"{clean} state folders are used by their daemon or by nobody")


def newest_state(premises: Premises) -> tuple[Path, float] | None:
    """Return the file of a state that was written last, and when; None if there is none."""
    newest: tuple[Path, float] | None = None
    for rule in premises.folders:
        if rule.secret:
            try:
                written_s = rule.path.stat().st_mtime
            except OSError:
                continue
            if newest is None or written_s > newest[1]:
                newest = (rule.path, written_s)
    return newest
