# SPDX-License-Identifier: Apache-2.0
"""Attestation identity keys (Part 3, 15)."""

from __future__ import annotations

import hashlib

from protocol.tpm12.attestation import IdentityContents, SymmetricKey
from protocol.tpm12.constants import EncScheme, KeyUsage, Ordinal, SigScheme
from protocol.tpm12.keys import Key
from protocol.tpm12.records import record
from protocol.tpm12.wire import SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute
from tpmcore.tss12.sessions import encrypt_secret, oiap, osap_owner, pair, prove


def identity_template(*, is_key12: bool = False) -> Key:
    """Return what an identity key must look like: RSA 2048, signature scheme SHA1."""
    return Key.template(
        KeyUsage.IDENTITY,
        enc_scheme=EncScheme.NONE,
        sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1,
        is_key12=is_key12,
    )


@record
class Identity:
    """A new identity key.

    Attributes:
        key: wrapped by the SRK.
        binding: the key's own signature over TPM_IDENTITY_CONTENTS.
        signed: digest that the binding is over.
    """

    key: Key
    binding: bytes
    signed: bytes


def make_identity(
    *,
    owner_auth: bytes,
    srk_auth: bytes | None,
    identity_auth: bytes,
    label_digest: bytes,
    random: RandomSource,
    params: Key | None = None,
) -> Conversation[Identity]:
    """Make an identity key (15.1).

    Args:
        srk_auth: None if the SRK needs none.
        identity_auth: secret to use the new key, 20 bytes.
        label_digest: TPM_CHOSENID_HASH over label and privacy CA, 20 bytes.
        params: None is `identity_template()`.
    """
    if srk_auth is None:
        owner = yield from osap_owner(owner_auth, random=random)
        auths = [prove(owner, random)]
    else:
        srk, owner = yield from pair(oiap(), osap_owner(owner_auth, random=random))
        auths = [prove(srk, random, secret=srk_auth), prove(owner, random)]

    def parse(reader: Reader) -> Identity:
        key = Key.read(reader)
        contents = IdentityContents(Ordinal.MAKE_IDENTITY, label_digest, key.public_key)
        return Identity(
            key, reader.sized("identityBinding"), hashlib.sha1(contents.encode()).digest()
        )

    return (
        yield from execute(
            Ordinal.MAKE_IDENTITY,
            parse,
            parameters=encrypt_secret(owner, identity_auth)
            + label_digest
            + (params or identity_template()).encode(),
            auths=auths,
        )
    )


def activate_identity(
    key_handle: int,
    blob: bytes,
    *,
    owner_auth: bytes,
    identity_auth: bytes | None,
    random: RandomSource,
) -> Conversation[SymmetricKey]:
    """Decrypt what a privacy CA made for this identity and this TPM (15.2).

    Args:
        blob: encrypted to the endorsement key.
        identity_auth: None if the identity key needs none.
    """
    if identity_auth is None:
        owner = yield from oiap()
        auths = [prove(owner, random, secret=owner_auth)]
    else:
        identity, owner = yield from pair(oiap(), oiap())
        auths = [
            prove(identity, random, secret=identity_auth),
            prove(owner, random, secret=owner_auth),
        ]
    return (
        yield from execute(
            Ordinal.ACTIVATE_IDENTITY,
            SymmetricKey.read,
            handles=U32.write(key_handle),
            parameters=SIZED.write(blob),
            auths=auths,
        )
    )
