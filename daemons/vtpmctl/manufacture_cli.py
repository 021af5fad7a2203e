# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl manufacture`: what the maker of a TPM does, for a guest's TPM."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import click
from cryptography import x509

from daemons.runtime.config.folder import load_guest
from daemons.runtime.random import OsRandom
from daemons.runtime.secret import parse_auth
from daemons.vtpmctl.answers import (
    example,
    json_option,
    passphrase_option,
    read_passphrase,
    tell,
)
from daemons.vtpmctl.attest_cli import owner_auth_option, srk_auth_option
from daemons.vtpmctl.authority import Authority
from daemons.vtpmctl.compat_state import identity_of, running_tpm
from daemons.vtpmctl.manufacture import Plan, Result, manufacture, summary
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option
from daemons.vtpmctl.tpmstream import GuestTpm, open_tpm
from protocol.attestation.certificates import PlatformModel, TpmModel
from protocol.tpm12.keys import PubKey

_CA_DAYS = 3650
_TPM = TpmModel("id:5654504D", "vTPM suite", "id:01020000")

MANUFACTURE_EXAMPLE = example(
    "vtpmctl manufacture --guest web1 --ca ca --create-ek-cert --create-platform-cert \\",
    "        --lock-nvram",
    "vtpmctl manufacture --tpmstate /srv/tpm1 --take-ownership",
)


@click.command("manufacture", epilog=MANUFACTURE_EXAMPLE)
@click.option("--guest", "name", metavar="NAME", help="The guest, which runs.")
@click.option(
    "--tpmstate",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead: folder of tpmfront swtpm-compat, whose TPM is started for this.",
)
@click.option(
    "--create-ek-cert",
    is_flag=True,
    help="Certify the endorsement key and store that at NV index 0x1000f000; needs --ca.",
)
@click.option(
    "--create-platform-cert",
    is_flag=True,
    help="Certify the platform as well, at 0x1000f002.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the CA that certifies, see vtpmctl ca init.",
)
@passphrase_option
@click.option(
    "--days",
    type=click.IntRange(1, 36500),
    default=_CA_DAYS,
    show_default=True,
    help="How long the certificates are valid.",
)
@click.option(
    "--platform-manufacturer", default="vTPM suite", show_default=True, help="Of the platform."
)
@click.option("--platform-model", default="virtual", show_default=True, help="Of the platform.")
@click.option("--platform-version", default="1", show_default=True, help="Of the platform.")
@click.option("--take-ownership", is_flag=True, help="Install an owner with --owner-auth.")
@owner_auth_option
@srk_auth_option
@click.option(
    "--lock-nvram",
    is_flag=True,
    help="Enforce NV permissions from then on, for ever: certificates stay as they are, and only "
    "the owner may make areas.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace certificates of other keys in the NV memory."
)
@json_option
@dir_option
@system_option
def manufacture_command(
    name: str | None,
    tpmstate: Path | None,
    create_ek_cert: bool,
    create_platform_cert: bool,
    ca: Path | None,
    passphrase: Path | None,
    days: int,
    platform_manufacturer: str,
    platform_model: str,
    platform_version: str,
    take_ownership: bool,
    owner_auth: str,
    srk_auth: str,
    lock_nvram: bool,
    overwrite: bool,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Do for a guest's TPM what its maker does: an endorsement key if it has none, certificates of
    it and of the platform where software looks for them, an owner.

    What is there already is kept, so it may be run again. An owner and the lock are not made unless
    they are asked for.
    """
    if (name is None) == (tpmstate is None):
        raise click.UsageError("give one of --guest and --tpmstate")
    certifies = create_ek_cert or create_platform_cert
    if certifies and ca is None:
        raise click.UsageError("certificates need --ca; vtpmctl ca init makes a CA")
    platform = PlatformModel(platform_manufacturer, platform_model, platform_version)
    if not all((platform_manufacturer, platform_model, platform_version)):
        raise click.UsageError("manufacturer, model and version of the platform must say something")

    async def make() -> Result:
        with contextlib.ExitStack() as stack:
            authority = None
            if certifies and ca is not None:
                authority = stack.enter_context(Authority.open(ca, read_passphrase(passphrase)))
            async with _opened(name, tpmstate, root, system=system) as (tpm, vtpm):

                def ek_cert(ek: PubKey) -> x509.Certificate:
                    assert authority is not None
                    return authority.certify_ek(ek, _TPM, vtpm(), days)

                def platform_cert(ek: PubKey) -> x509.Certificate:
                    assert authority is not None
                    return authority.certify_platform(ek, _TPM, platform, vtpm(), days)

                return await manufacture(
                    tpm,
                    Plan(
                        ek_cert=ek_cert if certifies else None,
                        platform_cert=platform_cert if create_platform_cert else None,
                        takes_ownership=take_ownership,
                        owner_auth=parse_auth(owner_auth),
                        srk_auth=parse_auth(srk_auth),
                        locks=lock_nvram,
                        overwrites=overwrite,
                    ),
                    OsRandom(),
                )

    result = ask(make)
    tell({"made": [*result.done], "there": [*result.kept]}, as_json, *summary(result))


@contextlib.asynccontextmanager
async def _opened(
    name: str | None, tpmstate: Path | None, root: Path | None, *, system: bool
) -> AsyncIterator[tuple[GuestTpm, Callable[[], UUID]]]:
    """Give a TPM, and what says which vTPM it is once it has answered."""
    if tpmstate is not None:
        async with running_tpm(tpmstate) as tpm:
            yield tpm, partial(identity_of, tpmstate)
        return
    assert name is not None
    host = await find_host(root, system=system)
    uuid = load_guest(host.config, name).identity.uuid
    async with open_tpm(host.tpm_socket(name)) as tpm:
        yield tpm, lambda: uuid
