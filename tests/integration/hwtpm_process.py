# SPDX-License-Identifier: Apache-2.0
"""The real `hwtpm` process for a test, and a locality page as a register script uses it.

    with ChipProcess(run_dir) as chip, chip.page(2) as page:
        page.w(ACCESS, 0x02)
        assert page.r(ACCESS) == 0xA1

What the process wrote to standard error is printed when a test ends, so that pytest shows it on
failure.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protocol.tis.framing import (
    Burst,
    BurstRead,
    BurstWrite,
    InterruptMessage,
    Read,
    Reply,
    Request,
    Value,
    Write,
    decode_reply,
    encode_request,
)
from protocol.tis.registers import Register
from tests.integration.warm import start

LIMIT_S = 30.0


class Page:
    """One connection to one locality page; every access is one message."""

    def __init__(self, path: Path) -> None:
        self.interrupts = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(LIMIT_S)
        self._sock.connect(os.fspath(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def w(self, offset: int, value: int, width: int = 1) -> None:
        """Write a register."""
        self.send(Write(offset, value.to_bytes(width, "little")))

    def r(self, offset: int, width: int = 1) -> int:
        """Read a register."""
        self.send(Read(1, offset, width))
        return self.value()

    def value(self) -> int:
        """Take the answer to a read that was sent."""
        reply = self._answer()
        assert isinstance(reply, Value)
        return int.from_bytes(reply.data, "little")

    def put(self, data: bytes) -> None:
        """Write FIFO bytes in bursts."""
        for offset in range(0, len(data), 255):
            self.send(BurstWrite(data[offset : offset + 255]))

    def get(self, size: int = 255) -> bytes:
        """Read one burst of FIFO bytes."""
        self.send(BurstRead(2, size))
        reply = self._answer()
        assert isinstance(reply, Burst)
        return reply.data

    def sts(self) -> int:
        return self.r(Register.STS)

    def access(self) -> int:
        return self.r(Register.ACCESS)

    def wait_sts(self, wanted: int) -> None:
        """Poll STS until its low byte is `wanted`."""
        for _ in range(100_000):
            if self.sts() == wanted:
                return
        raise AssertionError(f"STS is {self.sts():#x}, never {wanted:#x}")

    def run(self, command: bytes) -> bytes:
        """Have the TPM execute a command at this locality, polling."""
        self.w(Register.ACCESS, 0x02)
        assert self.access() & 0xA0 == 0xA0
        self.w(Register.STS, 0x40)
        self.wait_sts(0x40)
        self.put(command)
        self.w(Register.STS, 0x20)
        self.wait_sts(0x90)
        response = b""
        while data := self.get():
            response += data
        self.w(Register.STS, 0x40)
        self.w(Register.ACCESS, 0x20)
        return response

    def send(self, request: Request) -> None:
        self._sock.send(encode_request(request))

    def send_raw(self, message: bytes) -> None:
        """Send any bytes as one message."""
        self._sock.send(message)

    def flood(self, message: bytes, times: int) -> bool:
        """Send a message over and over without reading; say whether the chip hung up."""
        try:
            for _ in range(times):
                self._sock.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    def is_disconnected(self) -> bool:
        """Whether the chip hung up; what it said before is dropped."""
        try:
            while self._sock.recv(512):
                continue
        except ConnectionResetError:
            return True
        return True

    def wait_interrupt(self) -> int:
        """Wait for an interrupt message and return its locality."""
        reply = decode_reply(self._sock.recv(512))
        assert isinstance(reply, InterruptMessage)
        return reply.locality

    def no_message(self) -> bool:
        """Whether there is nothing to be read at this moment."""
        self._sock.setblocking(False)
        try:
            self._sock.recv(512, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self._sock.settimeout(LIMIT_S)
        return False

    def _answer(self) -> Reply:
        while True:
            message = self._sock.recv(512)
            assert message, "the chip hung up"
            reply = decode_reply(message)
            if not isinstance(reply, InterruptMessage):
                return reply
            self.interrupts += 1


class ChipProcess:
    """An `hwtpm` in the folders `state` and `run` under `root`."""

    def __init__(
        self,
        root: Path,
        *options: str,
        memory: int | None = None,
        expect_ready: bool = True,
    ) -> None:
        """Start it and wait until it is ready, or for its end.

        Args:
            root: a folder with a short path.
            options: further options.
            memory: a memfd that the supervisor keeps for it.
            expect_ready: False waits for the end of a process that refuses to start.
        """
        self.root = root
        self.state = root / "state"
        self.run = root / "run"
        notify = root / "notify"
        notify.unlink(missing_ok=True)
        self.stderr_path = root / "stderr.log"
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
            self.stderr_path.open("ab") as stderr,
        ):
            listener.bind(os.fspath(notify))
            self.process = start(
                "hwtpm",
                ["--state", str(self.state), "--run", str(self.run), *options],
                stderr=stderr.fileno(),
                environment={**os.environ, "NOTIFY_SOCKET": os.fspath(notify)},
                fds={} if memory is None else {"volatile": memory},
            )
            if expect_ready:
                self._wait_ready(listener)
            else:
                self.process.wait(LIMIT_S)

    def _wait_ready(self, listener: socket.socket) -> None:
        listener.settimeout(0.05)
        for _ in range(int(LIMIT_S / 0.05)):
            try:
                if b"READY=1" in listener.recv(4096):
                    return
            except TimeoutError:
                if self.process.poll() is not None:
                    raise AssertionError(f"hwtpm ended: {self.stderr()}") from None
        self.kill()
        raise AssertionError(f"hwtpm does not get ready: {self.stderr()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if error is not None:
            print(self.stderr())  # noqa: T201 - pytest shows it with the failure

    def page(self, locality: int) -> Page:
        """Connect to a locality page."""
        return Page(self.run / f"locality{locality}.sock")

    def tpm(self, command: bytes, locality: int = 0) -> bytes:
        """Execute one command over a connection of its own."""
        with self.page(locality) as page:
            return page.run(command)

    def control(self, verb: str, **args: object) -> dict[str, Any]:
        """Ask the control socket and return the reply."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(os.fspath(self.run / "control.sock"))
            sock.sendall(json.dumps({"verb": verb, "args": args}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                reply: dict[str, Any] = json.loads(lines.readline())
        return reply

    def stop(self) -> int:
        """End it in order and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)

    def stderr(self) -> str:
        return self.stderr_path.read_text()


def command(ordinal: int, body: bytes = b"") -> bytes:
    """Return a TPM command without authorization."""
    return struct.pack(">HII", 0x00C1, 10 + len(body), ordinal) + body


def return_code(response: bytes) -> int:
    """Return the code of a response."""
    return int.from_bytes(response[6:10], "big")


def pcr_read(chip: ChipProcess, index: int) -> bytes:
    """Return the value of a PCR."""
    response = chip.tpm(command(0x15, index.to_bytes(4, "big")))
    assert return_code(response) == 0
    return response[10:]


def extend(index: int, digest: bytes) -> bytes:
    """Return TPM_Extend."""
    return command(0x14, index.to_bytes(4, "big") + digest)


def pcr_reset(*indices: int) -> bytes:
    """Return TPM_PCR_Reset of some PCRs."""
    mask = sum(1 << index for index in indices).to_bytes(3, "little")
    return command(0xC8, b"\x00\x03" + mask)


def nv_define(index: int, size: int) -> bytes:
    """Return TPM_NV_DefineSpace without authorization, as a chip without owner allows it."""
    selection = b"\x00\x03\x00\x00\x00" + b"\x1f" + bytes(20)  # PCR info: none, any locality
    public = (
        b"\x00\x18"  # TPM_TAG_NV_DATA_PUBLIC
        + index.to_bytes(4, "big")
        + selection * 2
        + b"\x00\x17"  # TPM_TAG_NV_ATTRIBUTES
        + bytes.fromhex("00020002")  # OWNERREAD, OWNERWRITE
        + b"\x00\x00\x00"  # read and write locks
        + size.to_bytes(4, "big")
    )
    return command(0xCC, public + bytes(20))


def nv_write(index: int, data: bytes) -> bytes:
    """Return TPM_NV_WriteValue without authorization at offset 0."""
    head = index.to_bytes(4, "big") + bytes(4) + len(data).to_bytes(4, "big")
    return command(0xCD, head + data)


def nv_read(index: int, size: int) -> bytes:
    """Return TPM_NV_ReadValue without authorization at offset 0."""
    return command(0xCF, index.to_bytes(4, "big") + bytes(4) + size.to_bytes(4, "big"))


def volatile_memory() -> int:
    """Return an empty memfd as a supervisor makes it."""
    return os.memfd_create("volatile", os.MFD_ALLOW_SEALING)
