# SPDX-License-Identifier: Apache-2.0
"""Ownership (Part 3, chapter 6)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import SYMMETRIC, cleared, context_of_another_key

_CLEARED_OURS: Final = "001f0101010100010000010100000000000000000000"
_CLEARED_THEIRS: Final = "001f0101010100000000010100000000000000000000"

DECLARED: Final[tuple[Declared, ...]] = (
    cleared("owner_clears", _CLEARED_OURS, _CLEARED_THEIRS),
    cleared(
        "owner_clears_all_of_the_period",
        "001f0101010100010000010100000000000100000000",
        "001f0101010100000000010100000000000100000000",
    ),
    context_of_another_key("owner_clears_all_of_the_period"),
    cleared("force_clear_lets_ownership_be_taken", _CLEARED_OURS, _CLEARED_THEIRS),
    *[
        cleared(
            "force_clear_takes_all_of_the_period",
            f"001f{disabled}01010100010000010100000000000100000000",
            f"001f{disabled}01010100000000010100000000000100000000",
        )
        for disabled in ("00", "01")
    ],
    code(
        "ownership_with_secrets_that_are_too_long",
        Ordinal.TAKE_OWNERSHIP,
        "BAD_KEY_PROPERTY",
        "DECRYPT_ERROR",
        "A secret that is not 20 bytes long is BAD_KEY_PROPERTY (Part 3, 6.1); libtpms has no room "
        "for more and takes it for damaged.",
        times=2,
    ),
    *[
        Declared(case, ordinal, field, ours, theirs, reason)
        for case, reason in (
            (
                "ownership_with_an_srk_that_is_too_long",
                "The longest key of this TPM has 2048 bits, and a size that a TPM does not support "
                "is BAD_KEY_PROPERTY (Part 3, 6.1).",
            ),
            (
                "ownership_with_an_srk_of_three_primes",
                "An RSA key of a TPM has two primes (Part 2, 10.5); libtpms does not look.",
            ),
        )
        for ordinal, field, ours, theirs in (
            (Ordinal.TAKE_OWNERSHIP, "code", "BAD_KEY_PROPERTY", "SUCCESS"),
            (Ordinal.GET_CAPABILITY, "resp of 00000005 00000004 00000111", "00", "01"),
        )
    ],
    cleared("owner_clear_can_be_disabled", _CLEARED_OURS, _CLEARED_THEIRS),
    cleared("force_clear_needs_presence_and_can_be_disabled", _CLEARED_OURS, _CLEARED_THEIRS),
    cleared("force_clear_without_an_owner", _CLEARED_OURS, _CLEARED_THEIRS),
    code(
        "ownership_with_a_symmetric_srk",
        Ordinal.FLUSH_SPECIFIC,
        "INVALID_AUTHHANDLE",
        "SUCCESS",
        SYMMETRIC,
        times=2,
    ),
)
