# SPDX-License-Identifier: Apache-2.0
"""The bytes of a slot file: one encrypted image of a vTPM's permanent state.

A vTPM has two slot files, `slot0` and `slot1`, in its state folder. Each holds one image, or is
missing, or holds whatever a power cut left; which one counts is known to the manager only, as the
SHA-256 of the whole file. Integers are big-endian.

| offset | bytes | field       | meaning |
|--------|-------|-------------|---------|
| 0      | 8     | magic       | `76 54 50 4D 69 6D 67 0A`, "vTPMimg" and a line feed |
| 8      | 2     | major       | 1; a reader refuses any other |
| 10     | 2     | minor       | of the flags: 2 with bit 1, else 1 with bit 0, else 0; a reader |
|        |       |             | refuses newer ones |
| 12     | 4     | flags       | bits 0 and 1: volatile state is kept, see below; a reader |
|        |       |             | refuses others |
| 16     | 16    | uuid        | the vTPM that the image belongs to |
| 32     | 8     | sequence    | 1 for the first image, then one more than the last acknowledged |
| 40     | 12    | nonce       | of AES-GCM, random |
| 52     | 4     | length      | n, bytes of ciphertext without the tag, at most 1048576 |
| 56     | n     | ciphertext  | the state, AES-256-GCM |
| 56+n   | 16    | tag         | of AES-GCM; the header (offset 0 to 55) is the associated data |

There is nothing behind the tag. The state is the permanent state of the engine in its own format.
With bit 0 of the flags it is that state's length (4 bytes), that state, and to the end a volatile
state in the engine's format: one that a later power-on takes up, as a machine wants it that was
suspended or has come from elsewhere. With bit 1 too it is that length, the permanent state, 32
bytes, and the volatile state: it came in, and does not belong to the permanent state beside it, but
to the one whose SHA-256 the 32 bytes are. No power-on takes it up before that one is there.

Each image has a key of its own, 32 random bytes, which never touch
the disk: the manager keeps SHA-256(file) || key, 64 bytes together, and gives them back to whom it
knows as this uuid. The last 12 bytes of a key are never all zero, since LOADHASHKEY cuts those off.
64 zero bytes mean that the vTPM is registered and has no image yet.

The header is for diagnosis and for whoever holds the key; what decides is the hash. The sequence
tells an image that nobody was told about (1, while the manager has no hash) from one that was
acknowledged.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import construct  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import WireError
from tpmcore.engine import RandomSource

MAGIC: Final = b"vTPMimg\n"
VERSION_MAJOR: Final = 1
VERSION_MINOR: Final = 2

KEPT_VOLATILE: Final = 1
ASTRAY: Final = 2
"""Flags: see above."""

_MINOR: Final = {0: 0, KEPT_VOLATILE: 1, KEPT_VOLATILE | ASTRAY: VERSION_MINOR}
"""First minor version that has these flags together; an older reader takes what it can."""

_HEADER: Final = construct.Struct(
    "magic" / construct.Bytes(8),
    "major" / construct.Int16ub,
    "minor" / construct.Int16ub,
    "flags" / construct.Int32ub,
    "uuid" / construct.Bytes(16),
    "sequence" / construct.Int64ub,
    "nonce" / construct.Bytes(12),
    "length" / construct.Int32ub,
)
HEADER_BYTES: Final[int] = _HEADER.sizeof()
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
HASH_BYTES: Final = 32
MAX_STATE_BYTES: Final = 1 << 20
"""Far above any permanent state (NV area and keys of a TPM 1.2 are some tens of KiB)."""
MAX_SLOT_BYTES: Final = HEADER_BYTES + MAX_STATE_BYTES + TAG_BYTES

_CUT_BY_LOADHASHKEY: Final = 12
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Content:
    """What an image holds, secrets in the clear.

    Attributes:
        permanent: permanent state of the engine.
        volatile: volatile state that the next power-on by the machine takes up; None: it begins
            afresh.
        astray_from: SHA-256 of the permanent state that `volatile` was taken with, where that is
            not `permanent`; None: it belongs to `permanent`.
    """

    permanent: bytes
    volatile: bytes | None = None
    astray_from: bytes | None = None

    def __repr__(self) -> str:
        kept = "none" if self.volatile is None else f"{len(self.volatile)} bytes"
        return f"Content(permanent=<{len(self.permanent)} bytes>, volatile=<{kept}>)"

    @property
    def flags(self) -> int:
        """Of the slot's header."""
        if self.volatile is None:
            return 0
        return KEPT_VOLATILE if self.astray_from is None else KEPT_VOLATILE | ASTRAY

    def encode(self) -> bytes:
        """Return what is encrypted."""
        if self.volatile is None:
            return self.permanent
        length = len(self.permanent).to_bytes(_LENGTH_BYTES, "big")
        return length + self.permanent + (self.astray_from or b"") + self.volatile

    @classmethod
    def decode(cls, plain: bytes, flags: int) -> Content:
        """Return what was encrypted; WireError if its parts do not fit."""
        if not flags & KEPT_VOLATILE:
            return cls(plain)
        end = _LENGTH_BYTES + int.from_bytes(plain[:_LENGTH_BYTES], "big")
        if not _LENGTH_BYTES <= end <= len(plain):
            raise WireError("state", HEADER_BYTES, f"permanent part ends at {end} of {len(plain)}")
        permanent, rest = plain[_LENGTH_BYTES:end], plain[end:]
        if not flags & ASTRAY:
            return cls(permanent, rest)
        if len(rest) < HASH_BYTES:
            raise WireError("state", HEADER_BYTES + end, f"{len(rest)} bytes of volatile part")
        return cls(permanent, rest[HASH_BYTES:], rest[:HASH_BYTES])


