# SPDX-License-Identifier: Apache-2.0
"""Changing a key's secret unseen by whoever knows its parent's (Part 3, 27.4; deprecated)."""

from __future__ import annotations

import hashlib
import hmac

from protocol.tpm12.attestation import CertifyInfo
from protocol.tpm12.changeauth import ChangeAuthValidate
from protocol.tpm12.constants import EncScheme, EntityType, Ordinal
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation
from tpmcore.tss12.errors import ResponseError
from tpmcore.tss12.publickey import encrypt_oaep, verify_signature
from tpmcore.tss12.sessions import with_optional_secret


@record
class EphemeralKey:
    """A key for one change of a secret."""

    handle: int
    key: Key
    info: CertifyInfo


def change_auth_asym_start(
    identity_handle: int,
    identity: PubKey,
    *,
    identity_auth: bytes | None,
    random: RandomSource,
    parms: KeyParms | None = None,
) -> Conversation[EphemeralKey]:
    """Have the TPM make an ephemeral key, certified by an identity (27.4.1).

    Raises:
        ResponseError: the identity did not certify this key.
    """
    anti_replay = random.random(20)
    if parms is None:
        parms = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1, bits=1024)

    def parse(reader: Reader) -> EphemeralKey:
        info = CertifyInfo.read(reader)
        signature = reader.sized("sig")
        handle = reader.u32("ephHandle")
        key = Key.read(reader)
        verify_signature(identity, hashlib.sha1(info.encode()).digest(), signature)
        digest = hashlib.sha1(key.pub_key).digest()
        if info.data != anti_replay or info.pubkey_digest != digest:
            raise ResponseError("another key is certified")
        return EphemeralKey(handle, key, info)

    return with_optional_secret(
        Ordinal.CHANGE_AUTH_ASYM_START,
        parse,
        identity_auth,
        random=random,
        handles=U32.write(identity_handle),
        parameters=anti_replay + parms.encode(),
    )


def change_auth_asym_finish(
    parent_handle: int,
    ephemeral: EphemeralKey,
    enc_data: bytes,
    *,
    parent_auth: bytes | None,
    old_auth: bytes,
    new_auth: bytes,
    random: RandomSource,
    entity_type: EntityType = EntityType.KEY,
) -> Conversation[bytes]:
    """Give a wrapped key or sealed data another secret (27.4.2); the ephemeral key is gone then.

    Args:
        parent_auth: that of the owner if the parent is the storage root key.
        entity_type: KEY or DATA.

    Returns: the encData to put in the place of the old one.

    Raises:
        ResponseError: the TPM did not prove that it knows the new secret.
    """
    nonce = random.random(20)

    def parse(reader: Reader) -> bytes:
        out_data, salt = reader.sized("outData"), reader.take(20, "saltNonce")
        proof = hmac.digest(new_auth, salt + nonce, "sha1")
        if not hmac.compare_digest(proof, reader.take(20, "changeProof")):
            raise ResponseError("the TPM does not prove the new secret")
        return out_data

    encrypted = encrypt_oaep(ephemeral.key.public_key, ChangeAuthValidate(new_auth, nonce).encode())
    return with_optional_secret(
        Ordinal.CHANGE_AUTH_ASYM_FINISH,
        parse,
        parent_auth,
        random=random,
        handles=U32.write(parent_handle) + U32.write(ephemeral.handle),
        parameters=U16.write(entity_type)
        + hmac.digest(old_auth, new_auth, "sha1")
        + SIZED.write(encrypted)
        + SIZED.write(enc_data),
    )
