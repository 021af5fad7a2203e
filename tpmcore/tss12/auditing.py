# SPDX-License-Identifier: Apache-2.0
"""Auditing (Part 3, 8)."""

from __future__ import annotations

import hashlib

from protocol.tpm12.attestation import SignInfo
from protocol.tpm12.constants import Ordinal
from protocol.tpm12.records import record
from protocol.tpm12.resources import CounterValue
from protocol.tpm12.wire import BOOL, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, Session, execute, nothing
from tpmcore.tss12.sessions import with_optional_secret, with_secret


@record
class AuditDigest:
    """The audit digest and what goes into it.

    Attributes:
        digest: 20 bytes; zeros if nothing happened yet.
        ordinals: what is audited, from the ordinal asked for, ascending.
        more: whether the list goes on.
    """

    counter: CounterValue
    digest: bytes
    more: bool
    ordinals: tuple[int, ...]


def get_audit_digest(start_ordinal: int = 0) -> Conversation[AuditDigest]:
    """Ask for the audit digest (8.3)."""

    def parse(reader: Reader) -> AuditDigest:
        counter, digest = CounterValue.read(reader), reader.take(20, "auditDigest")
        more = reader.boolean("more")
        listed = Reader(reader.sized("ordList"))
        return AuditDigest(
            counter, digest, more, tuple([listed.u32() for _ in range(listed.remaining // 4)])
        )

    return execute(Ordinal.GET_AUDIT_DIGEST, parse, parameters=U32.write(start_ordinal))


@record
class SignedAuditDigest:
    """A signed audit digest.

    Attributes:
        ordinal_digest: SHA-1 of the audited ordinals, u32 each.
        signed: digest that the signature is over.
    """

    counter: CounterValue
    digest: bytes
    ordinal_digest: bytes
    signature: bytes
    signed: bytes


def get_audit_digest_signed(
    key_handle: int,
    *,
    close: bool,
    anti_replay: bytes,
    key_auth: bytes | None = None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[SignedAuditDigest]:
    """Have the audit digest signed (8.4).

    Args:
        close: also begin a new one; needs an identity key.
        anti_replay: 20 bytes of ours.
        key_auth: None if the key needs none.
    """

    def parse(reader: Reader) -> SignedAuditDigest:
        counter, digest = CounterValue.read(reader), reader.take(20, "auditDigest")
        ordinal_digest = reader.take(20, "ordinalDigest")
        info = SignInfo(b"ADIG", anti_replay, digest + counter.encode() + ordinal_digest)
        signature = reader.sized("sig")
        signed = hashlib.sha1(info.encode()).digest()
        return SignedAuditDigest(counter, digest, ordinal_digest, signature, signed)

    return with_optional_secret(
        Ordinal.GET_AUDIT_DIGEST_SIGNED,
        parse,
        key_auth,
        random=random,
        handles=U32.write(key_handle),
        parameters=BOOL.write(close) + anti_replay,
        session=session,
    )


def set_ordinal_audit_status(
    ordinal: int,
    audited: bool,
    *,
    owner_auth: bytes,
    random: RandomSource,
    session: Session | None = None,
) -> Conversation[None]:
    """Have an ordinal audited or not (8.5)."""
    return with_secret(
        Ordinal.SET_ORDINAL_AUDIT_STATUS,
        nothing,
        owner_auth,
        random=random,
        parameters=U32.write(ordinal) + BOOL.write(audited),
        session=session,
    )
