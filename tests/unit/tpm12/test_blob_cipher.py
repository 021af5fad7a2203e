# SPDX-License-Identifier: Apache-2.0
"""A cipher that was kept gives what a new one gives, whatever it was used for before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tpmcore.tpm12.blob_cipher import BlobCipher
from tpmcore.tpm12.primitives import aes128_ctr

_KEYS = [bytes([n]) * 16 for n in range(5)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(_KEYS),
            st.binary(min_size=16, max_size=16),
            # Blocks that are cut short leave key stream behind.
            st.binary(max_size=70),
        ),
        max_size=12,
    )
)
def test_kept_cipher_gives_what_a_new_one_gives(uses: list[tuple[bytes, bytes, bytes]]) -> None:
    cipher = BlobCipher()
    for key, counter, data in uses:
        assert cipher.crypt(key, counter, data) == aes128_ctr(key, counter, data)


def test_no_more_ciphers_are_kept_than_a_tpm_has_keys() -> None:
    cipher = BlobCipher()
    for key in _KEYS:
        cipher.crypt(key, bytes(16), b"blob")
        assert 1 <= len(cipher._kept) <= 3
        assert key in cipher._kept
