# SPDX-License-Identifier: Apache-2.0
"""Changing authorization (Part 3, chapter 17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_KINDS: Final = "changing_secrets_of_what_does_not_exist"
_ENTITY: Final = "changing_secrets_with_an_entity_session_that_is_wrong"
_WRONGLY: Final = "changing_secrets_wrongly"
_ELSE: Final = "changing_secrets_of_something_else"
_OWNER: Final = "changing_the_owners_secrets_wrongly"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CHANGE_AUTH: (
        *of_key("the parent", osap=True),
        *[
            ErrorPath(RC.WRONG_ENTITYTYPE, f"entityType is {kind}", _KINDS)
            for kind in ("KEYHANDLE", "OWNER", "SRK", "COUNTER", "NV", "unknown", "of a scheme")
        ],
        *[
            ErrorPath(RC.BAD_PARAMETER, f"protocolID is {name}", _KINDS)
            for name in ("OIAP", "OSAP", "ADIP", "OWNER", "DSAP", "TRANSPORT", "unknown")
        ],
        ErrorPath(RC.INVALID_AUTHHANDLE, "the entity's session is not open", _ENTITY),
        ErrorPath(RC.BAD_MODE, "the entity's session is an OSAP session", _WRONGLY),
        ErrorPath(RC.AUTH2FAIL, "wrong HMAC of the entity's session", _ENTITY),
        ErrorPath(RC.AUTH2FAIL, "another secret than the entity's", _WRONGLY),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _WRONGLY),
        ErrorPath(RC.DECRYPT_ERROR, "encData does not decrypt", _WRONGLY),
        *[
            ErrorPath(RC.INVALID_STRUCTURE, f"KEY, the payload is {payload}", _ELSE)
            for payload in ("BIND", "MIGRATE", "MAINT", "CMK_MIGRATE", "undefined")
        ],
        ErrorPath(RC.INVALID_STRUCTURE, "KEY, and encData is that of sealed data", _ELSE),
        ErrorPath(RC.INVALID_STRUCTURE, "DATA, and encData is that of a key", _ELSE),
        ErrorPath(RC.BAD_PARAM_SIZE, "KEY, cut in its secrets", _ELSE),
        ErrorPath(RC.BAD_PARAM_SIZE, "KEY, cut in its prime", _ELSE),
        ErrorPath(RC.BAD_PARAM_SIZE, "DATA, cut in its secrets", _ELSE),
        ErrorPath(RC.BAD_PARAM_SIZE, "DATA, cut in its data", _ELSE),
        ErrorPath(RC.AUTHFAIL, "DATA, tpmProof is not this TPM's", _ELSE),
    ),
    Ordinal.CHANGE_AUTH_OWNER: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session is not open", _OWNER),
        ErrorPath(RC.BAD_MODE, "the session is an OIAP session", _OWNER),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of the SRK", _OWNER),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _OWNER),
        *[
            ErrorPath(RC.BAD_PARAMETER, f"protocolID is {name}", _OWNER)
            for name in ("OIAP", "OSAP", "ADIP", "OWNER", "unknown")
        ],
        *[
            ErrorPath(RC.WRONG_ENTITYTYPE, f"entityType is {kind}", _OWNER)
            for kind in ("KEYHANDLE", "DATA", "KEY", "OPERATOR", "unknown", "of a scheme")
        ],
    ),
}
