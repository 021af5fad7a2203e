# SPDX-License-Identifier: Apache-2.0
"""All cases, joined from the chapters."""

from __future__ import annotations

from typing import Final

from tests.conformance import (
    cases_admin,
    cases_auditing,
    cases_capability,
    cases_change_auth,
    cases_change_auth_asym,
    cases_clearing,
    cases_cmk,
    cases_cmk_migration,
    cases_crypto,
    cases_delegation,
    cases_endorsement,
    cases_gates,
    cases_identity,
    cases_integrity,
    cases_key_use,
    cases_keys,
    cases_migration,
    cases_nv,
    cases_nv_access,
    cases_nv_define,
    cases_optin,
    cases_ownership,
    cases_sessions,
    cases_set_capability,
    cases_signing,
    cases_startup,
    cases_storage,
    cases_transport,
    cases_unfit_keys,
)
from tests.conformance.script import Case

CASES: Final[tuple[Case, ...]] = tuple(
    case
    for chapter in (
        cases_startup.CHAPTER,
        cases_optin.CHAPTER,
        cases_admin.CHAPTER,
        cases_ownership.CHAPTER,
        cases_clearing.CHAPTER,
        cases_endorsement.CHAPTER,
        cases_capability.CHAPTER,
        cases_set_capability.CHAPTER,
        cases_crypto.CHAPTER,
        cases_key_use.CHAPTER,
        cases_storage.CHAPTER,
        cases_keys.CHAPTER,
        cases_unfit_keys.CHAPTER,
        cases_signing.CHAPTER,
        cases_identity.CHAPTER,
        cases_integrity.CHAPTER,
        cases_change_auth.CHAPTER,
        cases_sessions.CHAPTER,
        cases_nv.CHAPTER,
        cases_nv_define.CHAPTER,
        cases_nv_access.CHAPTER,
        cases_auditing.CHAPTER,
        cases_delegation.CHAPTER,
        cases_migration.CHAPTER,
        cases_cmk.CHAPTER,
        cases_cmk_migration.CHAPTER,
        cases_change_auth_asym.CHAPTER,
        cases_transport.CHAPTER,
        cases_gates.CHAPTER,
    )
    for case in chapter.cases
)
