# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys (Part 3, 11.5 to 11.10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_MADE: Final = "certified_keys_are_made"
_DELEGATED: Final = "what_no_delegate_may"
_UNMADE: Final = "certified_keys_that_cannot_be_made"
_UNFIT: Final = "certified_keys_with_unfit_properties"
_LARGE: Final = "certified_keys_of_three_primes_or_too_many_bits"
_PCRS: Final = "certified_keys_and_parents_whose_pcrs_have_changed"
_LOCALITY: Final = "certified_keys_and_parents_of_another_locality"
_GIVEN: Final = "certified_migrations_that_are_refused"
_TAKEN: Final = "certified_conversions_that_are_refused"
_LIST: Final = "certified_migrations_with_a_list_that_does_not_parse"
_TAIL: Final = "certified_migrations_with_a_list_and_a_tail"
_SIZES: Final = "certified_migrations_with_tickets_of_the_wrong_size"
_MISSING: Final = "certified_migrations_without_tickets"
_TICKETS: Final = "certified_migrations_to_an_authority_with_tickets"
_NO_CMK: Final = "certified_migration_of_a_key_that_is_not_certified"
_PERMITTED: Final = "AuthorizeMigrationKey permits no such key"

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.CMK_SET_RESTRICTIONS: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _MADE),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", _MADE),
        ErrorPath(RC.AUTHFAIL, "through a delegation of all there is", _DELEGATED),
    ),
    Ordinal.CMK_APPROVE_MA: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _MADE),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", _MADE),
    ),
    Ordinal.CMK_CREATE_KEY: (
        ErrorPath(RC.INVALID_KEYHANDLE, "the parent is not loaded", _UNMADE),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the parent", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, "locality of the parent", _LOCALITY),
        ErrorPath(RC.BAD_MODE, "the session is an OIAP session", _UNMADE),
        ErrorPath(RC.AUTHFAIL, "the session is on the owner", _UNMADE),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _UNMADE),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: encScheme and keyUsage", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: sigScheme and keyUsage", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: length that is no multiple of 16", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: exponent that is not supported", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: unknown keyUsage", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: not for RSA", _UNFIT),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: other than two primes", _LARGE),
        ErrorPath(RC.BAD_KEY_PROPERTY, "keyInfo: more than 2048 bits", _LARGE),
        ErrorPath(
            RC.NOTFIPS,
            "FIPS, which no command sets, and the key is too short",
            "test_cmk.py::test_a_short_key_is_not_made_where_fips_rules",
        ),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _UNMADE),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is migratable", _UNMADE),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyInfo: not migratable", _UNMADE),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyInfo: migrateAuthority is not set", _UNMADE),
        ErrorPath(RC.MA_AUTHORITY, "false approval", _UNMADE),
        ErrorPath(RC.MA_AUTHORITY, "approval of other authorities", _UNMADE),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyInfo: identity key", _UNMADE),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyInfo: key for changing secrets", _UNMADE),
        ErrorPath(RC.INVALID_STRUCTURE, "keyInfo: no TPM_KEY12", "a_certified_key_in_the_old_form"),
    ),
    Ordinal.CMK_CREATE_TICKET: (
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "tickets"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "tickets"),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "verificationKey is not for RSA",
            "a_ticket_for_a_key_that_is_not_for_rsa",
        ),
        ErrorPath(RC.INAPPROPRIATE_ENC, "encScheme is not NONE", "tickets"),
        ErrorPath(RC.INVALID_KEYUSAGE, "sigScheme is NONE", "tickets"),
        ErrorPath(RC.INVALID_KEYUSAGE, "sigScheme is DER", "tickets"),
        ErrorPath(RC.BAD_SIGNATURE, "signature of something else", "tickets"),
        ErrorPath(RC.BAD_SIGNATURE, "signature of the wrong length", "tickets"),
    ),
    Ordinal.CMK_CREATE_BLOB: (
        ErrorPath(RC.INVALID_STRUCTURE, "msaList is empty", _LIST),
        ErrorPath(RC.BAD_PARAM_SIZE, "msaList is cut", _LIST),
        ErrorPath(RC.BAD_PARAM_SIZE, "bytes behind msaList", _TAIL),
        ErrorPath(RC.INVALID_KEYHANDLE, "the parent is not loaded", _GIVEN),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the parent", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, "locality of the parent", _LOCALITY),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _GIVEN),
        ErrorPath(RC.AUTHFAIL, "the session is on the owner", _GIVEN),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _GIVEN),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is migratable", _GIVEN),
        ErrorPath(RC.DECRYPT_ERROR, "encData does not decrypt", _GIVEN),
        ErrorPath(
            RC.MIGRATEFAIL,
            "the owner did not permit it",
            "certified_migration_without_permission",
        ),
        ErrorPath(RC.INVALID_STRUCTURE, "encData: of a key that cannot migrate", _NO_CMK),
        ErrorPath(RC.INVALID_STRUCTURE, "encData: of a plain migratable key", _NO_CMK),
        ErrorPath(RC.MA_AUTHORITY, "the key has other authorities", _GIVEN),
        ErrorPath(RC.MA_AUTHORITY, "pubSourceKeyDigest is of another key", _GIVEN),
        ErrorPath(
            RC.MA_AUTHORITY,
            "RESTRICT_MIGRATE: the destination is no authority",
            "a_certified_migration_to_what_is_no_authority",
        ),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "RESTRICT_MIGRATE: the destination is not for RSA",
            untried=_PERMITTED,
        ),
        ErrorPath(
            RC.INAPPROPRIATE_ENC,
            "RESTRICT_MIGRATE: encScheme of the destination is not OAEP",
            untried=_PERMITTED,
        ),
        ErrorPath(
            RC.INVALID_KEYUSAGE,
            "RESTRICT_MIGRATE: sigScheme of the destination is not NONE",
            "a_certified_migration_to_an_authority_that_signs",
        ),
        ErrorPath(RC.BAD_PARAMETER, "RESTRICT_MIGRATE: with a restrictTicket", _TICKETS),
        ErrorPath(RC.BAD_PARAMETER, "RESTRICT_MIGRATE: with a sigTicket", _TICKETS),
        ErrorPath(RC.BAD_PARAM_SIZE, "RESTRICT_APPROVE: no sigTicket", _MISSING),
        ErrorPath(RC.BAD_PARAM_SIZE, "RESTRICT_APPROVE: no restrictTicket", _MISSING),
        ErrorPath(RC.BAD_PARAM_SIZE, "RESTRICT_APPROVE: size of sigTicket", _SIZES),
        ErrorPath(RC.BAD_PARAM_SIZE, "RESTRICT_APPROVE: size of restrictTicket", _SIZES),
        ErrorPath(
            RC.MA_AUTHORITY,
            "RESTRICT_APPROVE: false sigTicket",
            "a_certified_migration_with_a_false_ticket",
        ),
        ErrorPath(
            RC.MA_AUTHORITY,
            "RESTRICT_APPROVE: sigTicket for something else",
            "a_certified_migration_with_a_false_ticket",
        ),
        ErrorPath(RC.MA_DESTINATION, "RESTRICT_APPROVE: for another destination", _GIVEN),
        ErrorPath(RC.MA_SOURCE, "RESTRICT_APPROVE: for another key", _GIVEN),
        ErrorPath(RC.BAD_PARAMETER, "the scheme that was permitted is neither", _GIVEN),
    ),
    Ordinal.CMK_CONVERT_MIGRATION: (
        ErrorPath(RC.INVALID_STRUCTURE, "msaList is empty", _LIST),
        ErrorPath(RC.BAD_PARAM_SIZE, "msaList is cut", _LIST),
        ErrorPath(RC.BAD_PARAM_SIZE, "bytes behind msaList", _TAIL),
        ErrorPath(RC.INVALID_KEYHANDLE, "the parent is not loaded", _TAKEN),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the parent", _PCRS),
        ErrorPath(RC.BAD_LOCALITY, "locality of the parent", _LOCALITY),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _TAKEN),
        ErrorPath(RC.AUTHFAIL, "the session is on the owner", _TAKEN),
        ErrorPath(RC.INVALID_KEYUSAGE, "the parent is no storage key", _TAKEN),
        ErrorPath(RC.DECRYPT_ERROR, "encData does not decrypt", _TAKEN),
        ErrorPath(RC.BAD_PARAMETER, "random has another length", _TAKEN),
        ErrorPath(RC.DECRYPT_ERROR, "another mask, so no OAEP block", _TAKEN),
        ErrorPath(RC.DECRYPT_ERROR, "too short for an OAEP block", _TAKEN),
        ErrorPath(
            RC.BAD_PARAM_SIZE,
            "no TPM_MIGRATE_ASYMKEY",
            "a_certified_conversion_that_does_not_parse",
        ),
        ErrorPath(RC.AUTHFAIL, "other authorities than the blob is for", _TAKEN),
        ErrorPath(RC.AUTHFAIL, "another public key than the blob is for", _TAKEN),
        ErrorPath(
            RC.INVALID_KEYUSAGE,
            "the parent is migratable",
            "a_certified_conversion_below_a_migratable_key",
        ),
        ErrorPath(RC.BAD_MIGRATION, "of another payload type", _TAKEN),
        ErrorPath(
            RC.MA_AUTHORITY,
            "false sigTicket",
            "a_certified_conversion_with_a_false_ticket",
        ),
        ErrorPath(
            RC.MA_AUTHORITY,
            "sigTicket for something else",
            "a_certified_conversion_with_a_false_ticket",
        ),
        ErrorPath(RC.MA_DESTINATION, "for another destination", _TAKEN),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "migratedKey is not for RSA",
            "a_certified_conversion_of_a_key_that_is_not_for_rsa",
        ),
        ErrorPath(
            RC.BAD_PARAMETER,
            "the private key is of another public key",
            "a_certified_conversion_with_a_private_key_of_another",
        ),
        ErrorPath(RC.INVALID_KEYUSAGE, "migratedKey is not migratable", _TAKEN),
        ErrorPath(RC.INVALID_KEYUSAGE, "migratedKey: migrateAuthority is not set", _TAKEN),
        ErrorPath(RC.MA_SOURCE, "for another key", _TAKEN),
    ),
}
