# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl vtpm`: the vTPMs that a manager keeps keys for."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import click

from daemons.runtime.config.folder import load_without_bad_guests
from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from daemons.runtime.subcommands import DeferringGroup
from daemons.vtpmctl.adminclient import Admin, Refused
from daemons.vtpmctl.answers import (
    ask_manager,
    confirm,
    example,
    json_option,
    table,
    tell,
    yes_option,
)
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option
from protocol.manager.constants import ManagementOrdinal, ManagerCode, VtpmFlag
from protocol.manager.descriptors import NO_UUID, StateTargetShown
from protocol.manager.management import (
    GroupCount,
    Nothing,
    VtpmEdit,
    VtpmList,
    VtpmName,
    VtpmNew,
    VtpmShown,
    VtpmsListed,
)

_O = ManagementOrdinal
_COLUMNS = (
    *("uuid", "guest", "group", "admin", "open", "saved", "kern_hash"),
    *("migrates_to", "approved", "migrates_to_vtpm"),
)
_LIST_COLUMNS = ("uuid", "guest", "group")


@click.group(
    "vtpm",
    cls=DeferringGroup,
    epilog=example("vtpmctl vtpm list", "vtpmctl vtpm show web1"),
)
def vtpm_group() -> None:
    """vTPMs as the manager knows them; guests are `vtpmctl guest`."""


vtpm_group.defer(
    "daemons.vtpmctl",
    {
        "abandon": (
            "move_cli:abandon_command",
            "By force: forget a vTPM that is arriving, or that one is gone.",
        ),
        "activate": (
            "move_cli:activate_command",
            "Serve a vTPM that arrived and that its source has released.",
        ),
        "cancel": ("move_cli:cancel_command", "Serve a vTPM again that was leaving."),
        "export": (
            "move_cli:export_command",
            "Begin to move a vTPM to another manager: take it out of service and write it to a "
            "file.",
        ),
        "import": ("move_cli:import_command", "Take in a vTPM that another manager has exported."),
        "migrate-to": (
            "migrate_cli:migrate_to_command",
            "Say where the state of a running vTPM may go beside back to itself, for live "
            "migration.",
        ),
        "moves": (
            "move_cli:moves_command",
            "Show the vTPMs that are leaving, are gone, arrive or have arrived.",
        ),
        "release": (
            "move_cli:release_command",
            "Let go of a vTPM for which the target has given a receipt.",
        ),
    },
)


name_argument = click.argument("name", metavar="UUID|GUEST")


def configured_guests(root: Path | None, system: bool) -> dict[UUID, str]:
    """Return the names of the configured guests by uuid of their vTPM."""

    async def read() -> dict[UUID, str]:
        host = await find_host(root, system=system)
        try:
            configuration, _ = load_without_bad_guests(host.config, host.find_uid)
        except DaemonError:
            return {}  # names only help; the manager itself says what counts
        return {guest.identity.uuid: name for name, guest in configuration.guests.items()}

    return ask(read)


def uuid_of(name: str, guests: dict[UUID, str]) -> UUID:
    """Return the uuid that an argument means, itself or the name of a guest."""
    try:
        return UUID(name)
    except ValueError:
        found = [uuid for uuid, guest in guests.items() if guest == name]
        if not found:
            raise click.UsageError(f"{name!r} is no uuid and no configured guest") from None
        return found[0]


@vtpm_group.command("list", epilog=example("vtpmctl vtpm list", "vtpmctl vtpm list --group 1"))
@click.option("--group", type=int, help="Of this group only.  [default: of all open groups]")
@json_option
@dir_option
@system_option
def list_command(group: int | None, as_json: bool, root: Path | None, system: bool) -> None:
    """Show the vTPMs of open groups."""

    async def gather(admin: Admin) -> list[tuple[int, UUID]]:
        if group is not None:
            return await list_vtpms(admin, group)
        found: list[tuple[int, UUID]] = []
        for number in range((await admin.ask(_O.GROUP_LIST, Nothing(), GroupCount)).groups):
            try:
                found += await list_vtpms(admin, number)
            except Refused as refusal:
                if refusal.code != ManagerCode.AUTHFAIL:
                    raise
        return found

    guests = configured_guests(root, system)
    rows: list[dict[str, Json]] = [
        {"uuid": str(uuid), "guest": guests.get(uuid), "group": number}
        for number, uuid in ask_manager(root, system, gather)
    ]
    lines = table(_LIST_COLUMNS, rows)
    tell({"vtpms": list[Json](rows)}, as_json, f"{len(rows)} vTPM(s)", lines)


