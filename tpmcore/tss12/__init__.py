# SPDX-License-Identifier: Apache-2.0
"""The other side of a TPM 1.2: building commands, checking responses.

Every operation is a generator (a *conversation*): it yields command bytes, is sent response bytes,
and returns the result; so the same code drives the hardware TPM through the TIS driver and an
engine in a test.
"""
