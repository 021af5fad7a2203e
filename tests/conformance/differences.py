# SPDX-License-Identifier: Apache-2.0
"""Where the engine answers otherwise than the reference, on purpose.

The reference is libtpms 0.9.2. Each entry names the case that shows it and the rule of the
specification that decides for the engine. A difference that is not here fails its case; an entry
that its case does not show any more fails too.
"""

from __future__ import annotations

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
        reason: the rule that decides.
    """

    case: str
    ordinal: int
    field: str
    ours: str
    theirs: str
    reason: str

    @property
    def difference(self) -> Difference:
        """What the comparison finds."""
        return Difference(self.ordinal, self.field, self.ours, self.theirs)


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
_OSAP_FREE: Final = "OSAP on a counter or an area needs no owner (Part 3, 18.2); libtpms wants one."

_NO_OWNER: Final = (
    "Owner authorization where there is no owner is AUTHFAIL, whatever session is named (Part 3, "
    "20.1); libtpms looks for the session first."
)
_STATE_FIRST: Final = (
    "The state is judged before the tag and the rest of the framing, and Startup was done (Part 3, "
    "3.2)."
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

_FLAGS_AREA: Final = "00000004 00000004 00000108"


def _code(case: str, ordinal: Ordinal, ours: str, theirs: str, reason: str) -> Declared:
    return Declared(case, ordinal, "code", ours, theirs, reason)


def _cleared(case: str, ours: str, theirs: str) -> Declared:
    field = f"resp of {_FLAGS_AREA}"
    return Declared(case, Ordinal.GET_CAPABILITY, field, ours, theirs, _CLEARED)


_CLEARED_OURS: Final = "001f0101010100010000010100000000000000000000"
_CLEARED_THEIRS: Final = "001f0101010100000000010100000000000000000000"

DECLARED: Final[tuple[Declared, ...]] = (
    _code("startup_of_an_unknown_type", Ordinal.STARTUP, "SUCCESS", "INVALID_POSTINIT", _STARTUP),
    _code("startup_with_bad_framing", Ordinal.STARTUP, "SUCCESS", "INVALID_POSTINIT", _STARTUP),
    _cleared("owner_clears", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared("owner_clear_can_be_disabled", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared("force_clear_needs_presence_and_can_be_disabled", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared("force_clear_without_an_owner", _CLEARED_OURS, _CLEARED_THEIRS),
    _cleared(
        "revocable_endorsement_key",
        "001f0101010100010000010000000000010000000000",
        "001f0101010100000000010000000000010000000000",
    ),
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
    ),
    _code(
        "setting_with_values_of_the_wrong_size",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "SUCCESS",
        "A BOOL is 0 or 1, anything else is BAD_PARAMETER (Part 2, 2.2.2); libtpms stores it.",
    ),
    Declared(
        "setting_with_values_of_the_wrong_size",
        Ordinal.GET_CAPABILITY,
        f"resp of {_FLAGS_AREA}",
        "001f0001000000010000010100000000000000000000",
        "001f0201000000010000010100000000000000000000",
        "As above: libtpms reports the byte 2 that it stored as a flag.",
    ),
    _code("sealing_and_unsealing", Ordinal.SEAL, "BAD_DATASIZE", "ENCRYPT_ERROR", _TOO_LARGE),
    _code("sealx_errors", Ordinal.SEALX, "BAD_DATASIZE", "ENCRYPT_ERROR", _TOO_LARGE),
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
        "making_an_identity_with_one_wrong_session",
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
    *[
        _code("keys_at_the_wrong_locality", ordinal, "BAD_LOCALITY", "WRONGPCRVAL", _KEY_LOCALITY)
        for ordinal in sorted({use.ordinal for use in USES})
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
    *[
        _code(case, Ordinal.LOAD_CONTEXT, "BADCONTEXT", theirs, _CONTEXT)
        for case, theirs in (
            ("a_damaged_context", "DECRYPT_ERROR"),
            ("contexts_of_another_owner", "DECRYPT_ERROR"),
            ("contexts_of_one_kind_as_another", "INVALID_STRUCTURE"),
            ("contexts_that_are_none", "INVALID_STRUCTURE"),
            ("contexts_that_are_none", "BAD_PARAM_SIZE"),
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
        )
        for theirs in ("BAD_PARAMETER", "SUCCESS")
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
    ),
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
        "migration_without_permission",
        Ordinal.CREATE_MIGRATION_BLOB,
        "MIGRATEFAIL",
        "AUTHFAIL",
        "A migrationKeyAuth that this owner did not make is MIGRATEFAIL (Part 3, 11.1).",
    ),
    _code(
        "a_certified_migration_with_a_false_ticket",
        Ordinal.CMK_CREATE_BLOB,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A sigTicket of no authority of the list is MA_AUTHORITY (Part 3, 11.9).",
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
        "a_certified_conversion_with_a_false_ticket",
        Ordinal.CMK_CONVERT_MIGRATION,
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        "A sigTicket of no authority of the list is MA_AUTHORITY (Part 3, 11.10).",
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
        )
        for case, theirs in (
            ("wrapped_bytes_that_are_no_command", "BAD_PARAM_SIZE"),
            ("wrapped_headers_that_are_wrong", "BAD_PARAM_SIZE"),
            # The tag it judges later, after the HMAC, which is none here.
            ("wrapped_headers_that_are_wrong", "AUTH2FAIL"),
            ("a_wrapped_ordinal_that_does_not_exist", "BAD_ORDINAL"),
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
        _code(
            "every_ordinal_without_an_owner", ordinal, "AUTHFAIL", "INVALID_AUTHHANDLE", _NO_OWNER
        )
        for ordinal in (Ordinal.SET_CAPABILITY, Ordinal.DIR_WRITE_AUTH, Ordinal.NV_WRITE_VALUE)
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
        "A known algorithm that no SRK may have is found by the command's own checks, after which "
        "the sessions that it names end (Part 3, 6.1); libtpms refuses it while it parses.",
    ),
    _code(
        "defining_what_cannot_be",
        Ordinal.NV_DEFINE_SPACE,
        "NOSPACE",
        "SIZE",
        "An area for which there is no room is NOSPACE (Part 3, 20.1).",
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
