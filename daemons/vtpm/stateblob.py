# SPDX-License-Identifier: Apache-2.0
"""The bytes of a state blob: a part of a vTPM's state on its way out of, and into, a vTPM.

A blob leaves by the control channel, in a snapshot or a stream of migration, and whoever carries it
learns nothing from it: it is encrypted under a key that the manager hands out with it. The manager
also says, by the descriptor that travels in the blob, who may open it. Integers are big-endian.

| offset | bytes | field      | meaning |
|--------|-------|------------|---------|
| 0      | 8     | magic      | `76 54 50 4D 62 6C 62 0A`, "vTPMblb" and a line feed |
| 8      | 2     | major      | 1; a reader refuses any other |
| 10     | 2     | minor      | 1; a reader takes its own and older ones, and refuses newer ones |
| 12     | 4     | kind       | 1 permanent state, 2 volatile state |
| 16     | 16    | uuid       | the vTPM that it was taken from |
| 32     | 8     | sequence   | number of the image that the vTPM had |
| 40     | 12    | nonce      | of AES-GCM, random |
| 52     | 4     | descriptor | d, bytes of the manager's descriptor, 1 to 3000 |
| 56     | 4     | length     | n, bytes of ciphertext without the tag |
| 60     | d     | descriptor | the manager's (STATE_KEY_NEW), opaque here |
| 60+d   | n     | ciphertext | what is below, AES-256-GCM |
| 60+d+n | 16    | tag        | of AES-GCM; all before the ciphertext is the associated data |

There is nothing behind the tag. Each blob has a key of its own. Encrypted is the state in the
engine's own format; of a volatile state there is before it SHA-256 (32 bytes) of the permanent
state that the vTPM had at the same moment, for the two make one TPM and parts of two times make
none. Minor version 0 had no such digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import construct  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import WireError
from protocol.vtpm.control import MAX_BLOB_BYTES, StateType
from tpmcore.engine import RandomSource

MAGIC: Final = b"vTPMblb\n"
VERSION_MAJOR: Final = 1
VERSION_MINOR: Final = 1
MAX_DESCRIPTOR_BYTES: Final = 3000
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 12
DIGEST_BYTES: Final = 32
KINDS: Final = (StateType.PERMANENT, StateType.VOLATILE)

_FIRST_BOUND_MINOR: Final = 1

_HEADER: Final = construct.Struct(
    "magic" / construct.Bytes(8),
    "major" / construct.Int16ub,
    "minor" / construct.Int16ub,
    "kind" / construct.Int32ub,
    "uuid" / construct.Bytes(16),
    "sequence" / construct.Int64ub,
    "nonce" / construct.Bytes(NONCE_BYTES),
    "descriptor" / construct.Int32ub,
    "length" / construct.Int32ub,
)
HEADER_BYTES: Final[int] = _HEADER.sizeof()


def digest_of(permanent: bytes) -> bytes:
    """Return what a volatile state says of the permanent one that it was taken with, 32 bytes."""
    return hashlib.sha256(permanent).digest()


@dataclass(frozen=True, slots=True)
class Opened:
    """What a blob held.

    Attributes:
        state: in the engine's format, secrets in the clear.
        taken_with: `digest_of` the permanent state that a volatile one belongs to; None for a
            permanent state, and for a volatile one of a blob that is not `is_bound`.
    """

    state: bytes
    taken_with: bytes | None

    def __repr__(self) -> str:
        return f"Opened(state=<{len(self.state)} bytes>)"


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that is not opened yet.

    Attributes:
        kind: which part of the state.
        is_bound: whether its format binds a volatile state to a permanent one.
        uuid: of the vTPM that it was taken from.
        sequence: of that vTPM's image then.
        nonce: 12 bytes.
        descriptor: for the manager, 1 to 3000 bytes.
        head: what the tag covers besides the ciphertext.
        sealed: ciphertext and tag.
    """

    kind: StateType
    is_bound: bool
    uuid: UUID
    sequence: int
    nonce: bytes
    descriptor: bytes
    head: bytes
    sealed: bytes

    @classmethod
    def parse(cls, data: bytes) -> Blob:
        """Take a blob apart; says nothing about authenticity.

        Raises:
            WireError: none, an unknown version or kind, truncated, or bytes behind the end.
        """
        if not HEADER_BYTES <= len(data) <= MAX_BLOB_BYTES:
            raise WireError("state blob", 0, f"{len(data)} bytes")
        found = _HEADER.parse(data[:HEADER_BYTES])
        if found.magic != MAGIC:
            raise WireError("magic", 0, f"{found.magic.hex()} is not that of a state blob")
        if found.major != VERSION_MAJOR or found.minor > VERSION_MINOR:
            known = f"{VERSION_MAJOR}.{VERSION_MINOR}"
            raise WireError("version", 8, f"{found.major}.{found.minor}, known is {known}")
        if found.kind not in KINDS:
            raise WireError("kind", 12, f"{found.kind}")
        if not 1 <= found.descriptor <= MAX_DESCRIPTOR_BYTES:
            raise WireError("descriptor", 52, f"{found.descriptor} bytes")
        start = HEADER_BYTES + found.descriptor
        if len(data) != start + found.length + TAG_BYTES:
            expected = start + found.length + TAG_BYTES
            raise WireError("state blob", 0, f"{len(data)} bytes, the header says {expected}")
        return cls(
            StateType(found.kind),
            found.minor >= _FIRST_BOUND_MINOR,
            UUID(bytes=found.uuid),
            found.sequence,
            found.nonce,
            data[HEADER_BYTES:start],
            data[:start],
            data[start:],
        )

    def open(self, key: bytes) -> Opened:
        """Return what is in it.

        Args:
            key: 32 bytes, what the manager gives for the descriptor.

        Raises:
            WireError: the blob was not made with this key, or it was changed.
        """
        try:
            plain = AESGCM(key).decrypt(self.nonce, self.sealed, self.head)
        except InvalidTag:
            raise WireError("tag", len(self.head), "the key does not open the blob") from None
        if self.kind is StateType.PERMANENT or not self.is_bound:
            return Opened(plain, None)
        if len(plain) < DIGEST_BYTES:
            raise WireError("digest", len(self.head), f"{len(plain)} bytes of volatile state")
        return Opened(plain[DIGEST_BYTES:], plain[:DIGEST_BYTES])


