# SPDX-License-Identifier: Apache-2.0
"""Ticks and transport sessions (Part 3, chapters 23 and 24)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_REFUSED: Final = "sessions_that_cannot_be_established"
_SCHEMES: Final = "sessions_with_schemes_that_are_not_there"
_LOG_KEYS: Final = "logs_and_keys_that_are_not_there"
_UNSIGNED: Final = "logs_that_are_not_signed"
_HEADERS: Final = "wrapped_headers_that_are_wrong"
_FIPS: Final = "no command sets the flag FIPS, and new chips do not have it set"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.GET_TICKS: (),
    Ordinal.TICK_STAMP_BLOB: (
        *of_key(),
        ErrorPath(RC.AUTHFAIL, "C1, and the key needs a session", "stamping_with_a_key"),
        ErrorPath(RC.INVALID_KEYUSAGE, "the key does not sign", "stamping_with_a_key"),
        ErrorPath(RC.INAPPROPRIATE_SIG, "its scheme is DER", "stamping_with_a_key"),
        ErrorPath(RC.AUTHFAIL, "DSAP without the permission", "every_command_of_a_key_by_its_bit"),
        ErrorPath(RC.WRONGPCRVAL, "DSAP for other PCRs", "delegations_for_other_pcrs"),
    ),
    Ordinal.ESTABLISH_TRANSPORT: (
        ErrorPath(RC.INVALID_STRUCTURE, "wrong tag of transPublic", _SCHEMES),
        ErrorPath(RC.BADTAG, "no key, and a session", _REFUSED),
        ErrorPath(RC.BAD_SCHEME, "no key, and encryption", _REFUSED),
        ErrorPath(RC.BAD_PARAM_SIZE, "no key, and not 20 bytes of secret", _REFUSED),
        *of_key(),
        ErrorPath(RC.INVALID_KEYUSAGE, "the key is for signing", _REFUSED),
        ErrorPath(RC.AUTHFAIL, "C1, and the key needs a session", _REFUSED),
        ErrorPath(RC.DECRYPT_ERROR, "the secret does not decrypt", _REFUSED),
        ErrorPath(RC.INVALID_STRUCTURE, "the secret decrypts to something else", _REFUSED),
        ErrorPath(RC.INAPPROPRIATE_ENC, "MGF1 under FIPS", untried=_FIPS),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the algorithm is not for encryption", _SCHEMES),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the algorithm does not exist", _SCHEMES),
        ErrorPath(RC.INAPPROPRIATE_ENC, "MGF1 with a mode of AES", _SCHEMES),
        ErrorPath(RC.INAPPROPRIATE_ENC, "AES with a scheme of RSA", _SCHEMES),
        ErrorPath(RC.INAPPROPRIATE_ENC, "AES without a mode", _REFUSED),
        ErrorPath(RC.RESOURCES, "no slot is free", "sessions_until_there_is_no_transport_slot"),
    ),
    Ordinal.EXECUTE_TRANSPORT: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", "errors_inside_and_outside"),
        ErrorPath(
            RC.INVALID_AUTHHANDLE,
            "the session is no transport session",
            "an_authorization_session_for_a_transport_session",
        ),
        ErrorPath(
            RC.BAD_PARAMETER, "what is wrapped has no header", "wrapped_bytes_that_are_no_command"
        ),
        *[
            ErrorPath(RC.BAD_PARAMETER, f"what is wrapped {fault}", _HEADERS)
            for fault in (
                "has a tag of no request",
                "says that it is longer",
                "says that it is shorter",
                "is shorter than its handles",
                "is shorter than its sessions",
            )
        ],
        ErrorPath(
            RC.BAD_PARAMETER,
            "the wrapped ordinal does not exist",
            "a_wrapped_ordinal_that_does_not_exist",
        ),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "a_wrapped_command_with_a_wrong_hmac"),
        ErrorPath(RC.AUTHFAIL, "the same bytes a second time", "a_command_that_is_repeated_inside"),
        ErrorPath(RC.NO_WRAP_TRANSPORT, "EstablishTransport inside", "commands_that_do_not_nest"),
        ErrorPath(RC.NO_WRAP_TRANSPORT, "ExecuteTransport inside", "commands_that_do_not_nest"),
        ErrorPath(
            RC.NO_WRAP_TRANSPORT,
            "ReleaseTransportSigned inside",
            "a_session_is_not_released_inside",
        ),
        ErrorPath(
            RC.INVALID_KEYHANDLE,
            "LOG, and a key of the wrapped command is not loaded",
            "a_logged_command_with_a_key_that_is_not_there",
        ),
    ),
    Ordinal.RELEASE_TRANSPORT_SIGNED: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the transport session does not exist", _LOG_KEYS),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is not loaded", _LOG_KEYS),
        ErrorPath(RC.KEYNOTFOUND, "the key is the EK", _LOG_KEYS),
        ErrorPath(RC.INVALID_RESOURCE, "the key is a reserved handle", _LOG_KEYS),
        ErrorPath(RC.WRONGPCRVAL, "the PCRs of the key are not as bound", _LOG_KEYS),
        ErrorPath(RC.BAD_LOCALITY, "the key is not for this locality", _LOG_KEYS),
        ErrorPath(RC.INAPPROPRIATE_SIG, "a scheme that is none of signing", _UNSIGNED),
        ErrorPath(RC.INAPPROPRIATE_SIG, "the scheme is DER", _UNSIGNED),
        ErrorPath(
            RC.AUTHFAIL,
            "C2, and the key needs a session",
            "logs_signed_by_the_wrong_kind_of_key",
        ),
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session of the key does not exist", _LOG_KEYS),
        ErrorPath(RC.INVALID_KEYUSAGE, "an identity key", "logs_signed_by_the_wrong_kind_of_key"),
        ErrorPath(RC.INVALID_KEYUSAGE, "a legacy key", _LOG_KEYS),
        ErrorPath(RC.AUTHFAIL, "an OSAP session on something else", _LOG_KEYS),
        ErrorPath(RC.AUTHFAIL, "DSAP without the permission", "a_log_signed_for_a_delegate"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC of the key", _UNSIGNED),
        ErrorPath(RC.AUTH2FAIL, "wrong HMAC of the transport session, second block", _UNSIGNED),
        ErrorPath(
            RC.AUTHFAIL,
            "wrong HMAC of the transport session, only block",
            "a_log_with_one_wrong_session",
        ),
        ErrorPath(RC.BAD_MODE, "the session has no log", _UNSIGNED),
        ErrorPath(
            RC.BAD_MODE,
            "the session has no log, and the key no session",
            "a_log_for_a_key_without_authorization",
        ),
    ),
}
