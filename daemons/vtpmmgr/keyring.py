# SPDX-License-Identifier: Apache-2.0
"""The hierarchy of keys below the manager key.

    manager key (sealed by the hardware TPM)
      +- MAC key of rows, MAC key of commits
      +- wrapping key of groups -> group keys (random, in the groups table)
                                     +- key data of the group's vTPMs (in the vtpms table)

Every envelope's identity names manager, group and vTPM, so none opens in another row or another
manager's database.
"""

from __future__ import annotations

import os
from uuid import UUID, uuid4

from daemons.runtime.secret import Secret
from daemons.vtpmmgr import envelope
from daemons.vtpmmgr.records import GroupRecord, VtpmRecord


class KeyRing:
    """The keys of one manager, in the clear, in memory only.

    Args:
        manager: uuid of the manager.
        manager_key: 32 bytes.
    """

    def __init__(self, manager: UUID, manager_key: Secret) -> None:
        self.manager = manager
        self.row_key = envelope.derive(manager_key, b"rows")
        self.commit_key = envelope.derive(manager_key, b"commits")
        self._groups_key = envelope.derive(manager_key, b"groups")
        # group keys unwrapped so far, by envelope, so that a rotated key is never mistaken for the
        # older one
        self._unwrapped: dict[bytes, Secret] = {}

    def __repr__(self) -> str:
        return f"KeyRing(manager={self.manager})"

    def new_group(self, number: int) -> GroupRecord:
        """Return a new group with a random key."""
        uuid = uuid4()
        key = os.urandom(envelope.KEY_BYTES)
        return GroupRecord(
            uuid, number, envelope.wrap(self._groups_key, self._group_identity(uuid), key)
        )

    def wrap_data(self, group: GroupRecord, vtpm: UUID, data: bytes) -> bytes:
        """Return the envelope of a vTPM's key data."""
        return envelope.wrap(self._group_key(group), self._vtpm_identity(group, vtpm), data)

    def unwrap_data(self, group: GroupRecord, vtpm: VtpmRecord) -> Secret:
        """Return a vTPM's key data.

        Raises:
            envelope.NotAuthentic: the envelope or the group's key is not of this row.
        """
        identity = self._vtpm_identity(group, vtpm.uuid)
        return envelope.unwrap(self._group_key(group), identity, vtpm.data)

    def _group_key(self, group: GroupRecord) -> Secret:
        known = self._unwrapped.get(group.wrapped_key)
        if known is None:
            identity = self._group_identity(group.uuid)
            known = envelope.unwrap(self._groups_key, identity, group.wrapped_key)
            self._unwrapped[group.wrapped_key] = known
        return known

    def _group_identity(self, group: UUID) -> bytes:
        return b"group\x00" + self.manager.bytes + group.bytes

    def _vtpm_identity(self, group: GroupRecord, vtpm: UUID) -> bytes:
        return b"vtpm\x00" + self.manager.bytes + group.uuid.bytes + vtpm.bytes
