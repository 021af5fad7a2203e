# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl aik`: identity keys inside of a guest's TPM."""

from __future__ import annotations

from pathlib import Path

import click

from daemons.runtime.random import OsRandom
from daemons.runtime.secret import parse_auth
from daemons.vtpmctl.answers import example, file_option, out_option
from daemons.vtpmctl.attest_cli import (
    aik_auth_option,
    guest_option,
    owner_auth_option,
    srk_auth_option,
)
from daemons.vtpmctl.documents import check_absent, read_file, write_file
from daemons.vtpmctl.exchanges import IdentityFile
from daemons.vtpmctl.guestaik import activate_aik, make_aik
from daemons.vtpmctl.identities import read_pubkey
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option
from daemons.vtpmctl.tpmstream import open_tpm
from protocol.attestation.identity import chosen_id_hash

NEW_EXAMPLE = example("vtpmctl aik new --guest web1 --label web1 --out web1-identity.json")


@click.group("aik", epilog=NEW_EXAMPLE)
def aik_group() -> None:
    """Identity keys (AIKs) in a guest's TPM, which vtpmctl attest can quote with."""


@aik_group.command("new", epilog=NEW_EXAMPLE)
@guest_option
@click.option("--label", required=True, help="Of the key, for the Privacy CA.")
@click.option(
    "--privacy-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TPM_PUBKEY of the Privacy CA, which the key's label digest then covers.",
)
@owner_auth_option
@srk_auth_option
@aik_auth_option
@out_option("For the wrapped key, its binding and the endorsement key.")
@dir_option
@system_option
def new_command(
    name: str,
    label: str,
    privacy_ca: Path | None,
    owner_auth: str,
    srk_auth: str,
    aik_auth: str,
    out: Path,
    root: Path | None,
    system: bool,
) -> None:
    """Make an identity key in a guest's TPM (TPM_MakeIdentity).

    The TPM does not keep it: the file has it, wrapped by the TPM's storage root key.
    """

    async def make() -> None:
        check_absent(out)
        digest = chosen_id_hash(label, None if privacy_ca is None else read_pubkey(privacy_ca))
        host = await find_host(root, system=system)
        async with open_tpm(host.tpm_socket(name)) as tpm:
            made = await make_aik(
                tpm,
                label,
                digest,
                owner_auth=parse_auth(owner_auth),
                srk_auth=parse_auth(srk_auth),
                aik_auth=parse_auth(aik_auth),
                random=OsRandom(),
            )
        made.write(out)

    ask(make)
    click.echo(f"identity key {label!r} of {name} in {out}")


ACTIVATE_EXAMPLE = example(
    "vtpmctl aik activate --guest web1 --identity web1-identity.json --blob web1.blob \\",
    "        --out web1.session-key",
)


@aik_group.command("activate", epilog=ACTIVATE_EXAMPLE)
@guest_option
@file_option("--identity", "Of vtpmctl aik new.")
@file_option("--blob", "Of vtpmctl ca certify-aik.")
@owner_auth_option
@srk_auth_option
@aik_auth_option
@out_option("For the TPM_SYMMETRIC_KEY that opens the certificate: a secret.")
@dir_option
@system_option
def activate_command(
    name: str,
    identity: Path,
    blob: Path,
    owner_auth: str,
    srk_auth: str,
    aik_auth: str,
    out: Path,
    root: Path | None,
    system: bool,
) -> None:
    """Open what a Privacy CA has sent for such a key (TPM_ActivateIdentity)."""

    async def activate() -> None:
        check_absent(out)
        host = await find_host(root, system=system)
        asked, data = IdentityFile.read(identity), read_file(blob)
        async with open_tpm(host.tpm_socket(name)) as tpm:
            key = await activate_aik(
                tpm,
                asked,
                data,
                owner_auth=parse_auth(owner_auth),
                srk_auth=parse_auth(srk_auth),
                aik_auth=parse_auth(aik_auth),
                random=OsRandom(),
            )
        write_file(out, key.encode())

    ask(activate)
    click.echo(f"session key in {out}")
