# SPDX-License-Identifier: Apache-2.0
"""What the manager keeps about the state of running vTPMs (`statekeys`): tables as in `records`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self
from uuid import UUID

from daemons.vtpmmgr.rows import SqlValue, Table, as_blob, as_uuid, columns_of


@dataclass(frozen=True, slots=True)
class StateSecretRecord:
    """The secret from which keys for the state of a group's vTPMs are derived.

    Made when the first of them is asked for. It stays when the group gets a new key, so that state
    that was saved before can be loaded after.

    Attributes:
        group: uuid of the group.
        secret: envelope of the 32 bytes, under the group key.
    """

    TABLE: ClassVar[Table] = Table(
        "state_secrets", (("group_uuid", "BLOB"), ("secret", "BLOB")), since=3
    )

    group: UUID
    secret: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return self.group.bytes, self.secret

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        group, secret = columns_of(cls.TABLE, row)
        return cls(as_uuid(group), as_blob(secret))


@dataclass(frozen=True, slots=True)
class StateTargetRecord:
    """To which other manager the state of a running vTPM goes. A vTPM without one goes to none.

    Attributes:
        uuid: of the vTPM.
        target: encoded TransportKey of that manager.
        approval: encoded MoveApproval of the group's agent; looked at again at each use.
    """

    TABLE: ClassVar[Table] = Table(
        "state_targets", (("uuid", "BLOB"), ("target", "BLOB"), ("approval", "BLOB")), since=3
    )

    uuid: UUID
    target: bytes
    approval: bytes

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return self.uuid.bytes, self.target, self.approval

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        uuid, target, approval = columns_of(cls.TABLE, row)
        return cls(as_uuid(uuid), as_blob(target), as_blob(approval))


@dataclass(frozen=True, slots=True)
class LocalTargetRecord:
    """Which other vTPM of this manager may load the state of a vTPM.

    Attributes:
        uuid: of the vTPM whose state it is.
        target: uuid of the other one.
    """

    TABLE: ClassVar[Table] = Table("local_targets", (("uuid", "BLOB"), ("target", "BLOB")), since=4)

    uuid: UUID
    target: UUID

    def row(self) -> tuple[SqlValue, ...]:
        """Return the values in column order."""
        return self.uuid.bytes, self.target.bytes

    @classmethod
    def from_row(cls, row: tuple[SqlValue, ...]) -> Self:
        """Return the record; BadRow if the row cannot be one."""
        uuid, target = columns_of(cls.TABLE, row)
        return cls(as_uuid(uuid), as_uuid(target))
