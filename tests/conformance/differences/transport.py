# SPDX-License-Identifier: Apache-2.0
"""Ticks and transport sessions (Part 3, chapters 23 and 24)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import KEY_LOCALITY, ONE_SESSION

DECLARED: Final[tuple[Declared, ...]] = (
    code(
        "sessions_that_cannot_be_established",
        Ordinal.FLUSH_SPECIFIC,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        "A wrong tag is found before any session is looked at and ends none (Part 1, 8.1); libtpms "
        "ends the session of the refused EstablishTransport.",
    ),
    code(
        "a_wrapped_command_with_a_wrong_hmac",
        Ordinal.EXECUTE_TRANSPORT,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    code(
        "a_command_that_is_repeated_inside",
        Ordinal.EXECUTE_TRANSPORT,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    code(
        "a_log_with_one_wrong_session",
        Ordinal.RELEASE_TRANSPORT_SIGNED,
        "AUTHFAIL",
        "AUTH2FAIL",
        ONE_SESSION,
    ),
    code(
        "logs_and_keys_that_are_not_there",
        Ordinal.RELEASE_TRANSPORT_SIGNED,
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        KEY_LOCALITY,
    ),
    code(
        "a_session_is_not_released_inside",
        Ordinal.EXECUTE_TRANSPORT,
        "NO_WRAP_TRANSPORT",
        "AUTH2FAIL",
        "The key handle of ReleaseTransportSigned is outside of digests (Part 3, 24.3); libtpms "
        "digests that of a wrapped one, so the HMAC is wrong first.",
    ),
    code(
        "an_authorization_session_for_a_transport_session",
        Ordinal.FLUSH_SPECIFIC,
        "INVALID_AUTHHANDLE",
        "SUCCESS",
        "An error ends the sessions that a command names (Part 1, 8.1), also one of another kind "
        "than is due.",
    ),
    *[
        code(
            case,
            Ordinal.EXECUTE_TRANSPORT,
            "BAD_PARAMETER",
            theirs,
            "A wrapped command that cannot be parsed, or whose ordinal is unknown, is "
            "BAD_PARAMETER (Part 3, 24.2).",
            times=times,
        )
        for case, theirs, times in (
            ("wrapped_bytes_that_are_no_command", "BAD_PARAM_SIZE", 1),
            ("wrapped_headers_that_are_wrong", "BAD_PARAM_SIZE", 4),
            # The tag it judges later, after the HMAC, which is none here.
            ("wrapped_headers_that_are_wrong", "AUTH2FAIL", 1),
            ("a_wrapped_ordinal_that_does_not_exist", "BAD_ORDINAL", 1),
        )
    ],
)
