# SPDX-License-Identifier: Apache-2.0
"""The one error that only the client side has: a response that does not prove where it comes
from."""

from __future__ import annotations


class ResponseError(Exception):
    """A response whose HMAC, checksum or nonce binding does not verify.

    Its content must not be used: somebody stands between us and the TPM, or the secret is not the
    one that the TPM has.
    """
