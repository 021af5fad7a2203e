# SPDX-License-Identifier: Apache-2.0
"""The commands of a vTPM for itself: what it sends and what it gets back.

The manager keeps 64 bytes for each vTPM and does not look into them; our vTPM puts 32 bytes of
SHA-256 of its current slot and 32 bytes of AES key there. 52 bytes is the older form (SHA-1 and
key); the manager pads it with zeros and gives it back as 52, and so a vTPM that never saved has 52
zero bytes.

GET_QUOTE has the hardware TPM sign 20 bytes of the vTPM. Its answer is a row of digests behind a
signature, without lengths: only who knows what was asked can take it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from protocol.errors import WireError
from protocol.manager.constants import DIGEST_BYTES, HEADER_BYTES, ManagerTag, VtpmOrdinal
from protocol.manager.framing import decode_response, encode_request

KEY_DATA_MIN_BYTES: Final = 52
KEY_DATA_MAX_BYTES: Final = 64

QUOTE_SIGNATURE_BYTES: Final = 256
_FLAGS_BYTES: Final = 4
_SIZE_BYTES: Final = 2

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


@dataclass(frozen=True, slots=True)
class GetQuote:
    """GET_QUOTE.

    Attributes:
        extern_data: what the vTPM vouches for, 20 bytes.
        pcr_selection: encoded TPM_PCR_SELECTION of the hardware TPM: u16 n, n bytes.
        flags: what the manager adds a hash of, one for each bit; it refuses those that it does not
            know.
    """

    extern_data: bytes
    pcr_selection: bytes
    flags: int

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read the body of a request.

        Raises:
            WireError: too short or too long.
        """
        select_at = DIGEST_BYTES + _SIZE_BYTES
        size = int.from_bytes(body[DIGEST_BYTES:select_at], "big")
        end = select_at + size
        if len(body) != end + _FLAGS_BYTES:
            raise WireError(
                "body", HEADER_BYTES, f"{len(body)} bytes for a selection of {size} bytes"
            )
        return cls(body[:DIGEST_BYTES], body[DIGEST_BYTES:end], int.from_bytes(body[end:], "big"))

    def encode(self) -> bytes:
        """Return the request."""
        body = self.extern_data + self.pcr_selection + self.flags.to_bytes(_FLAGS_BYTES, "big")
        return encode_request(ManagerTag.REQ, VtpmOrdinal.GET_QUOTE, body)

    @property
    def answer_bytes(self) -> int:
        """Length of the answer: signature, a digest per flag, a digest per selected PCR."""
        selected = sum([byte.bit_count() for byte in self.pcr_selection[_SIZE_BYTES:]])
        return QUOTE_SIGNATURE_BYTES + DIGEST_BYTES * (self.flags.bit_count() + selected)

    def decode_response(self, response: bytes) -> bytes:
        """Return the answer to this request, `answer_bytes` long.

        Raises:
            ManagerRefused: BAD_PARAMETER (not bound to a vTPM yet), INVALID_REQUEST (unknown flag),
                BAD_ORDINAL, a code of the hardware TPM.
            WireError: not a response to it.
        """
        body = decode_response(response)
        if len(body) != self.answer_bytes:
            raise WireError(
                "quote", HEADER_BYTES, f"{len(body)} bytes, must be {self.answer_bytes}"
            )
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
