# SPDX-License-Identifier: Apache-2.0
"""Endorsement key handling (Part 3, chapter 14)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import cleared

DECLARED: Final[tuple[Declared, ...]] = (
    cleared(
        "revocable_endorsement_key",
        "001f0101010100010000010000000000010000000000",
        "001f0101010100000000010000000000010000000000",
    ),
    cleared(
        "revoked_trust_takes_areas_along",
        "001f0001010100010000010000000000010000000000",
        "001f0001010100000000010000000000010000000000",
    ),
    cleared(
        "revoked_trust_takes_areas_of_nobody_along",
        "001f0001010100010000010000000000010000000000",
        "001f0001010100000000010000000000010000000000",
    ),
    *[
        Declared(
            "revoked_trust_takes_areas_of_nobody_along",
            Ordinal.GET_CAPABILITY,
            f"{field} of 0000000d 00000000",
            ours,
            theirs,
            "RevokeTrust deletes every area that is defined for good (Part 3, 14.3); libtpms only "
            "those that the owner reads or writes.",
        )
        for field, ours, theirs in (("size", "14", "18"), ("resp", "", "1000f001"))
    ],
    *[
        code(
            "another_endorsement_key_of_another_kind",
            ordinal,
            "DISABLED_CMD",
            "BAD_KEY_PROPERTY",
            "Whether there is an endorsement key is asked before what another one would be (Part "
            "3, 14.1).",
        )
        for ordinal in (Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.CREATE_REVOCABLE_EK)
    ],
)
