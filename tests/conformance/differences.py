# SPDX-License-Identifier: Apache-2.0
"""Where the engine answers otherwise than the reference, on purpose.

The reference is libtpms 0.9.2. Each entry names the case that shows it and the rule of the
specification that decides for the engine. A difference that is not here, or that a case shows
more often than is said here, fails its case; so does one that it shows less often.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.cases_key_use import USES
from tests.conformance.comparison import Difference


@dataclass(frozen=True, slots=True)
class Declared:
    """A difference that stays.

    Attributes:
        case: name of the case that shows it.
        theirs: the reference's answer.
        reason: the rule that decides.
        or_else: another answer of the reference, where its own random numbers decide which.
        times: how often the case shows it.
    """

    case: str
    ordinal: int
    field: str
    ours: str
    theirs: str
    reason: str
    or_else: str | None = None
    times: int = 1

    @property
    def differences(self) -> frozenset[Difference]:
        """What the comparison may find: one of these."""
        answers = (self.theirs,) if self.or_else is None else (self.theirs, self.or_else)
        return frozenset(
            Difference(self.ordinal, self.field, self.ours, theirs) for theirs in answers
        )

    @property
    def told(self) -> str:
        """The reference's answers, for people."""
        return self.theirs if self.or_else is None else f"{self.theirs} or {self.or_else}"


_CLEARED: Final = (
    "The clear actions give allowMaintenance its default, TRUE (Part 3, 6.2); libtpms gives FALSE."
)
_ONE_SESSION: Final = (
    "A wrong HMAC in the only session of a command is AUTHFAIL; AUTH2FAIL is for the second "
    "(Part 1, 8.1.1)."
)
_STARTUP: Final = (
    "A refused Startup changes nothing, so a good one may follow (Part 3, 3.2); libtpms counts "
    "itself as started."
)
_TOO_LARGE: Final = "Data that does not fit below the key's modulus is BAD_DATASIZE (Part 3, 10.1)."
_KEY_LOCALITY: Final = (
    "A key that is not for this locality is BAD_LOCALITY (Part 1, 4.8); libtpms takes it for a PCR "
    "mismatch."
)
_SYMMETRIC: Final = (
    "A known algorithm that the key may not have is found by the command's own checks, after which "
    "the sessions that it names end (Part 3, 6.1, 10.4 and chapter 11); libtpms refuses it while "
    "it parses."
)
_WHOLE_INFO: Final = (
    "The size before a PCR structure is the size of that structure (Part 2, 9.1 and 10.2); libtpms "
    "ignores bytes behind it."
)
_OSAP_FREE: Final = "OSAP on a counter or an area needs no owner (Part 3, 18.2); libtpms wants one."

_NO_OWNER: Final = (
    "A definition in the name of an owner who is not there is AUTHFAIL, whatever session is named "
    "(Part 3, 20.1); libtpms looks at the session first."
)
_STATE_FIRST: Final = (
    "The state is judged before the tag and the rest of the framing, and Startup was done (Part 3, "
    "3.2)."
)
_FAILED_DEFINITION: Final = (
    "A definition that is refused is no failure of the TPM, also where it would have replaced an "
    "area (Part 3, 20.1); libtpms goes into failure mode."
)
_AREA_FREE: Final = "The secret of an area serves without an owner (Part 3, 20.3 and 20.5)."
_UNKNOWN_AREA: Final = "An unknown capArea is BAD_PARAMETER (Part 3, 7.2)."
_CONTEXT: Final = "Whatever is wrong with a context, the answer is BADCONTEXT (Part 3, 21.3)."

_WHOLE: Final = (
    "A structure fills the size that is given for it; libtpms ignores what is left over."
)
_DELEGATED_END: Final = (
    "A change of the tables ends the sessions that were delegated (Part 3, 19.1); libtpms ends all "
    "OSAP sessions, of any entity."
)
_SUB_CAP: Final = (
    "A subCap of the wrong length is BAD_MODE, whatever the area (Part 3, 7.1); libtpms takes the "
    "error of its parser, or does not look."
)

_FLAGS_AREA: Final = "00000004 00000004 00000108"


def _code(
    case: str, ordinal: Ordinal, ours: str, theirs: str, reason: str, *, times: int = 1
) -> Declared:
    return Declared(case, ordinal, "code", ours, theirs, reason, times=times)


def _cleared(case: str, ours: str, theirs: str) -> Declared:
    field = f"resp of {_FLAGS_AREA}"
    return Declared(case, Ordinal.GET_CAPABILITY, field, ours, theirs, _CLEARED)


