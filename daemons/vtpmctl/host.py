# SPDX-License-Identifier: Apache-2.0
"""Where guests run: systemd's units, or a stack of `vtpmctl up`.

`guests` adds, removes and lists guests and sees a `Host` only. The two are `host_systemd` and
`host_supervisor`. Every method may be called again after a crash in the middle of it, and does then
what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemons.runtime.config.folder import FindUid
from daemons.runtime.config.text import TomlTable

STOPPED = "stopped"
"""State of a guest that does not run."""


@dataclass(frozen=True, slots=True)
class ManagerCommand:
    """How the manager is started by hand.

    Attributes:
        arguments: of the command `vtpmmgr`: where its things are.
        user: that it must be; None: whoever starts it.
        groups: of that user, the main one first.
    """

    arguments: tuple[str, ...]
    user: str | None = None
    groups: tuple[str, ...] = ()


class Host(Protocol):
    """Runs guests. Unless it says otherwise a method raises DaemonError, with a reason for the
    operator."""

    @property
    def config(self) -> Path:
        """Folder of `vtpm.toml` and `guests.d`."""

    @property
    def find_uid(self) -> FindUid:
        """Who knows the users."""

    @property
    def admin_socket(self) -> Path:
        """Where the manager takes management commands."""

    def check_name(self, name: str) -> None:
        """Raises:
        DaemonError: a guest cannot have this name here.
        """

    def make_file(self, name: str, keys: TomlTable, front: TomlTable | None = None) -> bool:
        """Make the file of a guest with these keys, those of its [front], and what all guests here
        have besides.

        Returns: False if there is one.

        Raises:
            OSError: it may or may not be there.
        """

    def state(self, name: str) -> Path:
        """Return the folder of a guest's image."""

    def tpm_socket(self, name: str) -> Path:
        """Return where the guest's TPM software connects."""

    def control_socket(self, name: str) -> Path:
        """Return where the guest's vtpm answers."""

    def front_control_socket(self, name: str) -> Path:
        """Return where the guest's tpmfront answers."""

    async def make_user(self, name: str) -> bool:
        """Make sure that the guest's user exists; whether it was made just now."""

    async def remove_user(self, name: str) -> None:
        """Remove the guest's user; nothing may belong to it any more."""

    async def running(self) -> Mapping[str, Path]:
        """Return where the daemons that run answer: the manager first, then the others."""

    async def manager_socket(self) -> Path | None:
        """Return where the manager answers; None if it does not run."""

    def manager_alone(self) -> AbstractAsyncContextManager[ManagerCommand]:
        """Give what starts the manager by hand; the hardware TPM runs meanwhile.

        Raises:
            DaemonError: the manager runs, or the hardware TPM does not come up.
        """

    async def states(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return a word for the state of each guest's vTPM."""

    async def is_started(self, name: str) -> bool:
        """Whether the guest is to run: now, and at the next start of everything."""

    async def add(self, name: str) -> bool:
        """Have the guest started now and with everything else; it may be already.

        Returns: False if it will only start with everything else, since nothing runs.

        Raises:
            DaemonError: it does not come up.
        """

    async def discard(self, name: str) -> None:
        """Undo `add`: stop the guest if it runs, and do not start it any more."""

    async def start(self, name: str) -> None:
        """Start the guest, if it does not run, and return when it serves."""

    async def stop(self, name: str) -> None:
        """Stop the guest's daemons with everything saved: its TPM is powered off."""
