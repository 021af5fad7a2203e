# SPDX-License-Identifier: Apache-2.0
"""Moving a vTPM from one manager to another: what is sent, and what vouches for it.

    source                          operator, agent                          target
                                        <-- TransportKey ------------------- TRANSPORT_KEY
    TRANSPORT_KEY -- TransportKey -->
                                    MoveApproval, signed by the agent
    MOVE_EXPORT   -- MovePackage -------------------------------------> MOVE_IMPORT
    MOVE_RELEASE <------------------------------------- MoveReceipt --
                  -- MoveRelease -------------------------------------> MOVE_ACTIVATE

After MOVE_EXPORT the source never serves the vTPM; before MOVE_ACTIVATE the target does not. Each
message is a file that the operator carries, and none has a secret that could be read: the
package's contents are encrypted under a fresh AES-256 key (GCM), that key to the target's transport
key, which only the target's hardware TPM uses.

    contents      key data of the vTPM 64, move secret 32, flags 4
    associated    "vTPM PACK1", source, target, vTPM, move (16 bytes each)
    receipt       HMAC-SHA256(move secret, "vTPM RCPT1" || source || target || vTPM || move ||
                  challenge), so only who opened the package can have made it
    release       the same with "vTPM RLSE1", so only who made the package can have made it

The challenge is the target's, random for each import: a release makes one import live, once, and
who imports an old package a second time has no release for it.

Everything here is ours; Xen's manager moves nothing.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, Protocol, Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import WireError
from protocol.manager.management import (
    MODULUS_BYTES,
    SIGNATURE_BYTES,
    UUID_BYTES,
    UUID_WIRE,
    Rest,
)
from protocol.manager.messages import KEY_DATA_MAX_BYTES
from protocol.tpm12.keys import PubKey
from protocol.tpm12.wire import (
    DIGEST,
    DIGEST_BYTES,
    SIZED,
    U8,
    U32,
    U64,
    BadTag,
    FixedBytes,
    Prefix,
    Structure,
)

SHA256_BYTES: Final = 32
SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 12
ANY_VTPM: Final = UUID(int=0)
"""In an approval: every vTPM of the group."""

QUOTE_TAIL_BYTES: Final = DIGEST_BYTES + SIGNATURE_BYTES
"""What ends everything that a source vouches for: composite hash of its PCRs, and the quote."""

_SHA256: Final = FixedBytes(SHA256_BYTES)
_MODULUS: Final = FixedBytes(MODULUS_BYTES)
_SIGNATURE: Final = FixedBytes(SIGNATURE_BYTES)


def _magic(text: bytes) -> Prefix:
    return Prefix(text, len(text), BadTag)


_KEY: Final = _magic(b"vTPM TKEY1")
_APPROVAL: Final = _magic(b"vTPM MOVE1")
_PACKAGE: Final = _magic(b"vTPM PACK1")
_RECEIPT: Final = _magic(b"vTPM RCPT1")
_RELEASE: Final = _magic(b"vTPM RLSE1")


class BadPackage(Exception):
    """A package whose contents are not what their maker encrypted for this move."""


class MoveState(enum.IntEnum):
    """What a manager notes of a move, as MOVE_LIST tells it."""

    LEAVING = 1
    """Exported; nobody serves the vTPM until the target is done or the move is cancelled."""
    GONE = 2
    """The target has it. The release is kept, and nobody gets a new vTPM of this uuid here."""
    ARRIVING = 3
    """Imported; not served until the source releases it."""
    ARRIVED = 4
    """Live here, by this move."""


# --- who is who ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TransportKeyRequest(Structure):
    """TRANSPORT_KEY: show the key to which vTPMs of a group are encrypted on their way here.

    Attributes:
        nonce: of who asks; the certificate carries it.
    """

    group: Annotated[int, U32]
    nonce: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True)
class TransportKey(Structure):
    """TRANSPORT_KEY's answer.

    Attributes:
        manager: whose it is.
        public_key: of the binding key in its hardware TPM.
        aik_modulus: of the group's attestation identity key.
        nonce: as it was asked with.
        certificate: what that key certifies: encoded TPM_CERTIFY_INFO or TPM_CERTIFY_INFO2.
        signature: over it.
    """

    prefix: ClassVar[Prefix | None] = _KEY
    manager: Annotated[UUID, UUID_WIRE]
    public_key: PubKey
    aik_modulus: Annotated[bytes, _MODULUS]
    nonce: Annotated[bytes, DIGEST]
    certificate: Annotated[bytes, SIZED]
    signature: Annotated[bytes, _SIGNATURE]

    @property
    def digest(self) -> bytes:
        """What an agent approves of it, 32 bytes; see `key_digest`."""
        return key_digest(self.manager, self.public_key, self.aik_modulus)


def key_digest(manager: UUID, public_key: PubKey, aik_modulus: bytes) -> bytes:
    """Return SHA-256 over "vTPM TKEY1", manager uuid, TPM_PUBKEY and AIK modulus.

    Nonce and certificate are left out: they are made anew each time the key is shown.
    """
    named = _KEY.value + manager.bytes + public_key.encode() + aik_modulus
    return hashlib.sha256(named).digest()


@dataclass(frozen=True, slots=True)
class MoveApproval(Structure):
    """What an agent signs to let vTPMs of its group move.

    Attributes:
        source, target: uuids of the managers.
        source_key, target_key: digests of their transport keys.
        vtpm: which one; ANY_VTPM for all of the group.
        sequence: the approval counts until the group has a list with a greater sequence number.
        signature: RSASSA-PKCS1-v1_5 with SHA-256 over everything before it.
    """

    prefix: ClassVar[Prefix | None] = _APPROVAL
    source: Annotated[UUID, UUID_WIRE]
    source_key: Annotated[bytes, _SHA256]
    target: Annotated[UUID, UUID_WIRE]
    target_key: Annotated[bytes, _SHA256]
    vtpm: Annotated[UUID, UUID_WIRE]
    sequence: Annotated[int, U64]
    signature: Annotated[bytes, _SIGNATURE] = bytes(SIGNATURE_BYTES)

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return self.encode()[:-SIGNATURE_BYTES]

    def covers(self, vtpm: UUID) -> bool:
        """Say whether it is about this vTPM."""
        return self.vtpm in (ANY_VTPM, vtpm)


class Vouched(Protocol):
    """What the source of an approved move makes and its identity key quotes, so that the target can
    tell who made it."""

    @property
    def vtpm(self) -> UUID:
        """Of which vTPM it is."""

    @property
    def source_public_key(self) -> PubKey:
        """Of the source's transport key; the approval names its digest."""

    @property
    def source_aik(self) -> bytes:
        """Modulus of the identity key that quotes, 256 bytes; the same digest is over it too."""

    @property
    def approval(self) -> MoveApproval:
        """By which it may cross."""

    @property
    def composite(self) -> bytes:
        """Of the source's PCRs when it was made, 20 bytes."""

    @property
    def signature(self) -> bytes:
        """The quote."""

    @property
    def external_data(self) -> bytes:
        """What the quote is over, 20 bytes; see `vouched_data`."""

    def quoted(self, composite: bytes, signature: bytes) -> Self:
        """Return it with the quote."""


