# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl ca`: a Privacy CA, on a machine that needs no TPM and no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import click

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.answers import (
    example,
    file_option,
    out_option,
    passphrase_option,
    read_passphrase,
    told,
)
from daemons.vtpmctl.attest_cli import read_proof
from daemons.vtpmctl.authority import CERTIFICATE, PUBLIC, Authority
from daemons.vtpmctl.certfiles import pem, read_certificates, read_chain
from daemons.vtpmctl.documents import check_absent, read_file, write_file
from daemons.vtpmctl.exchanges import IdentityFile
from daemons.vtpmctl.identities import read_pubkey
from protocol.attestation.certificates import BadCertificate, TpmModel, load, modulus_of
from protocol.attestation.identity import BadIdentity, decrypt_credential
from protocol.errors import WireError
from protocol.tpm12.attestation import SymmetricKey

_PATH = click.Path(path_type=Path, dir_okay=False)
_CA_DAYS = 3650
_DAYS = 365

folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the CA.",
)


def _days_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--days",
        type=click.IntRange(1, 36500),
        default=default,
        show_default=True,
        help="How long it is valid.",
    )


@click.group("ca", epilog=example("vtpmctl ca init --dir ca --name 'Example Privacy CA'"))
def ca_group() -> None:
    """A Privacy CA: certificates for endorsement keys and for identity keys.

    Runs apart from the machines it certifies; all goes by files.
    """


@ca_group.command("init", epilog=example("vtpmctl ca init --dir ca --name 'Example Privacy CA'"))
@folder_option
@click.option("--name", required=True, help="Of the CA, at most 64 characters.")
@_days_option(_CA_DAYS)
@passphrase_option
@told()
def init_command(folder: Path, name: str, days: int, passphrase: Path | None) -> None:
    """Make a CA: a key, its certificate for verifiers (ca.crt), and its TPM_PUBKEY for
    vtpmctl group new --privacy-ca (ca.pub)."""
    with Authority.create(folder, name, days, read_passphrase(passphrase)):
        pass
    click.echo(f"CA {name!r} in {folder}; give {folder / CERTIFICATE} to verifiers")
    click.echo(f"{folder / PUBLIC} is for vtpmctl group new --privacy-ca")


EK_EXAMPLE = example(
    "vtpmctl manager pubek --out ek.pub",
    "vtpmctl ca certify-ek --dir ca --ek ek.pub --hardware --out ek.crt",
    "vtpmctl ca certify-ek --dir ca --ek-proof web1.ek-proof --out web1-ek.crt \\",
    "        --vtpm f7e752fe-361e-40d8-a018-762f63689406",
)


@ca_group.command("certify-ek", epilog=EK_EXAMPLE)
@folder_option
@click.option("--ek", type=_PATH, help="TPM_PUBKEY of the endorsement key.")
@click.option("--ek-proof", type=_PATH, help="Of vtpmctl prove-ek: a guest's key, instead.")
@click.option("--hardware", is_flag=True, help="It is the key of a hardware TPM.")
@click.option("--vtpm", type=click.UUID, help="It is the key of the vTPM with this uuid.")
@click.option(
    "--manufacturer",
    default="id:5654504D",
    show_default=True,
    help="Of the TPM: id: and eight hexadecimal digits.",
)
@click.option("--model", default="vTPM suite", show_default=True, help="Of the TPM.")
@click.option(
    "--tpm-version",
    default="id:01020000",
    show_default=True,
    help="Of the TPM: id: and eight hexadecimal digits.",
)
@_days_option(_CA_DAYS)
@passphrase_option
@out_option("For the certificate, PEM.")
@told()
def certify_ek_command(
    folder: Path,
    ek: Path | None,
    ek_proof: Path | None,
    hardware: bool,
    vtpm: UUID | None,
    manufacturer: str,
    model: str,
    tpm_version: str,
    days: int,
    passphrase: Path | None,
    out: Path,
) -> None:
    """Certify an endorsement key, on your word: see to it that the file is from the TPM that it is
    said to be from. What proves that of a guest's key is vtpmctl verify --require ek.

    The key of a vTPM must never be certified as one of a hardware TPM: its owner could make up
    evidence about any guest.
    """
    if hardware == (vtpm is not None) or (hardware and ek_proof is not None):
        raise click.UsageError("say --hardware, or --vtpm with its uuid: verifiers must know")
    check_absent(out)
    if ek is not None and ek_proof is None:
        key = read_pubkey(ek)
    elif ek_proof is not None and ek is None:
        key = read_proof(ek_proof).ek
    else:
        raise click.UsageError("give one of --ek and --ek-proof")
    about = TpmModel(manufacturer, model, tpm_version)
    with Authority.open(folder, read_passphrase(passphrase)) as authority:
        found = authority.certify_ek(key, about, vtpm, days)
    write_file(out, pem(found))
    click.echo(f"certificate {found.serial_number} in {out}")


