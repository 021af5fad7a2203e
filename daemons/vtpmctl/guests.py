# SPDX-License-Identifier: Apache-2.0
"""Adding, removing and listing guests, on whatever host they run.

To add a guest takes these steps; each is durable before the next begins and is not done twice, so
that a second attempt finishes what a crash has left.

    1  its user
    2  its file in guests.d; with the whole folder checked
    3  the manager reads the folder again
    4  its daemons are started, and will be with everything else

If a step fails, those that this attempt has done are undone, last one first. Removing goes the
other way.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import trio

from daemons.runtime.config.folder import examine, guest_path, load
from daemons.runtime.config.options import Guest
from daemons.runtime.config.text import TomlTable, TomlValue, remove_file
from daemons.runtime.config.values import check_guest_name
from daemons.runtime.control import Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.host import Host
from daemons.vtpmctl.layout import has_image

UNDO_LIMIT_S: Final = 60.0

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Added:
    """What adding a guest came to.

    Attributes:
        guest: as its file says.
        is_new: the file was not there before.
        is_running: its daemons run; they start with everything else otherwise.
    """

    guest: Guest
    is_new: bool
    is_running: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """What removing a guest came to.

    Attributes:
        uuid: of the guest, if its file said one.
        state_kept: whether its image is still there.
    """

    uuid: str
    state_kept: bool


class _Undo:
    """The steps that were done, and are undone if the block ends with an exception."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def later(self, step: Step) -> None:
        """Remember how to undo what was done, or may have been done."""
        self._steps.append(step)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        failures = []
        # Also when Ctrl-C ends us; a step that does not end would keep somebody from leaving.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_LIMIT_S):
            for step in reversed(self._steps):
                try:
                    await step()
                except (DaemonError, OSError) as failure:
                    failures.append(str(failure))
        if failures and isinstance(error, DaemonError | OSError):
            raise DaemonError(f"{error}; not undone: {'; '.join(failures)}") from error


async def add_guest(
    host: Host, name: str, keys: TomlTable, front: TomlTable | None = None
) -> Added:
    """Make a guest and start it, or finish what an earlier attempt has left.

    Args:
        host: where.
        name: of the guest.
        keys: of its file that the operator has said; the uuid is made if it is not among them.
        front: likewise, of its table [front].

    Raises:
        DaemonError: there is another guest of that name, a step failed (what was done is undone),
            or the configuration has mistakes.
    """
    _check_name(host, name)
    _check_unlike(host, name, keys, front or {})
    state = host.state(name)
    had_state = state.exists()
    manager_was_told = False

    async def drop_state() -> None:
        # What a vTPM that did not come up has made: nobody has used it, and its user goes.
        if not had_state and state.exists():
            await trio.to_thread.run_sync(shutil.rmtree, state)

    async def forget() -> None:
        await _remove_file(host, name)
        if manager_was_told:
            await reload_manager(host)

    async with _Undo() as undo:
        if await host.make_user(name):
            undo.later(lambda: host.remove_user(name))
        is_new = _make_file(host, name, keys, front)
        if is_new:
            undo.later(drop_state)
            undo.later(forget)
        guest = load(host.config, host.find_uid).guests[name]
        manager_was_told = True  # even if it does not answer
        await reload_manager(host)
        if not await host.is_started(name):
            undo.later(lambda: host.discard(name))
        is_running = await host.add(name)
        return Added(guest, is_new, is_running)


async def remove_guest(host: Host, name: str, *, delete_state: bool) -> Removed:
    """Stop a guest and forget it; what is gone already is no error.

    The user stays as long as the image does: another user that got its number would own the image.

    Args:
        host: where.
        name: of the guest.
        delete_state: whether its image is to be deleted as well.

    Raises:
        DaemonError: there is nothing of such a guest, or a step failed.
    """
    _check_name(host, name)
    path = guest_path(host.config, name)
    state = host.state(name)
    if not path.exists() and not state.exists():
        raise DaemonError(f"there is no guest {name}")
    uuid = _uuid_in_file(host, name)
    await host.discard(name)
    await _remove_file(host, name)
    if delete_state and state.exists():
        await trio.to_thread.run_sync(shutil.rmtree, state)
    if not state.exists():
        await host.remove_user(name)
    await reload_manager(host)
    return Removed(uuid, state.exists())


