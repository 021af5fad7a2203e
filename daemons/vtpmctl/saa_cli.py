# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl saa`: a System Approval Agent, on a machine that needs no TPM and no network."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from daemons.runtime.config.kinds import LABEL
from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.runtime.subcommands import DeferringGroup
from daemons.vtpmctl.agent import (
    Agent,
    Escrow,
    KeyIsEncrypted,
    PendingRecovery,
    PendingRegistration,
    agent_digest,
    read_agent_pub,
)
from daemons.vtpmctl.answers import (
    cell,
    example,
    file_option,
    json_option,
    out_option,
    passphrase_option,
    read_passphrase,
    tell,
    told,
)
from daemons.vtpmctl.documents import Document, check_absent, read_object, write_file
from daemons.vtpmctl.exchanges import (
    Challenge,
    IdentityFile,
    RecoveryAnswer,
    RecoveryRequest,
    Registered,
    Registration,
    SignedList,
)
from daemons.vtpmctl.identities import read_pubkey
from daemons.vtpmctl.pcrs import (
    Configuration,
    HexParameter,
    SelectionParameter,
    configurations,
    show_selection,
)
from protocol.manager.approval import BadSignature, check_config_list
from protocol.tpm12.pcr import PcrSelection

_CONFIG_HELP = (
    "PCRS=HEX with their values in ascending order, PCRS=composite:HEX, or PCRS alone with the "
    "values of --pcrs-file."
)
DOCUMENTS: Final[Mapping[str, type[Document]]] = {
    kind.KIND: kind
    for kind in (
        *(SignedList, IdentityFile, Registration, Registered, Challenge, RecoveryRequest),
        *(RecoveryAnswer, PendingRegistration, PendingRecovery, Escrow),
    )
}
"""Every kind of file, by the text of its `format`."""


@click.group("saa", cls=DeferringGroup, epilog=example("vtpmctl saa keygen --out agent.pem"))
def saa_group() -> None:
    """A System Approval Agent: who decides which PCRs and labels a group may have.

    Runs apart from the machines it decides about; all goes by files.
    """


saa_group.defer(
    "daemons.vtpmctl",
    {
        "approve-move": (
            "move_cli:approve_move_command",
            "Let vTPMs of a group move from one manager to another, as the group's agent.",
        ),
    },
)

key_option = file_option("--key", "The agent's private key.")
group_option = click.option("--group", type=click.UUID, required=True, help="uuid of the group.")
pcrs_option = click.option(
    "--pcrs", type=SelectionParameter(), required=True, help="To be quoted: N, X-Y, with commas."
)
pcrs_file_option = click.option(
    "--pcrs-file",
    "pcrs_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="PCR values as vtpmctl manager pcrs prints them; may be repeated, a configuration "
    "for each.",
)
config_option = click.option(
    "--config", "configs", multiple=True, metavar="CONFIG", help=f"{_CONFIG_HELP} May be repeated."
)


def load_agent(key: Path, passphrase: Path | None) -> Agent:
    """Return the agent of a key, asking for the passphrase if need be and somebody is there."""
    try:
        return Agent.load(key, read_passphrase(passphrase))
    except KeyIsEncrypted:
        if not sys.stdin.isatty():
            raise
        typed = click.prompt("Passphrase of the key", hide_input=True)
        return Agent.load(key, Secret(typed.encode()))


KEYGEN_EXAMPLE = example("vtpmctl saa keygen --out agent.pem --passphrase file:agent-pass")


@saa_group.command("keygen", epilog=KEYGEN_EXAMPLE)
@out_option("For the private key, PKCS#8 in PEM.")
@passphrase_option
@json_option
@told()
def keygen_command(out: Path, passphrase: Path | None, as_json: bool) -> None:
    """Make the key of an agent: RSA-2048, exponent 65537.

    Whoever has it decides about the agent's groups, and reads what is in escrow. Without a
    passphrase nothing but the mode of the file protects it. It cannot be replaced in a group.
    """
    agent = Agent.generate(out, read_passphrase(passphrase))
    digest = agent_digest(agent.modulus).hex()
    lines = [f"{out}: agent {digest}"]
    if passphrase is None:
        lines.append("It is not encrypted: nothing but its mode protects it.")
    tell({"file": str(out), "agent": digest}, as_json, *lines)


@saa_group.command("pubkey", epilog=example("vtpmctl saa pubkey --key agent.pem --out agent.pub"))
@key_option
@passphrase_option
@out_option("For the public key, PEM.")
@json_option
@told()
def pubkey_command(key: Path, passphrase: Path | None, out: Path, as_json: bool) -> None:
    """Write the public key of an agent, for vtpmctl group new."""
    agent = load_agent(key, passphrase)
    write_file(out, agent.public_pem)
    digest = agent_digest(agent.modulus).hex()
    tell({"file": str(out), "agent": digest}, as_json, f"{out}: agent {digest}")


