# SPDX-License-Identifier: Apache-2.0
"""Ownership (Part 3, chapter 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_PARAMETERS: Final = "ownership_with_bad_parameters"
_UNFIT: Final = "ownership_with_an_unfit_srk"
_SYMMETRIC: Final = "ownership_with_a_symmetric_srk"
_TOO_LONG: Final = "ownership_with_secrets_that_are_too_long"
_UNPARSED: Final = "ownership_with_an_srk_that_does_not_parse"
_FORCE: Final = "force_clear_needs_presence_and_can_be_disabled"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.TAKE_OWNERSHIP: (
        ErrorPath(RC.BAD_VERSION, "srkParams: neither version 1.1 nor TPM_KEY12", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "srkParams: wrong tag of a TPM_KEY12", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "srkParams: fill of a TPM_KEY12 is not zero", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "srkParams: unknown keyFlags", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "srkParams: unknown algorithm", _UNPARSED),
        ErrorPath(RC.INVALID_PCR_INFO, "srkParams: PCR selection of four bytes", _UNPARSED),
        ErrorPath(RC.INVALID_STRUCTURE, "srkParams: locality that does not exist", _UNPARSED),
        ErrorPath(RC.OWNER_SET, "there is an owner", "ownership_twice"),
        ErrorPath(
            RC.INSTALL_DISABLED,
            "ownership is not allowed",
            "ownership_where_it_is_not_allowed",
        ),
        ErrorPath(
            RC.NO_ENDORSEMENT,
            "no endorsement key",
            "ownership_without_an_endorsement_key",
        ),
        ErrorPath(
            RC.BAD_MODE,
            "the session is no OIAP session (the reference has none without an owner)",
            "test_ownership.py::test_only_an_oiap_session_takes_ownership",
        ),
        ErrorPath(RC.BAD_PARAMETER, "protocolID is not OWNER", _PARAMETERS),
        ErrorPath(RC.DECRYPT_ERROR, "encOwnerAuth does not decrypt", _PARAMETERS),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the owner's secret is too short", _PARAMETERS),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the owner's secret is too long", _TOO_LONG),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "ownership_with_a_wrong_hmac"),
        ErrorPath(RC.INVALID_KEYUSAGE, "the SRK is no storage key", _UNFIT),
        ErrorPath(RC.INVALID_KEYUSAGE, "the SRK is migratable", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the SRK is for AES", _SYMMETRIC),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the SRK is for SHA", _SYMMETRIC),
        ErrorPath(RC.BAD_KEY_PROPERTY, "encScheme of the SRK is not OAEP", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "sigScheme of the SRK is not NONE", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the SRK is shorter than 2048 bits", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the SRK has an exponent", _UNFIT),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "the SRK is longer than 2048 bits",
            "ownership_with_an_srk_that_is_too_long",
        ),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "the SRK has other than two primes",
            "ownership_with_an_srk_of_three_primes",
        ),
        ErrorPath(
            RC.NOTFIPS,
            "FIPS, which no command sets, and the SRK needs no secret",
            "test_ownership.py::test_an_srk_without_a_secret_is_refused_where_fips_rules",
        ),
        ErrorPath(RC.DECRYPT_ERROR, "encSrkAuth does not decrypt", _PARAMETERS),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the SRK's secret is too short", _PARAMETERS),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the SRK's secret is too long", _TOO_LONG),
    ),
    Ordinal.OWNER_CLEAR: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "owner_clears"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "owner_clears"),
        ErrorPath(RC.CLEAR_DISABLED, "disableOwnerClear is set", "owner_clear_can_be_disabled"),
    ),
    Ordinal.FORCE_CLEAR: (
        ErrorPath(RC.BAD_PRESENCE, "no physical presence", _FORCE),
        ErrorPath(RC.CLEAR_DISABLED, "disableForceClear is set", _FORCE),
    ),
    Ordinal.DISABLE_OWNER_CLEAR: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "owner_clear_can_be_disabled"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "owner_clear_can_be_disabled"),
    ),
    Ordinal.DISABLE_FORCE_CLEAR: (),
}
