# SPDX-License-Identifier: Apache-2.0
"""Who may be which vTPM: the clients file, and the hash that stands for a vTPM's kernel.

The clients file is TOML:

    [[client]]
    uuid = "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"
    uid = 1000                           # of the process that serves this vTPM
    label = "system_u:vm_r:vtpm_t"       # stands in for the XSM label
    group = 0                            # default 0
    admin = false                        # default; may send management commands

A uid may have several uuids, a uuid has one entry. A connection is admitted if the uid that the
kernel reports for it has an entry with the uuid that it claims.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from uuid import UUID

from daemons.runtime.errors import DaemonError
from protocol.manager.management import ConfigList
from protocol.tpmif.errors import Refused

LABEL_LIMIT: Final = 127
"""Characters; Xen's manager cuts longer labels there, so two could become one. Here they are
refused.
"""

_UID_LIMIT: Final = 2**32 - 1
_KEYS: Final = frozenset(("uuid", "uid", "label", "group", "admin"))


@dataclass(frozen=True, slots=True)
class Client:
    """One entry of the clients file.

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
    """The clients file, read.

    Args:
        clients: no uuid twice.
    """

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = {client.uuid: client for client in clients}

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
        if client is None or client.uid != uid:
            raise Refused(f"uid {uid} may not be vTPM {uuid}")
        return client


def load_clients(path: Path) -> ClientTable:
    """Read a clients file.

    Raises:
        DaemonError: it cannot be read or says something that is not described above; the message
            names the file, the entry and the key.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise DaemonError(f"clients file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DaemonError(f"clients file {path}: {error}") from error
    entries = content.pop("client", [])
    if content:
        raise DaemonError(f"clients file {path}: unknown key {min(content)!r}")
    if not isinstance(entries, list):
        raise DaemonError(f"clients file {path}: 'client' must be a list of tables ([[client]])")
    clients: dict[UUID, Client] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"clients file {path}, client {number}"
        client = _client(entry, where)
        if client.uuid in clients:
            raise DaemonError(f"{where}: uuid {client.uuid} has an entry already")
        clients[client.uuid] = client
    return ClientTable(clients.values())


def _client(entry: object, where: str) -> Client:
    if not isinstance(entry, dict):
        raise DaemonError(f"{where}: not a table")
    unknown = entry.keys() - _KEYS
    if unknown:
        raise DaemonError(f"{where}: unknown key {min(unknown)!r}")
    label = _text(entry, "label", where)
    if not label or len(label) > LABEL_LIMIT or not label.isascii() or not label.isprintable():
        raise DaemonError(f"{where}: label must be 1 to {LABEL_LIMIT} printable ASCII characters")
    admin = entry.get("admin", False)
    if not isinstance(admin, bool):
        raise DaemonError(f"{where}: admin must be true or false")
    return Client(
        uuid=_uuid(_text(entry, "uuid", where), where),
        uid=_number(entry, "uid", where),
        label=label,
        group=_number(entry, "group", where, default=0),
        admin=admin,
    )


def _text(entry: Mapping[str, object], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise DaemonError(f"{where}: {key} must be there and a string")
    return value


def _number(entry: Mapping[str, object], key: str, where: str, default: int | None = None) -> int:
    value = entry.get(key, default)
    # bool is an int to Python, not to the reader of the file
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _UID_LIMIT:
        raise DaemonError(f"{where}: {key} must be there and a number from 0 to {_UID_LIMIT - 1}")
    return value


def _uuid(text: str, where: str) -> UUID:
    try:
        uuid = UUID(text)
    except ValueError:
        raise DaemonError(f"{where}: uuid {text!r} is none") from None
    if str(uuid) != text.lower():
        raise DaemonError(f"{where}: uuid {text!r} must be written as {uuid}")
    return uuid


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

    The label itself counts, else the label with "*" for its first part. The empty list of a group
    whose agent has said nothing yet approves every label.

    Args:
        config_list: encoded CFG_LIST.
    """
    exact = label_hash(label)
    kernels = _approved_kernels(config_list)
    if kernels is None or exact in kernels:
        return exact
    user, colon, rest = label.partition(":")
    wild = label_hash(f"*{colon}{rest}")
    return wild if user and colon and wild in kernels else None


@lru_cache(maxsize=64)
def _approved_kernels(config_list: bytes) -> frozenset[bytes] | None:
    """Return the kernels of an encoded list; None if it is the empty one of the beginning."""
    decoded = ConfigList.decode(config_list)
    return frozenset(decoded.kernels) if decoded.sequence else None


def label_hash(label: str) -> bytes:
    """Return the kern_hash of a label: its SHA-1, 20 bytes (Xen's stand-in for a measurement)."""
    return hashlib.sha1(label.encode()).digest()