SIGN_EXAMPLE = example(
    "vtpmctl saa sign-config --key agent.pem --group b1c1b4f3-c6bb-4d79-8d51-a4ee46ef563f \\",
    "        --sequence 2 \\",
    "        --config 0-7 --pcrs-file now.txt --pcrs-file next-kernel.txt \\",
    "        --label system_u:vm_r:web_t --label '*:vm_r:db_t' --out list2.json",
)


@saa_group.command("sign-config", epilog=SIGN_EXAMPLE)
@key_option
@passphrase_option
@group_option
@click.option(
    "--sequence",
    type=click.IntRange(1, (1 << 64) - 1),
    required=True,
    help="Above that of every earlier list of the group.",
)
@config_option
@pcrs_file_option
@click.option(
    "--label",
    "labels",
    multiple=True,
    help="Of vTPMs that may have their keys; *: at its beginning stands for any user. May be "
    "repeated.",
)
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    type=HexParameter(20),
    help="SHA-1 of a label, instead. May be repeated.",
)
@out_option("For the signed list.")
@json_option
@told()
def sign_config_command(
    key: Path,
    passphrase: Path | None,
    group: UUID,
    sequence: int,
    configs: Sequence[str],
    pcrs_files: Sequence[Path],
    labels: Sequence[str],
    kernels: Sequence[bytes],
    out: Path,
    as_json: bool,
) -> None:
    """Approve configurations and labels for a group.

    The list replaces the one in force: what it does not name is not approved any more. A vTPM whose
    label is not in it does not get its key.
    """
    approved = configurations(configs, pcrs_files)
    if not approved:
        raise click.UsageError("no --config: a list that approves nothing would close the group")
    for label in labels:
        LABEL.read(label)
    agent = load_agent(key, passphrase)
    signed = agent.sign_list(group, sequence, approved, labels, kernels)
    signed.write(out)
    tell(signed.to_json(), as_json, *_list_lines(signed))


def _list_lines(signed: SignedList) -> list[str]:
    lines = [f"list {signed.sequence} for group {signed.group}"]
    lines += [
        f"  configuration  PCR {show_selection(selection)}  composite {composite.hex()}"
        for selection, composite in signed.configurations
    ]
    named = {hashlib.sha1(label.encode()).digest(): label for label in signed.labels}
    lines += [
        f"  label          {kernel.hex()}  {named.get(kernel, '')}".rstrip()
        for kernel in signed.kernels
    ]
    return lines


