# SPDX-License-Identifier: Apache-2.0
"""Where libtpms is known to do otherwise than the specification says, and what shows the engine.

The other tables begin with what a run finds; this one begins with what is known of libtpms, so that
no deviation is missing only because no case came across it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Deviation:
    """One thing that libtpms does otherwise.

    Attributes:
        subject: what it is about.
        specification: what is specified, or usual.
        libtpms: what it does instead.
        as_libtpms: whether the engine does so, too, since software counts on it.
        shown_by: names of conformance cases, which have a declared difference unless the engine
            does as libtpms; or unit tests (`test_module.py::test_name`, below tests/unit/tpm12).
    """

    subject: str
    specification: str
    libtpms: str
    shown_by: tuple[str, ...]
    as_libtpms: bool = False


DEVIATIONS: Final[tuple[Deviation, ...]] = (
    Deviation(
        "a new chip",
        "disabled and deactivated",
        "enabled and activated",
        ("capability_of_every_property_of_a_new_chip",),
        as_libtpms=True,
    ),
    Deviation(
        "a Startup that is refused",
        "no effect",
        "counts as started, saved state deleted",
        ("startup_of_an_unknown_type", "startup_with_bad_framing"),
    ),
    Deviation(
        "an ordinal that does not exist",
        "tag of an error",
        "tag as of the request",
        ("deleted_ordinals_with_sessions",),
    ),
    Deviation(
        "paramSize other than the bytes received",
        "not ordered",
        "BAD_PARAM_SIZE before the ordinal is looked at",
        ("test_dispatch.py::test_a_size_that_is_not_the_number_of_bytes_is_bad_param_size",),
        as_libtpms=True,
    ),
    Deviation(
        "what does not parse",
        "not ordered",
        "found before that the TPM is disabled, deactivated or without owner",
        ("test_dispatch.py::test_a_parse_error_outranks_the_gate",),
        as_libtpms=True,
    ),
    Deviation(
        "a missing owner",
        "matters where his secret is used",
        "matters to commands with keys, transport and contexts as well",
        ("every_ordinal_without_an_owner", "osap_without_an_owner"),
        as_libtpms=True,
    ),
    Deviation(
        "OSAP on areas and counters without an owner",
        "possible",
        "NOSRK",
        ("osap_on_a_counter_without_an_owner", "osap_on_an_area_without_an_owner"),
    ),
    Deviation(
        "a key at the wrong locality",
        "BAD_LOCALITY",
        "WRONGPCRVAL",
        ("keys_bound_to_localities", "keys_at_the_wrong_locality"),
    ),
    Deviation(
        "DSAP without the permission",
        "no code is given",
        "AUTHFAIL",
        ("delegations_that_do_not_permit_it",),
        as_libtpms=True,
    ),
    Deviation(
        "a session of the wrong kind",
        "AUTHFAIL or INVALID_AUTHHANDLE in several commands",
        "BAD_MODE",
        ("counters", "key_delegations_that_cannot_be"),
        as_libtpms=True,
    ),
    Deviation(
        "TakeOwnership with an OSAP session",
        "AUTHFAIL",
        "BAD_MODE",
        ("test_ownership.py::test_taking_ownership_needs_an_oiap_session",),
        as_libtpms=True,
    ),
    Deviation(
        "a wrong HMAC where the first of two sessions is left out",
        "AUTHFAIL",
        "AUTH2FAIL",
        (
            "unsealing_with_one_wrong_session",
            "certifying_with_one_wrong_session",
            "certifying_in_the_new_form_with_one_wrong_session",
            "identities_below_an_srk_that_needs_no_secret",
        ),
    ),
    Deviation(
        "ActivateIdentity",
        "the owner, who has the second session, is judged first; no codes are given",
        "AUTHFAIL for the owner, AUTH2FAIL for the identity key",
        ("activating_an_identity",),
        as_libtpms=True,
    ),
    Deviation(
        "a migrationKeyAuth that is not this owner's",
        "MIGRATEFAIL",
        "AUTHFAIL",
        ("migration_without_permission",),
    ),
    Deviation(
        "tickets of certified migration",
        "MA_AUTHORITY",
        "MA_TICKET_SIGNATURE",
        (
            "a_certified_migration_with_a_false_ticket",
            "a_certified_conversion_with_a_false_ticket",
        ),
    ),
    Deviation(
        "SetCapability with an unknown area",
        "BAD_PARAMETER",
        "BAD_MODE",
        ("setting_an_unknown_area",),
    ),
    Deviation(
        "renewing daaProof",
        "for the owner",
        "for everybody",
        ("setting_new_daa_secrets_without_the_owner",),
    ),
    Deviation(
        "GetAuditDigestSigned that closes",
        "tells the digest from before",
        "tells zeros",
        ("audit_digest_closed",),
    ),
    Deviation(
        "areas that everybody could write",
        "the localities of pcrInfoWrite decide",
        "those of pcrInfoRead do",
        ("defining_with_the_write_locality_alone",),
    ),
    Deviation(
        "writes to areas without authorization",
        "counted while there is no owner",
        "counted always",
        ("writes_of_a_tpm_with_an_owner_are_not_counted",),
    ),
    Deviation(
        "conditions of areas",
        "locality, presence, locks, PCRs",
        "presence and locks, then PCRs and locality",
        ("read_locks_and_conditions",),
        as_libtpms=True,
    ),
    Deviation(
        "offset and size beyond 32 bits",
        "NOSPACE",
        "the sum wraps",
        ("test_nv.py::test_beyond_the_end_is_refused_and_nothing_wraps",),
    ),
    Deviation(
        "the owner's HMAC before nvLocked",
        "may be checked",
        "checked for writing and defining, not for reading",
        ("reading_as_owner_before_the_lock",),
    ),
    Deviation(
        "areas with the D bit at RevokeTrust",
        "all go",
        "those of the owner go",
        (
            "revoked_trust_takes_areas_along",
            "revoked_trust_takes_areas_of_nobody_along",
        ),
    ),
    Deviation(
        "the clear actions and allowMaintenance",
        "the default, TRUE",
        "FALSE",
        ("owner_clears", "force_clear_without_an_owner"),
    ),
    Deviation(
        "flushing a session that is not there",
        "BAD_PARAMETER",
        "INVALID_AUTHHANDLE",
        ("flushing", "flushing_transport_sessions"),
        as_libtpms=True,
    ),
    Deviation(
        "flushing a DAA session that is not there",
        "BAD_PARAMETER",
        "BAD_HANDLE",
        ("flushing_a_daa_session_that_is_not_there",),
    ),
    Deviation(
        "a context that was changed",
        "BADCONTEXT",
        "DECRYPT_ERROR or INVALID_STRUCTURE",
        ("a_damaged_context", "contexts_of_one_kind_as_another"),
    ),
    Deviation(
        "saved sessions and TPM_Reset",
        "stay good",
        "are forgotten",
        ("saved_contexts_outlive_a_reset",),
    ),
    Deviation(
        "SaveKeyContext of a key that the owner keeps",
        "OWNER_CONTROL",
        "succeeds",
        ("an_old_context_of_a_key_that_stays",),
    ),
    Deviation(
        "delegating a key that is bound to other PCRs",
        "succeeds",
        "WRONGPCRVAL",
        ("a_key_that_is_bound_to_other_pcrs_is_delegated",),
    ),
    Deviation(
        "sessions and a change of the delegation tables",
        "those with delegated authority end",
        "all OSAP and DSAP sessions end",
        (
            "other_sessions_outlive_a_change_of_the_tables",
            "an_owners_session_outlives_a_change_of_the_tables",
        ),
    ),
    Deviation(
        "DSAP with a key blob and the AES scheme",
        "a session of the key",
        "a session of the owner; 0.9.2 ends itself",
        ("test_delegation.py::test_a_key_blob_opens_its_key_for_what_it_permits",),
    ),
    Deviation(
        "AES in counter mode",
        "a counter of 128 bits",
        "a counter of 32 bits",
        ("an_aes_counter_that_carries",),
    ),
    Deviation(
        "a wrong HMAC of ExecuteTransport",
        "AUTHFAIL",
        "AUTH2FAIL",
        ("a_wrapped_command_with_a_wrong_hmac",),
    ),
    Deviation(
        "ExecuteTransport of what is no command",
        "BAD_PARAMETER",
        "BAD_PARAM_SIZE or BAD_ORDINAL",
        ("wrapped_bytes_that_are_no_command", "a_wrapped_ordinal_that_does_not_exist"),
    ),
    Deviation(
        "ChangeAuthAsymFinish",
        "for keys and sealed data, with two handles",
        "for keys; the second handle counts as a parameter inside of a transport session",
        (
            "a_secret_of_sealed_data_changes_unseen",
            "a_secret_changes_unseen_inside_of_a_transport_session",
        ),
    ),
    Deviation(
        "delegating CMK_ConvertMigration",
        "bit 28 of a key",
        "looked for among the owner's bits",
        ("certified_migration_by_its_bit",),
    ),
    Deviation(
        "ResetLockValue during a lockout",
        "blocked by a wrong HMAC",
        "blocked by any refusal of its own",
        ("a_lockout_and_a_try_without_a_session",),
    ),
    Deviation(
        "SELECT_SIZE",
        "depends on the version asked for",
        "does not",
        ("capability_of_select_sizes",),
    ),
    Deviation(
        "CAP_ORD of TPM_Init",
        "FALSE",
        "TRUE, and BAD_ORDINAL",
        ("capability_of_every_ordinal",),
    ),
    Deviation(
        "maintenance, SetRedirection, FieldUpgrade",
        "optional",
        "BAD_ORDINAL",
        ("deleted_and_unimplemented_ordinals",),
        as_libtpms=True,
    ),
    Deviation(
        "a locality above 4",
        "does not exist",
        "BAD_LOCALITY for every command",
        ("test_dispatch.py::test_a_locality_that_does_not_exist_is_refused",),
        as_libtpms=True,
    ),
)
