# SPDX-License-Identifier: Apache-2.0
"""Auditing (Part 3, chapter 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.paths.path import ErrorPath

RC = ReturnCode

_SIGNED: Final = "audit_digest_signed"
_DELETED: Final = (ErrorPath(RC.BAD_ORDINAL, "deleted", "deleted_and_unimplemented_ordinals"),)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    Ordinal.GET_AUDIT_DIGEST: (),
    Ordinal.GET_AUDIT_DIGEST_SIGNED: (
        ErrorPath(RC.BAD_PARAMETER, "closeAudit is no BOOL", _SIGNED),
        ErrorPath(RC.INVALID_KEYHANDLE, "the key is not loaded", _SIGNED),
        ErrorPath(RC.WRONGPCRVAL, "PCRs of the key", "audit_digest_signed_with_a_bound_key"),
        ErrorPath(RC.BAD_LOCALITY, "locality of the key", "audit_digest_signed_with_a_bound_key"),
        ErrorPath(RC.AUTHFAIL, "no authorization, and the key needs it", _SIGNED),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", _SIGNED),
        ErrorPath(RC.AUTHFAIL, "the session is on another key", _SIGNED),
        ErrorPath(RC.INVALID_KEYUSAGE, "keyUsage cannot sign", _SIGNED),
        ErrorPath(RC.INVALID_KEYUSAGE, "sigScheme is DER", _SIGNED),
        ErrorPath(RC.INVALID_KEYUSAGE, "closeAudit, and the key is no identity", _SIGNED),
    ),
    Ordinal.SET_ORDINAL_AUDIT_STATUS: (
        ErrorPath(RC.BAD_PARAMETER, "auditState is no BOOL", "audit_status_that_is_no_boolean"),
        ErrorPath(RC.AUTHFAIL, "wrong HMAC", "audit_status_is_set_by_the_owner"),
        ErrorPath(RC.AUTHFAIL, "the session is on a key", "audit_status_is_set_by_the_owner"),
        ErrorPath(
            RC.BADINDEX,
            "to be audited: an ordinal that is not there",
            "audit_status_of_an_ordinal_that_is_not_there",
        ),
        ErrorPath(
            RC.BADINDEX,
            "not to be audited: an ordinal that is not there",
            "audit_status_of_an_ordinal_that_is_not_there",
        ),
        ErrorPath(
            RC.BAD_PARAMETER,
            "to be audited: GetAuditDigest",
            "audit_status_of_what_is_never_audited",
        ),
        ErrorPath(
            RC.BAD_PARAMETER,
            "to be audited: GetAuditDigestSigned",
            "audit_status_of_what_is_never_audited",
        ),
    ),
    Ordinal.GET_AUDIT_EVENT: _DELETED,
    Ordinal.GET_AUDIT_EVENT_SIGNED: _DELETED,
    Ordinal.GET_ORDINAL_AUDIT_STATUS: _DELETED,
}
