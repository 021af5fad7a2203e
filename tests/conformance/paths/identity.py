# SPDX-License-Identifier: Apache-2.0
"""Identity creation and activation (Part 3, chapter 15)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_MAKING: Final = "making_identities"
_SESSIONS: Final = "making_identities_with_sessions_that_are_wrong"
_UNPARSED: Final = "identities_that_do_not_parse"
_BOUND: Final = "identities_below_an_srk_that_is_bound"
_OPEN: Final = "identities_below_an_srk_that_needs_no_secret"
_ACTIVATING: Final = "activating_an_identity"
_CONTENTS: Final = "activating_with_what_does_not_parse"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.MAKE_IDENTITY: (
        ErrorPath(RC.BAD_VERSION, "TPM_KEY, the version is not 1.1", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "TPM_KEY12, another tag", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "TPM_KEY12, fill is not 0", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyFlags has unknown bits", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the algorithm is unknown", _UNPARSED),
        ErrorPath(RC.INVALID_STRUCTURE, "PCRInfo of a TPM_KEY12 has another tag", _UNPARSED),
        ErrorPath(RC.INVALID_STRUCTURE, "localityAtRelease is one above 4", _UNPARSED),
        ErrorPath(RC.INVALID_PCR_INFO, "a selection of more than 3 bytes", _UNPARSED),
        ErrorPath(RC.BAD_PARAM_SIZE, "PCRInfo is cut short", _UNPARSED),
        ErrorPath(RC.BAD_KEY_PROPERTY, "not 2048 bits", _MAKING),
        ErrorPath(RC.BAD_KEY_PROPERTY, "sigScheme is not SHA1", _MAKING),
        ErrorPath(RC.BAD_KEY_PROPERTY, "encScheme is not NONE", _MAKING),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the exponent is not 65537", _MAKING),
        ErrorPath(RC.BAD_KEY_PROPERTY, "numPrimes is not 2", _MAKING),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyUsage is STORAGE, which wants others", _MAKING),
        ErrorPath(
            RC.NOTFIPS,
            "FIPS, which no command sets, and AUTH_NEVER",
            "test_keyblob.py::test_fips_wants_authorization_1024_bits_and_no_legacy_keys",
        ),
        ErrorPath(RC.INVALID_AUTHHANDLE, "the owner's session is not open", _SESSIONS),
        ErrorPath(RC.BAD_MODE, "C3, the owner's session is an OIAP session", _MAKING),
        ErrorPath(RC.BAD_MODE, "C2, the owner's session is an OIAP session", _OPEN),
        ErrorPath(RC.AUTHFAIL, "the owner's session is an OSAP session of the SRK", _SESSIONS),
        ErrorPath(RC.AUTH2FAIL, "C3, wrong HMAC of the owner's session", _MAKING),
        ErrorPath(RC.AUTHFAIL, "C2, wrong HMAC of the owner's session", _OPEN),
        ErrorPath(RC.WRONGPCRVAL, "the PCRs of the SRK are not as bound", _BOUND),
        ErrorPath(RC.BAD_LOCALITY, "the SRK is not for this locality", _BOUND),
        ErrorPath(RC.INVALID_AUTHHANDLE, "the SRK's session is not open", _SESSIONS),
        ErrorPath(RC.AUTHFAIL, "the SRK's session is an OSAP session of a key", _SESSIONS),
        ErrorPath(RC.AUTHFAIL, "the SRK's session is an OSAP session of the owner", _SESSIONS),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC of the SRK's session", _MAKING),
        ErrorPath(RC.AUTHFAIL, "C2, and the SRK needs a session", _MAKING),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage is SIGNING", "making_identities_of_another_usage"),
        ErrorPath(RC.INVALID_KEYUSAGE, "the key is to be migratable", _MAKING),
    ),
    Ordinal.ACTIVATE_IDENTITY: (
        ErrorPath(
            RC.INVALID_AUTHHANDLE,
            "the owner's session is not open",
            "activating_with_an_owner_session_that_is_wrong",
        ),
        ErrorPath(
            RC.AUTHFAIL,
            "the owner's session is an OSAP session of a key",
            "activating_with_an_owner_session_that_is_wrong",
        ),
        ErrorPath(RC.AUTHFAIL, "C3, wrong HMAC of the owner's session", _ACTIVATING),
        ErrorPath(
            RC.AUTHFAIL,
            "C2, wrong HMAC of the owner's session",
            "activating_with_the_owner_alone",
        ),
        *of_key("the identity", wrong=RC.AUTH2FAIL),
        ErrorPath(
            RC.AUTHFAIL, "C2, and the identity needs a session", "activating_with_the_owner_alone"
        ),
        ErrorPath(RC.BAD_PARAMETER, "the key is no identity", _ACTIVATING),
        ErrorPath(
            RC.NO_ENDORSEMENT,
            "there is no endorsement key",
            untried="an owner is installed with the endorsement key, and only RevokeTrust, which "
            "clears the owner as well, removes it",
        ),
        ErrorPath(RC.DECRYPT_ERROR, "the blob does not decrypt", _ACTIVATING),
        ErrorPath(RC.BAD_PARAM_SIZE, "TPM_ASYM_CA_CONTENTS, cut in its digest", _CONTENTS),
        ErrorPath(RC.BAD_PARAM_SIZE, "TPM_ASYM_CA_CONTENTS, cut in its key", _CONTENTS),
        ErrorPath(
            RC.BAD_PARAM_SIZE,
            "TPM_ASYM_CA_CONTENTS, bytes follow it",
            "activating_with_bytes_behind_the_contents",
        ),
        ErrorPath(RC.BAD_PARAMETER, "TPM_ASYM_CA_CONTENTS, of another identity", _ACTIVATING),
        ErrorPath(RC.BAD_PARAM_SIZE, "TPM_EK_BLOB, cut short", _CONTENTS),
        ErrorPath(RC.BAD_TYPE, "TPM_EK_BLOB, ekType is AUTH", _ACTIVATING),
        ErrorPath(RC.BAD_TYPE, "TPM_EK_BLOB, ekType is unknown", _CONTENTS),
        ErrorPath(RC.BAD_PARAM_SIZE, "TPM_EK_BLOB_ACTIVATE, cut short", _CONTENTS),
        ErrorPath(RC.INVALID_STRUCTURE, "TPM_EK_BLOB_ACTIVATE, another tag", _CONTENTS),
        ErrorPath(RC.INVALID_STRUCTURE, "TPM_EK_BLOB_ACTIVATE, no locality", _CONTENTS),
        ErrorPath(RC.INVALID_PCR_INFO, "TPM_EK_BLOB_ACTIVATE, a selection too long", _CONTENTS),
        ErrorPath(RC.BAD_PARAMETER, "TPM_EK_BLOB_ACTIVATE, of another identity", _ACTIVATING),
        ErrorPath(RC.WRONGPCRVAL, "TPM_EK_BLOB_ACTIVATE, PCRs are not as named", _ACTIVATING),
        ErrorPath(RC.BAD_LOCALITY, "TPM_EK_BLOB_ACTIVATE, not at this locality", _ACTIVATING),
    ),
}
