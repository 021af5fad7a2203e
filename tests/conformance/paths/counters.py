# SPDX-License-Identifier: Apache-2.0
"""Monotonic counters (Part 3, chapter 25)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CREATE_COUNTER: (
        ErrorPath(RC.BAD_MODE, "the session is an OIAP session", "counters"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "counters"),
        ErrorPath(RC.RESOURCES, "no slot is free", "counters_until_there_is_no_slot"),
    ),
    Ordinal.INCREMENT_COUNTER: (
        ErrorPath(RC.BAD_COUNTER, "none is active and the counter does not exist", "counters"),
        ErrorPath(RC.BAD_COUNTER, "another counter is active", "counters"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "counters"),
        ErrorPath(RC.BAD_COUNTER, "the active counter was released", "releasing_counters"),
    ),
    Ordinal.READ_COUNTER: (ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "counters"),),
    Ordinal.RELEASE_COUNTER: (
        ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "releasing_counters"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "releasing_counters"),
    ),
    Ordinal.RELEASE_COUNTER_OWNER: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "releasing_counters"),
        ErrorPath(RC.BAD_COUNTER, "the counter does not exist", "releasing_counters"),
    ),
}
