# SPDX-License-Identifier: Apache-2.0
"""The configuration of a stack of `vtpmctl up`: the same files as a machine's, in its own folder.

`vtpmctl up` makes them where they are missing and never changes one that is there, so that they may
be edited as a machine's are. A folder of a release that had none is taken over: each of its guests
keeps its uuid, and with it its TPM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

from daemons.runtime.config.findings import BadConfig, Finding
from daemons.runtime.config.folder import (
    GUESTS_NAME,
    MACHINE_NAME,
    SUFFIX,
    guest_path,
    load_guest,
    load_without_bad_guests,
)
from daemons.runtime.config.options import Guest
from daemons.runtime.config.text import TomlTable, make_file, remove_file, toml_text
from daemons.runtime.config.values import is_guest_name
from daemons.runtime.errors import RefusedToStart
from daemons.runtime.files import StateFolder
from daemons.runtime.log import Log
from daemons.vtpmctl.layout import Layout, has_image

FRONT_MODE = "0666"
"""A tcsd runs as another user; who can reach the folder may use the TPM."""

DEFAULT_GUEST = "guest1"
"""What a stack begins with if nobody names a guest."""

_FILE_MODE = 0o600
_OLD_UUID = "uuid"
_OLD_CLIENTS = "clients.toml"
_UUID_LIMIT_BYTES = 64


def prepare_config(layout: Layout, names: Sequence[str], log: Log) -> tuple[Guest, ...]:
    """Make what is missing of the configuration and return the guests that are to run.

    Args:
        layout: of the stack; its state folder is locked.
        names: of the guests; those that have no file get one. If empty, all guests that have one,
            or DEFAULT_GUEST if none has.
        log: told of guests that are left out because of their files.

    Raises:
        RefusedToStart: files have mistakes, so that no guest is left; the kept uuid of an older
            release is damaged, or there is an image but no file: a new uuid would be a new, empty
            TPM.
        OSError: a file cannot be made.
    """
    StateFolder(layout.etc)
    StateFolder(layout.etc / GUESTS_NAME)
    make_file(layout.etc / MACHINE_NAME, _machine_text(), _FILE_MODE)
    _take_over(layout, names)
    if not names and not any((layout.etc / GUESTS_NAME).glob(f"*{SUFFIX}")):
        names = (DEFAULT_GUEST,)
    for name in names:
        if not guest_path(layout.etc, name).exists():
            _make_new(layout, name)
    configuration, findings = load_without_bad_guests(layout.etc)
    if names:
        return tuple(load_guest(layout.etc, name) for name in names)
    if not configuration.guests:
        raise BadConfig(findings)
    for finding in findings:
        log.error("guest left out", reason=finding)
    return tuple(configuration.guests.values())


def _make_new(layout: Layout, name: str) -> None:
    state = layout.guest(name).state
    if has_image(state):
        raise RefusedToStart(
            f"there is an image in {state}, but no {guest_path(layout.etc, name)} that says its "
            f"uuid: vtpmctl guest add {name} --uuid makes it"
        )
    make_guest(layout, name, {"uuid": str(uuid4())})


def make_guest(layout: Layout, name: str, keys: TomlTable, front: TomlTable | None = None) -> bool:
    """Make the file of a guest; False if there is one.

    Args:
        layout: of the stack.
        name: of the guest.
        keys: at the top of the file; the uid is that of this process, as for all guests here.
        front: of its [front], where all guests here have their mode.
    """
    text = toml_text(
        f"Guest {name}, see vtpm-guest.toml(5).",
        {"uid": os.geteuid(), **keys},
        {"front": {"stream_mode": FRONT_MODE, "control_mode": FRONT_MODE, **(front or {})}},
    )
    return make_file(guest_path(layout.etc, name), text, _FILE_MODE)


def _machine_text() -> str:
    # Running as one user separates nothing: each of these daemons could be any of the others.
    return toml_text(
        "See vtpm.toml(5); what is not said here has its default.",
        {},
        {"compat": {"uids": [os.geteuid()]}, "manager": {"shared_uid": True}},
    )


def check_ours(layout: Layout, guest: Guest) -> None:
    """Raises:
    BadConfig: the guest's file names another user than that of this stack, which would have its
        vTPM be refused by the manager.
    """
    if guest.identity.uid != os.geteuid():
        path = guest_path(layout.etc, guest.name)
        reason = f"must be {os.geteuid()}, the user of this stack"
        raise BadConfig([Finding(path, "uid", reason)])


def _take_over(layout: Layout, names: Sequence[str]) -> None:
    """Make files for guests whose uuid an older release kept beside their image; all that there
    are if none is named, since a folder beside them may be somebody's copy."""
    for kept in sorted((layout.state / "guests").glob(f"*/{_OLD_UUID}")):
        name = kept.parent.name
        if name not in names and (names or not is_guest_name(name)):
            continue
        # Once the file is durable it alone counts; a crash in between repeats the removal.
        if not guest_path(layout.etc, name).exists():
            make_guest(layout, name, {"uuid": str(_old_uuid(kept))})
        remove_file(kept)
    remove_file(layout.state / _OLD_CLIENTS)


def _old_uuid(path: Path) -> UUID:
    kept = StateFolder(path.parent).read(path.name, _UUID_LIMIT_BYTES) or b""
    try:
        return UUID(kept.decode().strip())
    except ValueError as error:
        raise RefusedToStart(f"{path} does not hold a uuid") from error
