# SPDX-License-Identifier: Apache-2.0
"""A tpmfront in this process, with its sockets, before a vTPM that only keeps books.

The vTPM is a backend of the split driver as the real one is, so that turns and cancellation are
real; what it answers is just enough to see what reached it, at which locality and in which order.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from daemons.runtime.log import Level, Log
from daemons.runtime.sockets import listen_unix
from daemons.tpmfront.daemon import serve
from daemons.tpmfront.options import Config, CtrlSocket, FrontSocket
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpm12.wire import Structure
from protocol.tpmif.unix import BackendDevice, serve_backend
from protocol.vtpm import control
from protocol.vtpm.control import ControlOrdinal
from tests.unit.tpmfront.supervisor import Supervisor

UUID_1 = UUID(int=1)
LIMIT_S = 60.0
RUNNING_ONLY = frozenset(
    {
        ControlOrdinal.GET_ESTABLISHED,
        ControlOrdinal.RESET_ESTABLISHED,
        ControlOrdinal.HASH_START,
        ControlOrdinal.HASH_DATA,
        ControlOrdinal.HASH_END,
        ControlOrdinal.STORE_VOLATILE,
        ControlOrdinal.GET_STATE,
    }
)
SLOW = bytes.fromhex("00c1 0000000a 0000ffff")
"""A command that is answered when the test says so, or given up."""
QUICK = bytes.fromhex("00c1 0000000a 00000099")


def quick_response(locality: int) -> bytes:
    """What `QUICK` gets: the locality that it came from."""
    return bytes.fromhex("00c4 0000000b 00000000") + bytes([locality])


@dataclass
class FakeVtpm:
    """Answers TPM commands with the locality, and control requests by the book."""

    is_running: bool = True
    requests: list[tuple[ControlOrdinal, bytes, int]] = field(default_factory=list)
    commands: list[tuple[bytes, int]] = field(default_factory=list)
    blobs: dict[int, bytes] = field(default_factory=dict)
    incoming: bytes = b""
    codes: dict[ControlOrdinal, int] = field(default_factory=dict)
    """What is answered to the next request of an ordinal."""
    dies_over: set[ControlOrdinal] = field(default_factory=set)
    """The next request of these is carried out, and the connection ends before its answer."""
    text: bytes = b'{"TPMSpecification":{}}'
    has_slow: trio.Event = field(default_factory=trio.Event)
    release: trio.Event = field(default_factory=trio.Event)
    cancels: int = 0

    async def opened(self, device: BackendDevice) -> None:
        """Everybody is welcome."""

    async def closed(self, device: BackendDevice) -> None:
        """And may go."""

    def cancel(self, device: BackendDevice) -> None:
        """End the slow command."""
        self.cancels += 1
        self.release.set()

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes | None:
        """Answer."""
        if control.is_request(request):
            ordinal, body = control.decode_request(request)
            self.requests.append((ControlOrdinal(ordinal), body, locality))
            response = self._control(ControlOrdinal(ordinal), body)
            if ordinal in self.dies_over:
                self.dies_over.remove(ControlOrdinal(ordinal))
                device.disconnect_nowait()
                return None
            return response
        self.commands.append((request, locality))
        if not self.is_running:
            return error_response(ReturnCode.FAIL)
        if request == SLOW:
            cancels = self.cancels
            self.has_slow.set()
            await self.release.wait()
            self.has_slow, self.release = trio.Event(), trio.Event()
            if self.cancels != cancels:
                return None
        return quick_response(locality)

    def _control(self, ordinal: ControlOrdinal, body: bytes) -> bytes:
        code = self.codes.pop(ordinal, 0)
        if ordinal in RUNNING_ONLY and not self.is_running:
            code = ReturnCode.BAD_ORDINAL
        if ordinal is ControlOrdinal.SET_STATE and self.is_running:
            code = ReturnCode.BAD_ORDINAL
        if code:
            return control.encode_response(code)
        answer: Structure | None = None
        match ordinal:
            case ControlOrdinal.POWER_ON:
                self.is_running = True
            case ControlOrdinal.POWER_OFF:
                self.is_running = False
            case ControlOrdinal.GET_ESTABLISHED:
                answer = control.Established(1)
            case ControlOrdinal.BUFFER_SIZE:
                answer = control.BufferSizes(4088, 3072, 4088)
            case ControlOrdinal.GET_CONFIG:
                answer = control.Config(3)
            case ControlOrdinal.GET_INFO:
                asked = control.GetInfo.decode(body)
                part = self.text[asked.offset : asked.offset + 3000]
                answer = control.InfoChunk(len(self.text), part)
            case ControlOrdinal.GET_STATE:
                state = control.GetState.decode(body)
                blob = self.blobs.get(state.kind)
                if blob is None:
                    return control.encode_response(control.NO_SUCH_STATE)
                part = blob[state.offset : state.offset + control.CHUNK_BYTES]
                answer = control.StateChunk(control.StateFlags.ENCRYPTED, len(blob), part)
            case ControlOrdinal.SET_STATE:
                self._set_state(control.SetState.decode(body))
            case _:
                pass
        return control.encode_response(0, answer)

    def _set_state(self, chunk: control.SetState) -> None:
        assert 1 <= len(chunk.data) <= control.CHUNK_BYTES
        self.incoming = self.incoming if chunk.offset else b""
        assert len(self.incoming) == chunk.offset
        self.incoming += chunk.data
        if len(self.incoming) == chunk.total:
            self.blobs[chunk.kind] = self.incoming


class Client:
    """A connection of somebody who waits for each answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""
        # The data channels that were opened over this one.
        self._passed: list[Client] = []

    async def send(self, text: str | bytes) -> None:
        """Send bytes, or what a text in hexadecimal says."""
        await self.stream.send_all(bytes.fromhex(text) if isinstance(text, str) else text)

    async def receive(self, size: int) -> bytes:
        """Return exactly so many bytes, fewer only at the end of the stream."""
        with trio.fail_after(LIMIT_S):
            while len(self._buffer) < size:
                data = await self.stream.receive_some(65536)
                if not data:
                    break
                self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    async def ask(self, text: str | bytes, size: int = 4) -> str:
        """Send a request and return its answer in hexadecimal; nothing more may come."""
        await self.send(text)
        answer = await self.receive(size)
        assert not self._buffer, f"{self._buffer.hex()} too much"
        return answer.hex()

    async def ended(self) -> bool:
        """Whether the other side has closed, with nothing left to read."""
        return await self.receive(1) == b""

    async def pass_socket(self, fds: Sequence[int], text: str = "00000010") -> str:
        """Send SET_DATAFD with descriptors and return its answer."""
        raw = self.stream.socket
        await trio.lowlevel.wait_writable(raw)
        socket.send_fds(raw._sock, [bytes.fromhex(text)], list(fds))  # type: ignore[attr-defined]
        return (await self.receive(4)).hex()

    async def open_data(self) -> Client:
        """Return a data channel."""
        ours, theirs = socket.socketpair()
        data = self.with_data(ours)
        with theirs:
            assert await self.pass_socket([theirs.fileno()]) == "00000000"
        return data

    def with_data(self, ours: socket.socket) -> Client:
        """Return the client's end of a data channel, which is closed with this one."""
        data = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self._passed.append(data)
        return data

    async def close(self) -> None:
        """Hang up."""
        await self.hang_up()
        for data in self._passed:
            await data.close()

    async def hang_up(self) -> None:
        """End this connection only."""
        await self.stream.aclose()


