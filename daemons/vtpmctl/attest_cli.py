# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl attest`, `vtpmctl prove-ek`: evidence about a guest's TPM."""

from __future__ import annotations

import os
from pathlib import Path

import click

from daemons.runtime.config.folder import load_guest
from daemons.runtime.config.options import Guest
from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import WELL_KNOWN, parse_auth
from daemons.vtpmctl.adminclient import open_admin
from daemons.vtpmctl.answers import example, out_option
from daemons.vtpmctl.attest import GuestAik, Order, ask_policy, gather, prove_ek
from daemons.vtpmctl.certfiles import read_chain
from daemons.vtpmctl.documents import check_absent, read_file, write_file
from daemons.vtpmctl.exchanges import IdentityFile
from daemons.vtpmctl.host import Host
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option
from daemons.vtpmctl.pcrs import HexParameter, SelectionParameter
from daemons.vtpmctl.tpmstream import open_tpm
from protocol.attestation.evidence import EkProof
from protocol.attestation.evidencefile import (
    LIMIT_BYTES,
    BadEvidence,
    decode_proof,
    encode,
    encode_proof,
)
from protocol.manager.management import GroupPolicy
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import DIGEST_BYTES

_PATH = click.Path(path_type=Path, dir_okay=False)

guest_option = click.option("--guest", "name", required=True, metavar="NAME", help="The guest.")
owner_auth_option = click.option(
    "--owner-auth",
    default=WELL_KNOWN,
    show_default=True,
    metavar="AUTH",
    help="Owner of the guest's TPM: well-known, hash:HEX, text:PASSPHRASE or file:PATH.",
)
srk_auth_option = click.option(
    "--srk-auth",
    default=WELL_KNOWN,
    show_default=True,
    metavar="AUTH",
    help="Storage root key of the guest's TPM, in the same forms.",
)
aik_auth_option = click.option(
    "--aik-auth",
    default=WELL_KNOWN,
    show_default=True,
    metavar="AUTH",
    help="Identity key of the guest, in the same forms.",
)

ATTEST_EXAMPLE = example(
    "vtpmctl attest --guest web1 --nonce 5ba1c2407d9be3f86a1140c9d2e8b7f35c6a90e7 \\",
    "        --aik-cert group/aik.crt --out web1.evidence",
)


@click.command("attest", epilog=ATTEST_EXAMPLE)
@guest_option
@click.option(
    "--nonce", type=HexParameter(DIGEST_BYTES), required=True, help="Of the verifier, 20 bytes."
)
@click.option(
    "--pcrs",
    type=SelectionParameter(),
    default="0-15",
    show_default=True,
    help="Of the guest's TPM: N, X-Y, with commas.",
)
@click.option(
    "--hw-pcrs",
    type=SelectionParameter(),
    help="Of the hardware TPM, beside 20-23 and those of the group's list.",
)
@click.option("--event-log", type=_PATH, help="Of the guest's firmware, as the kernel shows it.")
@click.option("--aik-cert", type=_PATH, help="Certificate of the group's identity key, PEM.")
@click.option("--ek-cert", type=_PATH, help="Certificate of the guest's endorsement key, PEM.")
@click.option("--ek-proof", type=_PATH, help="Of vtpmctl prove-ek.  [default: tries to get one]")
@click.option("--guest-aik", type=_PATH, help="Identity of vtpmctl aik new, to quote with too.")
@click.option("--guest-aik-cert", type=_PATH, help="Certificate of that key, PEM.")
@click.option("--label", help="Of the vTPM, where the system has labels of its own.")
@owner_auth_option
@srk_auth_option
@aik_auth_option
@out_option("For the evidence.")
@dir_option
@system_option
def attest_command(
    name: str,
    nonce: bytes,
    pcrs: PcrSelection,
    hw_pcrs: PcrSelection | None,
    event_log: Path | None,
    aik_cert: Path | None,
    ek_cert: Path | None,
    ek_proof: Path | None,
    guest_aik: Path | None,
    guest_aik_cert: Path | None,
    label: str | None,
    owner_auth: str,
    srk_auth: str,
    aik_auth: str,
    out: Path,
    root: Path | None,
    system: bool,
) -> None:
    """Gather evidence about a guest's TPM, for vtpmctl verify.

    The hardware TPM signs the guest's PCRs together with its own, with what names guest and group,
    and with the nonce. The guest's TPM must have an owner, and its group an agent and a list.
    Nothing in the evidence is secret.
    """

    async def attest() -> None:
        check_absent(out)
        host = await find_host(root, system=system)
        guest = load_guest(host.config, name)
        aik = None
        if guest_aik is not None:
            aik = GuestAik(
                IdentityFile.read(guest_aik),
                parse_auth(aik_auth),
                parse_auth(srk_auth),
                read_chain(guest_aik_cert),
            )
        order = Order(
            guest=guest,
            label=guest.label if label is None else label,
            nonce=nonce,
            owner_auth=parse_auth(owner_auth),
            pcrs=pcrs,
            hardware_pcrs=[] if hw_pcrs is None else hw_pcrs.indices,
            event_log=None if event_log is None else read_file(event_log),
            aik_certificates=read_chain(aik_cert),
            ek_certificates=read_chain(ek_cert),
            ek_proof=None if ek_proof is None else read_proof(ek_proof),
            guest_aik=aik,
        )
        policy = await _policy(host, guest)
        async with open_tpm(host.tpm_socket(name)) as tpm:
            evidence = encode(await gather(tpm, policy, order))
        if len(evidence) > LIMIT_BYTES:
            raise DaemonError(f"evidence of {len(evidence)} bytes; it ends at {LIMIT_BYTES}")
        write_file(out, evidence)

    if guest_aik is None and guest_aik_cert is not None:
        raise click.UsageError("--guest-aik-cert needs --guest-aik")
    ask(attest)
    click.echo(f"evidence about {name} in {out}")


PROVE_EXAMPLE = example("vtpmctl prove-ek --guest web1 --out web1.ek-proof")


@click.command("prove-ek", epilog=PROVE_EXAMPLE)
@guest_option
@owner_auth_option
@out_option("For the proof, which vtpmctl attest takes.")
@dir_option
@system_option
def prove_ek_command(
    name: str, owner_auth: str, out: Path, root: Path | None, system: bool
) -> None:
    """Have the hardware TPM sign that a guest's endorsement key was made on this machine.

    A vTPM can say so in its first run only, until it is stopped: keep the file. Its group must have
    an agent and a list.
    """

    async def prove() -> None:
        check_absent(out)
        host = await find_host(root, system=system)
        policy = await _policy(host, load_guest(host.config, name))
        async with open_tpm(host.tpm_socket(name)) as tpm:
            nonce = os.urandom(DIGEST_BYTES)
            proof = await prove_ek(tpm, policy, nonce, parse_auth(owner_auth))
        write_file(out, encode_proof(proof))

    ask(prove)
    click.echo(f"proof of the endorsement key of {name} in {out}")


async def _policy(host: Host, guest: Guest) -> GroupPolicy:
    async with open_admin(host.admin_socket) as admin:
        return await ask_policy(admin, guest)
    raise AssertionError("unreachable")


def read_proof(path: Path) -> EkProof:
    """Return a proof that was kept; DaemonError if it is none."""
    try:
        return decode_proof(read_file(path))
    except BadEvidence as error:
        raise DaemonError(f"{path}: {error}") from error
