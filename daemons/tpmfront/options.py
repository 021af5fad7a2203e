# SPDX-License-Identifier: Apache-2.0
"""What a tpmfront is told to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from daemons.runtime.config.endpoints import TcpEndpoint
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Level

MAX_LOCALITY: Final = 4


@dataclass(frozen=True, slots=True)
class FrontSocket:
    """A raw stream socket and the locality of every command that comes through it."""

    path: Path
    locality: int

    @property
    def listener_name(self) -> str:
        """Name of the inherited listener: "tpm", and with the number for another locality than
        0."""
        return f"tpm{self.locality or ''}"


@dataclass(frozen=True, slots=True)
class CtrlSocket:
    """The socket of the swtpm control channel.

    Attributes:
        path: of it.
        mode: its permissions; who may write may stop the TPM and take its state.
        max_locality: the last that a client may set.
        ends_on_shutdown: whether the process ends after SHUTDOWN; one that a supervisor runs would
            only be started again.
        ends_with_client: whether it ends when a client is gone.
    """

    path: Path
    mode: int
    max_locality: int = MAX_LOCALITY
    ends_on_shutdown: bool = False
    ends_with_client: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Options of one tpmfront.

    Attributes:
        sockets: none if the guest is to have no stream.
        socket_mode: permissions of the sockets; who may write may use the TPM.
        ctrl: the swtpm control channel; None if the guest is to have none.
        control: where `vtpmctl` asks for the status.
        tcp: where it is served over TCP besides.
        tcp_any_address: whether these, and what the supervisor passes, may be for other machines.
    """

    sockets: tuple[FrontSocket, ...]
    socket_mode: int
    ctrl: CtrlSocket | None
    backend: Path
    control: Path
    uuid: UUID
    name: str
    level: Level
    tcp: tuple[TcpEndpoint, ...] = ()
    tcp_any_address: bool = False


def parse_front_socket(text: str) -> FrontSocket:
    """Parse `PATH` (locality 0) or `PATH=LOCALITY`.

    Raises:
        DaemonError: the locality is none.
    """
    path, separator, locality = text.rpartition("=")
    if not separator:
        return FrontSocket(Path(text), 0)
    if not locality.isdecimal() or int(locality) > MAX_LOCALITY:
        raise DaemonError(f"{text}: the locality must be 0 to {MAX_LOCALITY}")
    return FrontSocket(Path(path), int(locality))
