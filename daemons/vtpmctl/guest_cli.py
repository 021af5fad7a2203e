# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl guest`: the guests of a machine or of a stack of `vtpmctl up`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from daemons.runtime.config.endpoints import check_endpoints, parse_endpoint
from daemons.runtime.config.text import TomlValue
from daemons.runtime.config.values import EndorsementKey, StartupKind, check_guest_name
from daemons.runtime.control import Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.guests import (
    Added,
    Removed,
    add_guest,
    check_known,
    list_guests,
    remove_guest,
)
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option

_COLUMNS = ("guest", "state", "uuid", "uid", "group", "label", "admin")


def _check_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return check_guest_name(value)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


_name_argument = click.argument("name", callback=_check_name)


def _example(*lines: str) -> str:
    """Return an epilog with one line for each example."""
    return "\b\nExample:\n" + "\n".join([f"  {line}" for line in lines])


@click.group(
    "guest",
    epilog=_example("vtpmctl guest list", "vtpmctl guest add web1", "vtpmctl guest restart web1"),
)
def guest_group() -> None:
    """Add, remove, start and stop guests."""


ADD_EXAMPLE = """\b
Example:
  vtpmctl guest add web1 --label system_u:vm_r:web_t --hwinitpcr 0-7
  vtpmctl guest add web2 --tcp 6545
"""


