# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl manager`: the manager of all vTPMs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from daemons.runtime.control import Json, control_request
from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import parse_auth
from daemons.runtime.subcommands import DeferringGroup
from daemons.vtpmctl import rollback
from daemons.vtpmctl.adminclient import Admin
from daemons.vtpmctl.answers import (
    ask_manager,
    cell,
    confirm,
    example,
    json_option,
    out_option,
    table,
    tell,
    yes_option,
)
from daemons.vtpmctl.documents import check_absent, write_file
from daemons.vtpmctl.exchanges import IdentityFile
from daemons.vtpmctl.identities import read_pubkey
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option
from daemons.vtpmctl.pcrs import SelectionParameter, format_pcrs, selection_of
from daemons.vtpmctl.rollback import Examination
from protocol.attestation.identity import chosen_id_hash
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.management import (
    Endorsement,
    GroupCount,
    IdentityMade,
    MakeIdentity,
    Nothing,
)
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection

_O = ManagementOrdinal


@click.group(
    "manager",
    cls=DeferringGroup,
    epilog=example("vtpmctl manager status", "vtpmctl manager rekey"),
)
def manager_group() -> None:
    """The manager itself: its state, its keys, the hardware TPM that it uses."""


manager_group.defer(
    "daemons.vtpmctl",
    {
        "transport-key": (
            "move_cli:transport_key_command",
            "Show the key to which vTPMs are encrypted that move into a group of this manager.",
        ),
    },
)


@manager_group.command("status", epilog=example("vtpmctl manager status"))
@json_option
@dir_option
@system_option
def status_command(as_json: bool, root: Path | None, system: bool) -> None:
    """Show what the manager is doing: serving, or waiting for a recovery and why."""

    async def gather() -> dict[str, Json]:
        host = await find_host(root, system=system)
        socket = await host.manager_socket()
        if socket is None:
            raise DaemonError("the manager does not run")
        return dict(await control_request(socket, "status"))

    status = ask(gather)

    async def count(admin: Admin) -> int:
        return (await admin.ask(_O.GROUP_LIST, Nothing(), GroupCount)).groups

    status["groups"] = ask_manager(root, system, count)
    width = max(len(name) for name in status)
    lines = [f"{name.replace('_', ' ').ljust(width)}  {cell(v)}" for name, v in status.items()]
    tell(status, as_json, *lines)


@manager_group.command(
    "pcrs", epilog=example("vtpmctl manager pcrs | tee pcrs.txt", "vtpmctl manager pcrs --pcrs 0-7")
)
@click.option("--pcrs", type=SelectionParameter(), help="Which.  [default: all]")
@json_option
@dir_option
@system_option
def pcrs_command(pcrs: PcrSelection | None, as_json: bool, root: Path | None, system: bool) -> None:
    """Show PCRs of the hardware TPM, in the form that vtpmctl saa takes (--pcrs-file)."""
    indices = (selection_of("all") if pcrs is None else pcrs).indices

    async def read(admin: Admin) -> dict[int, bytes]:
        return {index: await admin.read_pcr(index) for index in indices}

    values = ask_manager(root, system, read)
    answer: dict[str, Json] = {str(index): value.hex() for index, value in values.items()}
    tell({"pcrs": answer}, as_json, format_pcrs(values))


@manager_group.command("pubek", epilog=example("vtpmctl manager pubek --out ek.pub"))
@out_option("For the TPM_PUBKEY.")
@json_option
@dir_option
@system_option
def pubek_command(out: Path, as_json: bool, root: Path | None, system: bool) -> None:
    """Write the hardware TPM's public endorsement key, by which an agent and a Privacy CA know this
    machine."""

    async def read(admin: Admin) -> PubKey:
        check_absent(out)
        return (await admin.ask(_O.READ_PUBEK, Nothing(), Endorsement)).pubek

    pubek = ask_manager(root, system, read)

    async def write() -> None:
        write_file(out, pubek.encode())

    ask(write)
    digest = hashlib.sha256(pubek.encode()).hexdigest()
    tell({"file": str(out), "sha256": digest}, as_json, f"{out}: SHA-256 {digest}")


