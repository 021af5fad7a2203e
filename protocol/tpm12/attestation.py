# SPDX-License-Identifier: Apache-2.0
"""Structures that a TPM signs or that certify its keys (Part 2, 11 and 12)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from protocol.tpm12.constants import StructureTag
from protocol.tpm12.keys import KeyParms, PubKey
from protocol.tpm12.pcr import PcrInfoShort
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    BOOL,
    DIGEST,
    SIZED,
    U8,
    U16,
    U32,
    VERSION_1_1,
    FixedBytes,
    Prefix,
    Reader,
    Structure,
    tag_prefix,
)


@record
class QuoteInfo(Structure):
    """TPM_QUOTE_INFO (11.3), 48 bytes."""

    prefix: ClassVar[Prefix | None] = VERSION_1_1
    fixed: Annotated[bytes, FixedBytes(4)]
    digest_value: Annotated[bytes, DIGEST]
    external_data: Annotated[bytes, DIGEST]


@record
class QuoteInfo2(Structure):
    """TPM_QUOTE_INFO2 (11.4)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.QUOTE_INFO2, b"QUT2")
    external_data: Annotated[bytes, DIGEST]
    info_short: PcrInfoShort


@record
class SignInfo(Structure):
    """TPM_SIGN_INFO (5.9): four ASCII bytes that name the command, replay nonce, data."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.SIGN_INFO)
    fixed: Annotated[bytes, FixedBytes(4)]
    replay: Annotated[bytes, DIGEST]
    data: Annotated[bytes, SIZED]


@record
class CertifyInfo(Structure):
    """TPM_CERTIFY_INFO (11.1); pcr_info is an encoded TPM_PCR_INFO or empty."""

    prefix: ClassVar[Prefix | None] = VERSION_1_1
    key_usage: Annotated[int, U16]
    key_flags: Annotated[int, U32]
    auth_data_usage: Annotated[int, U8]
    algorithm_parms: KeyParms
    pubkey_digest: Annotated[bytes, DIGEST]
    data: Annotated[bytes, DIGEST]
    parent_pcr_status: Annotated[bool, BOOL]
    pcr_info: Annotated[bytes, SIZED]


@record
class CertifyInfo2(Structure):
    """TPM_CERTIFY_INFO2 (11.2); pcr_info is an encoded TPM_PCR_INFO_SHORT or empty."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CERTIFY_INFO2, b"\x00")
    payload_type: Annotated[int, U8]
    key_usage: Annotated[int, U16]
    key_flags: Annotated[int, U32]
    auth_data_usage: Annotated[int, U8]
    algorithm_parms: KeyParms
    pubkey_digest: Annotated[bytes, DIGEST]
    data: Annotated[bytes, DIGEST]
    parent_pcr_status: Annotated[bool, BOOL]
    pcr_info: Annotated[bytes, SIZED]
    migration_authority: Annotated[bytes, SIZED]


@record
class IdentityContents(Structure):
    """TPM_IDENTITY_CONTENTS (12.5); ordinal is that of MakeIdentity."""

    prefix: ClassVar[Prefix | None] = VERSION_1_1
    ordinal: Annotated[int, U32]
    label_priv_ca_digest: Annotated[bytes, DIGEST]
    identity_pub_key: PubKey


class _Sized16:
    """Bytes behind a u16 length."""

    def read(self, reader: Reader, field: str) -> bytes:
        """Take length and bytes."""
        return reader.take(reader.u16(field), field)

    def write(self, value: bytes) -> bytes:
        """Give length and bytes."""
        return len(value).to_bytes(2, "big") + value


@record(repr=False)
class SymmetricKey(Structure):
    """TPM_SYMMETRIC_KEY (10.11)."""

    algorithm_id: Annotated[int, U32]
    enc_scheme: Annotated[int, U16]
    key: Annotated[bytes, _Sized16()]


@record(repr=False)
class AsymCaContents(Structure):
    """TPM_ASYM_CA_CONTENTS (12.7): what a Privacy CA encrypts to the endorsement key."""

    session_key: SymmetricKey
    id_digest: Annotated[bytes, DIGEST]


@record
class SymCaAttestation(Structure):
    """TPM_SYM_CA_ATTESTATION (12.6): a credential, encrypted with the session key.

    Attributes:
        algorithm: how; its parms are a TPM_SYMMETRIC_KEY_PARMS.
        credential: as encrypted.
    """

    algorithm: KeyParms
    credential: bytes

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one; the length of the credential comes before the algorithm."""
        size = reader.u32("credSize")
        return cls(KeyParms.read(reader), reader.take(size, "credential"))

    def encode(self) -> bytes:
        """Return the wire form."""
        return U32.write(len(self.credential)) + self.algorithm.encode() + self.credential


@record(repr=False)
class EkBlob(Structure):
    """TPM_EK_BLOB (12.8)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.EK_BLOB)
    ek_type: Annotated[int, U16]
    blob: Annotated[bytes, SIZED]


@record(repr=False)
class EkBlobActivate(Structure):
    """TPM_EK_BLOB_ACTIVATE (12.9)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.EK_BLOB_ACTIVATE)
    session_key: SymmetricKey
    id_digest: Annotated[bytes, DIGEST]
    pcr_info: PcrInfoShort
