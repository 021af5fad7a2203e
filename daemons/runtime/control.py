# SPDX-License-Identifier: Apache-2.0
"""The control sockets of the daemons: what `vtpmctl` asks them.

A connection carries one request and one reply, each one line of JSON and at most 64 KiB:

    {"verb": "status"}                       {"ok": true, "result": {"state": "serving", ...}}
    {"verb": "reset", "args": {...}}         {"ok": false, "error": "..."}

A verb that is a stream has further lines of JSON behind its reply, until one of both hangs up:

    {"verb": "trace"}                        {"ok": true, "result": {...}}
                                             {...}

Only root and the daemon's own user are heard. Verbs: "status" everywhere, "power-cycle" in hwtpm,
"probe-hardware" in vtpmmgr, "reset" in vtpm, "trace" in vtpm and tpmfront.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from daemons.runtime.errors import DaemonError, place
from daemons.runtime.log import Log
from daemons.runtime.sockets import Listeners
from protocol.tpmif.unix import peer_credentials

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Fields = Mapping[str, Json]
Handler = Callable[[Fields], Awaitable[Fields]]
"""Takes the args of a request and gives the result of the reply. A DaemonError or OSError becomes
the reply's
error; the connection is held open until it returns."""


class Stream(Protocol):
    """What a stream sends behind its reply."""

    @property
    def result(self) -> Fields:
        """Of the reply."""

    async def next(self) -> Sequence[Fields]:
        """Wait for the next lines, at least one."""

    def close(self) -> None:
        """Nobody wants more."""


OpenStream = Callable[[Fields], Stream]
"""Takes the args of a request. A DaemonError becomes the reply's error."""

LINE_LIMIT_BYTES = 64 * 1024
REQUEST_TIMEOUT_S = 10.0
"""How long a peer may take over its request or over taking the reply; the handler's time does not
count."""

CONTROL = "control"
"""Name of an inherited listener."""

_BACKLOG = 16


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    log: Log,
    listeners: Listeners | None = None,
    streams: Mapping[str, OpenStream] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests until cancelled; `started` is called when it listens.

    Args:
        path: of a socket of our own, mode 0600.
        handlers: by verb.
        streams: by verb, others than those of the handlers.
        log: for refusals.
        listeners: may have an inherited one, named "control".
        task_status: see above.

    Raises:
        DaemonError: the socket is in use.
        OSError: it cannot be made.
    """
    listeners = listeners or Listeners()
    with listeners.listen(CONTROL, path, backlog=_BACKLOG) as listener:
        task_status.started()
        serve_one = partial(_serve_one, handlers=handlers, streams=streams or {}, log=log)
        await trio.serve_listeners(serve_one, [trio.SocketListener(listener)])


async def _serve_one(
    stream: trio.SocketStream,
    handlers: Mapping[str, Handler],
    streams: Mapping[str, OpenStream],
    log: Log,
) -> None:
    try:
        async with stream:
            uid = peer_credentials(stream.socket).uid
            if uid not in {0, os.geteuid()}:
                log.warning("control refused", uid=uid)
                return
            with trio.fail_after(REQUEST_TIMEOUT_S):
                line = await _receive_line(stream)
            opened, reply = await _answer(line, handlers, streams, log)
            if opened is None:
                await _reply(stream, reply)
                return
            with closing(opened):
                await _reply(stream, reply)
                await _send_on(stream, opened, log)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, DaemonError) as error:
        log.debug("control connection lost", reason=str(error) or type(error).__name__)


async def _answer(
    line: bytes, handlers: Mapping[str, Handler], streams: Mapping[str, OpenStream], log: Log
) -> tuple[Stream | None, dict[str, Json]]:
    """Return the reply, and what comes behind it."""
    try:
        verb, args = _parse_request(line)
        if verb in streams:
            opened = streams[verb](args)
            return opened, {"ok": True, "result": dict(opened.result)}
        handler = handlers.get(verb)
        if handler is None:
            known = ", ".join(sorted({*handlers, *streams}))
            raise DaemonError(f"no such verb: {verb!r}; there are {known}")
        return None, {"ok": True, "result": dict(await handler(args))}
    except (DaemonError, OSError) as error:
        return None, {"ok": False, "error": str(error)}
    except Exception as error:
        # The edge of a connection: a request must not take the TPM down with it.
        log.error("control request failed", reason=f"{type(error).__name__}: {error}")
        return None, {"ok": False, "error": f"internal error: {type(error).__name__}"}


async def _reply(stream: trio.SocketStream, reply: Fields) -> None:
    with trio.fail_after(REQUEST_TIMEOUT_S):
        await stream.send_all(_line(reply))


async def _send_on(stream: trio.SocketStream, opened: Stream, log: Log) -> None:
    """Send what a stream has until the peer hangs up; one that does not read is waited for."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_hang_up, stream, nursery.cancel_scope)
        try:
            while True:
                lines = [_line(fields) for fields in await opened.next()]
                await stream.send_all(b"".join(lines))
        except trio.BrokenResourceError:
            pass
        except Exception as error:
            # As in `_answer`. Its message may quote what the stream must not tell.
            log.error("control stream failed", fault=place(error))
        nursery.cancel_scope.cancel()


