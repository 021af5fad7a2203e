# SPDX-License-Identifier: Apache-2.0
"""Startup, saved states and self tests (Part 3, chapters 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_STUCK: Final = "test_selftest.py::test_a_stuck_generator_fails_the_test_and_the_chip_stays_failed"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.INIT: (
        ErrorPath(RC.BAD_ORDINAL, "sent as a command", "deleted_and_unimplemented_ordinals"),
    ),
    Ordinal.STARTUP: (
        ErrorPath(RC.INVALID_POSTINIT, "started up already", "startup_clear_once"),
        ErrorPath(
            RC.INVALID_POSTINIT,
            "started up already, into failure mode",
            "startup_state_without_a_saved_state",
        ),
        ErrorPath(
            RC.FAILEDSELFTEST,
            "the tests after TPM_Init failed",
            "test_selftest.py::test_startup_in_failure_mode_is_refused",
        ),
        ErrorPath(RC.BAD_PARAMETER, "unknown startupType", "startup_of_an_unknown_type"),
        ErrorPath(
            RC.FAILEDSELFTEST,
            "STATE, and no state was saved",
            "startup_state_without_a_saved_state",
        ),
        ErrorPath(
            RC.FAILEDSELFTEST,
            "STATE, and a command came after SaveState",
            "saved_state_is_void_after_another_command",
        ),
        ErrorPath(
            RC.FAILEDSELFTEST,
            "STATE, and a refused command came after SaveState",
            "saved_state_is_void_after_a_command_that_fails",
        ),
        ErrorPath(
            RC.FAILEDSELFTEST,
            "STATE, and the saved state was taken up before",
            "saved_state_serves_once",
        ),
        ErrorPath(
            RC.FAILEDSELFTEST,
            "STATE, and a Startup of another kind came after SaveState",
            "startup_of_another_kind_drops_the_saved_state",
        ),
    ),
    Ordinal.SAVE_STATE: (
        ErrorPath(
            RC.NO_WRAP_TRANSPORT,
            "inside a transport session",
            "saving_the_state_inside_a_transport_session",
        ),
    ),
    Ordinal.SELF_TEST_FULL: (ErrorPath(RC.FAILEDSELFTEST, "a test fails", _STUCK),),
    Ordinal.CONTINUE_SELF_TEST: (ErrorPath(RC.FAILEDSELFTEST, "a test fails", _STUCK),),
    Ordinal.GET_TEST_RESULT: (),
}