def seal_blob(
    state: bytes,
    *,
    taken_with: bytes | None = None,
    uuid: UUID,
    sequence: int,
    key: bytes,
    descriptor: bytes,
    random: RandomSource,
) -> bytes:
    """Return a blob.

    Args:
        state: in the engine's format, secrets in the clear.
        taken_with: of a volatile state, `digest_of` the permanent one of the same moment; None:
            the state is a permanent one.
        uuid: of this vTPM.
        sequence: of its image.
        key: 32 bytes, used for nothing else.
        descriptor: what the manager gave with the key.
        random: for the nonce.

    Raises:
        ValueError: the blob would be larger than `MAX_BLOB_BYTES`, or the descriptor is none.
    """
    if not 1 <= len(descriptor) <= MAX_DESCRIPTOR_BYTES:
        raise ValueError(f"descriptor of {len(descriptor)} bytes")
    nonce = random.random(NONCE_BYTES)
    kind = StateType.PERMANENT if taken_with is None else StateType.VOLATILE
    plain = (taken_with or b"") + state
    header: bytes = _HEADER.build(
        {
            "magic": MAGIC,
            "major": VERSION_MAJOR,
            "minor": VERSION_MINOR,
            "kind": kind,
            "uuid": uuid.bytes,
            "sequence": sequence,
            "nonce": nonce,
            "descriptor": len(descriptor),
            "length": len(plain),
        }
    )
    head = header + descriptor
    blob = head + AESGCM(key).encrypt(nonce, plain, head)
    if len(blob) > MAX_BLOB_BYTES:
        raise ValueError(f"blob of {len(blob)} bytes, at most {MAX_BLOB_BYTES}")
    return blob