async def _cancel_at_hang_up(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while await stream.receive_some(LINE_LIMIT_BYTES):
            pass  # whatever else it says
    except trio.BrokenResourceError:
        pass
    scope.cancel()


def _line(fields: Fields) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _parse_request(line: bytes) -> tuple[str, Fields]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DaemonError("the request is not one line of JSON") from error
    if not isinstance(request, dict):
        raise DaemonError("the request is not a JSON object")
    verb, args = request.get("verb"), request.get("args", {})
    if not isinstance(verb, str) or not isinstance(args, dict) or request.keys() - {"verb", "args"}:
        raise DaemonError("a request has a verb (text) and may have args (object)")
    return verb, args


async def _receive_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = await stream.receive_some(LINE_LIMIT_BYTES)
        received += chunk
        if len(received) > LINE_LIMIT_BYTES:
            raise DaemonError(f"a line is longer than {LINE_LIMIT_BYTES} bytes")
        if not chunk:
            raise DaemonError("the peer hung up before the end of the line")
    return bytes(received)


async def control_request(
    path: Path, verb: str, *, timeout_s: float = 30.0, **args: Json
) -> Fields:
    """Ask a daemon and return the result of its reply.

    Raises:
        DaemonError: nobody listens, no answer in time, or the daemon answered with an error.
    """
    request: dict[str, Json] = {"verb": verb}
    if args:
        request["args"] = args
    try:
        with trio.fail_after(timeout_s):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(_line(request))
                reply = json.loads(await _receive_line(stream))
    except (OSError, trio.BrokenResourceError) as error:
        raise DaemonError(f"{path}: nobody answers") from error
    except trio.TooSlowError as error:
        raise DaemonError(f"{path}: no answer within {timeout_s:g} s") from error
    except ValueError as error:
        raise DaemonError(f"{path}: the answer is not JSON") from error
    return _result(path, reply)


def _result(path: Path, reply: Json) -> Fields:
    match reply:
        case {"ok": True, "result": dict(result)}:
            return result
        case {"ok": False, "error": str(text)}:
            raise DaemonError(text)
        case _:
            raise DaemonError(f"{path}: the answer is not of this protocol")


class NobodyAnswers(DaemonError):
    """Nobody listens at a control socket, or not any more: another try may find somebody."""


class ControlStream:
    """What a stream of a daemon sends.

    Attributes:
        result: of the reply.
    """

    def __init__(self, path: Path, stream: trio.SocketStream) -> None:
        self.result: Fields = {}
        self._path = path
        self._stream = stream
        self._buffer = bytearray()

    async def receive(self) -> Fields:
        """Wait for the next line.

        Raises:
            NobodyAnswers: the daemon hung up.
            DaemonError: what it sends is not of this protocol.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_LIMIT_BYTES:
                raise DaemonError(f"a line is longer than {LINE_LIMIT_BYTES} bytes")
            try:
                chunk = await self._stream.receive_some(LINE_LIMIT_BYTES)
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                raise NobodyAnswers(f"{self._path}: the daemon is gone")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise DaemonError(f"{self._path}: the answer is not JSON") from error
        if not isinstance(fields, dict):
            raise DaemonError(f"{self._path}: the answer is not of this protocol")
        return fields


@asynccontextmanager
async def open_control_stream(
    path: Path, verb: str, *, timeout_s: float = 30.0
) -> AsyncIterator[ControlStream]:
    """Ask a daemon for a stream, and give it.

    Raises:
        NobodyAnswers: nobody listens, or no answer in time.
        DaemonError: the daemon answered with an error, or is not for this user.
    """
    try:
        connected = await trio.open_unix_socket(path)
    except PermissionError as error:
        raise DaemonError(f"{path}: only root and the daemon's own user may ask") from error
    except OSError as error:
        raise NobodyAnswers(f"{path}: nobody answers") from error
    async with connected:
        stream = ControlStream(path, connected)
        try:
            with trio.fail_after(timeout_s):
                await connected.send_all(_line({"verb": verb}))
                stream.result = _result(path, dict(await stream.receive()))
        except trio.BrokenResourceError as error:
            raise NobodyAnswers(f"{path}: nobody answers") from error
        except trio.TooSlowError as error:
            raise NobodyAnswers(f"{path}: no answer within {timeout_s:g} s") from error
        yield stream
