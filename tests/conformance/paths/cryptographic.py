# SPDX-License-Identifier: Apache-2.0
"""Cryptographic functions (Part 3, chapter 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.key_use import of_key
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_CMK: Final = "certifying_keys_of_certified_migration"
_FIT: Final = "certifying_with_an_identity_or_what_cannot_be_certified"
_NEEDED: Final = "certifying_without_a_session_that_is_needed"
_NO_OTHER_SCHEME: Final = (
    "the key properties give a signature scheme only to SIGNING, IDENTITY and LEGACY keys, and "
    "every such key has one; they are checked when a key is made and when it is loaded"
)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.SHA1_START: (),
    Ordinal.SHA1_UPDATE: (
        ErrorPath(RC.SHA_THREAD, "no thread is open", "sha1_thread"),
        ErrorPath(
            RC.SHA_THREAD, "another command ended it", "sha1_thread_ends_with_another_command"
        ),
        ErrorPath(RC.SHA_ERROR, "the length is no multiple of 64", "sha1_with_bad_lengths"),
        ErrorPath(
            RC.SHA_ERROR,
            "the length is above maxNumBytes",
            untried="the next multiple of 64 above maxNumBytes does not fit into a command",
        ),
    ),
    Ordinal.SHA1_COMPLETE: (
        ErrorPath(RC.SHA_THREAD, "no thread is open", "sha1_thread"),
        ErrorPath(RC.SHA_ERROR, "more than 64 bytes", "sha1_with_bad_lengths"),
        ErrorPath(RC.SHA_THREAD, "an error ended the thread", "sha1_with_bad_lengths"),
    ),
    Ordinal.SHA1_COMPLETE_EXTEND: (
        ErrorPath(RC.SHA_THREAD, "no thread is open", "sha1_into_a_pcr"),
        ErrorPath(RC.SHA_ERROR, "more than 64 bytes", "sha1_into_a_pcr"),
        ErrorPath(RC.BADINDEX, "there is no such PCR", "sha1_into_a_pcr"),
        ErrorPath(RC.BAD_LOCALITY, "the PCR is not for this locality", "sha1_into_a_pcr"),
    ),
    Ordinal.SIGN: (
        *of_key(),
        ErrorPath(RC.AUTHFAIL, "C1, and the key needs a session", "signing"),
        ErrorPath(RC.BAD_PARAMETER, "areaToSign is empty", "signing"),
        ErrorPath(RC.INVALID_KEYUSAGE, "a binding key", "signing_with_unfit_keys"),
        ErrorPath(RC.INVALID_KEYUSAGE, "a storage key", "signing_with_unfit_keys"),
        ErrorPath(RC.BAD_PARAMETER, "SHA1, less than 20 bytes", "signing"),
        ErrorPath(RC.BAD_PARAMETER, "SHA1, more than 20 bytes", "signing"),
        ErrorPath(RC.BAD_PARAMETER, "DER, longer than the key", "signing_der_and_info"),
        ErrorPath(
            RC.BAD_PARAMETER,
            "INFO, C1",
            "signing_without_the_nonce_that_is_to_be_signed",
        ),
        ErrorPath(RC.INVALID_KEYUSAGE, "another scheme", untried=_NO_OTHER_SCHEME),
    ),
    Ordinal.GET_RANDOM: (),
    Ordinal.STIR_RANDOM: (),
    Ordinal.CERTIFY_KEY: (
        *of_key("the certifying key"),
        *of_key("the certified key", wrong=RC.AUTH2FAIL),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the certifying key's scheme is DER", "certifying_keys"),
        ErrorPath(RC.BAD_KEY_PROPERTY, "the certifying key does not sign", "certifying_keys"),
        ErrorPath(RC.AUTHFAIL, "C2, and the certifying key needs a session", _NEEDED),
        ErrorPath(RC.AUTHFAIL, "C1, and the certifying key needs a session", _NEEDED),
        ErrorPath(RC.AUTHFAIL, "C1, and the certified key needs a session", _NEEDED),
        ErrorPath(RC.AUTHFAIL, "C1, the certifying key's public part alone needs none", _NEEDED),
        ErrorPath(
            RC.AUTHFAIL,
            "C2, wrong HMAC of the certified key's session",
            "certifying_with_one_wrong_session",
        ),
        ErrorPath(RC.INVALID_KEYUSAGE, "the payload is MIGRATE_RESTRICTED", _CMK),
        ErrorPath(RC.INVALID_KEYUSAGE, "the payload is MIGRATE_EXTERNAL", _CMK),
        ErrorPath(RC.MIGRATEFAIL, "an identity, and the key is migratable", _FIT),
        ErrorPath(RC.INVALID_KEYUSAGE, "the certified key is a MIGRATE key", _FIT),
        ErrorPath(
            RC.INVALID_KEYUSAGE,
            "the certifying key is of no usage that signs",
            untried=_NO_OTHER_SCHEME,
        ),
    ),
    Ordinal.CERTIFY_KEY2: (
        *of_key("the certified key"),
        *of_key("the certifying key", wrong=RC.AUTH2FAIL),
        ErrorPath(
            RC.BAD_KEY_PROPERTY,
            "the certifying key's scheme is DER",
            "certifying_keys_in_the_new_form",
        ),
        ErrorPath(RC.AUTHFAIL, "C2, and the certified key needs a session", _NEEDED),
        ErrorPath(RC.AUTHFAIL, "C1, and the certified key needs a session", _NEEDED),
        ErrorPath(RC.AUTHFAIL, "C1, and the certifying key needs a session", _NEEDED),
        ErrorPath(RC.AUTHFAIL, "C1, the certifying key's public part alone needs none", _NEEDED),
        ErrorPath(
            RC.AUTHFAIL,
            "C2, wrong HMAC of the certifying key's session",
            "certifying_in_the_new_form_with_one_wrong_session",
        ),
        ErrorPath(RC.MIGRATEFAIL, "an identity, and the key is migratable", _FIT),
        ErrorPath(RC.MIGRATEFAIL, "an identity, migratable, controlled by payload alone", _CMK),
        ErrorPath(RC.MIGRATEFAIL, "an identity, migratable, controlled by flag alone", _CMK),
        ErrorPath(RC.INVALID_KEYUSAGE, "the certified key is a MIGRATE key", _FIT),
        ErrorPath(
            RC.INVALID_KEYUSAGE,
            "the certifying key is of no usage that signs",
            untried=_NO_OTHER_SCHEME,
        ),
        ErrorPath(RC.MA_SOURCE, "MIGRATE_RESTRICTED, another authority controls it", _CMK),
        ErrorPath(RC.MA_SOURCE, "MIGRATE_EXTERNAL, another authority controls it", _CMK),
    ),
}
