# SPDX-License-Identifier: Apache-2.0
"""Opening and using authorization sessions (Part 3, 18), and encrypting secrets under them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import TypeVar

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    Ordinal,
    ProtocolId,
    ReservedHandle,
)
from protocol.tpm12.wire import U16, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.errors import TpmError
from tpmcore.tss12.conversation import (
    Authorization,
    Conversation,
    Session,
    close_session,
    execute,
)

T = TypeVar("T")


def oiap() -> Conversation[Session]:
    """Open an OIAP session; it may be used for any entity and, while kept, any number of times."""

    def parse(reader: Reader) -> Session:
        return Session(reader.u32(), ProtocolId.OIAP, reader.take(20))

    return execute(Ordinal.OIAP, parse)


def osap(
    entity_type: EntityType,
    entity_value: int,
    secret: bytes,
    *,
    random: RandomSource,
    adip: AdipScheme = AdipScheme.XOR,
) -> Conversation[Session]:
    """Open an OSAP session on one entity.

    Args:
        entity_type: KEYHANDLE, OWNER, SRK, COUNTER or NV.
        entity_value: key handle, countID or NV index; ignored for OWNER and SRK.
        secret: the entity's secret, 20 bytes.
        adip: how secrets will be encrypted under the session; AES must be told to `encrypt_secret`
            too.
    """
    nonce_odd = random.random(20)

    def parse(reader: Reader) -> Session:
        handle = reader.u32()
        nonce_even = reader.take(20)
        shared = hmac.digest(secret, reader.take(20) + nonce_odd, "sha1")
        return Session(handle, ProtocolId.OSAP, nonce_even, shared)

    return execute(
        Ordinal.OSAP,
        parse,
        parameters=U16.write(adip << 8 | entity_type) + U32.write(entity_value) + nonce_odd,
    )


def osap_owner(owner_auth: bytes, *, random: RandomSource) -> Conversation[Session]:
    """Open an OSAP session on the owner."""
    return osap(EntityType.OWNER, ReservedHandle.OWNER, owner_auth, random=random)


def osap_key(handle: int, usage_auth: bytes, *, random: RandomSource) -> Conversation[Session]:
    """Open an OSAP session on a key, the SRK included."""
    entity = EntityType.SRK if handle == ReservedHandle.SRK else EntityType.KEYHANDLE
    return osap(entity, handle, usage_auth, random=random)


def pair(
    first: Conversation[Session], second: Conversation[Session]
) -> Conversation[tuple[Session, Session]]:
    """Open two sessions, or none."""
    one = yield from first
    try:
        two = yield from second
    except TpmError:
        yield from close_session(one)
        raise
    return one, two


def prove(
    session: Session, random: RandomSource, *, secret: bytes | None = None, keep: bool = False
) -> Authorization:
    """Make the authorization block of one use of a session.

    Args:
        secret: the entity's secret under OIAP; None under OSAP.
        keep: whether the session stays open.
    """
    key = session.shared_secret if secret is None or session.shared_secret else secret
    return Authorization(session, key, random.random(20), keep)


def with_secret(
    ordinal: Ordinal,
    parse: Callable[[Reader], T],
    secret: bytes,
    *,
    random: RandomSource,
    handles: bytes = b"",
    parameters: bytes = b"",
    handles_out: int = 0,
    session: Session | None = None,
) -> Conversation[T]:
    """Run a command with one authorization block.

    Args:
        secret: of the entity that the command needs, 20 bytes.
        session: an open session to use and keep (OIAP, or OSAP on that entity); None opens an OIAP
            session for this command only.
    """
    keep = session is not None
    if session is None:
        session = yield from oiap()
    return (
        yield from execute(
            ordinal,
            parse,
            handles=handles,
            parameters=parameters,
            auths=(prove(session, random, secret=secret, keep=keep),),
            handles_out=handles_out,
        )
    )


def with_optional_secret(
    ordinal: Ordinal,
    parse: Callable[[Reader], T],
    secret: bytes | None,
    *,
    random: RandomSource | None,
    handles: bytes = b"",
    parameters: bytes = b"",
    handles_out: int = 0,
    session: Session | None = None,
) -> Conversation[T]:
    """Run a command that works with and without an authorization block.

    Args:
        secret: None sends none.
        random: needed with a secret.

    Raises:
        ValueError: a secret without a source of nonces.
    """
    if secret is None:
        return execute(
            ordinal, parse, handles=handles, parameters=parameters, handles_out=handles_out
        )
    if random is None:
        raise ValueError(f"{ordinal.name} with authorization needs a random source")
    return with_secret(
        ordinal,
        parse,
        secret,
        random=random,
        handles=handles,
        parameters=parameters,
        handles_out=handles_out,
        session=session,
    )


def with_secrets(
    ordinal: Ordinal,
    parse: Callable[[Reader], T],
    secrets: Sequence[bytes],
    *,
    random: RandomSource,
    handles: bytes = b"",
    parameters: bytes = b"",
) -> Conversation[T]:
    """Run a command with two OIAP sessions, in the order of the secrets."""
    first, second = secrets
    one, two = yield from pair(oiap(), oiap())
    return (
        yield from execute(
            ordinal,
            parse,
            handles=handles,
            parameters=parameters,
            auths=(prove(one, random, secret=first), prove(two, random, secret=second)),
        )
    )


def encrypt_secret(session: Session, secret: bytes, *, nonce: bytes | None = None) -> bytes:
    """Encrypt a new secret for the TPM under an OSAP session with XOR (ADIP; Part 1, 4.3.1).

    Args:
        secret: 20 bytes.
        nonce: nonceOdd of the command for its second secret; None for the first one.
    """
    pad = hashlib.sha1(session.shared_secret + (nonce or session.nonce_even)).digest()
    return bytes(a ^ b for a, b in zip(secret, pad, strict=True))
