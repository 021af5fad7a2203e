# SPDX-License-Identifier: Apache-2.0
"""The primitives of the engine against those of libraries."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from hypothesis import given
from hypothesis import strategies as st

from tpmcore.tpm12.primitives import hmac_sha1, mgf1, xor


@given(key=st.binary(max_size=64), data=st.binary(max_size=300))
def test_hmac_is_that_of_the_standard_library(key: bytes, data: bytes) -> None:
    assert hmac_sha1(key, data) == hmac.digest(key, data, "sha1")


def test_a_key_longer_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="key of 65 bytes"):
        hmac_sha1(bytes(65), b"")


@pytest.mark.parametrize("size_bytes", [0, 1, 20, 21, 198, 320, 321, 1000])
def test_mgf1_counts_blocks_from_zero(size_bytes: int) -> None:
    seed = b"seed"
    # X9.63 counts from one.
    first = hashlib.sha1(seed + bytes(4)).digest()
    rest = X963KDF(hashes.SHA1(), size_bytes + 1, b"").derive(seed)
    assert mgf1(seed, size_bytes) == (first + rest)[:size_bytes]


@given(st.binary(max_size=40))
def test_xor_is_bytewise(data: bytes) -> None:
    other = bytes(reversed(data))
    assert xor(data, other) == bytes(a ^ b for a, b in zip(data, other, strict=True))