async def list_guests(host: Host) -> Mapping[str, list[Json]]:
    """Return a row for each guest, also for those whose files have mistakes, as "guests", and as
    "findings" what is wrong beside them."""
    examination = examine(host.config, host.find_uid)
    guests = examination.configuration.guests
    names = sorted({*guests, *examination.excluded})
    states = await host.states(names)
    rows: list[Json] = []
    for name in names:
        guest = guests.get(name)
        path = guest_path(host.config, name)
        rows.append(
            {
                "guest": name,
                "state": states[name],
                "uuid": None if guest is None else str(guest.identity.uuid),
                "uid": None if guest is None else guest.identity.uid,
                "group": None if guest is None else guest.identity.group,
                "label": None if guest is None else guest.label,
                "admin": None if guest is None else guest.identity.admin,
                "findings": [str(one) for one in examination.findings if one.file == path],
            }
        )
    paths = {guest_path(host.config, name) for name in names}
    others: list[Json] = [str(one) for one in examination.findings if one.file not in paths]
    return {"guests": rows, "findings": others}


def check_known(host: Host, name: str) -> None:
    """Raises:
    DaemonError: no file in guests.d has this name.
    """
    _check_name(host, name)
    if not guest_path(host.config, name).exists():
        raise DaemonError(f"there is no guest {name}: no file {guest_path(host.config, name)}")


async def reload_manager(host: Host) -> None:
    """Have the manager read the configuration again, if it runs.

    Raises:
        DaemonError: it does not take it.
    """
    socket = await host.manager_socket()
    if socket is not None:
        await control_request(socket, "reload")


async def reload_all(host: Host) -> dict[str, list[str]]:
    """Have all daemons that run read the configuration again, after a check.

    Returns: by daemon, the names of what counts at its next start only.

    Raises:
        BadConfig: with all that is wrong; no daemon was told.
        DaemonError: a daemon does not take it; the others have.
    """
    load(host.config, host.find_uid)
    waiting: dict[str, list[str]] = {}
    failures = []
    for daemon, socket in (await host.running()).items():
        try:
            result = await control_request(socket, "reload")
        except DaemonError as error:
            failures.append(f"{daemon}: {error}")
            continue
        names = result.get("at_next_start")
        waiting[daemon] = [str(name) for name in names] if isinstance(names, list) else []
    if failures:
        raise DaemonError("\n".join(failures))
    return waiting


def _check_name(host: Host, name: str) -> None:
    try:
        check_guest_name(name)
    except ValueError as error:
        raise DaemonError(str(error)) from error
    host.check_name(name)


def _check_unlike(host: Host, name: str, keys: TomlTable, front: TomlTable) -> None:
    """Refuse a guest that is there with other keys, and an image whose uuid nobody has said."""
    if guest_path(host.config, name).exists():
        found = _keys_in_file(host, name)
        table = found.get("front")
        found_front = table if isinstance(table, dict) else {}
        said = [(key, value, found.get(key)) for key, value in keys.items()]
        said += [(f"front.{key}", value, found_front.get(key)) for key, value in front.items()]
        for key, value, there in said:
            if there != value:
                raise DaemonError(
                    f"there is a guest {name} already, and {guest_path(host.config, name)} does "
                    f"not say {key} = {value!r}; edit that file, or remove the guest first"
                )
    elif "uuid" not in keys and has_image(host.state(name)):
        raise DaemonError(
            f"there is an image in {host.state(name)}: to take it up again say its --uuid; a new "
            "guest needs another name, or that folder removed"
        )


def _make_file(host: Host, name: str, keys: TomlTable, front: TomlTable | None) -> bool:
    whole: dict[str, TomlValue] = {"uuid": str(uuid4()), **keys}
    try:
        return host.make_file(name, whole, front)
    except OSError as error:
        raise DaemonError(f"{guest_path(host.config, name)}: {error.strerror}") from error


async def _remove_file(host: Host, name: str) -> None:
    try:
        remove_file(guest_path(host.config, name))
    except OSError as error:
        raise DaemonError(f"{guest_path(host.config, name)}: {error.strerror}") from error


def _keys_in_file(host: Host, name: str) -> dict[str, object]:
    try:
        return tomllib.loads(guest_path(host.config, name).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DaemonError(f"{guest_path(host.config, name)}: {error}") from error


def _uuid_in_file(host: Host, name: str) -> str:
    try:
        return str(_keys_in_file(host, name).get("uuid", ""))
    except DaemonError:
        return ""  # missing, or broken; that must not keep it from being removed
