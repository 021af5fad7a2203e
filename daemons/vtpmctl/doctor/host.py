# SPDX-License-Identifier: Apache-2.0
"""The machine: Python, kernel, disk, clock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from daemons.vtpmctl.doctor.finding import Finding, fail, ok, warn

PYTHON_NEEDED: Final = (3, 11)

DISK_LOW_BYTES: Final = 256 * 2**20
DISK_FULL_BYTES: Final = 16 * 2**20
"""A commit needs a fraction of it, but a database copies its log in pieces."""
INODES_LOW: Final = 100

CLOCK_TOLERANCE_S: Final = 60.0

_SO_PEERSEC: Final = 31  # asm-generic/socket.h
_VTPM_PROXY: Final = Path("/dev/vtpmx")


def check_python(version: Sequence[int]) -> Finding:
    """Judge the version of Python, (major, minor, ...)."""
    text = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < PYTHON_NEEDED:
        needed = ".".join(map(str, PYTHON_NEEDED))
        return fail("python", f"{text} is older than {needed}", f"install Python {needed}")
    return ok("python", text)


Probe = Callable[[], None]
"""Uses a feature of the kernel; OSError says that there is none."""


def _memfd_sealing() -> None:
    fd = os.memfd_create("vtpmctl-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    finally:
        os.close(fd)


def _peer_option(option: int, size_bytes: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.getsockopt(socket.SOL_SOCKET, option, size_bytes)


def _seqpacket() -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        end.close()


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


NEEDED: Final[Mapping[str, Probe]] = {
    "memfd sealing": _memfd_sealing,
    "SO_PEERCRED": lambda: _peer_option(socket.SO_PEERCRED, 12),
    "AF_UNIX SOCK_SEQPACKET": _seqpacket,
    "pidfd": _pidfd,
}
"""Without these nothing runs."""

WANTED: Final[Mapping[str, tuple[Probe, str]]] = {
    "SO_PEERSEC": (
        lambda: _peer_option(_SO_PEERSEC, 256),
        "without a security module name clients by uid:NUMBER in --locality",
    ),
    "/dev/vtpmx": (
        lambda: os.close(os.open(_VTPM_PROXY, os.O_RDWR | os.O_CLOEXEC)),
        "only needed for TPM devices of containers: modprobe tpm_vtpm_proxy, as root",
    ),
}
"""Without these something is not to be had, with the remedy."""


def check_kernel(
    needed: Mapping[str, Probe] = NEEDED, wanted: Mapping[str, tuple[Probe, str]] = WANTED
) -> Iterator[Finding]:
    """Try the features of the kernel."""
    found = []
    for name, probe in needed.items():
        try:
            probe()
        except OSError as error:
            yield fail("kernel", f"no {name}: {error.strerror}", "use a Linux kernel 5.10 or later")
        else:
            found.append(name)
    for name, (probe, remedy) in wanted.items():
        try:
            probe()
        except OSError as error:
            yield warn("kernel", f"no {name}: {error.strerror}", remedy)
        else:
            found.append(name)
    if found:
        yield ok("kernel", f"has {', '.join(found)}")


def check_disk(path: Path, free_bytes: int, free_inodes: int | None) -> Finding:
    """Judge what is free where the state is kept.

    Args:
        path: the state folder.
        free_bytes: for its owner.
        free_inodes: likewise; None where the file system does not count them.
    """
    text = f"{free_bytes / 2**20:.0f} MiB free at {path}"
    remedy = "make room: a full disk makes commands fail that change the TPM"
    if free_bytes < DISK_FULL_BYTES:
        return fail("disk", text, remedy)
    if free_inodes is not None and free_inodes < INODES_LOW:
        return fail("disk", f"{free_inodes} files can still be made at {path}", remedy)
    if free_bytes < DISK_LOW_BYTES:
        return warn("disk", text, remedy)
    return ok("disk", text)


def look_at_disk(path: Path) -> Finding:
    """Look at the file system of a folder, or of the nearest one above that exists."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(folder)
            inodes = found.f_favail if found.f_files else None
            return check_disk(path, found.f_bavail * found.f_frsize, inodes)
    return warn("disk", f"{path} cannot be looked at", "run vtpmctl doctor as root")


def check_clock(now_s: float, newest: tuple[Path, float] | None, built_s: float) -> Finding:
    """Judge the clock by what must have been before.

    Args:
        now_s: Unix time.
        newest: what was written last, and when.
        built_s: when this program was installed.
    """
    remedy = "set the clock: times of saves and logs are wrong"
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now_s))
    if now_s < built_s - CLOCK_TOLERANCE_S:
        return fail("clock", f"{moment} is before this program was installed", remedy)
    if newest is not None and now_s < newest[1] - CLOCK_TOLERANCE_S:
        path, written_s = newest
        what = f"{moment}, but {path} was written {written_s - now_s:.0f} s after that"
        return warn("clock", what, remedy)
    return ok("clock", moment)
