# SPDX-License-Identifier: Apache-2.0
"""Administrative functions (Part 3, chapter 9)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "a_lockout_and_a_try_without_a_session",
        Ordinal.RESET_LOCK_VALUE,
        "SUCCESS",
        "AUTHFAIL",
        "During a lockout it is a wrong HMAC that bars the way (Part 3, 9.3); libtpms lets any "
        "refusal bar it.",
    ),
)
