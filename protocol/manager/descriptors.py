# SPDX-License-Identifier: Apache-2.0
"""What a descriptor of STATE_KEY_NEW is: by which a manager finds the key of a vTPM's state again.

Two kinds, told apart by their first ten letters. Neither has a secret that could be read.

    vTPM SKEY1   for the vTPM that asked for it, of the same manager, and for the one that the
                 operator names (`LocalTarget`). Key and MAC key are HKDF-SHA256(secret of the
                 group, salt = identifier, info = everything before it), so each identifier has a
                 key of its own, and the manager keeps none of them
    vTPM SPKG1   for one vTPM at the manager of another machine. A random key, encrypted to the
                 target's transport key, which only the target's hardware TPM uses; the agent's
                 approval of a move; and a quote by the source's identity key over all of it

A package is to the state of a running vTPM what a MovePackage is to one that is at rest, with the
same approval; see `moving`. But it takes nothing out of service: that one vTPM lives on one machine
only is up to who migrates it.

Everything here is ours.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, Self
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.manager.management import MODULUS_BYTES, SIGNATURE_BYTES, UUID_WIRE
from protocol.manager.moving import SHA256_BYTES, MoveApproval, TransportKey, vouched_data
from protocol.manager.statekeys import STATE_KEY_BYTES
from protocol.tpm12.keys import PubKey
from protocol.tpm12.wire import (
    BOOL,
    DIGEST,
    DIGEST_BYTES,
    SIZED,
    U64,
    BadTag,
    FixedBytes,
    Prefix,
    Structure,
)

NO_UUID: Final = UUID(int=0)

_MAC_KEY_BYTES: Final = 32
_LOCAL: Final = Prefix(b"vTPM SKEY1", 10, BadTag)
_PACKAGE: Final = Prefix(b"vTPM SPKG1", 10, BadTag)


class BadDescriptor(Exception):
    """A descriptor that was not made with this group's secret."""


@dataclass(frozen=True, slots=True)
class LocalDescriptor(Structure):
    """A key for a vTPM at the manager that made it.

    Attributes:
        manager: whose it is.
        group: uuid of the group, which must still be that of whoever gets the key.
        vtpm: that asked for the key.
        identifier: random.
        mac: HMAC-SHA256 over everything before it.
    """

    prefix: ClassVar[Prefix | None] = _LOCAL
    manager: Annotated[UUID, UUID_WIRE]
    group: Annotated[UUID, UUID_WIRE]
    vtpm: Annotated[UUID, UUID_WIRE]
    identifier: Annotated[UUID, UUID_WIRE]
    mac: Annotated[bytes, FixedBytes(SHA256_BYTES)] = bytes(SHA256_BYTES)

    def signed(self, secret: bytes) -> tuple[Self, bytes]:
        """Return it with its MAC, and the key that it stands for.

        Args:
            secret: of the group, 32 bytes.
        """
        key, mac = self._derive(secret)
        return replace(self, mac=mac), key

    def open(self, secret: bytes) -> bytes:
        """Return the key that it stands for; BadDescriptor if the MAC is not of this secret."""
        key, mac = self._derive(secret)
        if not hmac.compare_digest(mac, self.mac):
            raise BadDescriptor("the MAC does not match")
        return key

    def _derive(self, secret: bytes) -> tuple[bytes, bytes]:
        """Return the key and the MAC of what is before the MAC."""
        said = self.encode()[:-SHA256_BYTES]
        info = said[: -len(self.identifier.bytes)]
        kdf = HKDF(SHA256(), STATE_KEY_BYTES + _MAC_KEY_BYTES, self.identifier.bytes, info)
        keys = kdf.derive(secret)
        return keys[:STATE_KEY_BYTES], hmac.digest(keys[STATE_KEY_BYTES:], said, hashlib.sha256)


@dataclass(frozen=True, slots=True)
class StatePackage(Structure):
    """A key for one vTPM at another manager.

    Attributes:
        identifier: random, a new one for each key.
        vtpm: whose state it is, here and there.
        source_public_key, source_aik: what the digest of the source's transport key is over.
        approval: of the agent, for this source and this target.
        wrapped_key: the key, encrypted to the target's transport key as TPM_UnBind wants it.
        composite: of the source's PCRs when it made the package.
        signature: quote of the source's AIK, whose external data is `external_data`.
    """

    prefix: ClassVar[Prefix | None] = _PACKAGE
    identifier: Annotated[UUID, UUID_WIRE]
    vtpm: Annotated[UUID, UUID_WIRE]
    source_public_key: PubKey
    source_aik: Annotated[bytes, FixedBytes(MODULUS_BYTES)]
    approval: MoveApproval
    wrapped_key: Annotated[bytes, SIZED]
    composite: Annotated[bytes, DIGEST] = bytes(DIGEST_BYTES)
    signature: Annotated[bytes, FixedBytes(SIGNATURE_BYTES)] = bytes(SIGNATURE_BYTES)

    @property
    def external_data(self) -> bytes:
        """SHA-1 of "STAT" and SHA-256 of everything before the composite hash."""
        return vouched_data(b"STAT", self.encode())

    def quoted(self, composite: bytes, signature: bytes) -> Self:
        """Return it with the quote."""
        return replace(self, composite=composite, signature=signature)


Descriptor = LocalDescriptor | StatePackage


def decode_descriptor(data: bytes) -> Descriptor:
    """Return what a descriptor says.

    Raises:
        WireError: it is neither kind.
    """
    kind = StatePackage if data.startswith(_PACKAGE.value) else LocalDescriptor
    return kind.decode(data)


# --- management: to whom the state of a vTPM may go ----------------------------------------------


@dataclass(frozen=True, slots=True)
class StateTarget(Structure):
    """STATE_TARGET_SET: from now on keys of a vTPM's state are for the manager of another machine.

    Attributes:
        target: transport key of that manager.
        approval: of the agent, that the vTPM may move there.
    """

    vtpm: Annotated[UUID, UUID_WIRE]
    target: TransportKey
    approval: MoveApproval


@dataclass(frozen=True, slots=True)
class LocalTarget(Structure):
    """STATE_TARGET_LOCAL: from now on another vTPM of this manager may load a vTPM's state.

    Attributes:
        vtpm: whose state.
        target: that other one, of the same group.
    """

    vtpm: Annotated[UUID, UUID_WIRE]
    target: Annotated[UUID, UUID_WIRE]


@dataclass(frozen=True, slots=True)
class StateTargetShown(Structure):
    """STATE_TARGET_SHOW's answer; at most one of `manager` and `vtpm` is set.

    Attributes:
        manager: uuid of the other manager, NO_UUID if none is set.
        sequence: of the approval.
        counts: whether the approval still counts.
        vtpm: uuid of the other vTPM here, NO_UUID if none is set.
    """

    manager: Annotated[UUID, UUID_WIRE] = NO_UUID
    sequence: Annotated[int, U64] = 0
    counts: Annotated[bool, BOOL] = False
    vtpm: Annotated[UUID, UUID_WIRE] = NO_UUID
