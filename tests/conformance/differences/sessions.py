# SPDX-License-Identifier: Apache-2.0
"""Opening authorization sessions (Part 3, chapter 18)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

_OSAP_FREE: Final = "OSAP on a counter or an area needs no owner (Part 3, 18.2); libtpms wants one."

DECLARED: Final[tuple[Declared, ...]] = (
    code("osap_on_a_counter_without_an_owner", Ordinal.OSAP, "BAD_COUNTER", "NOSRK", _OSAP_FREE),
    code("osap_on_an_area_without_an_owner", Ordinal.OSAP, "BADINDEX", "NOSRK", _OSAP_FREE),
    code(
        "an_aes_counter_that_carries",
        Ordinal.CREATE_MIGRATION_BLOB,
        "SUCCESS",
        "AUTH2FAIL",
        "The initial counter of ADIP is a number of 128 bits (Part 1, ADIP with AES); libtpms "
        "counts in the last 32 of them, so that the secret ends otherwise.",
    ),
)
