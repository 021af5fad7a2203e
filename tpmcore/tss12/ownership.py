# SPDX-License-Identifier: Apache-2.0
"""Taking and giving up ownership (Part 3, 6)."""

from __future__ import annotations

from protocol.tpm12.constants import EncScheme, KeyUsage, Ordinal, ProtocolId, SigScheme
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.wire import SIZED, U16
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.endorsement import read_pubek
from tpmcore.tss12.publickey import encrypt_oaep
from tpmcore.tss12.sessions import with_secret


def srk_template(*, is_key12: bool = False) -> Key:
    """Return what a storage root key must look like: RSA 2048, OAEP, not migratable."""
    return Key.template(
        KeyUsage.STORAGE,
        enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
        sig_scheme=SigScheme.NONE,
        is_key12=is_key12,
    )


def take_ownership(
    *,
    owner_auth: bytes,
    srk_auth: bytes,
    random: RandomSource,
    pubek: PubKey | None = None,
    srk_params: Key | None = None,
) -> Conversation[Key]:
    """Install an owner and make the storage root key (6.1).

    Args:
        owner_auth: the new owner's secret, 20 bytes; sent encrypted to the endorsement key.
        srk_auth: the SRK's secret, 20 bytes.
        pubek: the endorsement key if it is known; None reads it first.
        srk_params: description of the SRK; None is `srk_template()`.

    Returns: the SRK, its public part.

    Raises:
        TpmError: OWNER_SET if there is an owner, INSTALL_DISABLED, NO_ENDORSEMENT ...
    """
    if pubek is None:
        pubek = yield from read_pubek(random=random)
    return (
        yield from with_secret(
            Ordinal.TAKE_OWNERSHIP,
            Key.read,
            owner_auth,
            random=random,
            parameters=U16.write(ProtocolId.OWNER)
            + SIZED.write(encrypt_oaep(pubek, owner_auth))
            + SIZED.write(encrypt_oaep(pubek, srk_auth))
            + (srk_params or srk_template()).encode(),
        )
    )


def owner_clear(*, owner_auth: bytes, random: RandomSource) -> Conversation[None]:
    """Remove the owner and all that belongs to him (6.2)."""
    return with_secret(Ordinal.OWNER_CLEAR, nothing, owner_auth, random=random)


def force_clear() -> Conversation[None]:
    """Remove the owner with physical presence (6.3)."""
    return execute(Ordinal.FORCE_CLEAR, nothing)


def disable_owner_clear(*, owner_auth: bytes, random: RandomSource) -> Conversation[None]:
    """Forbid OwnerClear (6.4)."""
    return with_secret(Ordinal.DISABLE_OWNER_CLEAR, nothing, owner_auth, random=random)


def disable_force_clear() -> Conversation[None]:
    """Forbid ForceClear until the next Startup (6.5)."""
    return execute(Ordinal.DISABLE_FORCE_CLEAR, nothing)