def vouched_data(domain: bytes, encoded: bytes) -> bytes:
    """Return SHA-1 of four letters that say the kind, and SHA-256 of all but composite and quote.

    SHA-1 is the chip's; what it is taken over is not the choice of anybody but the source.
    """
    return hashlib.sha1(domain + hashlib.sha256(encoded[:-QUOTE_TAIL_BYTES]).digest()).digest()


# --- the move itself -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contents(Structure):
    """What is encrypted.

    Attributes:
        key_data: of the vTPM, 64 bytes.
        secret: of this move, known to the two managers only.
        flags: of the vTPM.
    """

    key_data: Annotated[bytes, FixedBytes(KEY_DATA_MAX_BYTES)]
    secret: Annotated[bytes, FixedBytes(SECRET_BYTES)]
    flags: Annotated[int, U32]

    def __repr__(self) -> str:
        return "Contents()"


@dataclass(frozen=True, slots=True)
class Move:
    """Which move of which vTPM between whom.

    Attributes:
        identifier: random, a new one for each export.
    """

    identifier: UUID
    source: UUID
    target: UUID
    vtpm: UUID

    def encrypt(self, key: bytes, nonce: bytes, contents: Contents) -> bytes:
        """Return the contents under a key of 32 bytes that is used this once."""
        return AESGCM(key).encrypt(nonce, contents.encode(), _PACKAGE.value + self._names)

    def receipt(self, secret: bytes, challenge: bytes) -> MoveReceipt:
        """Return the target's receipt."""
        mac = self._mac(secret, _RECEIPT, challenge)
        return MoveReceipt(self.identifier, self.vtpm, challenge, mac)

    def check_receipt(self, secret: bytes, receipt: MoveReceipt) -> bool:
        """Say whether the target made a receipt."""
        named = (self.identifier, self.vtpm) == (receipt.move, receipt.vtpm)
        mac = self._mac(secret, _RECEIPT, receipt.challenge)
        return named and hmac.compare_digest(mac, receipt.mac)

    def release(self, secret: bytes, challenge: bytes) -> MoveRelease:
        """Return the source's release of the import with this challenge."""
        mac = self._mac(secret, _RELEASE, challenge)
        return MoveRelease(self.identifier, self.vtpm, mac)

    def check_release(self, secret: bytes, challenge: bytes, release: MoveRelease) -> bool:
        """Say whether the source made a release, of this import."""
        named = (self.identifier, self.vtpm) == (release.move, release.vtpm)
        mac = self._mac(secret, _RELEASE, challenge)
        return named and hmac.compare_digest(mac, release.mac)

    @property
    def _names(self) -> bytes:
        return self.source.bytes + self.target.bytes + self.vtpm.bytes + self.identifier.bytes

    def _mac(self, secret: bytes, purpose: Prefix, challenge: bytes) -> bytes:
        return hmac.digest(secret, purpose.value + self._names + challenge, hashlib.sha256)


