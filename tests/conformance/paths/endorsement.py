# SPDX-License-Identifier: Apache-2.0
"""Endorsement key handling (Part 3, chapter 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_REVOCABLE: Final = "revocable_endorsement_key"
_UNFIT: Final = "revocable_endorsement_key_of_another_kind"
_OWNER: Final = "owner_reads_internal_public_keys_with_the_wrong_session"


def _unfit(tried_by: str) -> tuple[ErrorPath, ...]:
    return (
        ErrorPath(RC.BAD_KEY_PROPERTY, "the algorithm is not RSA", tried_by),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the key is to have other than 2048 bits", tried_by),
        ErrorPath(RC.BAD_KEY_PROPERTY, "numPrimes is not 2", tried_by),
        ErrorPath(RC.BAD_KEY_PROPERTY, "encScheme is not OAEP", tried_by),
    )


PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CREATE_ENDORSEMENT_KEY_PAIR: (
        ErrorPath(RC.DISABLED_CMD, "there is one", "endorsement_key_is_made_once"),
        *_unfit("endorsement_key_of_another_kind"),
    ),
    Ordinal.CREATE_REVOCABLE_EK: (
        ErrorPath(RC.DISABLED_CMD, "there is one", _REVOCABLE),
        *_unfit(_UNFIT),
        ErrorPath(RC.BAD_PARAMETER, "generateReset is neither 0 nor 1", _UNFIT),
    ),
    Ordinal.REVOKE_TRUST: (
        ErrorPath(
            RC.PERMANENTEK,
            "the key is not revocable",
            "permanent_endorsement_key_cannot_be_revoked",
        ),
        ErrorPath(RC.AUTHFAIL, "EKReset is wrong", _REVOCABLE),
        ErrorPath(RC.BAD_PRESENCE, "nobody is present", _REVOCABLE),
    ),
    Ordinal.READ_PUBEK: (
        ErrorPath(
            RC.DISABLED_CMD,
            "readPubek is FALSE",
            "reading_the_endorsement_key_with_an_owner",
        ),
        ErrorPath(RC.NO_ENDORSEMENT, "there is none", "endorsement_key_is_made_once"),
    ),
    Ordinal.OWNER_READ_INTERNAL_PUB: (
        ErrorPath(RC.INVALID_AUTHHANDLE, "the session is not open", _OWNER),
        ErrorPath(RC.AUTHFAIL, "the session is an OSAP session of a key", _OWNER),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "owner_reads_internal_public_keys"),
        ErrorPath(RC.BAD_PARAMETER, "keyHandle is another reserved one", _OWNER),
        ErrorPath(RC.BAD_PARAMETER, "keyHandle is that of no key", _OWNER),
        ErrorPath(RC.BAD_PARAMETER, "keyHandle is that of a loaded key", _OWNER),
    ),
}
