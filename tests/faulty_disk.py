# SPDX-License-Identifier: Apache-2.0
"""A disk in memory that forgets what was not flushed, and fails where it is told to.

It stands in for `daemons.runtime.files.OsFiles`. There are two views: what a reader sees now, and
what is durable; `sync` brings the content of one file from the first to the second, `sync_folder`
the names of a folder. `crash` returns the disk that is found after a power cut: `Aftermath` says
what became of everything not flushed.

    for case in power_cuts(disk, lambda disk: save(StateFolder(FOLDER, disk), b"new")):
        found = load(StateFolder(FOLDER, case.disk))
        assert found == b"new" if case.completed else found in {b"old", b"new"}
"""

from __future__ import annotations

import copy
import enum
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemons.runtime.files import FileHandle

GARBAGE = b"\xa5"


class PowerCut(BaseException):
    """The machine went off during this operation; nothing may handle it, as nothing survives it."""


class Aftermath(enum.Enum):
    """What a power cut did with names and contents that were not flushed."""

    DROPPED = "neither names nor contents reached the disk"
    WRITTEN = "everything reached the disk"
    NAMES_ONLY = "names reached the disk, contents did not"
    CONTENTS_ONLY = "contents reached the disk, names did not"
    GARBLED = "names reached the disk, contents are garbage of the right length"
    TORN = "names reached the disk, contents half: the new beginning, the old rest"


@dataclass(eq=False)
class _Inode:
    content: bytes = b""
    durable: bytes = b""
    # A flush of it failed: the kernel has dropped the pages, a later flush says "done" and writes
    # nothing until the content is written again (as Linux behaves).
    lost: bool = False

    def after(self, aftermath: Aftermath) -> bytes:
        if self.content == self.durable:
            return self.durable
        match aftermath:
            case Aftermath.DROPPED | Aftermath.NAMES_ONLY:
                return self.durable
            case Aftermath.WRITTEN | Aftermath.CONTENTS_ONLY:
                return self.content
            case Aftermath.GARBLED:
                return GARBAGE * len(self.content)
            case Aftermath.TORN:
                half = len(self.content) // 2
                return self.content[:half] + self.durable[half:]


@dataclass
class _Fault:
    step: int
    error_number: int | None  # None: power cut
    stays: bool  # every later step fails as well


