# SPDX-License-Identifier: Apache-2.0
"""Direct anonymous attestation, stage by stage (Part 3, chapter 26)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode
DATA0, DATA1 = RC.DAA_INPUT_DATA0, RC.DAA_INPUT_DATA1

_NO_SESSION: Final = "stages_of_no_session"
_ORDER: Final = "stages_out_of_order"
_OTHER: Final = "stages_of_the_other_command"
_ISSUER: Final = "joins_with_another_issuer"
_BASES: Final = "joins_with_other_bases"
_PROOF: Final = "joins_that_prove_nothing"
_PARTS: Final = "joins_with_parts_of_another_size"
_SETTINGS: Final = (
    "the stage before takes the settings of the issuer, and no other command changes them"
)

_COMMON: Final = (
    ErrorPath(RC.INVALID_AUTHHANDLE, "the session does not exist", _NO_SESSION),
    ErrorPath(RC.AUTHFAIL, "an OSAP session on something else", _NO_SESSION),
    ErrorPath(RC.AUTHFAIL, "wrong HMAC, stage 0", _NO_SESSION),
    ErrorPath(RC.AUTHFAIL, "wrong HMAC, later", "a_session_and_a_wrong_secret"),
    ErrorPath(RC.AUTHFAIL, "DSAP without the permission", "every_command_of_the_owner_by_its_bit"),
    ErrorPath(RC.RESOURCES, "stage 0: no slot is free", "daa_sessions_until_there_is_no_slot"),
    ErrorPath(RC.BAD_HANDLE, "there is no such DAA session", _NO_SESSION),
    ErrorPath(RC.DAA_STAGE, "the stage was before", _ORDER),
    ErrorPath(RC.DAA_STAGE, "the stage comes later", _ORDER),
    ErrorPath(RC.DAA_STAGE, "there is no such stage", _ORDER),
    ErrorPath(RC.DAA_TPM_SETTINGS, "the DAA session is of the other command", _OTHER),
)

_JOIN_BASES: Final = (
    (4, "R0"), (5, "R1"), (6, "S0"), (7, "S1"), (9, "R0"), (10, "R1"), (11, "S0"), (12, "S1")
)  # fmt: skip
_SIGN_BASES: Final = ((2, "R0"), (3, "R1"), (4, "S0"), (5, "S1"))


def _bases(stages: tuple[tuple[int, str], ...], case: str) -> tuple[ErrorPath, ...]:
    return tuple(
        ErrorPath(code, f"stage {stage}: {what}", case)
        for stage, base in stages
        for code, what in ((DATA0, f"not the issuer's {base}"), (DATA1, "not the issuer's n"))
    )


PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.DAA_JOIN: (
        *_COMMON,
        ErrorPath(RC.DAA_ISSUER_SETTINGS, "from stage 3 on: other settings", untried=_SETTINGS),
        ErrorPath(DATA0, "stage 0: no count", _ISSUER),
        ErrorPath(DATA0, "stage 0: the count is not four bytes", _ISSUER),
        ErrorPath(DATA0, "stage 0: the count is zero", _ISSUER),
        ErrorPath(DATA0, "stage 1: a key that is not 256 bytes", _ISSUER),
        ErrorPath(DATA1, "stage 1: a signature that is not 256 bytes", _ISSUER),
        ErrorPath(RC.DAA_ISSUER_VALIDITY, "stage 1: no signature of the key before", _ISSUER),
        ErrorPath(RC.DAA_ISSUER_VALIDITY, "stage 1: a signature of another key", _ISSUER),
        ErrorPath(DATA0, "stage 2: no settings", _ISSUER),
        ErrorPath(DATA0, "stage 2: settings with a wrong tag", _ISSUER),
        ErrorPath(DATA0, "stage 2: settings of another size", _ISSUER),
        ErrorPath(DATA1, "stage 2: a signature that is not 256 bytes", _ISSUER),
        ErrorPath(RC.DAA_ISSUER_VALIDITY, "stage 2: no signature of the last key", _ISSUER),
        ErrorPath(RC.DAA_ISSUER_VALIDITY, "stage 2: a signature of other settings", _ISSUER),
        ErrorPath(DATA0, "stage 3: the count is too short", _ISSUER),
        ErrorPath(DATA0, "stage 3: the count is too long", _ISSUER),
        *_bases(_JOIN_BASES, _BASES),
        ErrorPath(DATA0, "stage 8: not 256 bytes", _PROOF),
        ErrorPath(RC.DECRYPT_ERROR, "stage 8: not encrypted for the EK", _PROOF),
        ErrorPath(DATA0, "stage 13: not the issuer's gamma", _PROOF),
        ErrorPath(DATA1, "stage 13: w is not 256 bytes", _PROOF),
        ErrorPath(RC.DAA_WRONG_W, "stage 13: w is not of order q", _PROOF),
        ErrorPath(DATA0, "stage 14: not the issuer's gamma", _PROOF),
        ErrorPath(DATA0, "stage 15: not the issuer's gamma", _PROOF),
        ErrorPath(DATA0, "stage 16: the challenge is too short", _PROOF),
        ErrorPath(DATA0, "stage 16: the challenge is too long", _PROOF),
        ErrorPath(DATA0, "stage 22: u2 is too short", _PARTS),
        ErrorPath(DATA0, "stage 22: u2 is too long", _PARTS),
        ErrorPath(DATA0, "stage 23: u3 is too short", _PARTS),
        ErrorPath(DATA0, "stage 23: u3 is too long", _PARTS),
    ),
    Ordinal.DAA_SIGN: (
        *_COMMON,
        ErrorPath(RC.DAA_ISSUER_SETTINGS, "from stage 2 on: other settings", untried=_SETTINGS),
        *[
            ErrorPath(DATA0, f"stage 0: {what}", "signs_with_another_issuer")
            for what in (
                "no settings",
                "settings that end early",
                "settings with something behind them",
                "settings with a wrong tag",
            )
        ],
        *[
            ErrorPath(DATA0, f"stage 1: {what}", "signs_with_another_issuer")
            for what in ("no blob", "the blob was changed", "the blob is of v0")
        ],
        ErrorPath(
            RC.DAA_ISSUER_SETTINGS,
            "stage 1: the blob is for another issuer",
            "a_sign_with_the_credential_of_another_issuer",
        ),
        *_bases(_SIGN_BASES, "signs_with_other_bases"),
        *[
            ErrorPath(code, when, "signs_of_nothing")
            for code, when in (
                (DATA0, "stage 6: not the issuer's gamma"),
                (DATA1, "stage 6: w is not 256 bytes"),
                (RC.DAA_WRONG_W, "stage 6: w is not of order q"),
                (DATA0, "stage 7: not the issuer's gamma"),
                (DATA0, "stage 8: not the issuer's gamma"),
                (DATA0, "stage 9: the challenge is not 20 bytes"),
                (DATA0, "stage 10: no selector"),
                (DATA0, "stage 10: the selector is two bytes"),
                (DATA0, "stage 10: the selector is neither 0 nor 1"),
                (DATA1, "stage 10: the digest is not 20 bytes"),
                (DATA1, "stage 10: the handle is not four bytes"),
                (DATA1, "stage 10: the key is not loaded"),
                (DATA1, "stage 10: the key is no identity"),
            )
        ],
        *[
            ErrorPath(DATA0, f"stage {stage}: {what}", "signs_with_parts_of_another_credential")
            for stage, own, other in ((13, "v0", "v1"), (14, "v0", "v1"), (15, "v1", "v0"))
            for what in ("no blob", f"the blob is of {other}", f"{own} of another credential")
        ],
    ),
}
