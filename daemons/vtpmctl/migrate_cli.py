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
from protocol.manager.descriptors import StateTarget
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import MoveApproval, TransportKey

_O = ManagementOrdinal


@click.command(
    "migrate-to",
    epilog=example(
        "vtpmctl vtpm migrate-to --guest web1 --to new.key --approval move.approval",
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
@click.option("--clear", is_flag=True, help="To no other manager any more.")
@json_option
@dir_option
@system_option
@told()
def migrate_to_command(
    name: str,
    to: Path | None,
    approval: Path | None,
    clear: bool,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Say to which other manager the state of a running vTPM may go, for live migration.

    The vTPM runs on. From now on it gives its state out encrypted for that manager alone, so what
    QEMU saves cannot be loaded here; --clear ends that. A migration takes nothing out of service:
    delete the vTPM here once the guest runs on the other machine.
    """
    if clear == (to is not None or approval is not None) or (to is None) != (approval is None):
        raise click.UsageError("either --to and --approval, or --clear")
    uuid = uuid_of(name, configured_guests(root, system))
    if to is None or approval is None:

        async def forget(admin: Admin) -> None:
            await admin.ask(_O.STATE_TARGET_CLEAR, VtpmName(uuid), Nothing)

        ask_manager(root, system, forget)
        tell({"vtpm": str(uuid), "target": None}, as_json, f"the state of vTPM {uuid} stays here")
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
