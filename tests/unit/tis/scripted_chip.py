# SPDX-License-Identifier: Apache-2.0
"""A chip in the test's own event loop whose registers and TPM a test may make lie.

    chip = ScriptedChip(nursery)
    chip.reads[Register.ACCESS] = lambda data: b"\\x00"
    driver = TisDriver(chip.connect, TisOptions())

Without a script it is an honest chip around `TisDevice`, whose TPM answers every command with
success and the command's ordinal.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import trio
from trio.socket import SocketType

from protocol.tis.device import CancelCommand, RaiseInterrupt, RunCommand, TisDevice
from protocol.tis.framing import (
    Burst,
    BurstRead,
    BurstWrite,
    InterruptMessage,
    Read,
    Value,
    Write,
    decode_request,
    encode_reply,
)
from protocol.tis.mmio import MmioBus
from protocol.tis.registers import Register

LOCALITY = 2
TIMEOUTS = struct.pack(">4I", 100_000, 200_000, 300_000, 400_000)
DURATIONS = struct.pack(">3I", 1_000_000, 2_000_000, 3_000_000)


def command(ordinal: int, body: bytes = b"") -> bytes:
    """Return a TPM command without authorization."""
    return struct.pack(">HII", 0x00C1, 10 + len(body), ordinal) + body


def response(body: bytes = b"", code: int = 0) -> bytes:
    """Return a TPM response without authorization."""
    return struct.pack(">HII", 0x00C4, 10 + len(body), code) + body


def obliging_tpm(message: bytes) -> bytes | None:
    """Answer as a TPM that knows its timeouts and takes everything."""
    ordinal = int.from_bytes(message[6:10], "big")
    if ordinal == 101 and message[18:22] == (0x115).to_bytes(4, "big"):
        return response(len(TIMEOUTS).to_bytes(4, "big") + TIMEOUTS)
    if ordinal == 101 and message[18:22] == (0x120).to_bytes(4, "big"):
        return response(len(DURATIONS).to_bytes(4, "big") + DURATIONS)
    return response(ordinal.to_bytes(4, "big"))


class ScriptedChip:
    """One chip at one locality; survives its connections."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.device = TisDevice()
        self.device.initialised()
        self.reads: dict[int, Callable[[bytes], bytes]] = {}
        """By register: what a read gives instead of the device's value."""
        self.burst: Callable[[bytes], bytes] = lambda data: data
        """What a FIFO burst gives instead of the device's bytes."""
        self.tpm: Callable[[bytes], bytes | None] = obliging_tpm
        """Answers commands; None leaves the command running until `finish`."""
        self.on_write: Callable[[int, bytes], None] = lambda offset, data: None
        """Sees every register write before it has its effect."""
        self.on_fifo: Callable[[bytes], None] = lambda data: None
        self.commands: list[bytes] = []
        """What the TPM was given, without the driver's own GetCapability and self-test."""
        self.cancelled = trio.Event()
        self.started = trio.Event()
        """The TPM was given a command for which it has no answer."""
        self.connections = 0
        self.refuse = False
        self._peer: SocketType | None = None

    async def connect(self) -> MmioBus:
        if self.refuse:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._peer = trio.socket.from_stdlib_socket(ours)
        self.connections += 1
        self._nursery.start_soon(self._serve, self._peer)
        return MmioBus(theirs, spin=False)

    def hang_up(self) -> None:
        """Die: the connection ends and the registers forget everything."""
        assert self._peer is not None
        self._peer.close()
        self.device.reset()
        self.device.initialised()

    def say(self, message: bytes) -> None:
        """Send the driver any bytes."""
        assert self._peer is not None
        with socket.socket(fileno=self._peer.dup().detach()) as sock:
            sock.send(message)

    def finish(self, answer: bytes) -> None:
        """End the command that is running."""
        self.device.command_finished(answer)
        self._settle()

    async def _serve(self, peer: SocketType) -> None:
        with peer:
            try:
                while (message := await peer.recv(512)) and peer is self._peer:
                    self._access(message)
            except (OSError, trio.ClosedResourceError):
                return

    def _access(self, message: bytes) -> None:
        device = self.device
        match decode_request(message):
            case Read(tag, offset, size):
                data = device.read(LOCALITY, offset, size)
                if offset in self.reads:
                    data = self.reads[offset](data)[:size]
                self.say(encode_reply(Value(tag, data)))
            case BurstRead(tag, size):
                self.say(encode_reply(Burst(tag, self.burst(device.read_fifo(LOCALITY, size)))))
            case Write(offset, data):
                self.on_write(offset, data)
                device.write(LOCALITY, offset, data)
            case BurstWrite(data):
                self.on_fifo(data)
                device.write_fifo(LOCALITY, data)
        self._settle()

    def _settle(self) -> None:
        while effects := self.device.take_effects():
            for effect in effects:
                match effect:
                    case RunCommand(message, _):
                        self._run(message)
                    case CancelCommand():
                        self.cancelled.set()
                    case RaiseInterrupt(locality):
                        if locality == LOCALITY:
                            self.say(encode_reply(InterruptMessage(locality)))

    def _run(self, message: bytes) -> None:
        ordinal = int.from_bytes(message[6:10], "big")
        answer = self.tpm(message)
        if ordinal not in (83, 101):
            self.commands.append(message)
        if answer is None:
            self.started.set()
        else:
            self.device.command_finished(answer)


def status(value: int) -> Callable[[bytes], bytes]:
    """Make STS show this low byte whatever the device says, burstCount as it is."""
    return lambda data: bytes([value]) + data[1:]


STS = int(Register.STS)
