# SPDX-License-Identifier: Apache-2.0
"""The file that tells a daemon that was killed from one that ended in order.

It is called `running` and holds the boot id of the kernel. A daemon with a TPM sets it before the
TPM serves and removes it when it was told to stop, and only then: one that ended for any other
reason, also by an error of its own, has lost what was measured unless somebody kept its memory, and
its successor has to know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.runtime.log import Log

MARKER_NAME: Final = "running"
_BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")
BOOT_ID_VARIABLE: Final = "VTPM_BOOT_ID"
_BOOT_ID_LIMIT_BYTES: Final = 64


def read_boot_id(environ: Mapping[str, str] | None = None) -> bytes:
    """Return the id that the kernel made at boot, 36 characters.

    A service manager that hides /proc/sys from us gives it in VTPM_BOOT_ID, as systemd writes it:
    32 digits.

    Raises:
        DaemonError: the variable is no such id.
    """
    given = (os.environ if environ is None else environ).get(BOOT_ID_VARIABLE)
    if given is None:
        return _BOOT_ID_PATH.read_bytes().strip()
    try:
        return str(UUID(given)).encode()
    except ValueError:
        raise DaemonError(f"{BOOT_ID_VARIABLE}={given!r} is not the id of a boot") from None


class RunMarker:
    """The file that is there while the daemon serves. Its methods block for a flush."""

    def __init__(self, folder: StateFolder, boot_id: bytes, log: Log) -> None:
        """Args:
        folder: locked state folder.
        boot_id: of this boot.
        log: told if the file cannot be removed.
        """
        self._folder = folder
        self._boot_id = boot_id
        self._log = log
        # This process serves; what a predecessor left stays until it does.
        self._is_set = False

    def is_left_over(self) -> bool:
        """Whether a daemon served in this boot and was killed."""
        return self._folder.read(MARKER_NAME, _BOOT_ID_LIMIT_BYTES) == self._boot_id

    def set(self) -> None:
        """Say that the daemon serves.

        Raises:
            WriteFailed: it may or may not be said.
        """
        if not self.is_left_over():
            self._folder.replace(MARKER_NAME, self._boot_id)
        self._is_set = True

    @contextlib.contextmanager
    def removed_by_stop(self) -> Iterator[None]:
        """Surround the life of a daemon, outside of its nursery, which turns the failure of one
        task into the cancellation of all others: if the daemon is told to stop, and nothing else
        went wrong, the marker goes.
        """
        try:
            yield
        except BaseException as error:
            if self._is_set and _is_stop(error):
                self._remove()
            raise

    def _remove(self) -> None:
        try:
            self._folder.remove(MARKER_NAME)
        except OSError as error:
            # The next start will take this for a kill, and cap PCRs that were to be zero.
            self._log.error("the marker of a running TPM stays", reason=error)


def _is_stop(error: BaseException) -> bool:
    """Whether nothing but cancellation from outside ended the daemon."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_stop(part) for part in error.exceptions)
    return isinstance(error, trio.Cancelled)
