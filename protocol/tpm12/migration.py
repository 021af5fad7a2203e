# SPDX-License-Identifier: Apache-2.0
"""Structures about migration (Part 2, 5 and 10.7): who may take a key to another TPM, and what is
on the way."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Final, Self

from protocol.tpm12.constants import StructureTag
from protocol.tpm12.keys import PubKey
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    DIGEST,
    SIZED,
    U8,
    U16,
    U32,
    BadTag,
    ListOf,
    Prefix,
    Reader,
    Structure,
    tag_prefix,
)

MAX_MSA_DIGESTS: Final = 256
"""More authorities than any command has room for."""

_DIGESTS: Final = ListOf(DIGEST, U32, MAX_MSA_DIGESTS)


@record
class MigrationKeyAuth(Structure):
    """TPM_MIGRATIONKEYAUTH (5.5): the owner's permission to migrate keys to a public key.

    Attributes:
        migration_scheme: MigrationScheme.
        digest: SHA-1 over the fields before and tpmProof, so that only this TPM can have made it.
    """

    migration_key: PubKey
    migration_scheme: Annotated[int, U16]
    digest: Annotated[bytes, DIGEST]


@record
class MsaComposite(Structure):
    """TPM_MSA_COMPOSITE (5.14): the authorities that may allow a key to migrate.

    Attributes:
        digests: SHA-1 of the TPM_PUBKEY of each; at least one.
    """

    digests: Annotated[tuple[bytes, ...], _DIGESTS]

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one; an empty list is an invalid structure."""
        start = reader.position
        digests = _DIGESTS.read(reader, "MSAlist")
        if not digests:
            raise BadTag("MSAlist", start, "no authority")
        return cls(digests)

    def digest(self) -> bytes:
        """Return SHA-1 of the structure."""
        return hashlib.sha1(self.encode()).digest()


@record
class CmkAuth(Structure):
    """TPM_CMK_AUTH (5.15), 60 bytes: what an authority signs to let one key go to one place."""

    migration_authority_digest: Annotated[bytes, DIGEST]
    destination_key_digest: Annotated[bytes, DIGEST]
    source_key_digest: Annotated[bytes, DIGEST]

    def digest(self) -> bytes:
        """Return SHA-1 of the structure."""
        return hashlib.sha1(self.encode()).digest()


@record
class CmkMigAuth(Structure):
    """TPM_CMK_MIGAUTH, 42 bytes: what the migrationAuth of a certified migratable key is an HMAC
    of."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CMK_MIGAUTH)
    msa_digest: Annotated[bytes, DIGEST]
    pub_key_digest: Annotated[bytes, DIGEST]


@record
class CmkSigTicket(Structure):
    """TPM_CMK_SIGTICKET (5.17), 42 bytes: that this TPM saw a key's signature of a digest."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CMK_SIGTICKET)
    ver_key_digest: Annotated[bytes, DIGEST]
    signed_data: Annotated[bytes, DIGEST]


@record
class CmkMaApproval(Structure):
    """TPM_CMK_MA_APPROVAL (5.18), 22 bytes: that the owner accepts a list of authorities."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.CMK_MA_APPROVAL)
    migration_authority_digest: Annotated[bytes, DIGEST]


@record
class MigrateAsymKey(Structure):
    """TPM_MIGRATE_ASYMKEY (10.8): the message in the inner OAEP block of a migration blob.

    Attributes:
        part_priv_key: TPM_STORE_PRIVKEY without its first 20 bytes, which are the block's seed.
    """

    payload: Annotated[int, U8]
    usage_auth: Annotated[bytes, DIGEST]
    pub_data_digest: Annotated[bytes, DIGEST]
    part_priv_key: Annotated[bytes, SIZED]

    def __repr__(self) -> str:
        return f"MigrateAsymKey(payload={self.payload}, <secret>)"
