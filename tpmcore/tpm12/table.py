# SPDX-License-Identifier: Apache-2.0
"""The dispatch table: every ordinal that the engine answers, joined from the command families."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

from tpmcore.tpm12 import (
    admin_test,
    administrative,
    auditing,
    capability,
    certify,
    change_auth,
    change_auth_asym,
    cmk,
    counters,
    cryptographic,
    daa,
    delegated_sessions,
    delegation,
    deprecated,
    endorsement,
    eviction,
    identity,
    maintenance,
    migration,
    nv,
    optin,
    ownership,
    parent,
    pcrs,
    quotes,
    session_management,
    sessions,
    set_capability,
    startup,
    storage,
    ticks,
    transport,
)
from tpmcore.tpm12.command import Command
from tpmcore.tpm12.dispatch import build_table
from tpmcore.tpm12.world import Profile

TABLE: Final[Mapping[int, Command]] = build_table(
    (
        startup.COMMANDS,
        optin.COMMANDS,
        ownership.COMMANDS,
        capability.COMMANDS,
        set_capability.COMMANDS,
        pcrs.COMMANDS,
        sessions.COMMANDS,
        delegated_sessions.COMMANDS,
        delegation.COMMANDS,
        deprecated.COMMANDS,
        storage.COMMANDS,
        cryptographic.COMMANDS,
        certify.COMMANDS,
        endorsement.COMMANDS,
        identity.COMMANDS,
        quotes.COMMANDS,
        change_auth.COMMANDS,
        auditing.COMMANDS,
        admin_test.COMMANDS,
        administrative.COMMANDS,
        nv.COMMANDS,
        counters.COMMANDS,
        session_management.COMMANDS,
        eviction.COMMANDS,
        ticks.COMMANDS,
        daa.COMMANDS,
        transport.COMMANDS,
        migration.COMMANDS,
        cmk.COMMANDS,
        change_auth_asym.COMMANDS,
    )
)
"""What every TPM answers, whatever its profile."""

_MAINTENANCE: Final[Mapping[int, Command]] = build_table((maintenance.COMMANDS,))
_PARENT: Final[Mapping[int, Command]] = build_table((parent.COMMANDS,))


@functools.cache
def table_for(profile: Profile) -> Mapping[int, Command]:
    """Return the table of a TPM with this profile."""
    return {
        **TABLE,
        **(_MAINTENANCE if profile.maintenance_commands else {}),
        **(_PARENT if profile.has_parent else {}),
    }


EVERYTHING: Final[Mapping[int, Command]] = {**TABLE, **_MAINTENANCE, **_PARENT}
"""What a TPM of some profile answers."""