def _context_of_another_key(case: str, *, times: int = 1) -> Declared:
    """A context that libtpms decrypts to noise, whose padding is good once in 256 times."""
    codes = ("BADCONTEXT", "DECRYPT_ERROR")
    return Declared(
        case,
        Ordinal.LOAD_CONTEXT,
        "code",
        *codes,
        _CONTEXT,
        or_else="INVALID_STRUCTURE",
        times=times,
    )


_CLEARED_OURS: Final = "001f0101010100010000010100000000000000000000"
_CLEARED_THEIRS: Final = "001f0101010100000000010100000000000000000000"

DECLARED: Final[tuple[Declared, ...]] = (
    _code("startup_of_an_unknown_type", Ordinal.STARTUP, "SUCCESS", "INVALID_POSTINIT", _STARTUP),
    _code("startup_with_bad_framing", Ordinal.STARTUP, "SUCCESS", "INVALID_POSTINIT", _STARTUP),
    _code(
        "startup_that_is_refused_keeps_the_saved_state",
        Ordinal.STARTUP,
        "SUCCESS",
        "INVALID_POSTINIT",
        _STARTUP,
    ),
    Declared(
        "startup_that_is_refused_keeps_the_saved_state",
        Ordinal.PCR_READ,
        "out_digest",
        "f87cfc25e047ab7fa1c1d2cca2c7ffaa706cd23a",
        "0000000000000000000000000000000000000000",
        "As above: the saved state with this PCR is there still; libtpms dropped it.",
    ),
    _code(
        "a_lockout_and_a_try_without_a_session",
        Ordinal.RESET_LOCK_VALUE,
        "SUCCESS",
        "AUTHFAIL",
        "During a lockout it is a wrong HMAC that bars the way (Part 3, 9.3); libtpms lets any "
        "refusal bar it.",
    ),
    _cleared("owner_clears", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared(
        "owner_clears_all_of_the_period",
        "001f0101010100010000010100000000000100000000",
        "001f0101010100000000010100000000000100000000",
    ),
    _context_of_another_key("owner_clears_all_of_the_period"),
    _cleared(
        "force_clear_lets_ownership_be_taken",
        "001f0101010100010000010100000000000000000000",
        "001f0101010100000000010100000000000000000000",
    ),
    *[
        _cleared(
            "force_clear_takes_all_of_the_period",
            f"001f{disabled}01010100010000010100000000000100000000",
            f"001f{disabled}01010100000000010100000000000100000000",
        )
        for disabled in ("00", "01")
    ],
    _code(
        "ownership_with_secrets_that_are_too_long",
        Ordinal.TAKE_OWNERSHIP,
        "BAD_KEY_PROPERTY",
        "DECRYPT_ERROR",
        "A secret that is not 20 bytes long is BAD_KEY_PROPERTY (Part 3, 6.1); libtpms has no room "
        "for more and takes it for damaged.",
        times=2,
    ),
    *[
        Declared(case, ordinal, field, ours, theirs, reason)
        for case, reason in (
            (
                "ownership_with_an_srk_that_is_too_long",
                "The longest key of this TPM has 2048 bits, and a size that a TPM does not support "
                "is BAD_KEY_PROPERTY (Part 3, 6.1).",
            ),
            (
                "ownership_with_an_srk_of_three_primes",
                "An RSA key of a TPM has two primes (Part 2, 10.5); libtpms does not look.",
            ),
        )
        for ordinal, field, ours, theirs in (
            (Ordinal.TAKE_OWNERSHIP, "code", "BAD_KEY_PROPERTY", "SUCCESS"),
            (Ordinal.GET_CAPABILITY, "resp of 00000005 00000004 00000111", "00", "01"),
        )
    ],
    _cleared("owner_clear_can_be_disabled", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared("force_clear_needs_presence_and_can_be_disabled", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared("force_clear_without_an_owner", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared(
        "revocable_endorsement_key",
        "001f0101010100010000010000000000010000000000",
        "001f0101010100000000010000000000010000000000",
    ),
    _cleared(
        "revoked_trust_takes_areas_along",
        "001f0001010100010000010000000000010000000000",
        "001f0001010100000000010000000000010000000000",
    ),
    _cleared(
        "revoked_trust_takes_areas_of_nobody_along",
        "001f0001010100010000010000000000010000000000",
        "001f0001010100000000010000000000010000000000",
    ),
    *[
        Declared(
            "revoked_trust_takes_areas_of_nobody_along",
            Ordinal.GET_CAPABILITY,
            f"{field} of 0000000d 00000000",
            ours,
            theirs,
            "RevokeTrust deletes every area that is defined for good (Part 3, 14.3); libtpms only "
            "those that the owner reads or writes.",
        )
        for field, ours, theirs in (("size", "14", "18"), ("resp", "", "1000f001"))
    ],
    *[
        _code(
            "another_endorsement_key_of_another_kind",
            ordinal,
            "DISABLED_CMD",
            "BAD_KEY_PROPERTY",
            "Whether there is an endorsement key is asked before what another one would be (Part "
            "3, 14.1).",
        )
        for ordinal in (Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, Ordinal.CREATE_REVOCABLE_EK)
    ],
    Declared(
        "capability_of_select_sizes",
        Ordinal.GET_CAPABILITY,
        "resp of 00000018 00000004 01010003",
        "00",
        "01",
        "A version 1.1 selection has two bytes, so a size of three is not supported there "
        "(Part 2, 21.1, SELECT_SIZE); libtpms does not look at the version.",
    ),
    Declared(
        "capability_of_every_ordinal",
        Ordinal.GET_CAPABILITY,
        "resp of 00000001 00000004 00000097",
        "00",
        "01",
        "CAP_ORD tells which ordinals are answered (Part 2, 21.1); libtpms says that TPM_Init is "
        "one, and answers it with BAD_ORDINAL.",
    ),
    _code(
        "setting_an_unknown_area",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "BAD_MODE",
        _UNKNOWN_AREA,
        times=3,
    ),
    _code(
        "setting_a_flag_to_what_is_no_boolean",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "SUCCESS",
        "A BOOL is 0 or 1, anything else is BAD_PARAMETER (Part 2, 2.2.2); libtpms stores it.",
    ),
    Declared(
        "setting_a_flag_to_what_is_no_boolean",
        Ordinal.GET_CAPABILITY,
        f"resp of {_FLAGS_AREA}",
        "001f0001000000010000010100000000000000000000",
        "001f0201000000010000010100000000000000000000",
        "As above: libtpms reports the byte 2 that it stored as a flag.",
    ),
    _code(
        "setting_new_daa_secrets_without_the_owner",
        Ordinal.SET_CAPABILITY,
        "AUTHFAIL",
        "SUCCESS",
        "Only the owner renews daaProof (Part 2, 7.5); libtpms lets everybody.",
        times=2,
    ),
    _code(
        "setting_a_value_of_the_wrong_kind_while_disabled",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "DISABLED",
        "The value is judged before the TPM's state, for every field alike (Part 3, 7.2); libtpms "
        "has it so for the permanent flags only.",
    ),
    _code(
        "capability_to_load_a_key_that_is_not_for_rsa",
        Ordinal.GET_CAPABILITY,
        "SUCCESS",
        "BAD_KEY_PROPERTY",
        "The answer to whether a key of a known algorithm could be loaded is FALSE (Part 2, 21.1).",
        times=2,
    ),
    *[
        _code(case, Ordinal.GET_CAPABILITY, "BAD_MODE", theirs, _SUB_CAP, times=times)
        for case, theirs, times in (
            ("capability_to_load_a_key_that_does_not_parse", "BAD_PARAM_SIZE", 2),
            ("capability_to_load_a_key_with_a_tail", "SUCCESS", 1),
            ("capability_of_a_select_size_of_the_wrong_length", "BAD_PARAM_SIZE", 2),
            ("capability_of_a_select_size_of_the_wrong_length", "SUCCESS", 1),
            ("capability_of_attack_logic_with_a_sub_cap_of_the_wrong_length", "SUCCESS", 3),
        )
    ],
    _code("seal_errors", Ordinal.SEAL, "BAD_DATASIZE", "ENCRYPT_ERROR", _TOO_LARGE),
    _code("sealx_errors", Ordinal.SEALX, "BAD_DATASIZE", "ENCRYPT_ERROR", _TOO_LARGE),
    *[
        _code(
            "sealing_to_what_does_not_parse",
            ordinal,
            "BADINDEX",
            "SUCCESS",
            _WHOLE_INFO,
            times=times,
        )
        for ordinal, times in ((Ordinal.SEAL, 2), (Ordinal.SEALX, 1))
    ],
    _code(
        "unsealing_what_does_not_parse",
        Ordinal.UNSEAL,
        "BAD_PARAM_SIZE",
        "NOTSEALED_BLOB",
        _WHOLE_INFO,
    ),
    _code(
        "unsealing_with_one_wrong_session", Ordinal.UNSEAL, "AUTHFAIL", "AUTH2FAIL", _ONE_SESSION
    ),
    _code(
        "certifying_with_one_wrong_session",
        Ordinal.CERTIFY_KEY,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    _code(
        "certifying_in_the_new_form_with_one_wrong_session",
        Ordinal.CERTIFY_KEY2,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    _code(
        "identities_below_an_srk_that_needs_no_secret",
        Ordinal.MAKE_IDENTITY,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    _code(
        "keys_bound_to_localities",
        Ordinal.SIGN,
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        _KEY_LOCALITY,
    ),
    _code(
        "audit_digest_signed_with_a_bound_key",
        Ordinal.GET_AUDIT_DIGEST_SIGNED,
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        _KEY_LOCALITY,
    ),
    *[
        _code(
            "migration_with_keys_of_another_locality",
            ordinal,
            "BAD_LOCALITY",
            "WRONGPCRVAL",
            _KEY_LOCALITY,
        )
        for ordinal in (
            Ordinal.CREATE_MIGRATION_BLOB,
            Ordinal.CONVERT_MIGRATION_BLOB,
            Ordinal.MIGRATE_KEY,
        )
    ],
    *[
        _code(
            "certified_keys_and_parents_of_another_locality",
            ordinal,
            "BAD_LOCALITY",
            "WRONGPCRVAL",
            _KEY_LOCALITY,
        )
        for ordinal in (
            Ordinal.CMK_CREATE_KEY,
            Ordinal.CMK_CREATE_BLOB,
            Ordinal.CMK_CONVERT_MIGRATION,
        )
    ],
    _code(
        "migration_with_one_wrong_session",
        Ordinal.CREATE_MIGRATION_BLOB,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    *[
        _code(
            case,
            ordinal,
            "BAD_MIGRATION",
            "INVALID_STRUCTURE",
            "Data of another payload type is BAD_MIGRATION (Part 3, 11.1 and 11.2); libtpms does "
            "not parse what no key has.",
            times=5,
        )
        for case, ordinal in (
            ("migration_of_what_is_no_plain_key", Ordinal.CREATE_MIGRATION_BLOB),
            ("conversions_that_are_refused", Ordinal.CONVERT_MIGRATION_BLOB),
        )
    ],
    *[
        _code(case, Ordinal.FLUSH_SPECIFIC, "INVALID_AUTHHANDLE", "SUCCESS", _SYMMETRIC)
        for case in (
            "authorizing_keys_that_are_unfit",
            "certified_keys_with_unfit_properties",
            "a_ticket_for_a_key_that_is_not_for_rsa",
            "a_certified_conversion_of_a_key_that_is_not_for_rsa",
            "an_authority_with_a_target_that_cannot_encrypt",
        )
    ],
    *[
        _code(
            "certifying_keys_whose_pcrs_do_not_matter_for_reading",
            ordinal,
            "SUCCESS",
            "WRONGPCRVAL",
            "pcrIgnoredOnRead frees the key that is certified from its PCRs (Part 3, 13.8 and "
            "13.9); libtpms always looks at them.",
        )
        for ordinal in (Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
    ],
    *[
        _code(
            "identities_below_an_srk_that_is_bound",
            Ordinal.MAKE_IDENTITY,
            ours,
            "SUCCESS",
            "A bound key serves only while PCRs and locality are as bound (Part 1, 4.10.3), the "
            "SRK as well; libtpms does not look at it here.",
        )
        for ours in ("BAD_LOCALITY", "WRONGPCRVAL")
    ],
    _code(
        "activating_with_bytes_behind_the_contents",
        Ordinal.ACTIVATE_IDENTITY,
        "BAD_PARAM_SIZE",
        "SUCCESS",
        "What the blob decrypts to is one structure (Part 2, 12.7); libtpms ignores bytes behind "
        "it.",
    ),
    _code(
        "changing_secrets_of_something_else",
        Ordinal.CHANGE_AUTH,
        "INVALID_STRUCTURE",
        "SUCCESS",
        "The payload of sealed data is SEAL (Part 2, 9.3); libtpms changes the secret of a key as "
        "that of data.",
    ),
    *[
        _code(
            "keys_at_the_wrong_locality",
            ordinal,
            "BAD_LOCALITY",
            "WRONGPCRVAL",
            _KEY_LOCALITY,
            times=times,
        )
        for ordinal, times in sorted(Counter(use.ordinal for use in USES).items())
    ],
    _code("osap_on_a_counter_without_an_owner", Ordinal.OSAP, "BAD_COUNTER", "NOSRK", _OSAP_FREE),
    _code("osap_on_an_area_without_an_owner", Ordinal.OSAP, "BADINDEX", "NOSRK", _OSAP_FREE),
    _code(
        "contexts_of_keys",
        Ordinal.FLUSH_SPECIFIC,
        "SUCCESS",
        "BAD_PARAMETER",
        "A refused LoadContext changes nothing (Part 3, 21.3); libtpms drops the loaded key whose "
        "handle it was asked to keep.",
    ),
    _context_of_another_key("a_damaged_context"),
    _context_of_another_key("contexts_of_another_owner", times=2),
    *[
        _code(case, Ordinal.LOAD_CONTEXT, "BADCONTEXT", theirs, _CONTEXT, times=times)
        for case, theirs, times in (
            ("contexts_of_one_kind_as_another", "INVALID_STRUCTURE", 1),
            ("contexts_that_are_none", "INVALID_STRUCTURE", 1),
            ("contexts_that_are_none", "BAD_PARAM_SIZE", 4),
        )
    ],
    _code(
        "an_old_context_of_a_key_that_stays",
        Ordinal.SAVE_KEY_CONTEXT,
        "OWNER_CONTROL",
        "SUCCESS",
        "A key that the owner keeps in the TPM is not moved out (Part 3, 27.8.1); libtpms does not "
        "look.",
    ),
    _code(
        "flushing_a_daa_session_that_is_not_there",
        Ordinal.FLUSH_SPECIFIC,
        "BAD_PARAMETER",
        "BAD_HANDLE",
        "A handle of no resource of its type is BAD_PARAMETER (Part 3, 22.1).",
    ),
    _code(
        "whether_a_key_stays_is_no_boolean",
        Ordinal.KEY_CONTROL_OWNER,
        "BAD_PARAMETER",
        "SUCCESS",
        "A BOOL is 0 or 1, anything else is BAD_PARAMETER (Part 2, 2.2.2); libtpms takes it for "
        "TRUE.",
    ),
    *[
        _code(
            "audit_status_of_an_ordinal_that_is_not_there",
            Ordinal.SET_ORDINAL_AUDIT_STATUS,
            "BADINDEX",
            theirs,
            "An ordinal that is not implemented is BADINDEX (Part 3, 8.3); libtpms looks only at "
            "its number.",
            times=times,
        )
        for theirs, times in (("BAD_PARAMETER", 2), ("SUCCESS", 1))
    ],
    Declared(
        "audit_digest_closed",
        Ordinal.GET_AUDIT_DIGEST_SIGNED,
        "audit_digest",
        "True",
        "False",
        "The response of a closing command has the digest from before (Part 3, 8.2); libtpms gives "
        "zeros. Compared is whether it is other than zero.",
    ),
    _code(
        "a_family_flag_that_is_no_boolean",
        Ordinal.DELEGATE_MANAGE,
        "BAD_PARAMETER",
        "SUCCESS",
        "The new value of a flag is a BOOL, 0 or 1 (Part 3, 19.1); libtpms takes any byte but 0 as "
        "TRUE.",
        times=2,
    ),
    *[
        _code(
            case,
            ordinal,
            "MIGRATEFAIL",
            "AUTHFAIL",
            "A migrationKeyAuth that this owner did not make is MIGRATEFAIL (Part 3, 11.1 and "
            "11.9).",
            times=times,
        )
        for case, ordinal, times in (
            ("migration_without_permission", Ordinal.CREATE_MIGRATION_BLOB, 4),
            ("certified_migration_without_permission", Ordinal.CMK_CREATE_BLOB, 2),
        )
    ],
    *[
        _code(
            "certified_migrations_with_a_list_and_a_tail",
            ordinal,
            ours,
            theirs,
            "What is sized holds its structure and nothing else, a tail is BAD_PARAM_SIZE (Part 2, "
            "2.1); libtpms does not look behind the list.",
        )
        for ordinal, ours, theirs in (
            (Ordinal.CMK_CREATE_BLOB, "BAD_PARAM_SIZE", "SUCCESS"),
            (Ordinal.CMK_CONVERT_MIGRATION, "BAD_PARAM_SIZE", "BAD_PARAMETER"),
        )
    ],
    _code(
        "a_number_of_a_row_with_more_behind_it",
        Ordinal.DSAP,
        "BAD_PARAM_SIZE",
        "BADINDEX",
        _WHOLE,
    ),
    _code(
        "a_blob_of_another_size_than_it_says",
        Ordinal.DELEGATE_LOAD_OWNER_DELEGATION,
        "BAD_PARAM_SIZE",
        "SUCCESS",
        _WHOLE,
    ),
    *[
        _code("blobs_with_more_behind_them", ordinal, "BAD_PARAM_SIZE", "SUCCESS", _WHOLE)
        for ordinal in (Ordinal.DELEGATE_VERIFY_DELEGATION, Ordinal.DELEGATE_UPDATE_VERIFICATION)
    ],
    _code(
        "a_key_that_is_bound_to_other_pcrs_is_delegated",
        Ordinal.DELEGATE_CREATE_KEY_DELEGATION,
        "SUCCESS",
        "WRONGPCRVAL",
        "PCRs of the key do not matter to delegating it, only to using it (Part 3, 19.2).",
    ),
    _code(
        "other_sessions_outlive_a_change_of_the_tables",
        Ordinal.LOAD_KEY2,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        _DELEGATED_END,
    ),
    Declared(
        "an_owners_session_outlives_a_change_of_the_tables",
        Ordinal.DELEGATE_MANAGE,
        "continue 1",
        "1",
        "0",
        _DELEGATED_END,
    ),
    _code(
        "an_owners_session_outlives_a_change_of_the_tables",
        Ordinal.OWNER_READ_PUBEK,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        _DELEGATED_END,
    ),
    _code(
        "a_saved_delegated_session_of_a_disabled_family",
        Ordinal.LOAD_CONTEXT,
        "RESOURCEMISSING",
        "SUCCESS",
        "All DSAP sessions end with a change of the tables (Part 3, 19.1), saved ones too; libtpms "
        "loads them again.",
    ),
    _code(
        "certified_migration_by_its_bit",
        Ordinal.CMK_CONVERT_MIGRATION,
        "DECRYPT_ERROR",
        "AUTHFAIL",
        "Bit 28 of a key's permissions is CMK_ConvertMigration (Part 2, 20.2.2); libtpms looks for "
        "it among those of the owner.",
    ),
    _code(
        "certified_migrations_with_a_list_that_does_not_parse",
        Ordinal.FLUSH_SPECIFIC,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        "What does not parse is refused before a session is looked at, and ends none (Part 1, "
        "8.1); libtpms parses the list after the HMAC.",
        times=2,
    ),
    _code(
        "a_certified_migration_to_what_is_no_authority",
        Ordinal.CMK_CREATE_BLOB,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A destination that is no authority of the list is MA_AUTHORITY (Part 3, 11.9).",
    ),
    _code(
        "a_certified_migration_with_a_false_ticket",
        Ordinal.CMK_CREATE_BLOB,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A sigTicket of no authority of the list is MA_AUTHORITY (Part 3, 11.9).",
        times=2,
    ),
    Declared(
        "changing_a_secret_without_the_parent_knowing",
        Ordinal.CHANGE_AUTH_ASYM_START,
        "certify_info.parent_pcr_status",
        "False",
        "True",
        "The ephemeral key has no parent, so none that PCRs bind (Part 3, 27.4.1).",
    ),
    _code(
        "sessions_that_cannot_be_established",
        Ordinal.FLUSH_SPECIFIC,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        "A wrong tag is found before any session is looked at and ends none (Part 1, 8.1); libtpms "
        "ends the session of the refused EstablishTransport.",
    ),
    _code(
        "a_wrapped_command_with_a_wrong_hmac",
        Ordinal.EXECUTE_TRANSPORT,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    _code(
        "a_command_that_is_repeated_inside",
        Ordinal.EXECUTE_TRANSPORT,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    _code(
        "a_log_with_one_wrong_session",
        Ordinal.RELEASE_TRANSPORT_SIGNED,
        "AUTHFAIL",
        "AUTH2FAIL",
        _ONE_SESSION,
    ),
    _code(
        "logs_and_keys_that_are_not_there",
        Ordinal.RELEASE_TRANSPORT_SIGNED,
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        _KEY_LOCALITY,
    ),
    _code(
        "a_session_is_not_released_inside",
        Ordinal.EXECUTE_TRANSPORT,
        "NO_WRAP_TRANSPORT",
        "AUTH2FAIL",
        "The key handle of ReleaseTransportSigned is outside of digests (Part 3, 24.3); libtpms "
        "digests that of a wrapped one, so the HMAC is wrong first.",
    ),
    _code(
        "an_authorization_session_for_a_transport_session",
        Ordinal.FLUSH_SPECIFIC,
        "INVALID_AUTHHANDLE",
        "SUCCESS",
        "An error ends the sessions that a command names (Part 1, 8.1), also one of another kind "
        "than is due.",
    ),
    _code(
        "saved_contexts_outlive_a_reset",
        Ordinal.LOAD_CONTEXT,
        "SUCCESS",
        "BADCONTEXT",
        "TPM_Reset leaves what TPM_SaveContext saved (Part 3, 27.9); libtpms forgets every saved "
        "session.",
    ),
    _code(
        "old_contexts_die_with_a_reset",
        Ordinal.LOAD_KEY_CONTEXT,
        "BADCONTEXT",
        "SUCCESS",
        "TPM_Reset ends what TPM_SaveKeyContext saved, as it does the sessions of "
        "TPM_SaveAuthContext (Part 3, 27.9); libtpms forgets sessions only.",
    ),
    _code(
        "a_certified_conversion_with_a_false_ticket",
        Ordinal.CMK_CONVERT_MIGRATION,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A sigTicket of no authority of the list is MA_AUTHORITY (Part 3, 11.10).",
        times=2,
    ),
    _code(
        "ephemeral_keys_that_cannot_be",
        Ordinal.FLUSH_SPECIFIC,
        "INVALID_AUTHHANDLE",
        "SUCCESS",
        "A known algorithm that no ephemeral key may have is found by the command's own checks, "
        "after which the sessions that it names end (Part 3, 27.4.1); libtpms refuses it while it "
        "parses.",
    ),
    _code(
        "a_secret_changes_unseen_inside_of_a_transport_session",
        Ordinal.EXECUTE_TRANSPORT,
        "SUCCESS",
        "AUTH2FAIL",
        "Both handles of ChangeAuthAsymFinish are outside of digests and encryption (Part 3, "
        "27.4.2); libtpms takes the second one for a parameter.",
    ),
    _code(
        "a_secret_of_sealed_data_changes_unseen",
        Ordinal.CHANGE_AUTH_ASYM_FINISH,
        "SUCCESS",
        "WRONG_ENTITYTYPE",
        "encData is that of a TPM_KEY or of a TPM_STORED_DATA (Part 3, 27.4.2); libtpms changes "
        "only secrets of keys.",
    ),
    _code(
        "an_aes_counter_that_carries",
        Ordinal.CREATE_MIGRATION_BLOB,
        "SUCCESS",
        "AUTH2FAIL",
        "The initial counter of ADIP is a number of 128 bits (Part 1, ADIP with AES); libtpms "
        "counts in the last 32 of them, so that the secret ends otherwise.",
    ),
    *[
        Declared(
            "deleted_ordinals_with_sessions",
            Ordinal.CERTIFY_SELF_TEST,
            "tag",
            "0xc4",
            theirs,
            "Every error has the tag of a response without sessions (Part 3, 1.1); libtpms answers "
            "an unknown ordinal with the tag that belongs to the request's.",
        )
        for theirs in ("0xc5", "0xc6")
    ],
    _code(
        "a_context_that_found_no_place_before",
        Ordinal.LOAD_CONTEXT,
        "SUCCESS",
        "BADCONTEXT",
        "A refused LoadContext changes nothing (Part 3, 21.3); libtpms strikes the blob off the "
        "list before it looks for a slot.",
    ),
    _code(
        "a_sign_with_the_credential_of_another_issuer",
        Ordinal.DAA_SIGN,
        "DAA_ISSUER_SETTINGS",
        "SUCCESS",
        "Stage 1 compares digestIssuer of the blob with the settings (Part 3, 26.2); libtpms does "
        "so in the next stage.",
    ),
    *[
        _code(
            case,
            Ordinal.EXECUTE_TRANSPORT,
            "BAD_PARAMETER",
            theirs,
            "A wrapped command that cannot be parsed, or whose ordinal is unknown, is "
            "BAD_PARAMETER (Part 3, 24.2).",
            times=times,
        )
        for case, theirs, times in (
            ("wrapped_bytes_that_are_no_command", "BAD_PARAM_SIZE", 1),
            ("wrapped_headers_that_are_wrong", "BAD_PARAM_SIZE", 4),
            # The tag it judges later, after the HMAC, which is none here.
            ("wrapped_headers_that_are_wrong", "AUTH2FAIL", 1),
            ("a_wrapped_ordinal_that_does_not_exist", "BAD_ORDINAL", 1),
        )
    ],
    _code(
        "every_ordinal_without_an_owner",
        Ordinal.LOAD_KEY_CONTEXT,
        "BADCONTEXT",
        "DECRYPT_ERROR",
        _CONTEXT,
    ),
    *[
        _code(case, Ordinal.SET_CAPABILITY, "BAD_PARAMETER", "BAD_MODE", _UNKNOWN_AREA)
        for case in (
            "every_ordinal_without_an_owner",
            "every_ordinal_while_disabled",
            "every_ordinal_while_deactivated",
        )
    ],
    *[
        _code("every_ordinal_without_an_owner", ordinal, "BADINDEX", "NOSRK", _AREA_FREE)
        for ordinal in (Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
    ],
    _code(
        "every_ordinal_with_the_wrong_tag",
        Ordinal.STARTUP,
        "INVALID_POSTINIT",
        "BADTAG",
        _STATE_FIRST,
        times=2,
    ),
    _code(
        "every_ordinal_with_too_few_or_too_many_bytes",
        Ordinal.STARTUP,
        "INVALID_POSTINIT",
        "BAD_PARAM_SIZE",
        _STATE_FIRST,
    ),
    _code(
        "ownership_with_a_symmetric_srk",
        Ordinal.FLUSH_SPECIFIC,
        "INVALID_AUTHHANDLE",
        "SUCCESS",
        _SYMMETRIC,
        times=2,
    ),
    *[
        _code(case, Ordinal.FLUSH_SPECIFIC, "INVALID_AUTHHANDLE", "SUCCESS", _SYMMETRIC, times=21)
        for case in (
            "keys_of_no_allowed_property_cannot_be_made",
            "keys_of_no_allowed_property_cannot_be_loaded",
        )
    ],
    _code(
        "keys_of_no_allowed_property_cannot_be_made",
        Ordinal.CREATE_WRAP_KEY,
        "BAD_KEY_PROPERTY",
        "INVALID_KEYUSAGE",
        "What a key is made of is judged before what it is for (Part 3, 10.4); libtpms does not "
        "look at the length and the exponent of an AUTHCHANGE key.",
        times=9,
    ),
    *[
        _code(
            "keys_of_no_allowed_property_cannot_be_loaded",
            Ordinal.LOAD_KEY2,
            "BAD_KEY_PROPERTY",
            theirs,
            "A key that this TPM would not make is not loaded either (Part 3, 10.5, "
            "TPM_BAD_KEY_PROPERTY); libtpms looks at schemes only, and at the digest of the rest.",
            times=times,
        )
        for theirs, times in (("AUTHFAIL", 30), ("BAD_PARAMETER", 12))
    ],
    *[
        _code("keys_with_bytes_behind_their_pcr_info", *found, _WHOLE_INFO)
        for found in (
            (Ordinal.CREATE_WRAP_KEY, "BAD_PARAM_SIZE", "SUCCESS"),
            (Ordinal.LOAD_KEY2, "BAD_PARAM_SIZE", "DECRYPT_ERROR"),
        )
    ],
    _code(
        "defining_what_cannot_be",
        Ordinal.NV_DEFINE_SPACE,
        "NOSPACE",
        "SIZE",
        "An area for which there is no room is NOSPACE (Part 3, 20.1).",
    ),
    _code(
        "definitions_by_an_owner_who_is_not_there",
        Ordinal.NV_DEFINE_SPACE,
        "AUTHFAIL",
        "BAD_MODE",
        _NO_OWNER,
        times=2,
    ),
    *[
        _code(case, Ordinal.NV_DEFINE_SPACE, ours, "FAIL", _FAILED_DEFINITION)
        for case, ours in (
            ("an_area_that_is_defined_again_with_a_conflict", "AUTH_CONFLICT"),
            ("an_area_that_is_defined_again_for_everybody", "PER_NOWRITE"),
            ("an_area_that_is_defined_again_and_does_not_fit", "NOSPACE"),
        )
    ],
    _code(
        "sessions_on_areas_that_are_defined_again",
        Ordinal.NV_WRITE_VALUE_AUTH,
        "SUCCESS",
        "INVALID_AUTHHANDLE",
        "A new definition ends the sessions on the old area (Part 3, 20.1); libtpms ends those on "
        "every area.",
    ),
    *[
        _code(
            "areas_with_a_secret_and_a_session_that_is_wrong",
            ordinal,
            "AUTHFAIL",
            "SUCCESS",
            "An OSAP session serves the one entity that it was opened on (Part 1, 8.4); libtpms "
            "takes a session on one area for every area.",
        )
        for ordinal in (Ordinal.NV_WRITE_VALUE_AUTH, Ordinal.NV_READ_VALUE_AUTH)
    ],
    _code(
        "writes_of_a_tpm_with_an_owner_are_not_counted",
        Ordinal.NV_WRITE_VALUE,
        "SUCCESS",
        "MAXNVWRITES",
        "Writes are counted while there is no owner (Part 3, 20.2); libtpms counts every write "
        "without authorization.",
        times=2,
    ),
    _code(
        "reading_as_owner_before_the_lock",
        Ordinal.NV_READ_VALUE,
        "AUTHFAIL",
        "SUCCESS",
        "The owner's authorization may be checked before nvLocked too (Part 3, 20.4); libtpms does "
        "not look at it when it reads.",
    ),
    Declared(
        "general_purpose_input_and_output",
        Ordinal.NV_READ_VALUE,
        "data",
        "01",
        "00",
        "What is at the other end of a pin is the platform's business (PC Client, GPIO): here it "
        "is what was written, in libtpms nothing.",
    ),
    _code(
        "defining_with_the_write_locality_alone",
        Ordinal.NV_DEFINE_SPACE,
        "SUCCESS",
        "PER_NOWRITE",
        "Whether an area can be written follows from pcrInfoWrite (Part 3, 20.1); libtpms looks at "
        "pcrInfoRead.",
    ),
)
