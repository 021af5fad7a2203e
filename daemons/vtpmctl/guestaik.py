# SPDX-License-Identifier: Apache-2.0
"""Identity keys of a guest's TPM: made, certified, quoted with.

The TPM keeps none of them. Whoever uses one loads it below the storage root key and unloads it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmctl.exchanges import IdentityFile
from daemons.vtpmctl.tpmstream import GuestTpm
from protocol.tpm12.attestation import SymmetricKey
from protocol.tpm12.constants import ReservedHandle, ResourceType
from protocol.tpm12.pcr import PcrSelection
from tpmcore import tss12
from tpmcore.engine import RandomSource


async def make_aik(
    tpm: GuestTpm,
    label: str,
    label_digest: bytes,
    *,
    owner_auth: Secret,
    srk_auth: Secret,
    aik_auth: Secret,
    random: RandomSource,
) -> IdentityFile:
    """Make an identity key (TPM_MakeIdentity).

    Raises:
        DaemonError: the TPM refuses.
    """
    ek = await tpm.run(
        "tell its endorsement key",
        tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=owner_auth, random=random),
    )
    made = await tpm.run(
        "make an identity key",
        tss12.make_identity(
            owner_auth=owner_auth,
            srk_auth=srk_auth,
            identity_auth=aik_auth,
            label_digest=label_digest,
            random=random,
        ),
    )
    return IdentityFile(None, label, label_digest, made.key.public_key, made.binding, ek, made.key)


@asynccontextmanager
async def loaded_aik(
    tpm: GuestTpm, identity: IdentityFile, srk_auth: Secret, random: RandomSource
) -> AsyncIterator[int]:
    """Give the handle of an identity key while it is loaded.

    Raises:
        DaemonError: the TPM refuses, or the file has no wrapped key.
    """
    if identity.key is None:
        raise DaemonError(f"identity {identity.label!r} has no wrapped key: it is not a guest's")
    handle = await tpm.run(
        "load the identity key",
        tss12.load_key2(ReservedHandle.SRK, identity.key, parent_auth=srk_auth, random=random),
    )
    try:
        yield handle
    finally:
        # also when somebody presses Ctrl-C: a TPM has few places for keys
        with trio.CancelScope(shield=True):
            await tpm.run("unload the key", tss12.flush_specific(handle, ResourceType.KEY))


async def activate_aik(
    tpm: GuestTpm,
    identity: IdentityFile,
    blob: bytes,
    *,
    owner_auth: Secret,
    srk_auth: Secret,
    aik_auth: Secret,
    random: RandomSource,
) -> SymmetricKey:
    """Return the session key that a Privacy CA has encrypted for an identity key and its TPM.

    Raises:
        DaemonError: the TPM refuses.
    """
    async with loaded_aik(tpm, identity, srk_auth, random) as handle:
        return await tpm.run(
            "open the Privacy CA's blob",
            tss12.activate_identity(
                handle,
                blob,
                owner_auth=owner_auth,
                identity_auth=aik_auth,
                random=random,
            ),
        )
    raise AssertionError("unreachable")


async def quote_with_aik(
    tpm: GuestTpm,
    identity: IdentityFile,
    nonce: bytes,
    selection: PcrSelection,
    *,
    srk_auth: Secret,
    aik_auth: Secret,
    random: RandomSource,
) -> tss12.Quote:
    """Return a quote by an identity key.

    Args:
        nonce: 20 bytes.

    Raises:
        DaemonError: the TPM refuses.
    """
    async with loaded_aik(tpm, identity, srk_auth, random) as handle:
        return await tpm.run(
            "quote",
            tss12.quote(
                handle,
                external_data=nonce,
                selection=selection,
                key_auth=aik_auth,
                random=random,
            ),
        )
    raise AssertionError("unreachable")
