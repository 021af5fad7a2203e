# SPDX-License-Identifier: Apache-2.0
"""All cases, joined from the chapters."""

from __future__ import annotations

from typing import Final

from tests.conformance import (
    cases_admin,
    cases_auditing,
    cases_authorization,
    cases_capability,
    cases_change_auth_asym,
    cases_contexts,
    cases_counters,
    cases_crypto,
    cases_daa,
    cases_delegable_commands,
    cases_delegated_sessions,
    cases_delegation,
    cases_deprecated,
    cases_endorsement,
    cases_eviction,
    cases_families,
    cases_gates,
    cases_identity,
    cases_integrity,
    cases_key_use,
    cases_keys,
    cases_migration,
    cases_nv,
    cases_ownership,
    cases_sessions,
    cases_signing,
    cases_storage,
    cases_ticks,
    cases_transport,
    cases_transport_log,
)
from tests.conformance.script import Case

CASES: Final[tuple[Case, ...]] = tuple(
    case
    for chapter in (
        cases_admin.CHAPTER,
        cases_ownership.CHAPTER,
        cases_endorsement.CHAPTER,
        cases_capability.CHAPTER,
        cases_crypto.CHAPTER,
        cases_key_use.CHAPTER,
        cases_storage.CHAPTER,
        cases_keys.CHAPTER,
        cases_signing.CHAPTER,
        cases_identity.CHAPTER,
        cases_integrity.CHAPTER,
        cases_sessions.CHAPTER,
        cases_authorization.CHAPTER,
        cases_contexts.CHAPTER,
        cases_eviction.CHAPTER,
        cases_nv.CHAPTER,
        cases_auditing.CHAPTER,
        cases_delegated_sessions.CHAPTER,
        cases_delegable_commands.CHAPTER,
        cases_delegation.CHAPTER,
        cases_families.CHAPTER,
        cases_migration.CHAPTER,
        cases_change_auth_asym.CHAPTER,
        cases_counters.CHAPTER,
        cases_deprecated.CHAPTER,
        cases_daa.CHAPTER,
        cases_ticks.CHAPTER,
        cases_transport.CHAPTER,
        cases_transport_log.CHAPTER,
        cases_gates.CHAPTER,
    )
    for case in chapter.cases
)
