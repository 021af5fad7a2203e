# SPDX-License-Identifier: Apache-2.0
"""Encryption and authentication of what lies in the database.

Envelope, as stored:

    offset  size  field
         0     1  version, 1
         1    16  salt, random
        17    12  nonce, random (96 bits)
        29     n  AES-256-GCM ciphertext
      29+n    16  GCM tag

The key is HMAC-SHA256(wrapping key, "vtpmmgr envelope 1" || salt || identity) and the identity of
the row is the associated data, so an envelope opens only in the row for which it was made. Why a
key for each envelope: with one key for a group, random 96-bit nonces are sound for 2^32
encryptions, which some hundred busy vTPMs use up in a month.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daemons.runtime.secret import Secret

KEY_BYTES: Final = 32
MAC_BYTES: Final = 32

_VERSION: Final = b"\x01"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 1 + _SALT_BYTES + _NONCE_BYTES


class NotAuthentic(Exception):
    """An envelope or a MAC that was not made with this key for this row."""


def derive(key: Secret, purpose: bytes) -> Secret:
    """Return the 32-byte key for one purpose."""
    return Secret(hmac.digest(key, b"vtpmmgr key 1\x00" + purpose, hashlib.sha256))


def wrap(key: Secret, identity: bytes, plaintext: bytes) -> bytes:
    """Return the envelope of `plaintext` (45 bytes longer) for the row named by `identity`."""
    salt = os.urandom(_SALT_BYTES)
    nonce = os.urandom(_NONCE_BYTES)
    box = AESGCM(_envelope_key(key, salt, identity))
    return _VERSION + salt + nonce + box.encrypt(nonce, plaintext, identity)


def unwrap(key: Secret, identity: bytes, envelope: bytes) -> Secret:
    """Return the plaintext of an envelope.

    Raises:
        NotAuthentic: other key, other row, changed bytes, or no envelope at all.
    """
    if len(envelope) < _HEAD_BYTES + _TAG_BYTES or envelope[:1] != _VERSION:
        raise NotAuthentic(f"no envelope of version 1 ({len(envelope)} bytes)")
    salt = envelope[1 : 1 + _SALT_BYTES]
    nonce = envelope[1 + _SALT_BYTES : _HEAD_BYTES]
    box = AESGCM(_envelope_key(key, salt, identity))
    try:
        return Secret(box.decrypt(nonce, envelope[_HEAD_BYTES:], identity))
    except InvalidTag:
        raise NotAuthentic("authentication tag does not match") from None


def _envelope_key(key: Secret, salt: bytes, identity: bytes) -> bytes:
    return hmac.digest(key, b"vtpmmgr envelope 1\x00" + salt + identity, hashlib.sha256)


def mac(key: Secret, data: bytes) -> bytes:
    """Return HMAC-SHA256, 32 bytes."""
    return hmac.digest(key, data, hashlib.sha256)


def check_mac(key: Secret, data: bytes, expected: bytes) -> None:
    """Return if `expected` is the MAC of `data`.

    Raises:
        NotAuthentic: it is not.
    """
    if not hmac.compare_digest(mac(key, data), expected):
        raise NotAuthentic("MAC does not match")
