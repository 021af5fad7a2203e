# SPDX-License-Identifier: Apache-2.0
"""Random numbers, hashing, signatures and certification of keys (Part 3, 13)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from protocol.tpm12.attestation import CertifyInfo, CertifyInfo2, SignInfo
from protocol.tpm12.constants import Ordinal, StructureTag
from protocol.tpm12.records import record
from protocol.tpm12.wire import DIGEST_BYTES, SIZED, U32, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Authorization, Conversation, Session, execute, nothing
from tpmcore.tss12.errors import ResponseError
from tpmcore.tss12.sessions import oiap, pair, prove, with_optional_secret


def get_random(size_bytes: int) -> Conversation[bytes]:
    """Return random bytes of the TPM, as many as asked or fewer (13.6)."""
    return execute(Ordinal.GET_RANDOM, Reader.sized, parameters=U32.write(size_bytes))


def stir_random(data: bytes) -> Conversation[None]:
    """Add entropy to the TPM's generator, at most 255 bytes (13.7)."""
    return execute(Ordinal.STIR_RANDOM, nothing, parameters=SIZED.write(data))


def sha1_start() -> Conversation[int]:
    """Begin to hash; return the largest number of bytes for one sha1_update (13.1)."""
    return execute(Ordinal.SHA1_START, Reader.u32)


def sha1_update(data: bytes) -> Conversation[None]:
    """Hash more data, a multiple of 64 bytes (13.2)."""
    return execute(Ordinal.SHA1_UPDATE, nothing, parameters=SIZED.write(data))


def sha1_complete(data: bytes = b"") -> Conversation[bytes]:
    """Hash the last 0 to 64 bytes and return the digest (13.3)."""
    return execute(
        Ordinal.SHA1_COMPLETE,
        lambda reader: reader.take(DIGEST_BYTES, "hashValue"),
        parameters=SIZED.write(data),
    )


@record
class HashAndPcr:
    """Digest, and the value of the PCR that it was folded into."""

    digest: bytes
    pcr: bytes


def sha1_complete_extend(index: int, data: bytes = b"") -> Conversation[HashAndPcr]:
    """Hash the last 0 to 64 bytes and extend a PCR with the digest (13.4)."""

    def parse(reader: Reader) -> HashAndPcr:
        return HashAndPcr(
            reader.take(DIGEST_BYTES, "hashValue"), reader.take(DIGEST_BYTES, "outDigest")
        )

    return execute(
        Ordinal.SHA1_COMPLETE_EXTEND, parse, parameters=U32.write(index) + SIZED.write(data)
    )


def sign(
    key_handle: int,
    area: bytes,
    *,
    key_auth: bytes | None,
    random: RandomSource | None = None,
    session: Session | None = None,
) -> Conversation[bytes]:
    """Return a signature over an area (13.5).

    Args:
        area: 20-byte digest for scheme SHA1; for DER what is to be padded.
        key_auth: None if the key needs none.
    """
    return with_optional_secret(
        Ordinal.SIGN,
        Reader.sized,
        key_auth,
        random=random,
        session=session,
        handles=U32.write(key_handle),
        parameters=SIZED.write(area),
    )


@record
class SignedInfo:
    """Answer of TPM_Sign with a key of scheme INFO.

    Attributes:
        signed: digest that the signature is over: of TPM_SIGN_INFO with our nonce.
    """

    signature: bytes
    signed: bytes


def sign_info(
    key_handle: int, area: bytes, *, key_auth: bytes, random: RandomSource
) -> Conversation[SignedInfo]:
    """Sign with a key of scheme INFO, which ties the signature to the nonce (13.5)."""
    session = yield from oiap()
    authorization = prove(session, random, secret=key_auth)
    signature = yield from execute(
        Ordinal.SIGN,
        Reader.sized,
        handles=U32.write(key_handle),
        parameters=SIZED.write(area),
        auths=(authorization,),
    )
    info = SignInfo(b"SIGN", authorization.nonce_odd, area)
    return SignedInfo(signature, hashlib.sha1(info.encode()).digest())


@record
class Certification:
    """Answer of CertifyKey and CertifyKey2.

    Attributes:
        signed: digest that the signature is over.
    """

    info: CertifyInfo | CertifyInfo2
    signature: bytes
    signed: bytes


def _certification(anti_replay: bytes) -> Callable[[Reader], Certification]:
    def parse(reader: Reader) -> Certification:
        start = reader.position
        is_info2 = reader.u16("tag") == StructureTag.CERTIFY_INFO2
        reader.position = start
        info = CertifyInfo2.read(reader) if is_info2 else CertifyInfo.read(reader)
        signed = hashlib.sha1(reader.since(start)).digest()
        if info.data != anti_replay:
            raise ResponseError("certification carries another nonce than ours")
        return Certification(info, reader.sized("outData"), signed)

    return parse


def _certify(
    ordinal: Ordinal,
    handles: bytes,
    parameters: bytes,
    anti_replay: bytes,
    first_auth: bytes | None,
    second_auth: bytes | None,
    random: RandomSource,
) -> Conversation[Certification]:
    """Send the C1, C2 or C3 form; in the C2 form the first session is left out."""
    if first_auth is not None and second_auth is None:
        raise ValueError(f"{ordinal.name} can leave out the first authorization only")
    auths: list[Authorization] = []
    if first_auth is not None and second_auth is not None:
        one, two = yield from pair(oiap(), oiap())
        auths = [prove(one, random, secret=first_auth), prove(two, random, secret=second_auth)]
    elif second_auth is not None:
        session = yield from oiap()
        auths = [prove(session, random, secret=second_auth)]
    return (
        yield from execute(
            ordinal,
            _certification(anti_replay),
            handles=handles,
            parameters=parameters,
            auths=auths,
        )
    )


def certify_key(
    cert_handle: int,
    key_handle: int,
    *,
    cert_auth: bytes | None,
    key_auth: bytes | None,
    random: RandomSource,
    anti_replay: bytes | None = None,
) -> Conversation[Certification]:
    """Have one key certify another (13.8).

    Args:
        anti_replay: nonce of whoever asks, 20 bytes; None takes a fresh one.
        cert_auth: None only if the certifying key needs none.
        key_auth: None only if cert_auth is None and the key needs none.
    """
    anti_replay = random.random(20) if anti_replay is None else anti_replay
    return _certify(
        Ordinal.CERTIFY_KEY,
        U32.write(cert_handle) + U32.write(key_handle),
        anti_replay,
        anti_replay,
        cert_auth,
        key_auth,
        random,
    )


def certify_key2(
    key_handle: int,
    cert_handle: int,
    *,
    key_auth: bytes | None,
    cert_auth: bytes | None,
    random: RandomSource,
    migration_pub_digest: bytes = bytes(DIGEST_BYTES),
) -> Conversation[Certification]:
    """Have one key certify another, certified migration keys included (13.9)."""
    anti_replay = random.random(20)
    return _certify(
        Ordinal.CERTIFY_KEY2,
        U32.write(key_handle) + U32.write(cert_handle),
        migration_pub_digest + anti_replay,
        anti_replay,
        key_auth,
        cert_auth,
        random,
    )