@manager_group.command(
    "identity", epilog=example("vtpmctl manager identity --label recovery --out identity.json")
)
@click.option("--label", required=True, help="Of the identity key, for who certifies it.")
@click.option(
    "--privacy-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TPM_PUBKEY of the Privacy CA, which the identity's label digest then covers.",
)
@out_option("For the identity key.")
@json_option
@dir_option
@system_option
def identity_command(
    label: str,
    privacy_ca: Path | None,
    out: Path,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Have the hardware TPM make an identity key of no group, for a recovery.

    It works while the manager can only be recovered. The file holds the wrapped key, which is of
    use to this TPM only.
    """

    async def make(admin: Admin) -> None:
        digest = chosen_id_hash(label, None if privacy_ca is None else read_pubkey(privacy_ca))
        check_absent(out)
        ek = (await admin.ask(_O.READ_PUBEK, Nothing(), Endorsement)).pubek
        made = await admin.ask(_O.MAKE_IDENTITY, MakeIdentity(digest), IdentityMade)
        aik = made.aik.public_key
        IdentityFile(None, label, digest, aik, made.binding, ek, made.aik).write(out)

    ask_manager(root, system, make)
    tell({"file": str(out)}, as_json, f"identity key in {out}")


def _send(
    root: Path | None, system: bool, as_json: bool, ordinal: ManagementOrdinal, done: str
) -> None:
    async def send(admin: Admin) -> None:
        await admin.send(ordinal, Nothing())

    ask_manager(root, system, send)
    tell({"done": ordinal.name.lower()}, as_json, done)


@manager_group.command("rekey", epilog=example("vtpmctl manager rekey"))
@json_option
@dir_option
@system_option
def rekey_command(as_json: bool, root: Path | None, system: bool) -> None:
    """Change the manager key: the root secret, its seals and everything directly under it."""
    _send(root, system, as_json, _O.MANAGER_REKEY, "the manager has a new key")


@manager_group.command("rekey-nv", epilog=example("vtpmctl manager rekey-nv"))
@json_option
@dir_option
@system_option
def rekey_nv_command(as_json: bool, root: Path | None, system: bool) -> None:
    """Change the secret of the NV area that says which state is the newest; takes the owner's
    secret, which the manager has."""
    _send(root, system, as_json, _O.NV_REKEY, "the NV area has a new secret")


@manager_group.command("rekey-counter", epilog=example("vtpmctl manager rekey-counter"))
@json_option
@dir_option
@system_option
def rekey_counter_command(as_json: bool, root: Path | None, system: bool) -> None:
    """Have the counter of counter mode replaced, at the manager's first start after a start of the
    chip: a TPM increments one counter per start."""
    _send(root, system, as_json, _O.COUNTER_REKEY, "the counter is replaced after the next reset")


ACCEPT_EXAMPLE = example(
    "vtpmctl manager accept-rollback --owner-auth file:/etc/vtpm/credentials/owner-auth",
)


@manager_group.command("accept-rollback", epilog=ACCEPT_EXAMPLE)
@click.option(
    "--owner-auth",
    required=True,
    help="Secret of the hardware TPM's owner: well-known, hash:HEX or file:PATH.",
)
@click.option("--srk-auth", help="Secret of its storage root key.  [default: as vtpm.toml says]")
@yes_option
@json_option
@dir_option
@system_option
def accept_rollback_command(
    owner_auth: str,
    srk_auth: str | None,
    confirmed: str | None,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Make the database that is there the newest, though the hardware TPM knows of a newer one.

    For a machine whose newest database is lost. Both sides are shown first, and the sequence number
    of the database has to be typed (or said with --yes). Every vTPM that has saved since then has
    an image that its key does not open any more. Nothing of the suite may run but the hardware
    TPM.
    """
    try:
        owner = parse_auth(owner_auth)
        srk = None if srk_auth is None else parse_auth(srk_auth)
    except DaemonError as error:
        raise click.UsageError(str(error)) from error
    if owner_auth.startswith("text:"):
        raise click.UsageError("--owner-auth: not as text, which every process may read")

    async def examine() -> Examination:
        host = await find_host(root, system=system)
        async with host.manager_alone() as command:
            return await rollback.examine(command, owner, srk)

    async def accept() -> Examination:
        host = await find_host(root, system=system)
        async with host.manager_alone() as command:
            return await rollback.accept(command, owner, srk)

    found = ask(examine)
    if found.agree:
        raise click.ClickException("the database is the newest: there is nothing to accept")
    click.echo(_compared(found), err=as_json)
    confirm(
        "What was saved after that is lost; vTPMs whose images are newer will not start.",
        str(found.database.sequence),
        confirmed,
    )
    done = ask(accept)
    answer: dict[str, Json] = {
        "database": found.database.sequence,
        "chip": found.chip.sequence,
        "counter": {"database": found.database.value, "chip": found.chip.value},
        "accepted": done.accepted,
    }
    tell(
        answer,
        as_json,
        f"accepted: sequence {found.database.sequence} goes on as {done.accepted}",
    )


def _compared(found: Examination) -> str:
    rows: list[dict[str, Json]] = [
        {"": "database", "sequence": found.database.sequence, "counter": found.database.value},
        {"": "hardware TPM", "sequence": found.chip.sequence, "counter": found.chip.value},
    ]
    return table(("", "sequence", "counter"), rows)
