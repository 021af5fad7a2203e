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
_KEY: Final = "keys_that_do_not_parse"
_UNMADE: Final = "keys_of_no_allowed_property_cannot_be_made"
_UNLOADED: Final = "keys_of_no_allowed_property_cannot_be_loaded"
_CANNOT: Final = "keys_that_cannot_be_made"
_OUTSIDE: Final = "loading_keys_that_were_made_outside"
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


def _described_key(properties: str) -> tuple[ErrorPath, ...]:
    """Return what is refused of the description of a key, to be made or loaded."""
    return (
        ErrorPath(RC.BAD_VERSION, "TPM_KEY, the version is not 1.1", _KEY),
        ErrorPath(RC.BAD_KEY_PROPERTY, "TPM_KEY12, another tag", _KEY),
        ErrorPath(RC.BAD_KEY_PROPERTY, "TPM_KEY12, fill is not 0", _KEY),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyFlags has unknown bits", _KEY),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the algorithm is unknown", _KEY),
        ErrorPath(RC.INVALID_STRUCTURE, "PCRInfo of a TPM_KEY12 has another tag", _KEY),
        ErrorPath(RC.INVALID_STRUCTURE, "localityAtCreation is none", _KEY),
        ErrorPath(RC.INVALID_STRUCTURE, "localityAtRelease is one above 4", _KEY),
        ErrorPath(RC.INVALID_PCR_INFO, "TPM_KEY, a selection of more than 3 bytes", _KEY),
        ErrorPath(RC.INVALID_PCR_INFO, "TPM_KEY12, a selection of more than 3 bytes", _KEY),
        ErrorPath(RC.BAD_PARAM_SIZE, "PCRInfo is cut short", _KEY),
        ErrorPath(
            RC.BAD_PARAM_SIZE,
            "bytes follow PCRInfo within its size",
            "keys_with_bytes_behind_their_pcr_info",
        ),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the algorithm is a symmetric one", properties),
        ErrorPath(RC.BAD_KEY_PROPERTY, "numPrimes is not 2", properties),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyUsage is unknown", properties),
        *[
            ErrorPath(RC.BAD_KEY_PROPERTY, f"{usage}, {what}", properties)
            for usage in (
                "SIGNING",
                "STORAGE",
                "IDENTITY",
                "AUTHCHANGE",
                "BIND",
                "LEGACY",
                "MIGRATE",
            )
            for what in ("encScheme", "sigScheme", "keyLength", "exponent")
        ],
        ErrorPath(
            RC.NOTFIPS,
            "FIPS, which no command sets, and AUTH_NEVER, a short key or LEGACY",
            "test_keyblob.py::test_fips_wants_authorization_1024_bits_and_no_legacy_keys",
        ),
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
    Ordinal.CREATE_WRAP_KEY: (
        *of_key("the parent", osap=True),
        *_described_key(_UNMADE),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _CANNOT),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is migratable and the new key is not", _CANNOT),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage is IDENTITY", _CANNOT),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage is AUTHCHANGE", _CANNOT),
        ErrorPath(RC.INVALID_KEYUSAGE, "migrateAuthority is set", _CANNOT),
    ),
    Ordinal.LOAD_KEY2: (
        *of_key("the parent"),
        ErrorPath(RC.AUTHFAIL, "C1, and the parent needs a session", "loading_keys"),
        *_described_key(_UNLOADED),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", "loading_what_is_wrong"),
        ErrorPath(RC.DECRYPT_ERROR, "encData does not decrypt", "loading_what_is_wrong"),
        ErrorPath(RC.DECRYPT_ERROR, "encData is empty", "loading_what_is_wrong"),
        ErrorPath(RC.DECRYPT_ERROR, "it is another parent's key", "loading_what_is_wrong"),
        ErrorPath(RC.BAD_PARAM_SIZE, "the private structure is cut in its secrets", _OUTSIDE),
        ErrorPath(RC.BAD_PARAM_SIZE, "the private structure is cut in its prime", _OUTSIDE),
        *[
            ErrorPath(RC.INVALID_STRUCTURE, f"the payload is {payload}", _OUTSIDE)
            for payload in ("BIND", "MIGRATE", "MAINT", "SEAL", "CMK_MIGRATE", "undefined")
        ],
        ErrorPath(RC.INVALID_STRUCTURE, "encData is that of sealed data", _OUTSIDE),
        ErrorPath(RC.BAD_PARAMETER, "the prime does not divide the modulus", _OUTSIDE),
        ErrorPath(RC.BAD_PARAMETER, "the modulus is another key's", "loading_what_is_wrong"),
        ErrorPath(RC.AUTHFAIL, "authDataUsage was changed", "loading_what_is_wrong"),
        ErrorPath(RC.AUTHFAIL, "keyFlags were changed", "loading_what_is_wrong"),
        ErrorPath(RC.AUTHFAIL, "pubDataDigest is that of no key", _OUTSIDE),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage is IDENTITY, and it is migratable", _OUTSIDE),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage is AUTHCHANGE", _OUTSIDE),
        ErrorPath(RC.INVALID_KEYUSAGE, "it is not migratable and not this TPM's", _OUTSIDE),
        ErrorPath(RC.NOSPACE, "no slot is free", "keys_until_there_is_no_slot"),
    ),
    Ordinal.GET_PUB_KEY: (
        *of_key(),
        ErrorPath(RC.AUTHFAIL, "C1, and authDataUsage is ALWAYS", "reading_public_keys"),
        ErrorPath(
            RC.INVALID_KEYHANDLE,
            "the SRK, and readSRKPub is FALSE",
            "reading_the_storage_root_key",
        ),
        ErrorPath(RC.AUTHFAIL, "C1, the SRK, which needs one", "reading_the_storage_root_key"),
    ),
}
