# SPDX-License-Identifier: Apache-2.0
"""The error paths of each ordinal, chapter by chapter of Part 3, and the case that tries each.

Written from the specification's Actions, not from the engine, so that a path which nobody thought
of in the code is missing here as an untried one. What every ordinal has in common is not repeated:
framing, tags, the states before its own checks (`cases_gates`) have cases that send every ordinal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.conformance.paths import (
    administrative,
    auditing,
    capability,
    changing_authorization,
    cmk,
    counters,
    cryptographic,
    daa,
    delegation,
    deprecated,
    endorsement,
    identity,
    integrity,
    maintenance,
    migration,
    nv,
    optin,
    ownership,
    session_management,
    sessions,
    startup,
    storage,
    transport,
)
from tests.conformance.paths.path import ErrorPath

__all__ = ["PATHS", "ErrorPath"]

_CHAPTERS: Final = (
    startup.PATHS,
    optin.PATHS,
    ownership.PATHS,
    capability.PATHS,
    auditing.PATHS,
    administrative.PATHS,
    migration.PATHS,
    cmk.PATHS,
    maintenance.PATHS,
    storage.PATHS,
    cryptographic.PATHS,
    endorsement.PATHS,
    identity.PATHS,
    integrity.PATHS,
    changing_authorization.PATHS,
    sessions.PATHS,
    delegation.PATHS,
    nv.PATHS,
    session_management.PATHS,
    transport.PATHS,
    counters.PATHS,
    daa.PATHS,
    deprecated.PATHS,
)

PATHS: Final[Mapping[int, tuple[ErrorPath, ...]]] = {
    ordinal: paths for chapter in _CHAPTERS for ordinal, paths in chapter.items()
}
