# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl group`: the groups of a manager.

A command that names a group by its number and a file that names one by its uuid must mean the same:
numbers move when a group is deleted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import click

from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.adminclient import Admin, Refused
from daemons.vtpmctl.agent import agent_digest, read_agent_pub
from daemons.vtpmctl.answers import (
    ask_manager,
    cell,
    confirm,
    example,
    file_option,
    group_argument,
    json_option,
    out_option,
    table,
    tell,
    yes_option,
)
from daemons.vtpmctl.documents import check_absent, read_file, write_file
from daemons.vtpmctl.exchanges import (
    Challenge,
    IdentityFile,
    RecoveryAnswer,
    RecoveryRequest,
    Registered,
    Registration,
    SignedList,
)
from daemons.vtpmctl.identities import (
    chosen_id_hash,
    identity_pub,
    read_pubkey,
    write_identity,
)
from daemons.vtpmctl.options import dir_option, system_option
from daemons.vtpmctl.pcrs import HexParameter, SelectionParameter, format_pcrs
from protocol.errors import WireError
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import (
    ActivateIdentity,
    Endorsement,
    GroupActivate,
    GroupCount,
    GroupMade,
    GroupNew,
    GroupNumber,
    GroupQuote,
    GroupRecover1,
    GroupRecover2,
    GroupRegister,
    GroupRegistered,
    GroupShown,
    GroupUpdate,
    Nothing,
    RecoveryAsked,
    SignedPcrs,
    VtpmList,
    VtpmsListed,
)
from protocol.tpm12.attestation import SymmetricKey
from protocol.tpm12.pcr import PcrSelection

_O = ManagementOrdinal
_COLUMNS = ("group", "uuid", "open", "vtpms", "agent", "sequence", "list_hash")


async def describe_group(admin: Admin, number: int) -> dict[str, Json]:
    """Return what the manager says of a group."""
    shown = await admin.ask(_O.GROUP_SHOW, GroupNumber(number), GroupShown)
    listed = shown.config_list
    vtpms: int | None = None
    try:
        vtpms = (await admin.ask(_O.VTPM_LIST, VtpmList(number, 0), VtpmsListed)).total
    except Refused as refusal:
        # closed, or a manager that can only be recovered
        if refusal.code not in {ManagerCode.AUTHFAIL, ManagerCode.BAD_ORDINAL}:
            raise
    has_agent = any(shown.saa_modulus)
    return {
        "group": number,
        "uuid": str(shown.uuid),
        "open": vtpms is not None,
        "vtpms": vtpms,
        "agent": agent_digest(shown.saa_modulus).hex() if has_agent else None,
        "sequence": listed.sequence,
        "list_hash": hashlib.sha1(listed.encode()).hexdigest(),
        "configurations": [composite.hex() for composite in listed.configurations],
        "kernels": [kernel.hex() for kernel in listed.kernels],
    }


async def _check_uuid(admin: Admin, number: int, uuid: UUID) -> None:
    """See that a group's number and the uuid in a file mean the same group."""
    found = (await admin.ask(_O.GROUP_SHOW, GroupNumber(number), GroupShown)).uuid
    if found != uuid:
        raise DaemonError(f"the file is for group {uuid}; number {number} is {found}")


@click.group("group")
def group_group() -> None:
    """Groups of vTPMs: who decides about them, and what was decided."""


@group_group.command("list", epilog=example("vtpmctl group list", "vtpmctl group list 1 --json"))
@click.argument("number", metavar="[N]", required=False, type=click.IntRange(0, (1 << 32) - 1))
@json_option
@dir_option
@system_option
def list_command(number: int | None, as_json: bool, root: Path | None, system: bool) -> None:
    """Show all groups, or one.

    AGENT is SHA-1 of the agent's modulus, LIST HASH that of the list in force. A closed group was
    sealed to other PCR values than the present ones.
    """

    async def gather(admin: Admin) -> list[dict[str, Json]]:
        count = (await admin.ask(_O.GROUP_LIST, Nothing(), GroupCount)).groups
        numbers = range(count) if number is None else [number]
        found: list[dict[str, Json]] = []
        for each in numbers:
            try:
                found.append(await describe_group(admin, each))
            except Refused as refusal:
                # a manager that can only be recovered tells of group 0 alone
                if number is not None or refusal.code != ManagerCode.BADINDEX:
                    raise
        return found

    groups = ask_manager(root, system, gather)
    lines = table(_COLUMNS, groups)
    tell({"groups": list[Json](groups)}, as_json, f"{len(groups)} group(s)", lines)


