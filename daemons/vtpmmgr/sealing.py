# SPDX-License-Identifier: Apache-2.0
"""What the hardware TPM seals for the manager, and why it does not come out again.

The root secret:

    offset  size  field
         0     4  "VMR1"
         4    16  uuid of the manager
        20    32  manager key
        52     4  NV index of the freshness area, big-endian
        56    20  authorization value of that area

The secret of a group:

    offset  size  field
         0     4  "VMG1"
         4    16  uuid of the manager
        20    16  uuid of the group
        36    32  secret of the inner envelope of the group key

76 and 68 bytes; a 2048-bit storage key seals at most 149. Each is sealed once for each approved
platform configuration, the blobs being rows of the seals table. Until group 0 has an agent, the one
configuration of the root secret is that of the first start; afterwards those of group 0 are.
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
from daemons.vtpmmgr.records import PCR_COUNT, SealRecord
from protocol.tpm12.pcr import PcrSelection, composite_hash

_ROOT: Final = struct.Struct(">4s16s32sI20s")
_MAGIC: Final = b"VMR1"
_GROUP: Final = struct.Struct(">4s16s16s32s")
_GROUP_MAGIC: Final = b"VMG1"

PcrValues = Sequence[tuple[int, bytes]]
"""(index, value) pairs, ascending."""


class NotARootSecret(Exception):
    """Unsealed bytes that are not a root secret of a version we know."""


class NotAGroupSecret(Exception):
    """Unsealed bytes that are not the secret of this group."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A state of the platform, as a seal and a configuration list know it.

    Attributes:
        selection: which PCRs of the hardware TPM.
        composite: TPM_COMPOSITE_HASH of their values, 20 bytes.
        values: the values as far as known; empty for one that was approved before it was booted.
    """

    selection: PcrSelection
    composite: bytes
    values: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def of(cls, values: PcrValues) -> Self:
        """Return the configuration in which PCRs have these values."""
        selection = PcrSelection.of([index for index, _ in values])
        return cls(selection, composite_of(selection, values), tuple(values))


def composite_of(selection: PcrSelection, values: PcrValues) -> bytes:
    """Return the composite hash of a selection; ValueError if a selected PCR is not known."""
    known = dict(values)
    missing = set(selection.indices) - known.keys()
    if missing:
        raise ValueError(f"no values of PCRs {sorted(missing)}")
    return composite_hash(selection, [known.get(index, b"") for index in range(PCR_COUNT)])


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


def nv_indices(nv_index: int) -> tuple[int, int]:
    """Return the two NV indices of a manager that is told one of them.

    The area's secret cannot be changed; a new area takes the other index.
    """
    return nv_index, nv_index ^ 1


def encode_group_secret(manager: UUID, group: UUID, secret: Secret) -> Secret:
    """Return the bytes to be sealed for a group, 68."""
    return Secret(_GROUP.pack(_GROUP_MAGIC, manager.bytes, group.bytes, secret))


def decode_group_secret(manager: UUID, group: UUID, data: bytes) -> Secret:
    """Return the secret in unsealed bytes.

    Raises:
        NotAGroupSecret: other length, magic, manager or group.
    """
    if len(data) != _GROUP.size:
        raise NotAGroupSecret(f"{len(data)} bytes, a group's secret has {_GROUP.size}")
    magic, of_manager, of_group, secret = _GROUP.unpack(data)
    if (magic, of_manager, of_group) != (_GROUP_MAGIC, manager.bytes, group.bytes):
        raise NotAGroupSecret(f"begins with {magic!r} and is of another manager or group")
    return Secret(secret)


def differing_pcrs(seal: SealRecord, now: PcrValues) -> list[int]:
    """Return the PCRs whose value is not the one that the seal names."""
    current = dict(now)
    return [index for index, value in seal.pcr_values if current.get(index) != value]


def explain_pcrs(seals: Iterable[SealRecord], now: PcrValues) -> str:
    """Say for the seal that comes closest which PCRs differ, and how.

    Of configurations that were approved and never booted the values are not known; they are only
    counted.
    """
    known = [seal for seal in seals if seal.pcr_values]
    closest = min(known, key=lambda seal: len(differing_pcrs(seal, now)), default=None)
    if closest is None:
        return "this configuration of the platform is none of the approved ones"
    sealed, current = dict(closest.pcr_values), dict(now)
    return "; ".join(
        f"PCR {index} is {current.get(index, b'').hex()}, sealed to {sealed[index].hex()}"
        for index in differing_pcrs(closest, now)
    )
