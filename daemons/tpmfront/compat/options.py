# SPDX-License-Identifier: Apache-2.0
"""What a command line of swtpm asks for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOCKET_MODE: Final = 0o770
"""Of Unix sockets, as swtpm has it."""
LOOPBACK: Final = "127.0.0.1"


class Interface(enum.Enum):
    """How TPM commands come in."""

    SOCKET = "socket"
    CHARDEV = "chardev"


class Startup(enum.Enum):
    """Type of the TPM_Startup that is sent before anybody is served."""

    NONE = "none"
    CLEAR = "clear"
    STATE = "state"
    DEACTIVATED = "deactivated"


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A Unix socket to make.

    Attributes:
        path: of the socket.
        mode: permissions.
        uid: owner; None leaves it.
        gid: group; None leaves it.
    """

    path: Path
    mode: int = SOCKET_MODE
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class TcpPlace:
    """A TCP port to listen at.

    Attributes:
        port: 0 lets the system choose.
        address: IPv4, or IPv6.
        interface: for a link-local address.
    """

    port: int
    address: str = LOOPBACK
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor that was inherited: a socket that listens, or a connection.

    Attributes:
        number: of it.
    """

    number: int


Place = UnixPlace | TcpPlace | Descriptor


@dataclass(frozen=True, slots=True)
class Channel:
    """A control or data channel.

    Attributes:
        place: where it is.
        disconnects: data: each connection ends after one response.
        terminates: the process ends when a client has gone.
    """

    place: Place
    disconnects: bool = False
    terminates: bool = False


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Where a key is, which is read and checked and not used: `keys.check`.

    Attributes:
        file: with the key, or with a passphrase; None: `fd`.
        fd: inherited descriptor instead.
        is_passphrase: which of the two it is.
        is_binary: the key is no hex text.
        size_bytes: of the key.
        removes: the file is to be removed when it was read.
    """

    file: Path | None
    fd: int | None
    is_passphrase: bool
    is_binary: bool
    size_bytes: int
    removes: bool


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where the log goes.

    Attributes:
        file: to append to; None: `fd`, or standard error if that is None too.
        fd: inherited descriptor.
        is_off: nothing is logged.
        level: swtpm's: 5 and above shows what developers want to see.
        prefix: of each line.
        truncates: the file is emptied first.
    """

    file: Path | None = None
    fd: int | None = None
    is_off: bool = False
    level: int = 0
    prefix: str = ""
    truncates: bool = False


@dataclass(frozen=True, slots=True)
class PidPlace:
    """Where the process id goes: one of the two."""

    file: Path | None
    fd: int | None


@dataclass(frozen=True, slots=True)
class CompatOptions:
    """One process.

    Attributes:
        interface: how TPM commands come in.
        state: folder of the TPM.
        control: the control channel; None: there is none.
        data: the data channel; None: only what SET_DATAFD passes.
        device: character device, by path or descriptor; only with CHARDEV.
        needs_init: the TPM is off until INIT.
        startup: sent before anybody is served; not NONE only without `needs_init`.
        rejects_locality_4: SET_LOCALITY refuses 4.
        allows_set_locality: the vendor command for the locality is served on the data channel.
        keys: that were given, with the option's name.
        log: see there.
        pid: see there; None: nowhere.
        is_daemon: the command returns when the TPM can be used.
        terminates: the process ends when the data client has gone.
        runas: user to become; None: stay.
        without_effect: options that are read and mean nothing here.
    """

    interface: Interface
    state: Path
    control: Channel | None
    data: Channel | None
    device: Path | Descriptor | None
    needs_init: bool
    startup: Startup
    rejects_locality_4: bool
    allows_set_locality: bool
    keys: tuple[tuple[str, KeyFile], ...]
    log: LogPlace
    pid: PidPlace | None
    is_daemon: bool
    terminates: bool
    runas: str | None
    without_effect: tuple[str, ...]