@group_group.command("show", epilog=example("vtpmctl group show 0"))
@group_argument
@json_option
@dir_option
@system_option
def show_command(number: int, as_json: bool, root: Path | None, system: bool) -> None:
    """Show a group with its list: composites of the approved configurations, hashes of labels."""
    group = ask_manager(root, system, lambda admin: describe_group(admin, number))
    tell(group, as_json, *_lines(group))


def _lines(fields: dict[str, Json]) -> list[str]:
    width = max(len(name) for name in fields)
    return [f"{name.replace('_', ' ').ljust(width)}  {cell(v)}" for name, v in fields.items()]


NEW_EXAMPLE = example(
    "vtpmctl saa pubkey --key agent.pem --out agent.pub",
    "vtpmctl group new --agent-pub agent.pub --label web --out group-web",
)


@group_group.command("new", epilog=NEW_EXAMPLE)
@file_option("--agent-pub", "Public key of its System Approval Agent, PEM.")
@click.option("--label", required=True, help="Of its identity key, for the Privacy CA.")
@click.option(
    "--privacy-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TPM_PUBKEY of the Privacy CA, which the identity's label digest then covers.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to make, for the files of the identity key.",
)
@json_option
@dir_option
@system_option
def new_command(
    agent_pub: Path,
    label: str,
    privacy_ca: Path | None,
    out: Path,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Give group 0 its agent, or make another group.

    The folder gets aik.pub (TPM_PUBKEY), aik.priv-ca-data (the identity binding: its signature
    over TPM_IDENTITY_CONTENTS) and identity.json, which has both and what else a Privacy CA needs:
    label, label digest and the endorsement key.
    """

    async def make(admin: Admin) -> IdentityFile:
        modulus = read_agent_pub(agent_pub)
        digest = chosen_id_hash(label, None if privacy_ca is None else read_pubkey(privacy_ca))
        check_absent(out)
        ek = (await admin.ask(_O.READ_PUBEK, Nothing(), Endorsement)).pubek
        made = await admin.ask(_O.GROUP_NEW, GroupNew(digest, modulus), GroupMade)
        aik = identity_pub(made.aik_modulus)
        return IdentityFile(made.uuid, label, digest, aik, made.binding, ek, None)

    made = ask_manager(root, system, make)
    write_identity(out, made)
    tell(
        {"uuid": str(made.group), "folder": str(out)},
        as_json,
        f"group {made.group} has its agent; identity key in {out}",
    )


@group_group.command(
    "activate", epilog=example("vtpmctl group activate 0 --blob from-ca.blob --out session.key")
)
@group_argument
@file_option("--blob", "What the Privacy CA encrypted to the endorsement key.")
@out_option("For the TPM_SYMMETRIC_KEY that opens the certificate: a secret.")
@json_option
@dir_option
@system_option
def activate_command(
    number: int, blob: Path, out: Path, as_json: bool, root: Path | None, system: bool
) -> None:
    """Open what a Privacy CA has sent for the group's identity key (TPM_ActivateIdentity)."""

    async def activate(admin: Admin) -> None:
        data = read_file(blob)
        check_absent(out)
        key = await admin.ask(_O.GROUP_ACTIVATE, GroupActivate(number, data), SymmetricKey)
        write_file(out, key.encode())

    ask_manager(root, system, activate)
    tell({"group": number, "file": str(out)}, as_json, f"session key in {out}")


REGISTER_EXAMPLE = example(
    "vtpmctl saa register-begin --key agent.pem --group UUID --pcrs 0-7 \\",
    "        --out registration.json --state pending.json",
    "vtpmctl group register 0 --request registration.json --out registered.json",
    "vtpmctl saa register-finish --key agent.pem --state pending.json \\",
    "        --answer registered.json --aik group/aik.pub --pcrs-file pcrs.txt --out escrow.json",
)


@group_group.command("register", epilog=REGISTER_EXAMPLE)
@group_argument
@file_option("--request", "The agent's, of vtpmctl saa register-begin.")
@out_option("For the answer to the agent.")
@json_option
@dir_option
@system_option
def register_command(
    number: int, request: Path, out: Path, as_json: bool, root: Path | None, system: bool
) -> None:
    """Give the group's key into the agent's keeping, for a recovery; once, in the start of the
    machine in which the group was made or got a new key."""

    async def register(admin: Admin) -> Registered:
        asked = Registration.read(request)
        check_absent(out)
        await _check_uuid(admin, number, asked.group)
        command = GroupRegister(number, asked.exchange, asked.proof, asked.pcrs)
        told = await admin.ask(_O.GROUP_REGISTER, command, GroupRegistered)
        answer = Registered(asked.group, told.exchange, told.recover_blob, told.signature)
        answer.write(out)
        return answer

    answer = ask_manager(root, system, register)
    tell(
        {"group": number, "uuid": str(answer.group), "file": str(out)},
        as_json,
        f"group {answer.group} is registered; its agent needs {out}",
    )


@group_group.command(
    "update", epilog=example("vtpmctl group update 0 list.json", "vtpmctl group update 0 x --raw")
)
@group_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--raw",
    is_flag=True,
    help="FILE is as Xen's calc.pl makes it: signature, list, selections. The manager takes its "
    "signature only if xen_lists is set.",
)
@json_option
@dir_option
@system_option
def update_command(
    number: int, file: Path, raw: bool, as_json: bool, root: Path | None, system: bool
) -> None:
    """Put a list of the agent into force: the group's key is sealed to each of its
    configurations, for group 0 the manager's as well."""

    async def update(admin: Admin) -> dict[str, Json]:
        if raw:
            try:
                command = GroupUpdate.decode(number.to_bytes(4, "big") + read_file(file))
            except WireError as error:
                raise DaemonError(f"{file}: no list as calc.pl makes it: {error}") from error
        else:
            approved = SignedList.read(file)
            await _check_uuid(admin, number, approved.group)
            command = approved.update(number)
        await admin.send(_O.GROUP_UPDATE, command)
        return await describe_group(admin, number)

    group = ask_manager(root, system, update)
    tell(group, as_json, f"list {group['sequence']} is in force for group {group['uuid']}")


