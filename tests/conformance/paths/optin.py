# SPDX-License-Identifier: Apache-2.0
"""Opt-in and physical presence (Part 3, chapter 5, 6.6 and 6.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_UNKNOWN_BITS: Final = "physical_presence_with_bits_that_mean_nothing"
_CONTRADICTIONS: Final = "physical_presence_for_a_lifetime_with_contradictions"
_ASSERTING: Final = "physical_presence_that_cannot_be_asserted"
_OPERATOR: Final = "temporarily_deactivated_by_the_operator"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.SET_OWNER_INSTALL: (
        ErrorPath(RC.BAD_PARAMETER, "state is no BOOL", "owner_install_needs_presence"),
        ErrorPath(RC.BAD_PRESENCE, "no physical presence", "owner_install_needs_presence"),
    ),
    Ordinal.OWNER_SET_DISABLE: (
        ErrorPath(
            RC.BAD_PARAMETER,
            "disableState is no BOOL",
            "owner_disables_with_a_flag_that_is_no_boolean",
        ),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "owner_disables_and_enables"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "owner_disables_and_enables"),
    ),
    Ordinal.PHYSICAL_ENABLE: (
        ErrorPath(RC.BAD_PRESENCE, "no physical presence", "physical_disable_and_enable"),
    ),
    Ordinal.PHYSICAL_DISABLE: (
        ErrorPath(RC.BAD_PRESENCE, "no physical presence", "physical_disable_and_enable"),
    ),
    Ordinal.PHYSICAL_SET_DEACTIVATED: (
        ErrorPath(
            RC.BAD_PARAMETER,
            "state is no BOOL",
            "physical_set_deactivated_at_the_next_startup",
        ),
        ErrorPath(
            RC.BAD_PRESENCE,
            "no physical presence",
            "physical_set_deactivated_at_the_next_startup",
        ),
    ),
    Ordinal.SET_TEMP_DEACTIVATED: (
        ErrorPath(
            RC.BAD_PRESENCE,
            "no authorization and no physical presence",
            "temporarily_deactivated_with_presence",
        ),
        ErrorPath(RC.NOOPERATOR, "no operator's secret is set", _OPERATOR),
        ErrorPath(RC.BAD_MODE, "the session is no OIAP session", _OPERATOR),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _OPERATOR),
        ErrorPath(
            RC.AUTHFAIL,
            "the secret of an operator before",
            "another_operator_replaces_the_first",
        ),
    ),
    Ordinal.SET_OPERATOR_AUTH: (ErrorPath(RC.BAD_PRESENCE, "no physical presence", _OPERATOR),),
    Ordinal.TSC_PHYSICAL_PRESENCE: (
        ErrorPath(RC.BAD_PARAMETER, "no bit", _UNKNOWN_BITS),
        ErrorPath(RC.BAD_PARAMETER, "an unknown bit beside one for the lifetime", _UNKNOWN_BITS),
        ErrorPath(RC.BAD_PARAMETER, "an unknown bit beside an assertion", _UNKNOWN_BITS),
        ErrorPath(
            RC.BAD_PARAMETER,
            "for the lifetime, after LIFETIME_LOCK",
            "physical_presence_for_a_lifetime",
        ),
        ErrorPath(RC.BAD_PARAMETER, "for the lifetime and an assertion", _CONTRADICTIONS),
        ErrorPath(RC.BAD_PARAMETER, "HW_ENABLE and HW_DISABLE", _CONTRADICTIONS),
        ErrorPath(RC.BAD_PARAMETER, "CMD_ENABLE and CMD_DISABLE", _CONTRADICTIONS),
        ErrorPath(RC.BAD_PARAMETER, "an assertion without CMD_ENABLE", _ASSERTING),
        ErrorPath(RC.BAD_PARAMETER, "PRESENT and LOCK", _ASSERTING),
        ErrorPath(RC.BAD_PARAMETER, "PRESENT and NOTPRESENT", _ASSERTING),
        ErrorPath(
            RC.BAD_PARAMETER,
            "an assertion after LOCK",
            "physical_presence_is_asserted_and_locked",
        ),
    ),
    Ordinal.TSC_RESET_ESTABLISHMENT_BIT: (
        ErrorPath(RC.BAD_LOCALITY, "locality 0", "establishment_bit_by_locality"),
        ErrorPath(RC.BAD_LOCALITY, "locality 1", "establishment_bit_by_locality"),
        ErrorPath(RC.BAD_LOCALITY, "locality 2", "establishment_bit_by_locality"),
    ),
}
