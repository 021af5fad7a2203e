# SPDX-License-Identifier: Apache-2.0
"""Durable files: a locked state folder whose files change atomically or not at all.

Everything here blocks (flushes take milliseconds): call it in worker threads once the daemon
serves.

The primitive operations stand behind the `Files` protocol, so that a test's fake disk can drop,
reorder or garble what was not flushed, or fail at the n-th operation. What a power cut leaves is
defined by two rules that the callers here rely on and the fake disk enforces: bytes are durable
after `sync`, names (created, renamed, removed) after `sync_folder`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import NewType, Protocol, Self

from daemons.runtime.errors import RefusedToStart

FileHandle = NewType("FileHandle", int)
"""An open file of a `Files`; only meaningful to the object that made it."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)
_LOCK_NAME = ".lock"


class WriteFailed(OSError):
    """A file could not be written.

    Attributes:
        certain: True if the file surely still holds its old content, now and after a power cut;
            False if it may hold the old or the new content (or, for `overwrite`, neither).
    """

    def __init__(self, path: Path, cause: OSError, *, certain: bool) -> None:
        super().__init__(cause.errno, os.strerror(cause.errno or errno.EIO), str(path))
        self.certain = certain


class Files(Protocol):
    """Primitive operations on a disk. Each raises OSError; none retries."""

    def make_folder(self, path: Path) -> None:
        """Make sure that `path` is a folder of ours with mode 0700; parents are made as well.

        The names of what was made are durable on return.

        Raises:
            RefusedToStart: it is not a folder (links are not followed) or belongs to another user.
        """

    def lock(self, path: Path) -> FileHandle:
        """Lock the file (created if missing) until the handle is closed.

        Raises:
            BlockingIOError: another process, or another handle of this one, holds it.
        """

    def read(self, path: Path, limit_bytes: int) -> bytes:
        """Return the first `limit_bytes` bytes of a regular file; links are not followed."""

    def create(self, path: Path) -> FileHandle:
        """Open an empty file of mode 0600 for writing; one that is there loses its content."""

    def open_existing(self, path: Path) -> FileHandle:
        """Open a file for writing in place, content untouched; FileNotFoundError if it is
        missing."""

    def write(self, handle: FileHandle, data: bytes) -> None:
        """Make `data` the whole content of the file (cut to its length)."""

    def sync(self, handle: FileHandle) -> None:
        """Return when the content is durable."""

    def close(self, handle: FileHandle) -> None:
        """Close the handle; an open lock is released."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the same folder, in place of what had that name."""

    def unlink(self, path: Path) -> None:
        """Remove a name; FileNotFoundError if it is missing."""

    def sync_folder(self, path: Path) -> None:
        """Return when the names in the folder are durable."""


