# SPDX-License-Identifier: Apache-2.0
"""Who may be which vTPM: the guests of the configuration, and the hash that stands for a vTPM's
kernel.

A connection is admitted if the uid that the kernel reports for it is that of the guest whose uuid
it claims; or if [compat] lists the uid, and the uuid is one of those that carry it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self
from uuid import UUID

from daemons.runtime.config.options import Configuration
from protocol.manager.compat import uid_of
from protocol.manager.labels import approved_form, label_hash
from protocol.manager.management import ConfigList
from protocol.tpmif.errors import Refused


@dataclass(frozen=True, slots=True)
class Client:
    """What a guest of the configuration is to the manager.

    Attributes:
        uuid: of the vTPM.
        uid: of the process that may connect as it.
        label: used where the system has no security labels of its own.
        group: number of the group that it belongs to.
        admin: whether it may send management commands.
    """

    uuid: UUID
    uid: int
    label: str
    group: int
    admin: bool


class ClientTable:
    """Everybody who may connect.

    Args:
        clients: no uuid twice.
        compat_uids: users that may have vTPMs beside those, of uuids that carry their uid
            (`protocol.manager.compat`).
    """

    def __init__(self, clients: Iterable[Client], compat_uids: Collection[int] = ()) -> None:
        self._clients = {client.uuid: client for client in clients}
        self._compat_uids = frozenset(compat_uids)

    @classmethod
    def of_configuration(cls, configuration: Configuration) -> Self:
        """Return the table of a configuration."""
        return cls(
            (
                Client(
                    uuid=guest.identity.uuid,
                    uid=guest.identity.uid,
                    label=guest.label,
                    group=guest.identity.group,
                    admin=guest.identity.admin,
                )
                for guest in configuration.guests.values()
                if guest.identity.uid is not None
            ),
            configuration.machine.compat.uids,
        )

    def __len__(self) -> int:
        return len(self._clients)

    def gives_admin(self, uuid: UUID) -> bool:
        """Say whether a vTPM is given the right to send management commands."""
        client = self._clients.get(uuid)
        return client is not None and client.admin

    def admit(self, uid: int, uuid: UUID) -> Client:
        """Return the entry of a peer that claims a uuid.

        Raises:
            Refused: there is none for this uid. The text is the same whether the uuid is somebody
                else's or nobody's.
        """
        client = self._clients.get(uuid)
        if client is None and uid in self._compat_uids and uid_of(uuid) == uid:
            # Group 0: nobody has said yet what it is, and there a first save makes it.
            return Client(uuid, uid, compat_label(uid), group=0, admin=False)
        if client is None or client.uid != uid:
            raise Refused(f"uid {uid} may not be vTPM {uuid}")
        return client


def compat_label(uid: int) -> str:
    """Return what stands in for the label of a user's vTPMs that are not in the configuration."""
    return f"compat-uid-{uid}"


def effective_label(peer_label: str | None, client: Client) -> str:
    """Return the label that counts for a connection.

    What the kernel reports counts where it is a context of the kind that XSM has (user:role:type).
    AppArmor, which reports things like "unconfined" for every process, does not label in that
    sense: there the table's counts.
    """
    if peer_label is not None and peer_label.count(":") >= 2:
        return peer_label
    return client.label


def approved_kern_hash(config_list: bytes, label: str) -> bytes | None:
    """Return the kern_hash of a label that a group's list approves; None if it does not.

    The empty list of a group whose agent has said nothing yet approves every label.

    Args:
        config_list: encoded CFG_LIST.
    """
    kernels = _approved_kernels(config_list)
    if kernels is None:
        return label_hash(label)
    form = approved_form(kernels, label)
    return None if form is None else label_hash(form)


@lru_cache(maxsize=64)
def _approved_kernels(config_list: bytes) -> frozenset[bytes] | None:
    """Return the kernels of an encoded list; None if it is the empty one of the beginning."""
    decoded = ConfigList.decode(config_list)
    return frozenset(decoded.kernels) if decoded.sequence else None