@dataclass(frozen=True, slots=True)
class HashKey:
    """What the manager keeps for one vTPM.

    Attributes:
        digest: SHA-256 of the whole slot file, 32 bytes; not secret.
        key: AES-256 key of the image, 32 bytes.
    """

    digest: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"HashKey(digest={self.digest.hex()}, key=<{len(self.key)} bytes>)"

    def encode(self) -> bytes:
        """Return the 64 bytes for SAVEHASHKEY."""
        return self.digest + self.key

    @classmethod
    def decode(cls, data: bytes) -> HashKey | None:
        """Return what 64 bytes of the manager say; None if all are zero (no image yet).

        Raises:
            WireError: another length.
        """
        if len(data) != HASH_BYTES + KEY_BYTES:
            raise WireError("hash and key", 0, f"{len(data)} bytes, must be 64")
        if not any(data):
            return None
        return cls(data[:HASH_BYTES], data[HASH_BYTES:])

    def matches(self, slot: bytes) -> bool:
        """Whether this is the record of the slot file with these bytes."""
        return hmac.compare_digest(hashlib.sha256(slot).digest(), self.digest)


@dataclass(frozen=True, slots=True)
class SlotHeader:
    """The head of a slot file.

    Attributes:
        uuid: the vTPM that the image belongs to.
        sequence: number of the image in the life of its vTPM, from 1.
        nonce: 12 bytes.
        flags: of what is inside.
        state_bytes: length of the state inside.
    """

    uuid: UUID
    sequence: int
    nonce: bytes
    flags: int
    state_bytes: int


def seal_image(
    content: Content, uuid: UUID, sequence: int, random: RandomSource
) -> tuple[bytes, HashKey]:
    """Encrypt a state under a fresh key.

    Args:
        content: what it is to hold.
        uuid: the vTPM.
        sequence: of the new image, from 1 to 2**64 - 1.
        random: where key and nonce come from.

    Returns: the bytes of the slot file, and what the manager must keep for it.

    Raises:
        ValueError: the state is longer than an image holds.
    """
    state = content.encode()
    if len(state) > MAX_STATE_BYTES:
        raise ValueError(f"state of {len(state)} bytes, an image holds {MAX_STATE_BYTES}")
    key = random.random(KEY_BYTES)
    while not any(key[-_CUT_BY_LOADHASHKEY:]):
        key = random.random(KEY_BYTES)
    nonce = random.random(NONCE_BYTES)
    header: bytes = _HEADER.build(
        {
            "magic": MAGIC,
            "major": VERSION_MAJOR,
            "minor": _MINOR[content.flags],
            "flags": content.flags,
            "uuid": uuid.bytes,
            "sequence": sequence,
            "nonce": nonce,
            "length": len(state),
        }
    )
    slot = header + AESGCM(key).encrypt(nonce, state, header)
    return slot, HashKey(hashlib.sha256(slot).digest(), key)


def parse_slot(slot: bytes) -> SlotHeader:
    """Read the header of a slot file and check its length; says nothing about authenticity.

    Raises:
        WireError: no image, an unknown version, truncated, or bytes behind the end.
    """
    if len(slot) < HEADER_BYTES:
        raise WireError("slot header", 0, f"{len(slot)} bytes, a header has {HEADER_BYTES}")
    found = _HEADER.parse(slot[:HEADER_BYTES])
    if found.magic != MAGIC:
        raise WireError("magic", 0, f"{found.magic.hex()} is not that of a vTPM image")
    if found.major != VERSION_MAJOR or found.minor > VERSION_MINOR:
        known = f"{VERSION_MAJOR}.{VERSION_MINOR}"
        raise WireError("version", 8, f"{found.major}.{found.minor}, known is {known}")
    if _MINOR.get(found.flags, VERSION_MINOR + 1) > found.minor:
        raise WireError("flags", 12, f"unknown flags {found.flags:#x}")
    if found.sequence == 0:
        raise WireError("sequence", 32, "0, the first image has 1")
    if found.length > MAX_STATE_BYTES:
        raise WireError("length", 52, f"{found.length}, at most {MAX_STATE_BYTES}")
    expected = HEADER_BYTES + found.length + TAG_BYTES
    if len(slot) != expected:
        kind = "truncated" if len(slot) < expected else "too long"
        raise WireError("slot", 0, f"{kind}: {len(slot)} bytes, the header says {expected}")
    return SlotHeader(
        UUID(bytes=found.uuid), found.sequence, found.nonce, found.flags, found.length
    )


def open_image(slot: bytes, key: bytes) -> Content:
    """Return what a slot file holds.

    Args:
        slot: the whole file.
        key: 32 bytes, from the manager.

    Raises:
        WireError: not an image, or not one that was made with this key.
    """
    header = parse_slot(slot)
    try:
        plain = AESGCM(key).decrypt(header.nonce, slot[HEADER_BYTES:], slot[:HEADER_BYTES])
    except InvalidTag:
        raise WireError("tag", len(slot) - TAG_BYTES, "the key does not open the image") from None
    return Content.decode(plain, header.flags)