class OsFiles:
    """The real disk."""

    def make_folder(self, path: Path) -> None:
        # A file in a folder whose own name a power cut takes is lost with it.
        missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700 if folder == path else 0o777)
            self.sync_folder(folder.parent)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise RefusedToStart(f"{path} is not a folder")
        if found.st_uid != os.geteuid():
            raise RefusedToStart(
                f"{path} belongs to uid {found.st_uid}, this process is uid {os.geteuid()}"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)

    def lock(self, path: Path) -> FileHandle:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return FileHandle(fd)

    def read(self, path: Path, limit_bytes: int) -> bytes:
        # O_NONBLOCK: opening a FIFO that somebody put there must not hang.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            chunks = []
            while limit_bytes > 0 and (chunk := file.read(limit_bytes)):
                chunks.append(chunk)
                limit_bytes -= len(chunk)
            return b"".join(chunks)

    def create(self, path: Path) -> FileHandle:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        os.fchmod(fd, 0o600)
        return FileHandle(fd)

    def open_existing(self, path: Path) -> FileHandle:
        return FileHandle(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def write(self, handle: FileHandle, data: bytes) -> None:
        view = memoryview(data)
        offset = 0
        while offset < len(view):
            offset += os.pwrite(handle, view[offset:], offset)
        if os.fstat(handle).st_size != len(data):
            os.ftruncate(handle, len(data))

    def sync(self, handle: FileHandle) -> None:
        # fdatasync also flushes the length; what it leaves out (times) is of no use here.
        os.fdatasync(handle)

    def close(self, handle: FileHandle) -> None:
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class StateFolder:
    """A daemon's own folder: mode 0700, files 0600, one process at a time.

    Names are 1-64 characters of letters, digits, '.', '_' and '-', not beginning with '.' or '-'.
    Not for use by two threads at once.
    """

    def __init__(self, path: Path, files: Files | None = None) -> None:
        """Make the folder, or take the one that is there and close it to everybody else.

        Raises:
            RefusedToStart: it belongs to another user or is no folder.
            OSError: it cannot be made.
        """
        self.path = path
        self._files: Files = OsFiles() if files is None else files
        self._lock: FileHandle | None = None
        # Names whose entry in the folder this process has made durable. Of a file that it found it
        # does not know: its maker may have been killed before the folder was flushed.
        self._anchored: set[str] = set()
        self._files.make_folder(path)

    def lock(self) -> Self:
        """Keep every other process out until `close`; use as `with StateFolder(path).lock() as
        folder:`.

        Raises:
            RefusedToStart: somebody else has it.
        """
        if self._lock is None:
            try:
                self._lock = self._files.lock(self.path / _LOCK_NAME)
            except BlockingIOError as error:
                raise RefusedToStart(f"{self.path} is in use by another process") from error
        return self

    def close(self) -> None:
        """Let others in; nothing is left to be written."""
        if self._lock is not None:
            self._files.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """Return the content of a file, None if there is none.

        Raises:
            RefusedToStart: it is longer than `limit_bytes`.
            OSError: it cannot be read.
        """
        path = self._path(name)
        try:
            data = self._files.read(path, limit_bytes + 1)
        except FileNotFoundError:
            return None
        if len(data) > limit_bytes:
            raise RefusedToStart(
                f"{path} is longer than the {limit_bytes} bytes that such a file can have"
            )
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Give a file new content: on return it is durable, and at no time is there anything
        between old and new.

        Raises:
            WriteFailed: with `certain` True the old content (or absence) is what there is and will
                be.
        """
        path = self._path(name)
        temporary = self.path / f".{name}.new"
        try:
            handle = self._files.create(temporary)
            try:
                self._files.write(handle, data)
                self._files.sync(handle)
            finally:
                self._files.close(handle)
        except OSError as error:
            self._discard(temporary)
            raise WriteFailed(path, error, certain=True) from error
        try:
            self._files.rename(temporary, path)
        except OSError as error:
            # A rename that reports an error may yet have reached the disk's journal (EIO): not
            # certain.
            certain = error.errno in _CERTAIN_RENAME_ERRORS
            if certain:
                self._discard(temporary)
            raise WriteFailed(path, error, certain=certain) from error
        try:
            self._files.sync_folder(self.path)
        except OSError as error:
            raise WriteFailed(path, error, certain=False) from error

    def overwrite(self, name: str, data: bytes) -> None:
        """Write a file in place, for slots whose old content nobody needs any more; on return it is
        durable.

        The folder is flushed when the file is new to this process, and not each time: nothing in it
        changes, and on ext4 the flush of a folder costs 4 ms where that of the data costs 0.1.

        Raises:
            WriteFailed: `certain` is True only if nothing was written; otherwise this file may hold
                anything.
        """
        path = self._path(name)
        try:
            try:
                handle = self._files.open_existing(path)
            except FileNotFoundError:
                handle = self._files.create(path)
        except OSError as error:
            raise WriteFailed(path, error, certain=True) from error
        try:
            try:
                self._files.write(handle, data)
                self._files.sync(handle)
            finally:
                self._files.close(handle)
            if name not in self._anchored:
                self._files.sync_folder(self.path)
                self._anchored.add(name)
        except OSError as error:
            raise WriteFailed(path, error, certain=False) from error

    def settle(self, name: str) -> None:
        """Make what a reader sees of a file durable.

        After a `replace` whose outcome was not certain a restarted process may see new content that
        a power cut would still take back: nothing may be built on it before it is settled.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it may or may not be durable.
        """
        handle = self._files.open_existing(self._path(name))
        try:
            self._files.sync(handle)
        finally:
            self._files.close(handle)
        self._files.sync_folder(self.path)

    def remove(self, name: str) -> None:
        """Remove a file durably; a file that is not there is no error.

        Raises:
            WriteFailed: `certain` is False if it may be gone.
        """
        path = self._path(name)
        self._anchored.discard(name)
        try:
            self._files.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise WriteFailed(path, error, certain=False) from error
        try:
            self._files.sync_folder(self.path)
        except OSError as error:
            raise WriteFailed(path, error, certain=False) from error

    def _path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a name for a state file")
        return self.path / name

    def _discard(self, path: Path) -> None:
        # Best effort: a left-over temporary file is overwritten by the next write.
        with contextlib.suppress(OSError):
            self._files.unlink(path)


_CERTAIN_RENAME_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
)
"""Errors of rename(2) that are found before anything is changed."""
