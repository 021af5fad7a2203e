# SPDX-License-Identifier: Apache-2.0
"""Structures of delegation (Part 2, 20)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Self

from protocol.tpm12.constants import StructureTag, tested_as_number
from protocol.tpm12.pcr import PcrInfoShort
from protocol.tpm12.records import record
from protocol.tpm12.wire import (
    DIGEST,
    SIZED,
    U8,
    U32,
    Prefix,
    Reader,
    Structure,
    WireError,
    tag_prefix,
)


class DelegateType(enum.IntEnum):
    """TPM_DEL_* (20.2): whose commands the bits of a delegation mean."""

    OWNER = 1
    KEY = 2


@tested_as_number
class FamilyFlags(enum.IntFlag):
    """TPM_FAMILY_FLAGS (20.4)."""

    ENABLED = 0x1
    ADMIN_LOCK = 0x2


class FamilyOperation(enum.IntEnum):
    """TPM_FAMILY_OPERATION (20.14)."""

    CREATE = 1
    ENABLE = 2
    ADMIN = 3
    INVALIDATE = 4


class BadDelegation(WireError):
    """A type or permission bits that do not exist (TPM_BAD_PARAMETER)."""


_TAG: Final = tag_prefix(StructureTag.DELEGATIONS)
_NUMBERS: Final = struct.Struct(">III")
_MASKS: Final[Mapping[int, int]] = {DelegateType.OWNER: 0xFFFFFFFF, DelegateType.KEY: 0x1FFFFFFF}


@record
class Delegations(Structure):
    """TPM_DELEGATIONS (20.2), 14 bytes.

    Attributes:
        delegate_type: a DelegateType.
        per1: bits of the ordinals, see Command.owner_bit and Command.key_bit.
        per2: 0; all its bits are reserved.
    """

    prefix: ClassVar[Prefix | None] = _TAG
    delegate_type: Annotated[int, U32]
    per1: Annotated[int, U32]
    per2: Annotated[int, U32] = 0

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take one; unknown types and reserved bits are BadDelegation."""
        start = reader.position
        _TAG.check(reader, "Delegations")
        delegate_type, per1, per2 = reader.unpack(_NUMBERS, "Delegations")
        mask = _MASKS.get(delegate_type)
        if mask is None:
            raise BadDelegation("delegateType", start, f"{delegate_type} is none")
        if per1 & ~mask or per2:
            raise BadDelegation("per", start, f"{per1:#x} {per2:#x} has reserved bits")
        return cls(delegate_type, per1, per2)


@record
class FamilyTableEntry(Structure):
    """TPM_FAMILY_TABLE_ENTRY (20.5), 15 bytes; flags are bits of FamilyFlags."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.FAMILY_TABLE_ENTRY)
    label: Annotated[int, U8]
    family_id: Annotated[int, U32]
    verification_count: Annotated[int, U32]
    flags: Annotated[int, U32]


@record
class DelegatePublic(Structure):
    """TPM_DELEGATE_PUBLIC (20.8)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.DELEGATE_PUBLIC)
    is_exact: ClassVar[bool] = True
    label: Annotated[int, U8]
    pcr_info: PcrInfoShort
    permissions: Delegations
    family_id: Annotated[int, U32]
    verification_count: Annotated[int, U32]

    # Written out, as in Key: dataclasses.replace takes three times as long.
    def at_count(self, verification_count: int) -> DelegatePublic:
        """Return a copy with another verification count."""
        return DelegatePublic(
            self.label, self.pcr_info, self.permissions, self.family_id, verification_count
        )


@record(repr=False)
class DelegateSensitive(Structure):
    """TPM_DELEGATE_SENSITIVE (20.10), 22 bytes: the plaintext of a blob's sensitive area."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.DELEGATE_SENSITIVE)
    auth_value: Annotated[bytes, DIGEST]


@record(repr=False)
class DelegateOwnerBlob(Structure):
    """TPM_DELEGATE_OWNER_BLOB (20.11)."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.DELEGATE_OWNER_BLOB)
    is_exact: ClassVar[bool] = True
    public: DelegatePublic
    integrity_digest: Annotated[bytes, DIGEST]
    additional_area: Annotated[bytes, SIZED]
    sensitive_area: Annotated[bytes, SIZED]


@record(repr=False)
class DelegateKeyBlob(Structure):
    """TPM_DELEGATE_KEY_BLOB (20.12); pub_key_digest is SHA-1 of the key's TPM_STORE_PUBKEY."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.DELEGATE_KEY_BLOB)
    is_exact: ClassVar[bool] = True
    public: DelegatePublic
    integrity_digest: Annotated[bytes, DIGEST]
    pub_key_digest: Annotated[bytes, DIGEST]
    additional_area: Annotated[bytes, SIZED]
    sensitive_area: Annotated[bytes, SIZED]
