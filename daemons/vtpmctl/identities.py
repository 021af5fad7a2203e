# SPDX-License-Identifier: Apache-2.0
"""Identity keys that the manager makes, what a Privacy CA gets of them, public keys in files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import click

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.agent import check_binding
from daemons.vtpmctl.documents import read_file, write_file
from daemons.vtpmctl.exchanges import IdentityFile
from protocol.errors import WireError
from protocol.tpm12.constants import EncScheme, SigScheme
from protocol.tpm12.keys import KeyParms, PubKey

AIK_PUB: Final = "aik.pub"
AIK_BINDING: Final = "aik.priv-ca-data"
"""Named as Xen's manage-vtpmmgr.pl names them."""
IDENTITY: Final = "identity.json"


def chosen_id_hash(label: str, privacy_ca: PubKey | None) -> bytes:
    """Return TPM_CHOSENID_HASH (TPM Main Part 2, 5.8): of the label, and the Privacy CA's key."""
    ca = b"" if privacy_ca is None else privacy_ca.encode()
    return hashlib.sha1(label.encode() + ca).digest()


def identity_pub(modulus: bytes) -> PubKey:
    """Return the public part of an AIK that the manager has made."""
    parms = KeyParms.for_rsa(enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    return PubKey(parms, modulus)


def write_identity(folder: Path, identity: IdentityFile) -> None:
    """Make a folder with the files of a group's identity key.

    Raises:
        click.ClickException: it cannot be made; what only the manager knew is in the message then.
    """
    try:
        check_binding(identity)
        folder.mkdir(mode=0o700)
        write_file(folder / AIK_PUB, identity.aik.encode())
        write_file(folder / AIK_BINDING, identity.binding)
        identity.write(folder / IDENTITY)
    except (DaemonError, OSError) as error:
        raise click.ClickException(
            f"group {identity.group} is made, but its files are not: {error}; the binding, "
            f"given out once, is {identity.binding.hex()}, of AIK {identity.aik.key.hex()}"
        ) from error


def read_pubkey(path: Path) -> PubKey:
    """Return the TPM_PUBKEY in a file.

    Raises:
        DaemonError: there is none.
    """
    try:
        return PubKey.decode(read_file(path))
    except WireError as error:
        raise DaemonError(f"{path}: no TPM_PUBKEY: {error}") from error