@guest_group.command("add", epilog=ADD_EXAMPLE)
@_name_argument
@click.option("--uuid", type=click.UUID, help="Of its vTPM.  [default: a new one]")
@click.option("--group", type=int, help="Number of its group in the manager.  [default: 0]")
@click.option("--label", help="What stands in for its XSM label.  [default: NAME]")
@click.option("--admin", is_flag=True, help="It may send management commands.")
@click.option(
    "--locality",
    "localities",
    multiple=True,
    metavar="LABEL=N[,N...]",
    help="Localities of clients with a label; may be repeated, see vtpm-guest.toml(5).",
)
@click.option(
    "--hwinitpcr",
    metavar="LIST",
    help="PCRs that start with the hardware TPM's value: all, none, N, X-Y, with commas.",
)
@click.option(
    "--startup",
    type=click.Choice([kind.value for kind in StartupKind]),
    help="Type of the TPM_Startup after power-on.",
)
@click.option("--maintcmds", is_flag=True, help="The five maintenance commands answer.")
@click.option(
    "--ek",
    type=click.Choice([kind.value for kind in EndorsementKey]),
    help="Whether its TPM gets its endorsement key at once.",
)
@click.option(
    "--tcp",
    "endpoints",
    multiple=True,
    metavar="[ADDRESS:]PORT[=LOCALITY]",
    help="Its TPM over TCP besides, at 127.0.0.1 by default: every program of the machine may use "
    "it there. May be repeated.",
)
@click.option(
    "--tcp-any-address",
    is_flag=True,
    help="Let --tcp be at addresses that other machines reach, who may use it then; nothing is "
    "encrypted.",
)
@dir_option
@system_option
def add_command(
    name: str,
    uuid: object,
    group: int | None,
    label: str | None,
    admin: bool,
    localities: tuple[str, ...],
    hwinitpcr: str | None,
    startup: str | None,
    maintcmds: bool,
    ek: str | None,
    endpoints: tuple[str, ...],
    tcp_any_address: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Make a guest and start it.

    What is not said here is as vtpm.toml says, now and later. If a step fails, what was done is
    undone; if the command is killed, the same command once more finishes what it has left.
    """
    said: dict[str, TomlValue | None] = {
        "uuid": None if uuid is None else str(uuid),
        "group": group,
        "label": label,
        "admin": admin or None,
        "localities": list(localities) or None,
        "hwinitpcr": hwinitpcr,
        "startup": startup,
        "maintcmds": maintcmds or None,
        "ek": ek,
    }
    keys = {key: value for key, value in said.items() if value is not None}
    front: dict[str, TomlValue] = {}
    if endpoints:
        try:
            tcp = tuple([parse_endpoint(text) for text in endpoints])
            check_endpoints(tcp, any_address=tcp_any_address)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        front["tcp"] = [str(endpoint) for endpoint in tcp]
    if tcp_any_address:
        front["tcp_any_address"] = True

    async def add() -> Added:
        return await add_guest(await find_host(root, system=system), name, keys, front)

    added = ask(add)
    what = "is added" if added.is_new else "was there already"
    runs = "runs" if added.is_running else "starts with vtpmctl up"
    click.echo(f"guest {name} {what} and {runs}; its uuid is {added.guest.identity.uuid}")


@guest_group.command(
    "remove",
    epilog=_example(
        "vtpmctl guest remove web1", "vtpmctl guest remove web1 --delete-state --yes web1"
    ),
)
@_name_argument
@click.option(
    "--delete-state",
    is_flag=True,
    help="Delete the image as well: all keys and sealed data in it are lost.",
)
@click.option("--yes", "confirmed", metavar="NAME", help="The name once more, instead of asking.")
@dir_option
@system_option
def remove_command(
    name: str, delete_state: bool, confirmed: str | None, root: Path | None, system: bool
) -> None:
    """Stop a guest and forget it.

    Its image is kept unless told otherwise: added again with the same --uuid, the guest finds
    everything that its TPM has kept.
    """
    if confirmed is None:
        if not sys.stdin.isatty():
            raise click.UsageError(f"not asking on no terminal: say --yes {name}")
        fate = (
            "Its image is DELETED: all keys and sealed data in it are lost."
            if delete_state
            else "Its image is kept."
        )
        confirmed = click.prompt(f"This stops and forgets guest {name}. {fate}\nType its name")
    if confirmed != name:
        raise click.UsageError(f"{confirmed!r} is not {name!r}: nothing was removed")

    async def remove() -> Removed:
        host = await find_host(root, system=system)
        return await remove_guest(host, name, delete_state=delete_state)

    removed = ask(remove)
    click.echo(f"guest {name} is removed")
    if removed.state_kept:
        known = f" --uuid {removed.uuid}" if removed.uuid else ""
        click.echo(f"its image is kept, for vtpmctl guest add {name}{known}")


@guest_group.command(
    "list",
    epilog=_example("vtpmctl guest list --system"),
)
@click.option("--json", "as_json", is_flag=True, help="The same, as JSON.")
@dir_option
@system_option
def list_command(as_json: bool, root: Path | None, system: bool) -> None:
    """Show all guests."""

    async def gather() -> Mapping[str, list[Json]]:
        return await list_guests(await find_host(root, system=system))

    listed = ask(gather)
    click.echo(json.dumps(listed, indent=2) if as_json else format_guests(listed))


def format_guests(listed: Mapping[str, list[Json]]) -> str:
    """Return a table of guests, and below it what is wrong with the files."""
    rows = [row for row in listed["guests"] if isinstance(row, dict)]
    cells = [[column.upper() for column in _COLUMNS]]
    cells += [[_cell(row[column]) for column in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    for findings in (*(row["findings"] for row in rows), listed["findings"]):
        lines += [str(finding) for finding in findings] if isinstance(findings, list) else []
    return "\n".join(lines)


def _cell(value: Json) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


@guest_group.command("start", epilog=_example("vtpmctl guest start web1"))
@_name_argument
@dir_option
@system_option
def start_command(name: str, root: Path | None, system: bool) -> None:
    """Start a guest's daemons: its TPM is powered on."""

    async def start() -> None:
        host = await find_host(root, system=system)
        check_known(host, name)
        await host.start(name)

    ask(start)


@guest_group.command("stop", epilog=_example("vtpmctl guest stop web1 --dir /srv/vtpm"))
@_name_argument
@dir_option
@system_option
def stop_command(name: str, root: Path | None, system: bool) -> None:
    """Stop a guest's daemons: its TPM is powered off, everything permanent is kept. It starts
    again with everything else."""

    async def stop() -> None:
        host = await find_host(root, system=system)
        check_known(host, name)
        await host.stop(name)

    ask(stop)


@guest_group.command("restart", epilog=_example("vtpmctl guest restart web1"))
@_name_argument
@dir_option
@system_option
def restart_command(name: str, root: Path | None, system: bool) -> None:
    """Stop a guest's daemons and start them again: its TPM is powered off and on."""

    async def restart() -> None:
        host = await find_host(root, system=system)
        check_known(host, name)
        await host.stop(name)
        await host.start(name)

    ask(restart)


@guest_group.command("reset", epilog=_example("vtpmctl guest reset web1"))
@_name_argument
@dir_option
@system_option
def reset_command(name: str, root: Path | None, system: bool) -> None:
    """Reset the TPM of a guest as a reboot of the guest does."""

    async def reset() -> None:
        host = await find_host(root, system=system)
        check_known(host, name)
        states = await host.states([name])
        socket = host.control_socket(name)
        if not socket.exists():
            raise DaemonError(f"guest {name} is {states[name]}")
        await control_request(socket, "reset")

    ask(reset)
