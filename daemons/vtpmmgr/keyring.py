# SPDX-License-Identifier: Apache-2.0
"""The hierarchy of keys below the manager key.

    manager key (sealed by the hardware TPM)
      +- MAC key of rows, MAC key of commits
      +- key of the counter's secret
      +- wrapping key of groups -> group keys (random, in the groups table)
                                     +- key data of the group's vTPMs (in the vtpms table)
                                     +- vTPMs on a move (in the moves table)
                                     +- secret of the keys for their state
                                     +- secrets of the group's AIK and transport key; for group 0
                                        the root secret

The group key of a group with approved configurations lies in two envelopes, the outer of the
manager key, the inner of a secret that the hardware TPM seals to each of those configurations. A
group whose secret does not unseal is *closed*: it is there, and nothing in it can be used. The
outer envelope is renewed without opening the inner, so closed groups survive a new manager key.

Every envelope's identity names manager, group and vTPM, so none opens in another row or another
manager's database.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

from daemons.runtime.secret import Secret
from daemons.vtpmmgr import envelope
from daemons.vtpmmgr.records import CounterRecord, GroupRecord, PolicyRecord, VtpmRecord
from daemons.vtpmmgr.sealing import RootSecret

_AIK_AUTH: Final = b"aik"
_RECOVERY: Final = b"recovery"
_TRANSPORT: Final = b"transport"
_MOVE: Final = b"move"
_STATE: Final = b"state"
_COUNTER: Final = b"counter\x00"


class GroupClosed(Exception):
    """The group's key does not come out in this configuration of the platform."""


