# SPDX-License-Identifier: Apache-2.0
"""Monotonic counters (Part 3, chapter 25)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_WRONG: Final = "counters_with_a_session_that_is_wrong"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CREATE_COUNTER: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _WRONG),
        ErrorPath(RC.BAD_MODE, "the session is an OIAP session", "counters"),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on something else", _WRONG),
        ErrorPath(RC.AUTHFAIL, "DSAP without the permission", _WRONG),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "counters"),
        ErrorPath(RC.RESOURCES, "no slot is free", "counters_until_there_is_no_slot"),
    ),
    Ordinal.INCREMENT_COUNTER: (
        ErrorPath(RC.BAD_COUNTER, "none is active and the counter does not exist", "counters"),
        ErrorPath(RC.BAD_COUNTER, "another counter is active", "counters"),
        ErrorPath(RC.BAD_COUNTER, "the active counter was released", "releasing_counters"),
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _WRONG),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on another counter", _WRONG),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on the owner", _WRONG),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "counters"),
        ErrorPath(
            RC.RETRY,
            "the last increment was a moment ago",
            untried="increments are not slowed down",
        ),
        ErrorPath(
            RC.BAD_COUNTER, "the value is at its end", untried="it takes 2^32 - 1 increments"
        ),
    ),
    Ordinal.READ_COUNTER: (ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "counters"),),
    Ordinal.RELEASE_COUNTER: (
        ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "releasing_counters"),
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _WRONG),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on another counter", _WRONG),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on the owner", _WRONG),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "releasing_counters"),
    ),
    Ordinal.RELEASE_COUNTER_OWNER: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _WRONG),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on something else", _WRONG),
        ErrorPath(RC.AUTHFAIL, "DSAP without the permission", _WRONG),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "releasing_counters"),
        ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "releasing_counters"),
    ),
}
