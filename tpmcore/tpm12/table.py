# SPDX-License-Identifier: Apache-2.0
"""The dispatch table: every ordinal that the engine answers, joined from the command families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tpmcore.tpm12 import (
    capability,
    certify,
    change_auth,
    cryptographic,
    endorsement,
    identity,
    optin,
    ownership,
    pcrs,
    quotes,
    sessions,
    set_capability,
    startup,
    storage,
)
from tpmcore.tpm12.command import Command
from tpmcore.tpm12.dispatch import build_table

TABLE: Final[Mapping[int, Command]] = build_table(
    (
        startup.COMMANDS,
        optin.COMMANDS,
        ownership.COMMANDS,
        capability.COMMANDS,
        set_capability.COMMANDS,
        pcrs.COMMANDS,
        sessions.COMMANDS,
        storage.COMMANDS,
        cryptographic.COMMANDS,
        certify.COMMANDS,
        endorsement.COMMANDS,
        identity.COMMANDS,
        quotes.COMMANDS,
        change_auth.COMMANDS,
    )
)
