# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl vtpm migrate-to`: where the state of a running vTPM may go."""

from __future__ import annotations

from pathlib import Path

import click

from daemons.runtime.control import Json
from daemons.vtpmctl.adminclient import Admin
from daemons.vtpmctl.answers import ask_manager, example, json_option, tell, told
from daemons.vtpmctl.move_cli import read_message
from daemons.vtpmctl.options import dir_option, system_option
from daemons.vtpmctl.vtpm_cli import configured_guests, uuid_of
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.descriptors import LocalTarget, StateTarget
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import MoveApproval, TransportKey

_O = ManagementOrdinal


@click.command(
    "migrate-to",
    epilog=example(
        "vtpmctl vtpm migrate-to --guest web1 --to new.key --approval move.approval",
        "vtpmctl vtpm migrate-to --guest web1 --to-vtpm web2",
        "vtpmctl vtpm migrate-to --guest web1 --clear",
    ),
)
@click.option("--guest", "name", required=True, metavar="UUID|GUEST", help="Whose vTPM.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Transport key of the target.",
)
@click.option(
    "--approval",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of the group's agent: vtpmctl saa approve-move.",
)
@click.option("--to-vtpm", metavar="UUID|GUEST", help="Another vTPM of this manager and group.")
@click.option("--clear", is_flag=True, help="To no other manager or vTPM any more.")
@json_option
@dir_option
@system_option
@told()
def migrate_to_command(
    name: str,
    to: Path | None,
    approval: Path | None,
    to_vtpm: str | None,
    clear: bool,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Say where the state of a running vTPM may go beside back to itself, for live migration.

    The vTPM runs on. With --to it gives its state out encrypted for that manager alone from now on,
    so what QEMU saves cannot be loaded here. With --to-vtpm another vTPM here may load its state
    too, also what was saved before. --clear ends either. A migration takes nothing out of service:
    delete the vTPM once the guest runs elsewhere.
    """
    chosen = (to is not None or approval is not None, to_vtpm is not None, clear)
    if sum(chosen) != 1 or (to is None) != (approval is None):
        raise click.UsageError("either --to and --approval, or --to-vtpm, or --clear")
    guests = configured_guests(root, system)
    uuid = uuid_of(name, guests)
    if to_vtpm is not None:
        other = uuid_of(to_vtpm, guests)

        async def let(admin: Admin) -> None:
            await admin.ask(_O.STATE_TARGET_LOCAL, LocalTarget(uuid, other), Nothing)

        ask_manager(root, system, let)
        tell(
            {"vtpm": str(uuid), "target_vtpm": str(other)},
            as_json,
            f"vTPM {other} may load the state of vTPM {uuid}",
        )
        return
    if to is None or approval is None:

        async def forget(admin: Admin) -> None:
            await admin.ask(_O.STATE_TARGET_CLEAR, VtpmName(uuid), Nothing)

        ask_manager(root, system, forget)
        tell({"vtpm": str(uuid), "target": None}, as_json, f"the state of vTPM {uuid} is its own")
        return
    target = read_message(to, TransportKey)
    request = StateTarget(uuid, target, read_message(approval, MoveApproval))

    async def note(admin: Admin) -> None:
        await admin.ask(_O.STATE_TARGET_SET, request, Nothing)

    ask_manager(root, system, note)
    answer: dict[str, Json] = {
        "vtpm": str(uuid),
        "target": str(target.manager),
        "sequence": request.approval.sequence,
    }
    tell(answer, as_json, f"the state of vTPM {uuid} goes to manager {target.manager}")
