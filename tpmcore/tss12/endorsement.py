# SPDX-License-Identifier: Apache-2.0
"""The endorsement key (Part 3, 14)."""

from __future__ import annotations

import hashlib
import hmac

from protocol.tpm12.constants import EncScheme, Ordinal, ReservedHandle
from protocol.tpm12.keys import KeyParms, PubKey
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.errors import ResponseError
from tpmcore.tss12.sessions import with_secret


def _checked_key(reader: Reader, anti_replay: bytes) -> PubKey:
    """Read a TPM_PUBKEY and the checksum that ties it to our nonce (14.1, 4)."""
    start = reader.position
    key = PubKey.read(reader)
    expected = hashlib.sha1(reader.since(start) + anti_replay).digest()
    if not hmac.compare_digest(expected, reader.take(20, "checksum")):
        raise ResponseError("checksum of the endorsement key does not verify")
    return key


def create_endorsement_key_pair(*, random: RandomSource) -> Conversation[PubKey]:
    """Make the endorsement key, RSA 2048 (14.1); TpmError DISABLED_CMD if there is one."""
    anti_replay = random.random(20)
    return execute(
        Ordinal.CREATE_ENDORSEMENT_KEY_PAIR,
        lambda reader: _checked_key(reader, anti_replay),
        parameters=anti_replay
        + KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1).encode(),
    )


@record(repr=False)
class RevocableKey:
    """A revocable endorsement key.

    Attributes:
        ek_reset: secret that RevokeTrust wants, 20 bytes.
    """

    public: PubKey
    ek_reset: bytes


def create_revocable_ek(
    *, random: RandomSource, ek_reset: bytes | None = None
) -> Conversation[RevocableKey]:
    """Make an endorsement key that RevokeTrust can remove (14.2).

    Args:
        ek_reset: the secret for that; None lets the TPM choose it.
    """
    anti_replay = random.random(20)

    def parse(reader: Reader) -> RevocableKey:
        return RevocableKey(_checked_key(reader, anti_replay), reader.take(20, "EKreset"))

    return execute(
        Ordinal.CREATE_REVOCABLE_EK,
        parse,
        parameters=anti_replay
        + KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1).encode()
        + BOOL.write(ek_reset is None)
        + (ek_reset or bytes(20)),
    )


def revoke_trust(ek_reset: bytes) -> Conversation[None]:
    """Remove the endorsement key and everything below it (14.3); needs physical presence."""
    return execute(Ordinal.REVOKE_TRUST, nothing, parameters=ek_reset)


def read_pubek(*, random: RandomSource) -> Conversation[PubKey]:
    """Return the endorsement key; its checksum is verified (14.4)."""
    anti_replay = random.random(20)
    return execute(
        Ordinal.READ_PUBEK,
        lambda reader: _checked_key(reader, anti_replay),
        parameters=anti_replay,
    )


def owner_read_internal_pub(
    handle: ReservedHandle, *, owner_auth: bytes, random: RandomSource
) -> Conversation[PubKey]:
    """Return the public part of the EK or the SRK to the owner (14.5)."""
    return with_secret(
        Ordinal.OWNER_READ_INTERNAL_PUB,
        PubKey.read,
        owner_auth,
        random=random,
        parameters=U32.write(handle),
    )


def disable_pubek_read(*, owner_auth: bytes, random: RandomSource) -> Conversation[None]:
    """Forbid ReadPubek (27.2)."""
    return with_secret(Ordinal.DISABLE_PUBEK_READ, nothing, owner_auth, random=random)


def owner_read_pubek(*, owner_auth: bytes, random: RandomSource) -> Conversation[PubKey]:
    """Return the endorsement key to the owner (27.2)."""
    return with_secret(Ordinal.OWNER_READ_PUBEK, PubKey.read, owner_auth, random=random)
