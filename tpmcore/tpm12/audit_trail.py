# SPDX-License-Identifier: Apache-2.0
"""The audit digest (Part 1, chapter on auditing): a hash chain over what audited ordinals did.

Only successes are in it, each with two events, one for the parameters and one for the response. The
first event of a chain costs an increment of the persistent audit counter, which tells chains apart.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Final

from protocol.tpm12.constants import ReturnCode, StructureTag
from protocol.tpm12.resources import CounterValue
from protocol.tpm12.wire import U32
from tpmcore.errors import TpmError
from tpmcore.tpm12.state import ZERO_DIGEST, SelfTest

if TYPE_CHECKING:
    from tpmcore.tpm12.command import Command
    from tpmcore.tpm12.tpm import Tpm

_EVENT_IN: Final = StructureTag.AUDIT_EVENT_IN.to_bytes(2, "big")
_EVENT_OUT: Final = StructureTag.AUDIT_EVENT_OUT.to_bytes(2, "big")
_LABEL: Final = bytes(4)
_COUNT_HEAD: Final = StructureTag.COUNTER_VALUE.to_bytes(2, "big") + _LABEL
"""What a TPM_COUNTER_VALUE of the counter begins with."""
_LAST_COUNT: Final = 0xFFFFFFFF


def is_audited(tpm: Tpm, row: Command) -> bool:
    """Whether successes of an ordinal go into the digest."""
    return bool(tpm.permanent.audit_status.get(row.ordinal, row.audited))


def counter_value(tpm: Tpm) -> CounterValue:
    """Return auditMonotonicCounter."""
    return CounterValue(_LABEL, tpm.permanent.audit_counter)


def record_input(tpm: Tpm, in_digest: bytes) -> None:
    """Chain a TPM_AUDIT_EVENT_IN, beginning a chain if there is none.

    Raises:
        TpmError: AUDITFAIL_SUCCESSFUL, and the TPM is in failure mode, if the counter is at its
            end.
    """
    _chain(tpm, _EVENT_IN + in_digest)


def record_both(tpm: Tpm, in_digest: bytes, out_digest: bytes) -> None:
    """Chain a TPM_AUDIT_EVENT_IN, and a TPM_AUDIT_EVENT_OUT behind it.

    Raises:
        TpmError: as `record_input`.
    """
    _chain(tpm, _EVENT_IN + in_digest, _EVENT_OUT + out_digest)


def _chain(tpm: Tpm, *events: bytes) -> None:
    stany, permanent = tpm.stany, tpm.permanent
    digest = stany.audit_digest
    if digest == ZERO_DIGEST:
        if permanent.audit_counter == _LAST_COUNT:
            tpm.self_test = SelfTest.FAILED
            raise TpmError(ReturnCode.AUDITFAIL_SUCCESSFUL)
        permanent.audit_counter += 1
    count = _COUNT_HEAD + U32.write(permanent.audit_counter)
    for event in events:
        digest = sha1(digest + event + count).digest()
    stany.audit_digest = digest