class KeyRing:
    """The keys of one manager, in the clear, in memory only.

    Args:
        root: what the hardware TPM keeps.
    """

    def __init__(self, root: RootSecret) -> None:
        self.root = root
        self.manager = root.manager
        self.row_key = envelope.derive(root.manager_key, b"rows")
        self.commit_key = envelope.derive(root.manager_key, b"commits")
        self._groups_key = envelope.derive(root.manager_key, b"groups")
        self._counter_key = envelope.derive(root.manager_key, b"counter")
        # group keys unwrapped so far, by outer envelope, so that a rotated key is never mistaken
        # for the older one
        self._unwrapped: dict[bytes, Secret] = {}

    def __repr__(self) -> str:
        return f"KeyRing(manager={self.manager})"

    # --- group keys --------------------------------------------------------------------------

    def new_group(self, number: int) -> GroupRecord:
        """Return a new group with a random key, which the manager key alone opens."""
        return self._wrapped(uuid4(), number, Secret(os.urandom(envelope.KEY_BYTES)), None)

    def rewrapped(
        self, group: GroupRecord, secret: Secret | None, *, key: Secret | None = None
    ) -> GroupRecord:
        """Return the group with its key in new envelopes.

        Args:
            secret: that of the inner envelope, 32 bytes; None for no inner envelope.
            key: the group's new key; None keeps the one it has.

        Raises:
            GroupClosed: its present key is not at hand.
        """
        return self._wrapped(
            group.uuid, group.number, self.group_key(group) if key is None else key, secret
        )

    def with_root(self, root: RootSecret) -> KeyRing:
        """Return these keys under a root secret that differs in the NV area only."""
        ring = KeyRing(root)
        ring._unwrapped = self._unwrapped
        return ring

    def with_outer_of(self, old: KeyRing, group: GroupRecord) -> GroupRecord:
        """Return a group of an older ring in an outer envelope of this one, open or closed."""
        inner = old._inner(group)
        wrapped = envelope.wrap(self._groups_key, self._identity(b"group", group.uuid), inner)
        known = old._unwrapped.get(group.wrapped_key)
        if known is not None:
            self._unwrapped[wrapped] = known
        return replace(group, wrapped_key=wrapped)

    def open_sealed(self, group: GroupRecord, secret: Secret) -> None:
        """Open a group with the secret that the hardware TPM gave.

        Raises:
            envelope.NotAuthentic: it is not this group's.
        """
        inner = self._inner(group)
        identity = self._sealed_identity(group.uuid)
        self._unwrapped[group.wrapped_key] = envelope.unwrap(secret, identity, inner)

    def open_recovered(self, group: GroupRecord, policy: PolicyRecord, key: Secret) -> None:
        """Open a group with the key itself, as its agent had it in escrow.

        Raises:
            envelope.NotAuthentic: it is not this group's.
        """
        envelope.unwrap(key, self._identity(_AIK_AUTH, group.uuid), policy.aik_auth)
        self._unwrapped[group.wrapped_key] = key

    def is_open(self, group: GroupRecord) -> bool:
        """Say whether the group's key is at hand."""
        try:
            self.group_key(group)
        except GroupClosed:
            return False
        return True

    def group_key(self, group: GroupRecord) -> Secret:
        """Return the group's key, 32 bytes.

        Raises:
            GroupClosed: no approved configuration of it is this one.
            envelope.NotAuthentic: the envelope is not of this row.
        """
        known = self._unwrapped.get(group.wrapped_key)
        if known is None:
            known = self._inner(group)
            if len(known) != envelope.KEY_BYTES:
                raise GroupClosed(f"group {group.uuid} is closed")
            self._unwrapped[group.wrapped_key] = known
        return known

    def _inner(self, group: GroupRecord) -> Secret:
        """Return what the outer envelope holds: the group key, or an envelope of it."""
        identity = self._identity(b"group", group.uuid)
        return envelope.unwrap(self._groups_key, identity, group.wrapped_key)

    def _wrapped(self, uuid: UUID, number: int, key: Secret, secret: Secret | None) -> GroupRecord:
        inner: bytes = key
        if secret is not None:
            inner = envelope.wrap(secret, self._sealed_identity(uuid), key)
        wrapped = envelope.wrap(self._groups_key, self._identity(b"group", uuid), inner)
        self._unwrapped[wrapped] = key
        return GroupRecord(uuid, number, wrapped)

    # --- what lies under a group key ---------------------------------------------------------

    def wrap_data(self, group: GroupRecord, vtpm: UUID, data: bytes) -> bytes:
        """Return the envelope of a vTPM's key data."""
        return envelope.wrap(self.group_key(group), self._vtpm_identity(group, vtpm), data)

    def unwrap_data(self, group: GroupRecord, vtpm: VtpmRecord) -> Secret:
        """Return a vTPM's key data.

        Raises:
            GroupClosed: see `group_key`.
            envelope.NotAuthentic: the envelope or the group's key is not of this row.
        """
        identity = self._vtpm_identity(group, vtpm.uuid)
        return envelope.unwrap(self.group_key(group), identity, vtpm.data)

    def wrap_aik_auth(self, group: GroupRecord, auth: Secret) -> bytes:
        """Return the envelope of the secret to use the group's AIK."""
        return envelope.wrap(self.group_key(group), self._identity(_AIK_AUTH, group.uuid), auth)

    def unwrap_aik_auth(self, group: GroupRecord, policy: PolicyRecord) -> Secret:
        """Return the secret to use the group's AIK, 20 bytes; raises as `unwrap_data`."""
        identity = self._identity(_AIK_AUTH, group.uuid)
        return envelope.unwrap(self.group_key(group), identity, policy.aik_auth)

    def wrap_recovery(self, group: GroupRecord) -> bytes:
        """Return the envelope of the root secret under the key of group 0."""
        return envelope.wrap(
            self.group_key(group), self._identity(_RECOVERY, group.uuid), self.root.encode()
        )

    def wrap_transport_auth(self, group: GroupRecord, auth: Secret) -> bytes:
        """Return the envelope of the secret to use the group's transport key."""
        identity = self._identity(_TRANSPORT, group.uuid)
        return envelope.wrap(self.group_key(group), identity, auth)

    def unwrap_transport_auth(self, group: GroupRecord, wrapped: bytes) -> Secret:
        """Return the secret to use the group's transport key; raises as `unwrap_data`."""
        return envelope.unwrap(
            self.group_key(group), self._identity(_TRANSPORT, group.uuid), wrapped
        )

    def wrap_move(self, group: GroupRecord, vtpm: UUID, data: bytes) -> bytes:
        """Return the envelope of what a vTPM takes along on its move."""
        identity = self._identity(_MOVE, group.uuid) + vtpm.bytes
        return envelope.wrap(self.group_key(group), identity, data)

    def unwrap_move(self, group: GroupRecord, vtpm: UUID, wrapped: bytes) -> Secret:
        """Return what a vTPM takes along on its move; raises as `unwrap_data`."""
        identity = self._identity(_MOVE, group.uuid) + vtpm.bytes
        return envelope.unwrap(self.group_key(group), identity, wrapped)

    def wrap_state_secret(self, group: GroupRecord, secret: bytes) -> bytes:
        """Return the envelope of the secret of which keys for its vTPMs' state are derived."""
        return envelope.wrap(self.group_key(group), self._identity(_STATE, group.uuid), secret)

    def unwrap_state_secret(self, group: GroupRecord, wrapped: bytes) -> Secret:
        """Return the secret of which keys for its vTPMs' state are derived; raises as
        `unwrap_data`."""
        return envelope.unwrap(self.group_key(group), self._identity(_STATE, group.uuid), wrapped)

    # --- what lies under the manager key ---------------------------------------------------------

    def counter_record(self, count_id: int, auth: Secret, value: int) -> CounterRecord:
        """Return the record of a counter of the hardware TPM."""
        wrapped = envelope.wrap(self._counter_key, _COUNTER + self.manager.bytes, auth)
        return CounterRecord(count_id, wrapped, value)

    def unwrap_counter_auth(self, record: CounterRecord) -> Secret:
        """Return the secret to increment the counter, 20 bytes; NotAuthentic if it is not ours."""
        return envelope.unwrap(self._counter_key, _COUNTER + self.manager.bytes, record.auth)

    def _identity(self, purpose: bytes, group: UUID) -> bytes:
        return purpose + b"\x00" + self.manager.bytes + group.bytes

    def _sealed_identity(self, group: UUID) -> bytes:
        return self._identity(b"sealed group", group)

    def _vtpm_identity(self, group: GroupRecord, vtpm: UUID) -> bytes:
        return self._identity(b"vtpm", group.uuid) + vtpm.bytes


def unwrap_recovery(manager: UUID, policy: PolicyRecord, key: Secret) -> Secret:
    """Return the encoded root secret that the key of group 0 opens.

    There is no key ring yet where this is needed: the database is not verified, the envelope is.

    Raises:
        envelope.NotAuthentic: it is not the key of that group in that manager's database.
    """
    identity = _RECOVERY + b"\x00" + manager.bytes + policy.group.bytes
    return envelope.unwrap(key, identity, policy.recovery)