class Front:
    """A tpmfront; may be replaced by another."""

    def __init__(self, folder: Path, supervisor: Supervisor, ctrl: CtrlSocket | None) -> None:
        self.vtpm = FakeVtpm()
        self.lines: list[str] = []
        self.config = Config(
            sockets=(FrontSocket(folder / "tpm", 0),),
            socket_mode=0o600,
            ctrl=ctrl,
            backend=folder / "back",
            control=folder / "control",
            uuid=UUID_1,
            name="g1",
            level=Level.DEBUG,
        )
        self._supervisor = supervisor
        self._scope: trio.CancelScope | None = None
        self.ended = trio.Event()
        self._is_up = trio.Event()
        self._opened: list[Client] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped."""
        self.ended, self._is_up = trio.Event(), trio.Event()
        log = Log("tpmfront", level=Level.DEBUG, sink=self._take_line)
        inherited: Mapping[str, Sequence[int]] = self._supervisor.take()
        with trio.CancelScope() as scope:
            self._scope = scope
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, inherited, log)
                await self._is_up.wait()
                task_status.started()
        self.ended.set()

    async def _run(self, inherited: Mapping[str, Sequence[int]], log: Log) -> None:
        await serve(self.config, inherited, self._supervisor.notifier, log)

    def _take_line(self, line: str) -> None:
        self.lines.append(line)
        if "listening" in line:
            self._is_up.set()

    async def stop(self) -> None:
        """Stop in order and wait for it."""
        assert self._scope is not None
        self._scope.cancel()
        await self.ended.wait()
        self.lines.clear()

    async def connect(self) -> Client:
        """Return a client of the control channel."""
        assert self.config.ctrl is not None
        return self._client(await open_unix(self.config.ctrl.path))

    async def connect_stream(self) -> Client:
        """Return a client of the raw stream."""
        return self._client(await open_unix(self.config.sockets[0].path))

    def _client(self, stream: trio.SocketStream) -> Client:
        client = Client(stream)
        self._opened.append(client)
        return client

    async def close_clients(self) -> None:
        """Close all that were given out."""
        for client in self._opened:
            await client.close()


async def open_unix(path: Path) -> trio.SocketStream:
    """Connect to a socket."""
    return await trio.open_unix_socket(os.fspath(path))


@contextlib.asynccontextmanager
async def front_at(
    folder: Path, *, ends_on_shutdown: bool = False, ends_with_client: bool = False
) -> AsyncIterator[tuple[Front, trio.Nursery]]:
    """Give a tpmfront that serves, and a nursery to start it in again."""
    ctrl = CtrlSocket(
        folder / "ctrl",
        0o600,
        ends_on_shutdown=ends_on_shutdown,
        ends_with_client=ends_with_client,
    )
    supervisor = Supervisor(folder / "notify")
    front = Front(folder, supervisor, ctrl)
    try:
        with listen_unix(front.config.backend, kind=socket.SOCK_SEQPACKET) as listener:
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    partial(
                        serve_backend,
                        listener,
                        admit=lambda _peer, _uuid: None,
                        handler=front.vtpm,
                        linger=False,
                    )
                )
                await nursery.start(front.run)
                yield front, nursery
                await front.close_clients()
                nursery.cancel_scope.cancel()
    finally:
        supervisor.close()
