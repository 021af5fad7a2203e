# SPDX-License-Identifier: Apache-2.0
"""Where the engine answers otherwise than the reference, on purpose, chapter by chapter of Part 3.

The reference is libtpms 0.9.2. Each entry names the case that shows it and the rule of the
specification that decides for the engine; it stands in the chapter of its case. A difference that
is not here, or that a case shows more often than is said here, fails its case; so does one that it
shows less often.
"""

from __future__ import annotations

from typing import Final

from tests.conformance.differences import (
    administrative,
    auditing,
    capability,
    changing_authorization,
    cmk,
    cryptographic,
    daa,
    delegation,
    deprecated,
    endorsement,
    gates,
    identity,
    migration,
    nv,
    ownership,
    session_management,
    sessions,
    startup,
    storage,
    transport,
)
from tests.conformance.differences.declared import Declared

DECLARED: Final[tuple[Declared, ...]] = (
    *startup.DECLARED,
    *ownership.DECLARED,
    *capability.DECLARED,
    *auditing.DECLARED,
    *administrative.DECLARED,
    *migration.DECLARED,
    *cmk.DECLARED,
    *storage.DECLARED,
    *cryptographic.DECLARED,
    *endorsement.DECLARED,
    *identity.DECLARED,
    *changing_authorization.DECLARED,
    *sessions.DECLARED,
    *delegation.DECLARED,
    *nv.DECLARED,
    *session_management.DECLARED,
    *transport.DECLARED,
    *daa.DECLARED,
    *deprecated.DECLARED,
    *gates.DECLARED,
)
