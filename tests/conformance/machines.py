# SPDX-License-Identifier: Apache-2.0
"""The two machines that run the same commands, and the states that a case can start from."""

from __future__ import annotations

import enum
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

from protocol.tpm12.constants import PhysicalPresenceFlags, StartupType
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, SeededRandom, make_chip
from tpmcore import tss12
from tpmcore.engine import HashData, HashEnd, HashStart
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation

T = TypeVar("T")

_CMD_INIT: Final = 0x02
_CMD_SET_LOCALITY: Final = 0x05
_CMD_STOP: Final = 0x0E
_CMD_HASH_START: Final = 0x06
_CMD_HASH_DATA: Final = 0x07
_CMD_HASH_END: Final = 0x08
_STATE_FILE: Final = "tpm-00.permall"
_PATIENCE_S: Final = 30.0


class World(enum.Enum):
    """What a machine has been through before a case begins; then it is started up with CLEAR."""

    NEW = "a new chip without endorsement key"
    UNOWNED = "a chip with an endorsement key"
    OWNED = "a chip with an owner, physical presence by command allowed"


def prepare(world: World, run: Callable[[Conversation[object]], object]) -> None:
    """Bring a started new chip without endorsement key to a world."""
    if world is World.NEW:
        return
    random = SeededRandom("world")
    run(tss12.create_endorsement_key_pair(random=random))
    if world is World.UNOWNED:
        return
    run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=random))
    run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))


class Machine(Protocol):
    """A TPM that can be brought to a world again and again."""

    @property
    def name(self) -> str:
        """How reports call it."""

    def send(self, command: bytes, locality: int) -> bytes:
        """Execute a command."""

    def enter(self, world: World, *, start_up: bool = True) -> None:
        """Take up the state of a world, as after TPM_Init."""

    def power_cycle(self) -> None:
        """Send TPM_Init; what is not stored is lost, Startup is the script's business."""

    def hash_start(self) -> None:
        """Begin the hash sequence of locality 4."""

    def hash_end(self, data: bytes) -> None:
        """Give the hash sequence of locality 4 its data and end it."""


class EngineMachine:
    """The engine, in this process and in a seeded world."""

    name = "engine"

    def __init__(self) -> None:
        self._chips: dict[World, Chip] = {}
        self._chip = make_chip(Profile(make_ek=False), startup=None)

    def send(self, command: bytes, locality: int) -> bytes:
        """Execute a command; see Machine."""
        self._chip.locality = locality
        return self._chip.send(command)

    def enter(self, world: World, *, start_up: bool = True) -> None:
        """Take up the state of a world; see Machine."""
        made = self._chips.get(world)
        if made is None:
            made = self._chips[world] = make_chip(Profile(make_ek=False), seed="conformance")
            prepare(world, made.run)
        # A copy, whose random bytes do not depend on the cases that ran before.
        self._chip = Chip(
            SeededRandom(f"case in {world.name}"),
            made.ticks,
            made.keys,
            made.profile,
            made.engine,
            made.durable,
        )
        self._chip.power_cycle(StartupType.CLEAR if start_up else None)

    def power_cycle(self) -> None:
        """Send TPM_Init; see Machine."""
        self._chip.power_cycle(None)

    def hash_start(self) -> None:
        """Begin the hash sequence; see Machine."""
        assert self._chip.handle(HashStart()) == 0

    def hash_end(self, data: bytes) -> None:
        """Give the data and end it; see Machine."""
        assert self._chip.handle(HashData(data)) == 0
        assert self._chip.handle(HashEnd()) == 0


class SwtpmMachine:
    """A swtpm process of its own, with its own folder; a context manager that ends it.

    Attributes:
        folder: holds its state and sockets. The name is short: Unix paths end at 107 bytes.
    """

    name = "swtpm"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
        self._stored: dict[World, bytes] = {}
        self._locality = -1
        # Connected pairs instead of paths: there is no moment at which swtpm does not listen yet,
        # and it ends by itself when this process does.
        self._data, data = _pair()
        self._control, control = _pair()
        self._process = subprocess.Popen(
            [
                "swtpm",
                "socket",
                "--tpmstate",
                f"dir={self.folder}",
                "--fd",
                str(data.fileno()),
                "--ctrl",
                f"type=unixio,clientfd={control.fileno()}",
                "--log",
                f"file={self.folder}/log",
            ],
            pass_fds=(data.fileno(), control.fileno()),
        )
        data.close()
        control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._control.close()
        self._data.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def _command(self, code: int, body: bytes = b"") -> None:
        self._control.sendall(struct.pack(">I", code) + body)
        (result,) = struct.unpack(">I", _receive(self._control, 4))
        if result != 0:
            raise RuntimeError(f"swtpm control command {code:#x} ended in {result:#x}")

    def send(self, command: bytes, locality: int) -> bytes:
        """Execute a command; see Machine."""
        if locality != self._locality:
            self._command(_CMD_SET_LOCALITY, bytes((locality, 0, 0, 0)))
            self._locality = locality
        self._data.sendall(command)
        head = _receive(self._data, 10)
        return head + _receive(self._data, int.from_bytes(head[2:6], "big") - 10)

    def enter(self, world: World, *, start_up: bool = True) -> None:
        """Take up the state of a world; see Machine."""
        stored = self._stored.get(world)
        self._command(_CMD_STOP)
        state = self.folder / _STATE_FILE
        if stored is None:
            state.unlink(missing_ok=True)
            self._init()
            self._run(tss12.startup())
            prepare(world, self._run)
            stored = self._stored[world] = state.read_bytes()
            self._command(_CMD_STOP)
        state.write_bytes(stored)
        self._init()
        if start_up:
            self._run(tss12.startup())

    def power_cycle(self) -> None:
        """Send TPM_Init; see Machine."""
        self._init()

    def hash_start(self) -> None:
        """Begin the hash sequence; see Machine."""
        self._command(_CMD_HASH_START)

    def hash_end(self, data: bytes) -> None:
        """Give the data and end it; see Machine."""
        self._command(_CMD_HASH_DATA, struct.pack(">I", len(data)) + data)
        self._command(_CMD_HASH_END)

    def _init(self) -> None:
        self._command(_CMD_INIT, struct.pack(">I", 0))

    def _run(self, conversation: Conversation[T]) -> T:
        return tss12.run_sync(lambda command: self.send(command, 0), conversation)


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.settimeout(_PATIENCE_S)
    return ours, theirs


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise RuntimeError("swtpm closed the connection")
        data += part
    return data
