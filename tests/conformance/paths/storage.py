# SPDX-License-Identifier: Apache-2.0
"""Storage functions (Part 3, chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_UNPARSED: Final = "sealing_to_what_does_not_parse"
_UNSEALED: Final = "unsealing_what_does_not_parse"
_FORGED: Final = "unsealing_what_this_tpm_did_not_seal"


def _sealing(tried_by: str) -> tuple[ErrorPath, ...]:
    """Return what Seal and Sealx refuse alike."""
    return (
        *of_key(osap=True),
        ErrorPath(RC.BAD_PARAMETER, "inData is empty", tried_by),
        ErrorPath(RC.INVALID_KEYUSAGE, "the key is no storage key", tried_by),
        ErrorPath(RC.INVALID_KEYUSAGE, "the key is migratable", tried_by),
        ErrorPath(RC.BADINDEX, "pcrInfo is neither form", _UNPARSED),
        ErrorPath(RC.BADINDEX, "pcrInfo is cut short", _UNPARSED),
        ErrorPath(RC.BADINDEX, "bytes follow pcrInfo within its size", _UNPARSED),
        ErrorPath(RC.BADINDEX, "a selection in pcrInfo is longer than 3 bytes", _UNPARSED),
        ErrorPath(RC.BADINDEX, "localityAtCreation is no locality", _UNPARSED),
        ErrorPath(RC.BADINDEX, "localityAtRelease is none, or one above 4", _UNPARSED),
        ErrorPath(RC.BAD_DATASIZE, "inData does not fit below the key's modulus", tried_by),
    )


PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.SEAL: _sealing("seal_errors"),
    Ordinal.SEALX: (
        *_sealing("sealx_errors"),
        ErrorPath(RC.BADINDEX, "pcrInfo is a TPM_PCR_INFO", "sealx_errors"),
    ),
    Ordinal.UNSEAL: (
        *of_key("the parent"),
        ErrorPath(RC.AUTHFAIL, "C2, and the parent needs a session", "unsealing_what_is_wrong"),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", "unsealing_what_is_wrong"),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is migratable", "unsealing_what_is_wrong"),
        ErrorPath(RC.BAD_VERSION, "inData is neither form", "unsealing_what_is_neither_form"),
        ErrorPath(RC.BAD_VERSION, "inData is of version 1.2 by its first word", _UNSEALED),
        ErrorPath(RC.BAD_PARAM_SIZE, "bytes follow sealInfo within its size", _UNSEALED),
        ErrorPath(RC.INVALID_PCR_INFO, "the selection is longer than 3 bytes", _UNSEALED),
        ErrorPath(RC.INVALID_STRUCTURE, "sealInfo of the newer form has another tag", _UNSEALED),
        ErrorPath(RC.INVALID_STRUCTURE, "localityAtRelease is none", _UNSEALED),
        ErrorPath(RC.INVALID_STRUCTURE, "localityAtRelease is one above 4", _UNSEALED),
        ErrorPath(RC.NOTSEALED_BLOB, "encData does not decrypt", "unsealing_what_is_wrong"),
        ErrorPath(RC.NOTSEALED_BLOB, "another key sealed it", "unsealing_what_is_wrong"),
        ErrorPath(RC.NOTSEALED_BLOB, "what decrypts is too short", _FORGED),
        ErrorPath(RC.NOTSEALED_BLOB, "tpmProof is not this TPM's", _FORGED),
        ErrorPath(RC.NOTSEALED_BLOB, "the payload is that of a key", _FORGED),
        ErrorPath(RC.NOTSEALED_BLOB, "sealInfo of the older form was changed", _FORGED),
        ErrorPath(RC.NOTSEALED_BLOB, "sealInfo was taken away", _FORGED),
        ErrorPath(RC.NOTSEALED_BLOB, "sealInfo of the newer form was changed", _FORGED),
        ErrorPath(RC.NOTSEALED_BLOB, "et was changed", _FORGED),
        ErrorPath(
            RC.WRONGPCRVAL, "PCRs are not as sealed to, old", "sealing_to_pcrs_in_the_old_form"
        ),
        ErrorPath(
            RC.WRONGPCRVAL, "PCRs are not as sealed to, new", "sealing_to_pcrs_and_localities"
        ),
        ErrorPath(RC.BAD_LOCALITY, "not at this locality", "sealing_to_pcrs_and_localities"),
        ErrorPath(
            RC.INVALID_AUTHHANDLE,
            "the data session is not open",
            "unsealing_with_a_session_that_is_wrong",
        ),
        ErrorPath(
            RC.BAD_MODE,
            "C3, the data session is an OSAP session",
            "unsealing_with_a_session_that_is_wrong",
        ),
        ErrorPath(
            RC.BAD_MODE,
            "C2, the data session is an OSAP session",
            "unsealing_with_a_session_that_is_wrong",
        ),
        ErrorPath(RC.AUTH2FAIL, "C3, wrong HMAC of the data session", "unsealing_what_is_wrong"),
        ErrorPath(
            RC.AUTHFAIL, "C2, wrong HMAC of the data session", "unsealing_with_one_wrong_session"
        ),
        ErrorPath(
            RC.AUTHFAIL,
            "sealx made it, C2",
            "unsealing_what_sealx_made_without_a_session_that_encrypts",
        ),
        ErrorPath(
            RC.BAD_MODE,
            "sealx made it, the parent's session is an OIAP session",
            "unsealing_what_sealx_made_without_a_session_that_encrypts",
        ),
    ),
    Ordinal.UNBIND: (
        *of_key(),
        ErrorPath(RC.BAD_PARAMETER, "inData is empty", "unbinding"),
        ErrorPath(RC.AUTHFAIL, "C1, and the key needs a session", "unbinding"),
        ErrorPath(RC.INVALID_KEYUSAGE, "no binding or legacy key", "unbinding_what_is_wrong"),
        ErrorPath(RC.DECRYPT_ERROR, "the padding is wrong, OAEP", "unbinding_what_is_wrong"),
        ErrorPath(RC.DECRYPT_ERROR, "shorter than the modulus", "unbinding_what_is_wrong"),
        ErrorPath(RC.DECRYPT_ERROR, "the padding is wrong, PKCS#1", "unbinding_of_every_scheme"),
        *[
            ErrorPath(code, f"{what}, {key}", "unbinding_of_every_scheme")
            for code, what in (
                (RC.INVALID_STRUCTURE, "the payload is not that of bound data"),
                (RC.BAD_VERSION, "the version of bound data is not 1.1"),
            )
            for key in ("binding key, OAEP", "binding key, PKCS#1", "legacy key, OAEP")
        ],
        ErrorPath(RC.BAD_PARAM_SIZE, "too short for bound data", "unbinding_what_is_too_short"),
    ),
}
