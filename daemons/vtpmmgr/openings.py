# SPDX-License-Identifier: Apache-2.0
"""Which vTPM is open, and by whom: at most one connection has a vTPM.

A connection that ended is asked whether it hung up before it keeps somebody else out, for its end
may not have been noticed yet. While a command removes a vTPM nobody can open it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

from daemons.vtpmmgr.commits import CommandRefused
from protocol.manager.constants import ManagerCode


class Holder(Protocol):
    """A connection that may have a vTPM open."""

    @property
    def kern_hash(self) -> bytes:
        """Hash of its label, 20 bytes."""

    def hung_up(self) -> bool:
        """Say whether its other end is gone."""


class Openings:
    """All vTPMs that are open."""

    def __init__(self) -> None:
        self._holders: dict[UUID, Holder] = {}
        self._reserved: set[UUID] = set()

    @property
    def uuids(self) -> list[UUID]:
        """The vTPMs that are open."""
        return list(self._holders)

    def holder(self, uuid: UUID) -> Holder | None:
        """Return who has a vTPM open."""
        found = self._holders.get(uuid)
        return None if found is None or found.hung_up() else found

    def hold(self, uuid: UUID, holder: Holder) -> None:
        """Give a vTPM to a connection.

        Raises:
            CommandRefused: DISABLED, another one has it, or it is being removed.
        """
        if uuid in self._reserved or self.holder(uuid) not in (None, holder):
            raise CommandRefused(ManagerCode.DISABLED)
        self._holders[uuid] = holder

    def release(self, uuid: UUID, holder: Holder) -> None:
        """Take a vTPM back from a connection, if it has it."""
        if self._holders.get(uuid) is holder:
            del self._holders[uuid]

    @contextmanager
    def reserved(self, uuids: Iterable[UUID]) -> Iterator[None]:
        """Keep vTPMs closed for a while.

        Raises:
            CommandRefused: FAIL, one of them is open or kept by another command.
        """
        mine = set(uuids)
        if mine & self._reserved or any(self.holder(uuid) for uuid in mine):
            raise CommandRefused(ManagerCode.FAIL)
        self._reserved |= mine
        try:
            yield
        finally:
            self._reserved -= mine
