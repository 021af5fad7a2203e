# SPDX-License-Identifier: Apache-2.0
"""Migration (Part 3, 11.1 to 11.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_REFUSED: Final = "migrations_that_are_refused"
_NO_PLAIN_KEY: Final = "migration_of_what_is_no_plain_key"
_PERMISSION: Final = "migration_without_permission"
_PCRS: Final = "migration_with_keys_whose_pcrs_have_changed"
_LOCALITY: Final = "migration_with_keys_of_another_locality"
_CONVERT: Final = "conversions_that_are_refused"
_UNFIT: Final = "authorizing_keys_that_are_unfit"
_AUTHORITY: Final = "an_authority_that_does_not_pass_a_key_on"
_TARGET: Final = "an_authority_with_a_target_that_cannot_encrypt"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CREATE_MIGRATION_BLOB: (
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "migrationKeyAuth: unknown algorithm",
            "migration_with_a_permission_that_does_not_parse",
        ),
        ErrorPath(RC.INVALID_KEYHANDLE, "the parent is not loaded", _REFUSED),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the parent", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, "locality of the parent", _LOCALITY),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC of the parent", _REFUSED),
        ErrorPath(RC.AUTHFAIL, "the first session is on the owner", _REFUSED),
        ErrorPath(RC.AUTHFAIL, "one session, and the parent needs one", _REFUSED),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _REFUSED),
        ErrorPath(RC.DECRYPT_ERROR, "encData does not decrypt", _REFUSED),
        ErrorPath(RC.BAD_PARAM_SIZE, "encData: no TPM_STORE_ASYMKEY", _NO_PLAIN_KEY),
        ErrorPath(RC.BAD_PARAM_SIZE, "encData: private key is cut", _NO_PLAIN_KEY),
        ErrorPath(RC.BAD_MIGRATION, "encData: of another payload type", _NO_PLAIN_KEY),
        ErrorPath(
            RC.BAD_MIGRATION,
            "encData: of a certified migratable key",
            "plain_migration_of_a_certified_key",
        ),
        ErrorPath(RC.BAD_MODE, "the second session is no OIAP session", _REFUSED),
        ErrorPath(RC.AUTH2FAIL, "wrong HMAC of the migration secret", _REFUSED),
        ErrorPath(RC.AUTH2FAIL, "the key is not migratable", _REFUSED),
        ErrorPath(
            RC.BAD_MODE,
            "the only session is no OIAP session",
            "migration_from_below_a_key_that_needs_no_secret",
        ),
        ErrorPath(
            RC.AUTHFAIL,
            "wrong HMAC of the migration secret in the only session",
            "migration_with_one_wrong_session",
        ),
        ErrorPath(RC.MIGRATEFAIL, "the owner did not permit it", _PERMISSION),
        ErrorPath(RC.MIGRATEFAIL, "the owner permitted another scheme", _PERMISSION),
        ErrorPath(RC.MIGRATEFAIL, "the owner permitted another key", _PERMISSION),
        ErrorPath(RC.BAD_PARAMETER, "unknown migrationType", _REFUSED),
        ErrorPath(RC.BAD_PARAMETER, "migrationType of certified migration", _REFUSED),
    ),
    Ordinal.CONVERT_MIGRATION_BLOB: (
        ErrorPath(RC.INVALID_KEYHANDLE, "the parent is not loaded", _CONVERT),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the parent", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, "locality of the parent", _LOCALITY),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "a_key_migrates"),
        ErrorPath(RC.AUTHFAIL, "the session is on another key", _CONVERT),
        ErrorPath(RC.AUTHFAIL, "no authorization, and the parent needs it", _CONVERT),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _CONVERT),
        ErrorPath(RC.DECRYPT_ERROR, "inData does not decrypt", "a_key_migrates"),
        ErrorPath(RC.BAD_PARAMETER, "random has another length", "a_key_migrates"),
        ErrorPath(RC.DECRYPT_ERROR, "another mask, so no OAEP block", "a_key_migrates"),
        ErrorPath(RC.DECRYPT_ERROR, "too short for an OAEP block", _CONVERT),
        ErrorPath(
            RC.BAD_PARAM_SIZE, "no TPM_MIGRATE_ASYMKEY", "conversions_of_what_does_not_parse"
        ),
        ErrorPath(RC.BAD_PARAM_SIZE, "private key is cut", "conversions_of_what_does_not_parse"),
        ErrorPath(RC.BAD_MIGRATION, "of another payload type", _CONVERT),
    ),
    Ordinal.AUTHORIZE_MIGRATION_KEY: (
        ErrorPath(RC.BAD_KEY_PROPERTY, "the key has less than 2048 bits", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the exponent is not 65537", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the key is not for RSA", _UNFIT),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "authorizing_migration_keys"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "authorizing_migration_keys"),
        ErrorPath(RC.INAPPROPRIATE_ENC, "encScheme is PKCS#1 v1.5", _UNFIT),
        ErrorPath(RC.INAPPROPRIATE_ENC, "encScheme is NONE", _UNFIT),
    ),
    Ordinal.MIGRATE_KEY: (
        ErrorPath(RC.INVALID_KEYHANDLE, "the authority's key is not loaded", _AUTHORITY),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the authority's key", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, "locality of the authority's key", _LOCALITY),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _AUTHORITY),
        ErrorPath(RC.AUTHFAIL, "the session is on another key", _AUTHORITY),
        ErrorPath(RC.AUTHFAIL, "no authorization, and the key needs it", _AUTHORITY),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage is not MIGRATE", _AUTHORITY),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "encScheme of the authority's key is not OAEP",
            untried="such a key can be neither made nor loaded",
        ),
        ErrorPath(RC.DECRYPT_ERROR, "inData does not decrypt", _AUTHORITY),
        ErrorPath(RC.BAD_KEY_PROPERTY, "pubKey is not for RSA", _TARGET),
        ErrorPath(RC.INAPPROPRIATE_ENC, "pubKey is for signing", _TARGET),
        ErrorPath(RC.ENCRYPT_ERROR, "pubKey is too short for the data", _AUTHORITY),
    ),
}
