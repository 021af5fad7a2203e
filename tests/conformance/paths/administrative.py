# SPDX-License-Identifier: Apache-2.0
"""Administrative functions (Part 3, chapter 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_LEFT_OUT: Final = (
    ErrorPath(RC.BAD_ORDINAL, "optional, left out", "deleted_and_unimplemented_ordinals"),
)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.FIELD_UPGRADE: _LEFT_OUT,
    Ordinal.SET_REDIRECTION: _LEFT_OUT,
    Ordinal.RESET_LOCK_VALUE: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "lock_value_and_a_wrong_secret"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "lock_value_and_a_wrong_secret"),
        ErrorPath(
            RC.AUTHFAIL,
            "in the lockout a wrong try came before",
            "a_lockout_and_a_wrong_try_to_end_it",
        ),
    ),
}
