# SPDX-License-Identifier: Apache-2.0
"""Identity creation and activation (Part 3, chapter 15)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import ONE_SESSION

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "identities_below_an_srk_that_needs_no_secret",
        Ordinal.MAKE_IDENTITY,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    *[
        code(
            "identities_below_an_srk_that_is_bound",
            Ordinal.MAKE_IDENTITY,
            ours,
            "SUCCESS",
            "A bound key serves only while PCRs and locality are as bound (Part 1, 4.10.3), the "
            "SRK as well; libtpms does not look at it here.",
        )
        for ours in ("BAD_LOCALITY", "WRONGPCRVAL")
    ],
    code(
        "activating_with_bytes_behind_the_contents",
        Ordinal.ACTIVATE_IDENTITY,
        "BAD_PARAM_SIZE",
        "SUCCESS",
        "What the blob decrypts to is one structure (Part 2, 12.7); libtpms ignores bytes behind "
        "it.",
    ),
)
