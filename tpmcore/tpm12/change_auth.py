# SPDX-License-Identifier: Apache-2.0
"""Changing authorization (Part 3, chapter 17): another secret for a wrapped key, a sealed blob, the
owner or the SRK."""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Annotated, Final

from protocol.tpm12.constants import EntityType, Ordinal, PayloadType, ProtocolId, ReturnCode
from protocol.tpm12.keys import PAYLOADS_OF_LOADABLE_KEYS, StoreAsymKey
from protocol.tpm12.records import record
from protocol.tpm12.stored import SealedData
from protocol.tpm12.wire import DIGEST, SIZED, U16, U32, Structure
from tpmcore.errors import EngineFault, TpmError
from tpmcore.tpm12.command import AUTH1, AUTH2, NOTHING, Command, Gate, Nothing
from tpmcore.tpm12.context import OIAP_ONLY, OSAP_ONLY, Context, Entity
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.rsa import RsaError
from tpmcore.tpm12.state import EntityKind, KeyBody
from tpmcore.tpm12.storage import require_storage_key


@record
class ChangeAuthRequest(Structure):
    """parentHandle u32, protocolID u16, newAuth 20, entityType u16, encData sized."""

    parent_handle: Annotated[int, U32]
    protocol_id: Annotated[int, U16]
    new_auth: Annotated[bytes, DIGEST]
    entity_type: Annotated[int, U16]
    enc_data: Annotated[bytes, SIZED]


@record
class ChangeAuthResponse(Structure):
    """outData sized."""

    out_data: Annotated[bytes, SIZED]


def change_auth(ctx: Context, request: ChangeAuthRequest) -> ChangeAuthResponse:
    """Encrypt a wrapped key or sealed blob again, with another secret in it (17.1)."""
    if request.entity_type not in CHANGEABLE:
        raise TpmError(ReturnCode.WRONG_ENTITYTYPE)
    parent = ctx.key(request.parent_handle)
    ctx.require_session(0, OSAP_ONLY)
    ctx.require_session(1, OIAP_ONLY)
    if request.protocol_id != ProtocolId.ADCP:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    ctx.authorize_key(0, parent, OSAP_ONLY)
    new_auth = ctx.decrypt_secret(0, request.new_auth)
    require_storage_key(parent)
    wrapped = unwrap(ctx, parent, request.entity_type, request.enc_data)
    ctx.authorize(1, Entity(EntityKind.DATA, wrapped.secret), OIAP_ONLY)
    ctx.end_session(0)
    ctx.end_session(1)
    return ChangeAuthResponse(wrapped.rewrap(parent, new_auth))


CHANGEABLE: Final = frozenset({EntityType.KEY, EntityType.DATA})
"""What of the things with a secret is wrapped by a parent."""


@record(repr=False)
class Wrapped:
    """The private part of a wrapped key, or sealed data."""

    content: StoreAsymKey | SealedData

    @property
    def secret(self) -> bytes:
        """Its secret, 20 bytes."""
        if isinstance(self.content, StoreAsymKey):
            return self.content.usage_auth
        return self.content.auth_data

    def rewrap(self, parent: KeyBody, secret: bytes) -> bytes:
        """Return it with another secret, encrypted for its parent again."""
        if isinstance(self.content, StoreAsymKey):
            changed = replace(self.content, usage_auth=secret).encode()
        else:
            changed = replace(self.content, auth_data=secret).encode()
        # It came out of this key's padding, so it fits again.
        return parent.private.encrypt_oaep(changed)


def unwrap(ctx: Context, parent: KeyBody, entity_type: int, enc_data: bytes) -> Wrapped:
    """Decrypt what has a secret to be changed.

    Args:
        entity_type: one of CHANGEABLE.

    Raises:
        TpmError: DECRYPT_ERROR, BAD_PARAM_SIZE, INVALID_STRUCTURE; AUTHFAIL for data that was not
            sealed here, or under another owner.
    """
    try:
        plain = parent.private.decrypt_oaep(enc_data)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    if entity_type == EntityType.KEY:
        store = decode_plaintext(StoreAsymKey, plain)
        if store.payload not in PAYLOADS_OF_LOADABLE_KEYS:
            raise TpmError(ReturnCode.INVALID_STRUCTURE)
        return Wrapped(store)
    sealed = decode_plaintext(SealedData, plain)
    if not hmac.compare_digest(sealed.tpm_proof, ctx.tpm.permanent.tpm_proof):
        raise TpmError(ReturnCode.AUTHFAIL)
    if sealed.payload != PayloadType.SEAL:
        raise TpmError(ReturnCode.INVALID_STRUCTURE)
    return Wrapped(sealed)


@record
class ChangeAuthOwnerRequest(Structure):
    """protocolID u16, newAuth 20, entityType u16."""

    protocol_id: Annotated[int, U16]
    new_auth: Annotated[bytes, DIGEST]
    entity_type: Annotated[int, U16]


def change_auth_owner(ctx: Context, request: ChangeAuthOwnerRequest) -> Nothing:
    """Give the owner or the SRK another secret (17.2); owner sessions end, this one included."""
    ctx.authorize_owner(0, OSAP_ONLY)
    if request.protocol_id != ProtocolId.ADCP:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    new_auth = ctx.decrypt_secret(0, request.new_auth)
    permanent = ctx.tpm.permanent
    if request.entity_type == EntityType.OWNER:
        permanent.owner_auth = new_auth
    elif request.entity_type == EntityType.SRK:
        if permanent.srk is None:
            raise EngineFault("an owner without a storage root key")
        permanent.srk.usage_auth = new_auth
    else:
        raise TpmError(ReturnCode.WRONG_ENTITYTYPE)
    ctx.end_session(0)
    ctx.tpm.end_entity_sessions(EntityKind.OWNER)
    return NOTHING


COMMANDS: Final = (
    Command(
        Ordinal.CHANGE_AUTH,
        source="3:17.1",
        auth_blocks=AUTH2,
        gate=Gate.OPERATIONAL,
        request=ChangeAuthRequest,
        response=ChangeAuthResponse,
        handler=change_auth,
        handles_in=4,
        key_bit=6,
    ),
    Command(
        Ordinal.CHANGE_AUTH_OWNER,
        source="3:17.2",
        auth_blocks=AUTH1,
        gate=Gate.OPERATIONAL,
        request=ChangeAuthOwnerRequest,
        response=Nothing,
        handler=change_auth_owner,
        persists=True,
        audited=True,
    ),
)
