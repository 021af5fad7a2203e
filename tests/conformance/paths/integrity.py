# SPDX-License-Identifier: Apache-2.0
"""Integrity collection and reporting (Part 3, chapter 16)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_EXTENDING: Final = "extending_by_locality"
_RESETTING: Final = "resetting_pcrs_by_locality"
_NO_EXTEND: Final[Mapping[int, tuple[int, ...]]] = {
    17: (0, 1),
    18: (0, 1),
    19: (0, 1, 4),
    20: (0, 4),
    21: (0, 1, 3, 4),
    22: (0, 1, 3, 4),
}
"""By PCR, the localities that may not extend it (PC Client specification)."""
_NO_RESET: Final[Mapping[int, tuple[int, ...]]] = {
    17: (0, 1, 2, 3),
    18: (0, 1, 2, 3),
    19: (0, 1, 2, 3),
    20: (0, 1, 3),
    21: (0, 1, 3, 4),
    22: (0, 1, 3, 4),
}
"""By PCR, the localities that may not reset it."""


def _quote() -> tuple[ErrorPath, ...]:
    """Return what Quote and Quote2 refuse alike."""
    return (
        *of_key(),
        ErrorPath(RC.AUTHFAIL, "C1, and the key needs a session", "quoting_errors"),
        ErrorPath(RC.INAPPROPRIATE_SIG, "the scheme is DER", "quoting_errors"),
        ErrorPath(RC.INAPPROPRIATE_SIG, "the key does not sign", "quoting_errors"),
        ErrorPath(
            RC.INVALID_KEYUSAGE,
            "the key is of no usage that signs",
            untried="the key properties give a signature scheme only to SIGNING, IDENTITY and "
            "LEGACY keys; they are checked when a key is made and when it is loaded",
        ),
        ErrorPath(
            RC.INVALID_PCR_INFO,
            "the selection is longer than 3 bytes",
            "quotes_that_do_not_parse",
        ),
    )


PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.EXTEND: (
        ErrorPath(RC.BADINDEX, "there is no such PCR", _EXTENDING),
        *[
            ErrorPath(RC.BAD_LOCALITY, f"PCR {pcr} at locality {locality}", _EXTENDING)
            for pcr, localities in _NO_EXTEND.items()
            for locality in localities
        ],
        ErrorPath(
            RC.BAD_LOCALITY,
            "PCR 17 after the start of a launch, at locality 2",
            "pcrs_of_a_dynamic_launch",
        ),
        ErrorPath(
            RC.BAD_LOCALITY,
            "PCR 17 after the start of a launch, at locality 3",
            "pcrs_of_a_dynamic_launch",
        ),
        ErrorPath(
            RC.BAD_LOCALITY,
            "PCR 17 after its reset during a launch, below locality 4",
            "pcrs_are_reset_to_zero_during_a_dynamic_launch",
        ),
    ),
    Ordinal.PCR_READ: (ErrorPath(RC.BADINDEX, "there is no such PCR", _EXTENDING),),
    Ordinal.QUOTE: _quote(),
    Ordinal.QUOTE2: (
        *_quote(),
        ErrorPath(RC.BAD_PARAMETER, "addVersion is neither 0 nor 1", "quotes_that_do_not_parse"),
    ),
    Ordinal.PCR_RESET: (
        ErrorPath(RC.INVALID_PCR_INFO, "the selection has no byte", _RESETTING),
        ErrorPath(RC.INVALID_PCR_INFO, "the selection has no bit", _RESETTING),
        ErrorPath(
            RC.INVALID_PCR_INFO,
            "the selection is longer than 3 bytes",
            "pcr_selection_that_is_too_long",
        ),
        ErrorPath(RC.NOTRESETABLE, "one of those selected is never reset", _RESETTING),
        *[
            ErrorPath(
                RC.NOTRESETABLE,
                f"PCR {pcr} is never reset",
                "pcrs_are_reset_together_or_not_at_all",
            )
            for pcr in range(16)
        ],
        *[
            ErrorPath(RC.NOTLOCAL, f"PCR {pcr} at locality {locality}", _RESETTING)
            for pcr, localities in _NO_RESET.items()
            for locality in localities
        ],
        ErrorPath(
            RC.NOTLOCAL,
            "one of those selected is not reset from here",
            "pcrs_are_reset_together_or_not_at_all",
        ),
    ),
}