AIK_EXAMPLE = example(
    "vtpmctl ca certify-aik --dir ca --identity group/identity.json --ek-cert ek.crt \\",
    "        --blob aik.blob --out aik.credential",
)


@ca_group.command("certify-aik", epilog=AIK_EXAMPLE)
@folder_option
@file_option("--identity", "Of vtpmctl group new, or of vtpmctl aik new.")
@file_option("--ek-cert", "Certificate of the TPM's endorsement key, PEM.")
@click.option(
    "--ek-ca",
    "ek_cas",
    type=_PATH,
    multiple=True,
    help="Authorities for endorsement keys beside this CA, PEM; may be repeated.",
)
@click.option(
    "--anonymous",
    is_flag=True,
    help="The certificate does not name endorsement key or vTPM, so that nobody can tell in which "
    "TPM the identity lives.",
)
@_days_option(_DAYS)
@passphrase_option
@click.option(
    "--blob",
    type=_PATH,
    required=True,
    help="For the session key, encrypted to the TPM. Made with mode 0600; one that is there is "
    "not replaced.",
)
@out_option("For the certificate, encrypted with the session key.")
@told()
def certify_aik_command(
    folder: Path,
    identity: Path,
    ek_cert: Path,
    ek_cas: Sequence[Path],
    anonymous: bool,
    days: int,
    passphrase: Path | None,
    blob: Path,
    out: Path,
) -> None:
    """Certify an identity key, for the TPM in which it lives and nobody else.

    Checks that the key signed its binding to the label, and that the endorsement key has a
    certificate. The blob goes to vtpmctl group activate or vtpmctl aik activate; with the session
    key that comes out, vtpmctl ca open gives the certificate.
    """
    check_absent(blob, out)
    asked = IdentityFile.read(identity)
    trusted = [each for path in ek_cas for each in read_certificates(path)]
    with Authority.open(folder, read_passphrase(passphrase)) as authority:
        made = authority.certify_aik(asked, read_chain(ek_cert), trusted, days, anonymous=anonymous)
    write_file(blob, made.blob)
    write_file(out, made.attestation)
    click.echo(f"certificate {made.serial} for {asked.label!r} in {out}, its key in {blob}")


OPEN_EXAMPLE = example(
    "vtpmctl group activate 0 --blob aik.blob --out session.key",
    "vtpmctl ca open --credential aik.credential --session-key session.key \\",
    "        --identity group/identity.json --out aik.crt",
)


@ca_group.command("open", epilog=OPEN_EXAMPLE)
@file_option("--credential", "Of vtpmctl ca certify-aik.")
@file_option("--session-key", "Of vtpmctl group activate, or of vtpmctl aik activate.")
@file_option("--identity", "That the certificate must be of.")
@out_option("For the certificate, PEM.")
@told()
def open_command(credential: Path, session_key: Path, identity: Path, out: Path) -> None:
    """Open what a Privacy CA has sent: gives the certificate of the identity key."""
    check_absent(out)
    asked = IdentityFile.read(identity)
    try:
        key = SymmetricKey.decode(read_file(session_key))
    except WireError as error:
        raise DaemonError(f"{session_key}: no TPM_SYMMETRIC_KEY: {error}") from error
    try:
        found = load(decrypt_credential(read_file(credential), key))
    except (BadIdentity, BadCertificate) as error:
        raise DaemonError(f"{credential}: {error}") from error
    if modulus_of(found) != asked.aik.key:
        raise DaemonError(f"{credential}: a certificate of another key than {identity} has")
    write_file(out, pem(found))
    click.echo(f"certificate {found.serial_number} of {asked.label!r} in {out}")