@saa_group.command("show", epilog=example("vtpmctl saa show list2.json --agent-pub agent.pub"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--agent-pub",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Public key, PEM, that must have signed a list.",
)
@json_option
@told()
def show_command(file: Path, agent_pub: Path | None, as_json: bool) -> None:
    """Show a file of any of these kinds, and whether an agent signed it if it is a list.

    Exit code 1 if the signature is not the agent's.
    """
    found = read_object(file)
    kind = DOCUMENTS.get(str(found.get("format")))
    if kind is None:
        raise DaemonError(f"{file}: of no kind that is known here")
    document = kind.read(file)
    if isinstance(document, SignedList):
        lines = _list_lines(document)
        answer = document.to_json()
        if agent_pub is not None:
            _check_signed(document, read_agent_pub(agent_pub), file)
            lines.append(f"  signed by the agent in {agent_pub}")
            answer["signed"] = True
    else:
        if agent_pub is not None:
            raise click.UsageError(f"{file} is no list")
        answer = document.to_json()
        width = max(map(len, answer))
        lines = [f"{name.ljust(width)}  {cell(value)}" for name, value in answer.items()]
    tell(answer, as_json, *lines)


def _check_signed(signed: SignedList, modulus: bytes, file: Path) -> None:
    try:
        check_config_list(
            modulus,
            signed.signature,
            signed.group,
            signed.config_list,
            signed.selections,
            xen_form=False,
        )
    except BadSignature as error:
        raise DaemonError(f"{file}: {error}") from error


def _expected(configs: Sequence[str], files: Sequence[Path]) -> Configuration:
    found = configurations(configs, files)
    if len(found) != 1:
        raise click.UsageError(f"{len(found)} configurations; exactly one is expected of the quote")
    return found[0]


REGISTER_BEGIN_EXAMPLE = example(
    "vtpmctl saa register-begin --key agent.pem --group b1c1b4f3-c6bb-4d79-8d51-a4ee46ef563f \\",
    "        --pcrs 0-7 \\",
    "        --out registration.json --state pending.json",
)


@saa_group.command("register-begin", epilog=REGISTER_BEGIN_EXAMPLE)
@key_option
@passphrase_option
@group_option
@pcrs_option
@out_option("For the request, which vtpmctl group register takes.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="For what register-finish needs; encrypted.",
)
@json_option
@told()
def register_begin_command(
    key: Path,
    passphrase: Path | None,
    group: UUID,
    pcrs: PcrSelection,
    out: Path,
    state: Path,
    as_json: bool,
) -> None:
    """Begin to take a group's key into escrow."""
    check_absent(out, state)
    request, pending = load_agent(key, passphrase).begin_registration(group, pcrs)
    pending.write(state)
    request.write(out)
    tell({"request": str(out), "state": str(state)}, as_json, f"request in {out}")


REGISTER_FINISH_EXAMPLE = example(
    "vtpmctl saa register-finish --key agent.pem --state pending.json \\",
    "        --answer registered.json --aik group/aik.pub --config 0-7 --pcrs-file pcrs.txt \\",
    "        --out escrow.json",
)


@saa_group.command("register-finish", epilog=REGISTER_FINISH_EXAMPLE)
@key_option
@passphrase_option
@file_option("--state", "Of register-begin.")
@file_option("--answer", "Of vtpmctl group register.")
@file_option("--aik", "TPM_PUBKEY of the group's identity key, which a Privacy CA has certified.")
@config_option
@pcrs_file_option
@out_option("For the group's key; encrypted.")
@json_option
@told()
def register_finish_command(
    key: Path,
    passphrase: Path | None,
    state: Path,
    answer: Path,
    aik: Path,
    configs: Sequence[str],
    pcrs_files: Sequence[Path],
    out: Path,
    as_json: bool,
) -> None:
    """Take a group's key into escrow, if the quote says that the expected platform made it.

    The configuration is what the PCRs must have been. The file is encrypted under the agent's key:
    without that nobody can recover the group.
    """
    check_absent(out)
    expected = _expected(configs, pcrs_files)
    escrow = load_agent(key, passphrase).finish_registration(
        PendingRegistration.read(state), Registered.read(answer), read_pubkey(aik), expected
    )
    escrow.write(out)
    state.unlink()
    tell({"group": str(escrow.group), "file": str(out)}, as_json, f"key of {escrow.group} in {out}")


RECOVER_BEGIN_EXAMPLE = example(
    "vtpmctl saa recover-begin --key agent.pem --group b1c1b4f3-c6bb-4d79-8d51-a4ee46ef563f \\",
    "        --identity identity.json \\",
    "        --ek ek.pub --pcrs 0-7 --out challenge.json --state pending.json",
)


@saa_group.command("recover-begin", epilog=RECOVER_BEGIN_EXAMPLE)
@key_option
@passphrase_option
@group_option
@file_option("--identity", "Of vtpmctl manager identity.")
@file_option("--ek", "TPM_PUBKEY of vtpmctl manager pubek, noted when the machine was trusted.")
@pcrs_option
@out_option("For the challenge, which vtpmctl group recover-begin takes.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="For what recover needs; encrypted.",
)
@json_option
@told()
def recover_begin_command(
    key: Path,
    passphrase: Path | None,
    group: UUID,
    identity: Path,
    ek: Path,
    pcrs: PcrSelection,
    out: Path,
    state: Path,
    as_json: bool,
) -> None:
    """Challenge a manager that wants the key of a closed group back.

    The credential in it can be opened by one TPM only, and only for this identity key; so the agent
    is its own Privacy CA.
    """
    check_absent(out, state)
    challenge, pending = load_agent(key, passphrase).begin_recovery(
        group, IdentityFile.read(identity), read_pubkey(ek), pcrs
    )
    pending.write(state)
    challenge.write(out)
    tell({"challenge": str(out), "state": str(state)}, as_json, f"challenge in {out}")


RECOVER_EXAMPLE = example(
    "vtpmctl saa recover --key agent.pem --state pending.json --request request.json \\",
    "        --escrow escrow.json --config 0-7 --pcrs-file expected.txt --out answer.json",
)


@saa_group.command("recover", epilog=RECOVER_EXAMPLE)
@key_option
@passphrase_option
@file_option("--state", "Of recover-begin.")
@file_option("--request", "Of vtpmctl group recover-begin.")
@file_option("--escrow", "Of register-finish.")
@config_option
@pcrs_file_option
@out_option("For the answer, which vtpmctl group recover-finish takes.")
@json_option
@told()
def recover_command(
    key: Path,
    passphrase: Path | None,
    state: Path,
    request: Path,
    escrow: Path,
    configs: Sequence[str],
    pcrs_files: Sequence[Path],
    out: Path,
    as_json: bool,
) -> None:
    """Give a group's key to the manager that asks, if TPM, identity, quote and PCRs are right.

    The configuration is what the agent expects the PCRs to be, from its own knowledge of what the
    machine runs now, and never just what the machine says. A challenge is answered once.
    """
    check_absent(out)
    expected = _expected(configs, pcrs_files)
    answer = load_agent(key, passphrase).recover(
        PendingRecovery.read(state), RecoveryRequest.read(request), Escrow.read(escrow), expected
    )
    answer.write(out)
    state.unlink()
    tell({"group": str(answer.group), "file": str(out)}, as_json, f"answer in {out}")