@group_group.command(
    "quote",
    epilog=example("vtpmctl group quote 0 --nonce $(openssl rand -hex 20) --pcrs 0-7,20-23"),
)
@group_argument
@click.option("--nonce", type=HexParameter(20), required=True, help="Of who will verify it.")
@click.option("--pcrs", type=SelectionParameter(), required=True, help="N, X-Y, with commas.")
@json_option
@dir_option
@system_option
def quote_command(
    number: int,
    nonce: bytes,
    pcrs: PcrSelection,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Have the group's identity key sign PCRs, with 20-23 saying which group it is."""

    async def quote(admin: Admin) -> SignedPcrs:
        return await admin.ask(_O.GROUP_QUOTE, GroupQuote(number, nonce, pcrs), SignedPcrs)

    quoted = ask_manager(root, system, quote)
    values = dict(zip(pcrs.indices, quoted.pcr_values, strict=True))
    answer: dict[str, Json] = {
        "group": number,
        "nonce": nonce.hex(),
        "pcrs": {str(index): value.hex() for index, value in values.items()},
        "signature": quoted.signature.hex(),
    }
    tell(answer, as_json, format_pcrs(values), f"signature: {quoted.signature.hex()}")


RECOVER_EXAMPLE = example(
    "vtpmctl manager identity --label recovery --out identity.json",
    "vtpmctl saa recover-begin --key agent.pem --group UUID --identity identity.json \\",
    "        --ek ek.pub --pcrs 0-7 --out challenge.json --state pending.json",
    "vtpmctl group recover-begin 0 --identity identity.json --challenge challenge.json \\",
    "        --out request.json",
    "vtpmctl saa recover --key agent.pem --state pending.json --request request.json \\",
    "        --escrow escrow.json --pcrs-file expected.txt --out answer.json",
    "vtpmctl group recover-finish 0 answer.json",
)


@group_group.command("recover-begin", epilog=RECOVER_EXAMPLE)
@group_argument
@file_option("--identity", "Of vtpmctl manager identity.")
@file_option("--challenge", "The agent's, of vtpmctl saa recover-begin.")
@out_option("For the request to the agent.")
@json_option
@dir_option
@system_option
def recover_begin_command(
    number: int,
    identity: Path,
    challenge: Path,
    out: Path,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Ask the agent of a closed group for its key.

    For group 0 of a manager in a configuration that nobody approved this is what opens the manager.
    """

    async def begin(admin: Admin) -> RecoveryRequest:
        proxy, asked = IdentityFile.read(identity), Challenge.read(challenge)
        if proxy.key is None:
            raise DaemonError(f"{identity}: a group's identity; vtpmctl manager identity makes one")
        check_absent(out)
        await _check_uuid(admin, number, asked.group)
        activate = ActivateIdentity(proxy.key, asked.blob)
        credential = await admin.ask(_O.ACTIVATE_IDENTITY, activate, SymmetricKey)
        command = GroupRecover1(number, proxy.key, asked.nonce, asked.pcrs)
        told = await admin.ask(_O.GROUP_RECOVER1, command, RecoveryAsked)
        request = RecoveryRequest(
            asked.group, credential.key, told.exchange, told.signature, told.pcr_values
        )
        request.write(out)
        return request

    request = ask_manager(root, system, begin)
    tell(
        {"group": number, "uuid": str(request.group), "file": str(out)},
        as_json,
        f"the agent of group {request.group} needs {out}",
    )


@group_group.command("recover-finish", epilog=example("vtpmctl group recover-finish 0 answer.json"))
@group_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@dir_option
@system_option
def recover_finish_command(
    number: int, file: Path, as_json: bool, root: Path | None, system: bool
) -> None:
    """Open a closed group with the agent's answer.

    It is open until the manager ends; a list that approves the present configuration makes it last
    (vtpmctl group update).
    """

    async def finish(admin: Admin) -> UUID:
        answer = RecoveryAnswer.read(file)
        await _check_uuid(admin, number, answer.group)
        command = GroupRecover2(number, answer.exchange, answer.recover_blob)
        await admin.send(_O.GROUP_RECOVER2, command)
        return answer.group

    uuid = ask_manager(root, system, finish)
    tell(
        {"group": number, "uuid": str(uuid), "open": True},
        as_json,
        f"group {uuid} is open; vtpmctl group update with a list for the present PCRs keeps it so",
    )


@group_group.command("rekey", epilog=example("vtpmctl group rekey 1"))
@group_argument
@json_option
@dir_option
@system_option
def rekey_command(number: int, as_json: bool, root: Path | None, system: bool) -> None:
    """Change a group's key. What its agent has in escrow opens nothing any more: register again, in
    this start of the machine."""

    async def rekey(admin: Admin) -> None:
        await admin.send(_O.GROUP_REKEY, GroupNumber(number))

    ask_manager(root, system, rekey)
    tell({"group": number}, as_json, f"group {number} has a new key; register it again")


@group_group.command("delete", epilog=example("vtpmctl group delete 1"))
@group_argument
@yes_option
@json_option
@dir_option
@system_option
def delete_command(
    number: int, confirmed: str | None, as_json: bool, root: Path | None, system: bool
) -> None:
    """Delete a group with all its vTPMs; later groups move down by one number."""

    async def look(admin: Admin) -> dict[str, Json]:
        return await describe_group(admin, number)

    group = ask_manager(root, system, look)
    uuid = str(group["uuid"])
    confirm(
        f"This deletes group {number} with {cell(group['vtpms'])} vTPM(s): the keys of their "
        "images are lost.",
        uuid,
        confirmed,
    )

    async def delete(admin: Admin) -> None:
        await _check_uuid(admin, number, UUID(uuid))
        await admin.send(_O.GROUP_DEL, GroupNumber(number))

    ask_manager(root, system, delete)
    tell({"deleted": uuid}, as_json, f"group {uuid} is deleted")
