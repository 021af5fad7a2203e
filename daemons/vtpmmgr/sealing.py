# SPDX-License-Identifier: Apache-2.0
"""The root secret: what the hardware TPM seals for the manager, and why it does not come out again.

    offset  size  field
         0     4  "VMR1"
         4    16  uuid of the manager
        20    32  manager key
        52     4  NV index of the freshness area, big-endian
        56    20  authorization value of that area

76 bytes; a 2048-bit storage key seals at most 149. It is sealed once for each approved platform
configuration (now: one, that of the first start), each sealed blob being a row of the seals table.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID, uuid4

from daemons.runtime.secret import AUTH_BYTES, Secret
from daemons.vtpmmgr.envelope import KEY_BYTES
from daemons.vtpmmgr.records import SealRecord

_ROOT: Final = struct.Struct(">4s16s32sI20s")
_MAGIC: Final = b"VMR1"

PcrValues = Sequence[tuple[int, bytes]]
"""(index, value) pairs, ascending."""


class NotARootSecret(Exception):
    """Unsealed bytes that are not a root secret of a version we know."""


@dataclass(frozen=True, slots=True, repr=False)
class RootSecret:
    """What the hardware TPM keeps for the manager.

    Attributes:
        manager: uuid of the manager.
        manager_key: top of the key hierarchy, 32 bytes.
        nv_index: of the freshness area.
        nv_auth: its authorization value, 20 bytes.
    """

    manager: UUID
    manager_key: Secret
    nv_index: int
    nv_auth: Secret

    def __repr__(self) -> str:
        return f"RootSecret(manager={self.manager}, nv_index={self.nv_index:#x})"

    @classmethod
    def new(cls, nv_index: int) -> Self:
        """Return a fresh one."""
        key, auth = Secret(os.urandom(KEY_BYTES)), Secret(os.urandom(AUTH_BYTES))
        return cls(uuid4(), key, nv_index, auth)

    def encode(self) -> Secret:
        """Return the bytes to be sealed."""
        packed = _ROOT.pack(
            _MAGIC, self.manager.bytes, self.manager_key, self.nv_index, self.nv_auth
        )
        return Secret(packed)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the root secret in unsealed bytes.

        Raises:
            NotARootSecret: other length or magic.
        """
        if len(data) != _ROOT.size:
            raise NotARootSecret(f"{len(data)} bytes, a root secret has {_ROOT.size}")
        magic, manager, key, nv_index, nv_auth = _ROOT.unpack(data)
        if magic != _MAGIC:
            raise NotARootSecret(f"begins with {magic!r}")
        return cls(UUID(bytes=manager), Secret(key), nv_index, Secret(nv_auth))


def differing_pcrs(seal: SealRecord, now: PcrValues) -> list[int]:
    """Return the PCRs whose value is not the one that the seal names."""
    current = dict(now)
    return [index for index, value in seal.pcr_values if current.get(index) != value]


def explain_pcrs(seals: Iterable[SealRecord], now: PcrValues) -> str:
    """Say for the seal that comes closest which PCRs differ, and how; empty if one seal fits."""
    closest = min(seals, key=lambda seal: len(differing_pcrs(seal, now)), default=None)
    if closest is None:
        return "the database has no seal"
    sealed, current = dict(closest.pcr_values), dict(now)
    return "; ".join(
        f"PCR {index} is {current.get(index, b'').hex()}, sealed to {sealed[index].hex()}"
        for index in differing_pcrs(closest, now)
    )