@dataclass
class FaultyDisk:
    """The fake; `steps` counts the operations that change something, from 1."""

    steps: int = 0
    journal: list[str] = field(default_factory=list)
    """What was done: one line per step, such as "rename .image.new image"."""
    _names: dict[Path, _Inode] = field(default_factory=dict)
    _durable_names: dict[Path, _Inode] = field(default_factory=dict)
    _handles: dict[int, Path | _Inode] = field(default_factory=dict)
    _next_handle: int = 1000
    _fault: _Fault | None = None
    _off: bool = False

    # --- what a test does with it ---

    def cut_power_at(self, step: int) -> None:
        """Go off during the step-th operation from now (1: the next one)."""
        self._fault = _Fault(self.steps + step, None, stays=True)

    def fail_at(self, step: int, error_number: int, *, stays: bool = False) -> None:
        """Let the step-th operation from now fail; with `stays` all later ones as well (a full
        disk)."""
        self._fault = _Fault(self.steps + step, error_number, stays=stays)

    def mend(self) -> None:
        """Fail no more (there is room again); what was lost stays lost."""
        self._fault = None

    def crash(self, aftermath: Aftermath) -> FaultyDisk:
        """Return the disk as found when the power is back; locks and open files are gone."""
        keep_names = aftermath in {Aftermath.DROPPED, Aftermath.CONTENTS_ONLY}
        names = self._durable_names if keep_names else self._names
        found = {path: inode.after(aftermath) for path, inode in names.items()}
        return FaultyDisk.holding(found)

    @classmethod
    def holding(cls, contents: dict[Path, bytes]) -> FaultyDisk:
        """Make a disk with these files, all durable."""
        inodes = {path: _Inode(content, content) for path, content in contents.items()}
        return cls(_names=dict(inodes), _durable_names=dict(inodes))

    def contents(self) -> dict[Path, bytes]:
        """Return what a reader sees now."""
        return {path: inode.content for path, inode in self._names.items()}

    def put(self, path: Path, content: bytes) -> None:
        """Place a durable file past all faults (tampering)."""
        inode = _Inode(content, content)
        self._names[path] = self._durable_names[path] = inode

    def restarted(self) -> FaultyDisk:
        """Return the disk as a restarted process finds it: no power cut, but locks and open files
        gone."""
        disk = copy.deepcopy(self)
        disk._handles.clear()
        disk._fault = None
        disk._off = False
        return disk

    # --- the Files protocol ---

    def make_folder(self, path: Path) -> None:
        self._alive()

    def lock(self, path: Path) -> FileHandle:
        self._alive()
        if path in self._handles.values():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
        return self._open(path)

    def read(self, path: Path, limit_bytes: int) -> bytes:
        self._alive()
        return self._inode(path).content[:limit_bytes]

    def create(self, path: Path) -> FileHandle:
        cut = self._step("create", path)
        inode = self._names.setdefault(path, _Inode())
        inode.content = b""
        self._cut_if(cut)
        return self._open(inode)

    def open_existing(self, path: Path) -> FileHandle:
        self._alive()
        return self._open(self._inode(path))

    def write(self, handle: FileHandle, data: bytes) -> None:
        inode = self._handles[handle]
        assert isinstance(inode, _Inode)
        try:
            cut = self._step("write", len(data))
        except OSError:
            # As much as there was room for.
            inode.content = data[: len(data) // 2]
            inode.lost = False
            raise
        inode.content = data
        inode.lost = False
        self._cut_if(cut)

    def sync(self, handle: FileHandle) -> None:
        inode = self._handles[handle]
        assert isinstance(inode, _Inode)
        try:
            cut = self._step("sync")
        except OSError:
            inode.lost = True
            raise
        self._cut_if(cut)
        if not inode.lost:
            inode.durable = inode.content

    def close(self, handle: FileHandle) -> None:
        del self._handles[handle]

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent
        try:
            cut = self._step("rename", source, target)
        except OSError as error:
            # An I/O error comes late: the new name may be there all the same, and here it is.
            if error.errno == errno.EIO:
                self._names[target] = self._names.pop(source)
            raise
        self._names[target] = self._names.pop(source)
        self._cut_if(cut)

    def unlink(self, path: Path) -> None:
        self._alive()
        self._inode(path)
        cut = self._step("unlink", path)
        del self._names[path]
        self._cut_if(cut)

    def sync_folder(self, path: Path) -> None:
        cut = self._step("sync_folder", path)
        self._cut_if(cut)
        elsewhere = {at: i for at, i in self._durable_names.items() if at.parent != path}
        here = {at: i for at, i in self._names.items() if at.parent == path}
        self._durable_names = elsewhere | here

    # --- inside ---

    def _alive(self) -> None:
        if self._off:
            raise PowerCut

    def _step(self, operation: str, *what: Path | int) -> bool:
        """Count; return True if the power goes off during this step."""
        self._alive()
        self.steps += 1
        words = [part.name if isinstance(part, Path) else str(part) for part in what]
        self.journal.append(" ".join([operation, *words]))
        fault = self._fault
        if (
            fault is None
            or self.steps < fault.step
            or (self.steps > fault.step and not fault.stays)
        ):
            return False
        if fault.error_number is None:
            return True
        raise OSError(fault.error_number, os.strerror(fault.error_number))

    def _cut_if(self, cut: bool) -> None:
        if cut:
            self._off = True
            raise PowerCut

    def _inode(self, path: Path) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return inode

    def _open(self, what: Path | _Inode) -> FileHandle:
        self._next_handle += 1
        self._handles[self._next_handle] = what
        return FileHandle(self._next_handle)


@dataclass(frozen=True)
class PowerCutCase:
    """One power cut and the disk that is found after it."""

    step: int
    aftermath: Aftermath
    disk: FaultyDisk
    completed: bool
    """The action had returned before the power went: what it promised must be there."""

    def __str__(self) -> str:
        return f"power cut at step {self.step}: {self.aftermath.value}"


def power_cuts(before: FaultyDisk, act: Callable[[FaultyDisk], object]) -> Iterator[PowerCutCase]:
    """Run `act` on a fresh copy of `before` for every step at which the power can go, and once to
    its end.

    `act` gets the disk; it may call trio.run. It must do the same steps each time.
    """
    step = 0
    completed = False
    while not completed:
        step += 1
        disk = before.restarted()
        disk.cut_power_at(step)
        try:
            act(disk)
            completed = True
        except PowerCut:
            pass
        except BaseExceptionGroup as group:
            # trio wraps what leaves a nursery.
            if group.split(PowerCut)[1] is not None:
                raise
        for aftermath in Aftermath:
            yield PowerCutCase(step, aftermath, disk.crash(aftermath), completed)
