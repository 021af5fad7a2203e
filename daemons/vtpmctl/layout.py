# SPDX-License-Identifier: Apache-2.0
"""Where everything of one stack lies under its folder.

DIR/state/hwtpm, state/vtpmmgr, state/guests/NAME    private (0700): what the daemons keep
DIR/state/etc/vtpm.toml, etc/guests.d/NAME.toml      their configuration
DIR/run/hwtpm/locality{0..4}.sock                    private
DIR/run/vtpmmgr.sock, vtpmmgr-admin.sock             private by their mode
DIR/run/guests/NAME/tpm.sock, ctrl.sock              for every local user who can reach DIR
DIR/run/guests/NAME/tpmback.sock                     private by its mode
DIR/run/control.sock, run/notify                     of `vtpmctl up` itself
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import OsFiles, StateFolder
from daemons.runtime.socketpaths import PATH_LIMIT_BYTES

_PRIVATE = 0o700
_TRAVERSABLE = 0o711
_OTHERS_MAY_PASS = 0o001


def default_root(environ: Mapping[str, str]) -> Path:
    """Return the folder `vtpm` under $XDG_STATE_HOME, by default ~/.local/state."""
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "vtpm"


@dataclass(frozen=True, slots=True)
class GuestPaths:
    """The paths of one guest."""

    state: Path
    run: Path

    @property
    def tpm_socket(self) -> Path:
        """Raw TPM byte stream."""
        return self.run / "tpm.sock"

    @property
    def ctrl_socket(self) -> Path:
        """The swtpm control channel."""
        return self.run / "ctrl.sock"

    @property
    def back_socket(self) -> Path:
        """The split driver's backend."""
        return self.run / "tpmback.sock"

    @property
    def control_socket(self) -> Path:
        """Where the guest's vtpm answers `vtpmctl`."""
        return self.run / "control.sock"

    @property
    def front_control_socket(self) -> Path:
        """Where the guest's tpmfront answers `vtpmctl`."""
        return self.run / "front-control.sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a stack; `root` is absolute."""

    root: Path

    @property
    def state(self) -> Path:
        """What survives a stop."""
        return self.root / "state"

    @property
    def run(self) -> Path:
        """What exists while the stack runs."""
        return self.root / "run"

    @property
    def hwtpm_state(self) -> Path:
        """State of the chip."""
        return self.state / "hwtpm"

    @property
    def hwtpm_run(self) -> Path:
        """Sockets of the chip."""
        return self.run / "hwtpm"

    @property
    def hwtpm_control_socket(self) -> Path:
        """Where hwtpm answers `vtpmctl`."""
        return self.hwtpm_run / "control.sock"

    @property
    def vtpmmgr_state(self) -> Path:
        """State of the manager."""
        return self.state / "vtpmmgr"

    @property
    def vtpmmgr_socket(self) -> Path:
        """The split driver's backend at the manager."""
        return self.run / "vtpmmgr.sock"

    @property
    def vtpmmgr_control_socket(self) -> Path:
        """Where vtpmmgr answers `vtpmctl`."""
        return self.run / "vtpmmgr-control.sock"

    @property
    def vtpmmgr_admin_socket(self) -> Path:
        """Where vtpmmgr takes management commands."""
        return self.run / "vtpmmgr-admin.sock"

    @property
    def etc(self) -> Path:
        """The configuration: `vtpm.toml` and `guests.d`."""
        return self.state / "etc"

    @property
    def control_socket(self) -> Path:
        """Where `vtpmctl up` answers `vtpmctl status`."""
        return self.run / "control.sock"

    @property
    def notify(self) -> Path:
        """Sockets on which the daemons say that they are ready."""
        return self.run / "notify"

    def guest(self, name: str) -> GuestPaths:
        """Return the paths of a guest."""
        return GuestPaths(self.state / "guests" / name, self.run / "guests" / name)

    def check_lengths(self, guests: Sequence[str]) -> None:
        """See that every socket path fits into a socket address.

        Raises:
            DaemonError: the folder's path or a guest's name is too long.
        """
        longest = max(
            (self.guest(name).front_control_socket for name in guests or ("g",)),
            key=lambda path: len(str(path)),
        )
        excess = len(os.fsencode(longest)) - PATH_LIMIT_BYTES
        if excess > 0:
            raise DaemonError(
                f"{self.root} is {excess} bytes too long a path: sockets such as {longest} end at "
                f"{PATH_LIMIT_BYTES} bytes; give a shorter --dir"
            )

    def prepare(self) -> StateFolder:
        """Make all folders but those of guests and return the locked one that keeps other
        supervisors out.

        What lies under `run` others may pass through, on the way to the front sockets; the modes
        of the sockets decide who may connect.

        Raises:
            RefusedToStart: another supervisor runs there, or a folder is not ours.
            OSError: a folder cannot be made.
        """
        if not self.root.exists():
            OsFiles().make_folder(self.root)
        _make_folder(self.root, _TRAVERSABLE)
        locked = StateFolder(self.state).lock()
        try:
            for path in (self.run, self.run / "guests"):
                _make_folder(path, _TRAVERSABLE)
            _make_folder(self.hwtpm_run, _PRIVATE)
            _make_folder(self.notify, _PRIVATE)
        except BaseException:
            locked.close()
            raise
        return locked

    def prepare_guest(self, name: str) -> None:
        """Make the folder of a guest's sockets.

        Raises:
            RefusedToStart: it is not ours.
            OSError: it cannot be made.
        """
        _make_folder(self.guest(name).run, _TRAVERSABLE)

    def closed_parent(self) -> Path | None:
        """Return the topmost folder above `root` that other users may not pass through, if any."""
        # From the top down: the first that is closed decides, what is below need not be readable.
        for path in reversed(self.root.parents):
            if not path.stat().st_mode & _OTHERS_MAY_PASS:
                return path
        return None


def has_image(state: Path) -> bool:
    """Whether a guest's state folder has an image in it, so that its uuid must not be a new one."""
    return any(state.glob("slot*"))


def _make_folder(path: Path, mode: int) -> None:
    if not path.is_symlink() and not path.exists():
        path.mkdir(mode=_PRIVATE)
    found = path.lstat()
    if not path.is_dir() or path.is_symlink():
        raise RefusedToStart(f"{path} is not a folder")
    if found.st_uid != os.geteuid():
        raise RefusedToStart(f"{path} belongs to uid {found.st_uid}, not to us ({os.geteuid()})")
    wanted = (found.st_mode & 0o777 & ~0o022) | mode if mode == _TRAVERSABLE else mode
    if found.st_mode & 0o777 != wanted:
        path.chmod(wanted)
