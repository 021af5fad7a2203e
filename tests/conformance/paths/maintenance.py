# SPDX-License-Identifier: Apache-2.0
"""Maintenance (Part 3, chapter 12); the reference is built without it, so unit tests try these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode


def _unit(name: str) -> str:
    return f"test_maintenance.py::test_{name}"


_OWNER: Final = _unit("archives_need_the_owner")
_ENTITY: Final = _unit("a_session_on_a_key_is_no_session_of_the_owner")
_ENDED: Final = _unit("owner_may_end_maintenance")
_ONCE: Final = _unit("manufacturer_key_is_loaded_once_for_ever")
_STRONG: Final = _unit("manufacturer_key_must_be_a_strong_one")
_UNSIGNED: Final = _unit("archive_is_not_taken_without_the_manufacturer")
_ROOT: Final = _unit("archive_must_hold_a_root_key_for_this_chip")

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CREATE_MAINTENANCE_ARCHIVE: (
        ErrorPath(
            RC.BAD_PARAMETER, "generateRandom is no BOOL", _unit("generate_random_is_a_boolean")
        ),
        ErrorPath(RC.DISABLED_CMD, "allowMaintenance is FALSE, whatever the HMAC", _ENDED),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _OWNER),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", _ENTITY),
        ErrorPath(RC.KEYNOTFOUND, "no key of the manufacturer", _ONCE),
    ),
    Ordinal.LOAD_MAINTENANCE_ARCHIVE: (
        ErrorPath(RC.KEYNOTFOUND, "no key of the manufacturer", _UNSIGNED),
        ErrorPath(RC.DISABLED_CMD, "allowMaintenance is FALSE, whatever the HMAC", _ENDED),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _OWNER),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", _ENTITY),
        ErrorPath(RC.BAD_SIGNATURE, "no signature", _UNSIGNED),
        ErrorPath(RC.BAD_SIGNATURE, "signature of something else", _UNSIGNED),
        ErrorPath(RC.INVALID_KEYUSAGE, "archive: of a migratable key", _ROOT),
        ErrorPath(RC.INVALID_KEYUSAGE, "archive: of no storage key", _ROOT),
        ErrorPath(RC.INVALID_KEYUSAGE, "archive: of a key bound to PCRs", _ROOT),
        ErrorPath(RC.DECRYPT_ERROR, "archive: not for this SRK", _ROOT),
        ErrorPath(RC.BAD_PARAMETER, "random has another length", _ROOT),
        ErrorPath(RC.DECRYPT_ERROR, "another mask, so no OAEP block", _ROOT),
        ErrorPath(
            RC.BAD_MIGRATION,
            "archive: of another payload type",
            _unit("migration_blob_is_no_archive"),
        ),
        ErrorPath(RC.BAD_PARAMETER, "archive: private key of another public key", _ROOT),
        ErrorPath(RC.BAD_PARAMETER, "archive: modulus with a leading zero", _ROOT),
        ErrorPath(RC.AUTHFAIL, "archive: public part was changed", _ROOT),
    ),
    Ordinal.KILL_MAINTENANCE_FEATURE: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _ENDED),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", _ENTITY),
    ),
    Ordinal.LOAD_MANU_MAINT_PUB: (
        ErrorPath(RC.DISABLED_CMD, "there is a key already", _ONCE),
        ErrorPath(
            RC.DISABLED_CMD,
            "there is a key already, and this one is unfit",
            _unit("another_manufacturer_is_refused_before_its_key_is_looked_at"),
        ),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the key has less than 2048 bits", _STRONG),
        ErrorPath(RC.BAD_KEY_PROPERTY, "encScheme is not OAEP", _STRONG),
        ErrorPath(RC.BAD_KEY_PROPERTY, "sigScheme is not NONE", _STRONG),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the exponent is not 65537", _STRONG),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the key is not for RSA", _STRONG),
    ),
    Ordinal.READ_MANU_MAINT_PUB: (ErrorPath(RC.KEYNOTFOUND, "there is none", _ONCE),),
}