@dataclass(frozen=True, slots=True)
class MoveExport(Structure):
    """MOVE_EXPORT: make a vTPM leave, or show the package of one that is leaving.

    Attributes:
        target: encoded TransportKey.
        approval: encoded MoveApproval; may be empty for one that is leaving.
    """

    vtpm: Annotated[UUID, UUID_WIRE]
    target: Annotated[bytes, SIZED]
    approval: Annotated[bytes, SIZED]


@dataclass(frozen=True, slots=True)
class MovePackage(Structure):
    """MOVE_EXPORT's answer and MOVE_IMPORT's request.

    Attributes:
        identifier: of the move.
        source_public_key, source_aik: what the digest of the source's transport key is over.
        approval: of the agent, for this source and this target.
        wrapped_key: key of the contents, encrypted to the target's transport key as TPM_UnBind
            wants it.
        nonce: of the contents.
        box: the contents, encrypted, with GCM's tag.
        composite: of the source's PCRs when it made the package.
        signature: quote of the source's AIK, whose external data is `external_data`.
    """

    prefix: ClassVar[Prefix | None] = _PACKAGE
    identifier: Annotated[UUID, UUID_WIRE]
    vtpm: Annotated[UUID, UUID_WIRE]
    source_public_key: PubKey
    source_aik: Annotated[bytes, _MODULUS]
    approval: MoveApproval
    wrapped_key: Annotated[bytes, SIZED]
    nonce: Annotated[bytes, FixedBytes(NONCE_BYTES)]
    box: Annotated[bytes, SIZED]
    composite: Annotated[bytes, DIGEST] = bytes(DIGEST_BYTES)
    signature: Annotated[bytes, _SIGNATURE] = bytes(SIGNATURE_BYTES)

    @property
    def move(self) -> Move:
        """Which move it is of."""
        return Move(self.identifier, self.approval.source, self.approval.target, self.vtpm)

    @property
    def external_data(self) -> bytes:
        """SHA-1 of "MOVE" and SHA-256 of everything before the composite hash.

        No quote that a vTPM can ask for has external data of this form.
        """
        return vouched_data(b"MOVE", self.encode())

    def quoted(self, composite: bytes, signature: bytes) -> Self:
        """Return it with the quote."""
        return replace(self, composite=composite, signature=signature)

    def open(self, key: bytes) -> Contents:
        """Return the contents; BadPackage if the key, or what it should be about, is another."""
        associated = _PACKAGE.value + self.move._names
        try:
            return Contents.decode(AESGCM(key).decrypt(self.nonce, self.box, associated))
        except (InvalidTag, ValueError, WireError) as error:
            raise BadPackage("the package does not open") from error


@dataclass(frozen=True, slots=True)
class MoveReceipt(Structure):
    """MOVE_IMPORT's answer and MOVE_RELEASE's request.

    Attributes:
        challenge: of the import, 32 random bytes.
    """

    prefix: ClassVar[Prefix | None] = _RECEIPT
    move: Annotated[UUID, UUID_WIRE]
    vtpm: Annotated[UUID, UUID_WIRE]
    challenge: Annotated[bytes, FixedBytes(SECRET_BYTES)]
    mac: Annotated[bytes, _SHA256]


@dataclass(frozen=True, slots=True)
class MoveRelease(Structure):
    """MOVE_RELEASE's answer and MOVE_ACTIVATE's request."""

    prefix: ClassVar[Prefix | None] = _RELEASE
    move: Annotated[UUID, UUID_WIRE]
    vtpm: Annotated[UUID, UUID_WIRE]
    mac: Annotated[bytes, _SHA256]


@dataclass(frozen=True, slots=True)
class MoveList(Structure):
    """MOVE_LIST: the moves from an offset on, in the order of the vTPMs' uuids."""

    offset: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class MoveEntry(Structure):
    """One line of MOVE_LIST's answer.

    Attributes:
        peer: uuid of the other manager.
        state: see `MoveState`.
    """

    vtpm: Annotated[UUID, UUID_WIRE]
    identifier: Annotated[UUID, UUID_WIRE]
    peer: Annotated[UUID, UUID_WIRE]
    state: Annotated[int, U8]


MOVE_ENTRY_BYTES: Final = 3 * UUID_BYTES + 1


@dataclass(frozen=True, slots=True)
class MovesListed(Structure):
    """MOVE_LIST's answer: how many there are in all, and some encoded entries."""

    total: Annotated[int, U32]
    entries: Annotated[tuple[bytes, ...], Rest(MOVE_ENTRY_BYTES)]
