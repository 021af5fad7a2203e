# SPDX-License-Identifier: Apache-2.0
"""Uuids of vTPMs that a user may make without being in the configuration.

Such a uuid carries the uid of its user, so that the manager sees from the uuid alone who may have
it, without keeping anything: no user can be let in as another one's vTPM, nor as a vTPM of the
configuration, whose uuids have another form. It is of version 8 (RFC 9562, 5.8), big-endian:

    bits   0-31    uid
          32-47    0x7654
          48-51    version, 8
          52-63    first 12 bits of the digest
          64-65    variant, binary 10
          66-127   next 62 bits of the digest

The digest is SHA-256 over a prefix and the uuid by which the user knows the TPM.
"""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import RFC_4122, UUID

_MARK: Final = 0x7654
_VERSION: Final = 8
_PREFIX: Final = b"vTPM of a user\x00"
_UID_LAST: Final = 2**32 - 2


def compat_uuid(uid: int, name: UUID) -> UUID:
    """Return the uuid of a user's vTPM.

    Args:
        uid: of the user, 0 to 2**32 - 2.
        name: the uuid by which the user knows it.

    Raises:
        ValueError: no such uid.
    """
    if not 0 <= uid <= _UID_LAST:
        raise ValueError(f"uid {uid}")
    digest = int.from_bytes(hashlib.sha256(_PREFIX + name.bytes).digest()[:10], "big") >> 6
    high, low = digest >> 62, digest & (2**62 - 1)
    value = uid << 96 | _MARK << 80 | _VERSION << 76 | high << 64 | 0b10 << 62 | low
    return UUID(int=value)


def uid_of(uuid: UUID) -> int | None:
    """Return the uid in a uuid; None if it has not this form."""
    if uuid.variant != RFC_4122 or uuid.version != _VERSION:
        return None
    return None if uuid.int >> 80 & 0xFFFF != _MARK else uuid.int >> 96
