# SPDX-License-Identifier: Apache-2.0
"""Startup, saved states and self tests (Part 3, chapters 3 and 4)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

_STARTUP: Final = (
    "A refused Startup changes nothing, so a good one may follow (Part 3, 3.2); libtpms counts "
    "itself as started."
)

DECLARED: Final[tuple[Declared, ...]] = (
    code("startup_of_an_unknown_type", Ordinal.STARTUP, "SUCCESS", "INVALID_POSTINIT", _STARTUP),
    code("startup_with_bad_framing", Ordinal.STARTUP, "SUCCESS", "INVALID_POSTINIT", _STARTUP),
    code(
        "startup_that_is_refused_keeps_the_saved_state",
        Ordinal.STARTUP,
        "SUCCESS",
        "INVALID_POSTINIT",
        _STARTUP,
    ),
    Declared(
        "startup_that_is_refused_keeps_the_saved_state",
        Ordinal.PCR_READ,
        "out_digest",
        "f87cfc25e047ab7fa1c1d2cca2c7ffaa706cd23a",
        "0000000000000000000000000000000000000000",
        "As above: the saved state with this PCR is there still; libtpms dropped it.",
    ),
)
