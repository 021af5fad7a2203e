# SPDX-License-Identifier: Apache-2.0
"""Changing secrets (Part 3, 17)."""

from __future__ import annotations

from protocol.tpm12.constants import EntityType, Ordinal, ProtocolId
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.sessions import encrypt_secret, oiap, osap_key, osap_owner, pair, prove


def change_auth(
    parent_handle: int,
    enc_data: bytes,
    *,
    entity_type: EntityType,
    parent_auth: bytes,
    old_auth: bytes,
    new_auth: bytes,
    random: RandomSource,
) -> Conversation[bytes]:
    """Give a wrapped key or sealed blob another secret (17.1).

    Args:
        enc_data: the encData of the key or blob.
        entity_type: KEY or DATA.

    Returns: the encData to put in its place.
    """
    parent, entity = yield from pair(osap_key(parent_handle, parent_auth, random=random), oiap())
    return (
        yield from execute(
            Ordinal.CHANGE_AUTH,
            Reader.sized,
            handles=U32.write(parent_handle),
            parameters=U16.write(ProtocolId.ADCP)
            + encrypt_secret(parent, new_auth)
            + U16.write(entity_type)
            + SIZED.write(enc_data),
            auths=(prove(parent, random), prove(entity, random, secret=old_auth)),
        )
    )


def change_auth_owner(
    *,
    entity_type: EntityType,
    owner_auth: bytes,
    new_auth: bytes,
    random: RandomSource,
) -> Conversation[None]:
    """Change the secret of the owner or of the SRK (17.2).

    Args:
        entity_type: OWNER or SRK.
    """
    session = yield from osap_owner(owner_auth, random=random)
    return (
        yield from execute(
            Ordinal.CHANGE_AUTH_OWNER,
            nothing,
            parameters=U16.write(ProtocolId.ADCP)
            + encrypt_secret(session, new_auth)
            + U16.write(entity_type),
            auths=(prove(session, random),),
        )
    )