async def list_vtpms(admin: Admin, group: int) -> list[tuple[int, UUID]]:
    """Return the vTPMs of a group, page by page, with its number."""
    found: list[UUID] = []
    while True:
        page = await admin.ask(_O.VTPM_LIST, VtpmList(group, len(found)), VtpmsListed)
        found += [UUID(bytes=each) for each in page.uuids]
        # one that is deleted meanwhile leaves a page short; an empty page is the end in any case
        if len(found) >= page.total or not page.uuids:
            return [(group, uuid) for uuid in dict.fromkeys(found)]


@vtpm_group.command("show", epilog=example("vtpmctl vtpm show web1"))
@name_argument
@json_option
@dir_option
@system_option
def show_command(name: str, as_json: bool, root: Path | None, system: bool) -> None:
    """Show a vTPM: its group, whether it may manage, is open, has ever saved, the hash of the label
    that it is open with; to which manager its state goes, and whether that is still approved; which
    other vTPM here may load its state."""
    guests = configured_guests(root, system)
    row = ask_manager(
        root, system, lambda admin: describe_vtpm(admin, uuid_of(name, guests), guests)
    )
    tell(row, as_json, table(_COLUMNS, [row]))


async def describe_vtpm(admin: Admin, uuid: UUID, guests: dict[UUID, str]) -> dict[str, Json]:
    """Return what the manager says of a vTPM."""
    shown = await admin.ask(_O.VTPM_SHOW, VtpmName(uuid), VtpmShown)
    target = await admin.ask(_O.STATE_TARGET_SHOW, VtpmName(uuid), StateTargetShown)
    has_target = target.manager != NO_UUID
    return {
        "uuid": str(uuid),
        "guest": guests.get(uuid),
        "group": shown.group,
        "admin": bool(shown.flags & VtpmFlag.ADMIN),
        "open": bool(shown.open),
        "saved": bool(shown.saved),
        "kern_hash": shown.kern_hash.hex() if shown.open else None,
        "migrates_to": str(target.manager) if has_target else None,
        "approved": target.counts if has_target else None,
        "migrates_to_vtpm": None if target.vtpm == NO_UUID else str(target.vtpm),
    }


@vtpm_group.command("new", epilog=example("vtpmctl vtpm new --group 1"))
@click.option("--group", type=int, default=0, show_default=True, help="Number of its group.")
@click.option("--uuid", type=click.UUID, help="Of it.  [default: a new one]")
@json_option
@dir_option
@system_option
def new_command(
    group: int, uuid: UUID | None, as_json: bool, root: Path | None, system: bool
) -> None:
    """Register a vTPM that has never saved. Whose it is, the file of a guest says."""

    async def make(admin: Admin) -> UUID:
        return (await admin.ask(_O.VTPM_NEW, VtpmNew(group, uuid), VtpmName)).uuid

    made = ask_manager(root, system, make)
    tell({"uuid": str(made), "group": group}, as_json, f"vTPM {made} is registered")


@vtpm_group.command("edit", epilog=example("vtpmctl vtpm edit web1 --no-admin"))
@name_argument
@click.option("--admin/--no-admin", required=True, help="Whether it may send management commands.")
@json_option
@dir_option
@system_option
def edit_command(name: str, admin: bool, as_json: bool, root: Path | None, system: bool) -> None:
    """Take the right to manage from a vTPM, or give it back.

    Only a guest whose file gives the right (admin) can have it.
    """
    guests = configured_guests(root, system)
    uuid = uuid_of(name, guests)

    async def edit(connection: Admin) -> dict[str, Json]:
        flags = VtpmFlag.ADMIN if admin else 0
        await connection.send(_O.VTPM_EDIT, VtpmEdit(uuid, VtpmFlag.ADMIN, flags))
        return await describe_vtpm(connection, uuid, guests)

    row = ask_manager(root, system, edit)
    tell(row, as_json, table(_COLUMNS, [row]))


@vtpm_group.command("delete", epilog=example("vtpmctl vtpm delete UUID"))
@name_argument
@yes_option
@json_option
@dir_option
@system_option
def delete_command(
    name: str, confirmed: str | None, as_json: bool, root: Path | None, system: bool
) -> None:
    """Delete a vTPM: the key of its image is lost, and with it everything in it.

    It must not be open: stop its guest first.
    """
    uuid = uuid_of(name, configured_guests(root, system))
    confirm(
        f"This deletes vTPM {uuid}: the key of its image is lost, and all that the image holds.",
        str(uuid),
        confirmed,
    )

    async def delete(admin: Admin) -> None:
        await admin.send(_O.VTPM_DEL, VtpmName(uuid))

    ask_manager(root, system, delete)
    tell({"deleted": str(uuid)}, as_json, f"vTPM {uuid} is deleted")
