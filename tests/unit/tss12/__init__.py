# SPDX-License-Identifier: Apache-2.0
"""Unit tests of the client side of TPM 1.2."""
