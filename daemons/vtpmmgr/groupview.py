# SPDX-License-Identifier: Apache-2.0
"""A group as a command reads it from the ledger: closed, or open with its secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.ledger import Ledger
from daemons.vtpmmgr.records import GroupRecord, PolicyRecord, VtpmRecord
from protocol.manager import quotes
from protocol.manager.constants import ManagerCode
from protocol.manager.management import EMPTY_LIST, MODULUS_BYTES, ConfigList

GROUPS: Final = UUID(int=0)
"""Stands for the groups as a whole where a change says what it is about."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group as it was read.

    Attributes:
        policy: None for a stub.
        is_open: whether its key is at hand.
    """

    record: GroupRecord
    policy: PolicyRecord | None
    is_open: bool

    @property
    def config_list(self) -> ConfigList:
        """The list in force."""
        return EMPTY_LIST if self.policy is None else ConfigList.decode(self.policy.config_list)

    @property
    def saa_modulus(self) -> bytes:
        """Of its agent; zeros while there is none."""
        return bytes(MODULUS_BYTES) if self.policy is None else self.policy.saa_modulus


def read_group(ledger: Ledger, number: int) -> Group:
    """Return a group; CommandRefused(BADINDEX) if there is none with this number."""
    record = ledger.group(number)
    if record is None:
        raise CommandRefused(ManagerCode.BADINDEX)
    policy = ledger.get(PolicyRecord, record.uuid.bytes)
    return Group(record, policy, ledger.keys.is_open(record))


def read_group_of(ledger: Ledger, number: int, vtpm: UUID) -> Group:
    """Return the group of a vTPM that is open with this number in its configuration.

    Raises:
        CommandRefused: BADINDEX, as `read_group`; FAIL, the vTPM is not in it: the number may mean
            another group by now.
    """
    group = read_group(ledger, number)
    record = ledger.get(VtpmRecord, vtpm.bytes)
    if record is None or record.group != group.record.uuid:
        raise CommandRefused(ManagerCode.FAIL)
    return group


@dataclass(frozen=True, slots=True, repr=False)
class OpenGroup:
    """An open group that has an agent, with its secrets: all of one moment, for the manager's keys
    may be other ones after any wait.

    Attributes:
        key: of the group.
        aik_auth: secret to use its AIK.
        identification: what PCRs 20-23 hold for it.
    """

    uuid: UUID
    policy: PolicyRecord
    key: Secret
    aik_auth: Secret
    identification: quotes.Identification

    @classmethod
    def read(cls, ledger: Ledger, number: int) -> Self:
        """Return the group with a number; CommandRefused if it is none, closed or a stub."""
        group = read_group(ledger, number)
        if not group.is_open:
            raise CommandRefused(ManagerCode.AUTHFAIL)
        if group.policy is None:
            raise CommandRefused(ManagerCode.FAIL)
        return cls(
            group.record.uuid,
            group.policy,
            ledger.keys.group_key(group.record),
            ledger.keys.unwrap_aik_auth(group.record, group.policy),
            quotes.identification(group.record.uuid, group.saa_modulus, group.config_list),
        )
