# SPDX-License-Identifier: Apache-2.0
"""SAVEHASHKEY, LOADHASHKEY and GET_BOOT_HASH: what the vTPM sends and what it gets back.

The manager keeps 64 bytes for each vTPM and does not look into them; our vTPM puts 32 bytes of
SHA-256 of its current slot and 32 bytes of AES key there. 52 bytes is the older form (SHA-1 and
key); the manager pads it with zeros and gives it back as 52, and so a vTPM that never saved has 52
zero bytes.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import WireError
from protocol.manager.constants import DIGEST_BYTES, HEADER_BYTES, ManagerTag, VtpmOrdinal
from protocol.manager.framing import decode_response, encode_request

KEY_DATA_MIN_BYTES: Final = 52
KEY_DATA_MAX_BYTES: Final = 64

NO_IMAGE: Final = bytes(KEY_DATA_MAX_BYTES)
"""Key data of a vTPM that is registered and has never saved."""


def encode_save_hash_key(data: bytes) -> bytes:
    """Return the request that stores `data`, 52 to 64 bytes.

    Raises:
        ValueError: other lengths.
    """
    if not KEY_DATA_MIN_BYTES <= len(data) <= KEY_DATA_MAX_BYTES:
        raise ValueError(
            f"key data of {len(data)} bytes, allowed {KEY_DATA_MIN_BYTES}-{KEY_DATA_MAX_BYTES}"
        )
    return encode_request(ManagerTag.REQ, VtpmOrdinal.SAVEHASHKEY, data)


def decode_save_hash_key_response(response: bytes) -> None:
    """Return if the data is stored.

    Raises:
        ManagerRefused: BAD_PARAMETER, DISABLED (open elsewhere or kernel not approved), FAIL,
            IOERROR.
        WireError: not a response to SAVEHASHKEY.
    """
    body = decode_response(response)
    if body:
        raise WireError(
            "body", HEADER_BYTES, f"{len(body)} bytes after the header, SAVEHASHKEY returns none"
        )


def encode_load_hash_key() -> bytes:
    """Return the request for the stored key data."""
    return encode_request(ManagerTag.REQ, VtpmOrdinal.LOADHASHKEY)


def decode_load_hash_key_response(response: bytes) -> bytes:
    """Return the key data, always 64 bytes; `NO_IMAGE` if none was ever saved.

    The older form of 52 bytes comes with zeros appended.

    Raises:
        ManagerRefused: BAD_PARAMETER (unknown uuid), DISABLED.
        WireError: not a response to LOADHASHKEY.
    """
    body = decode_response(response)
    if len(body) not in (KEY_DATA_MIN_BYTES, KEY_DATA_MAX_BYTES):
        raise WireError("key data", HEADER_BYTES, f"{len(body)} bytes, must be 52 or 64")
    return body.ljust(KEY_DATA_MAX_BYTES, b"\0")


def encode_get_boot_hash() -> bytes:
    """Return the request for the hash that the manager took of this vTPM's label."""
    return encode_request(ManagerTag.REQ, VtpmOrdinal.GET_BOOT_HASH)


def decode_get_boot_hash_response(response: bytes) -> bytes:
    """Return the 20-byte kern_hash; zeros before the connection is bound to its vTPM.

    Raises:
        ManagerRefused, WireError: as above.
    """
    body = decode_response(response)
    if len(body) != DIGEST_BYTES:
        raise WireError("kern_hash", HEADER_BYTES, f"{len(body)} bytes, must be {DIGEST_BYTES}")
    return body


def decode_save_hash_key(body: bytes) -> bytes:
    """Return the 64 bytes to store from the body of a SAVEHASHKEY request.

    Raises:
        WireError: shorter than 52 or longer than 64 bytes.
    """
    if not KEY_DATA_MIN_BYTES <= len(body) <= KEY_DATA_MAX_BYTES:
        raise WireError("key data", HEADER_BYTES, f"{len(body)} bytes, allowed 52-64")
    return body.ljust(KEY_DATA_MAX_BYTES, b"\0")


def encode_load_hash_key_body(data: bytes) -> bytes:
    """Return the response body for 64 stored bytes: 52 bytes if the rest is zero, else all."""
    return data if any(data[KEY_DATA_MIN_BYTES:]) else data[:KEY_DATA_MIN_BYTES]


def decode_empty(body: bytes) -> None:
    """Check the body of a request that has no parameters.

    Xen ignores what follows LOADHASHKEY; here trailing bytes are an error everywhere.

    Raises:
        WireError: there are bytes.
    """
    if body:
        raise WireError("body", HEADER_BYTES, f"{len(body)} trailing bytes")
