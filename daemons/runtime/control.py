# SPDX-License-Identifier: Apache-2.0
"""The control sockets of the daemons: what `vtpmctl` asks them.

A connection carries one request and one reply, each one line of JSON and at most 64 KiB:

    {"verb": "status"}                       {"ok": true, "result": {"state": "serving", ...}}
    {"verb": "reset", "args": {...}}         {"ok": false, "error": "..."}

Only root and the daemon's own user are heard. Verbs: "status" everywhere, "power-cycle" in hwtpm,
"probe-hardware" in vtpmmgr, "reset" in vtpm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.sockets import Listeners
from protocol.tpmif.unix import peer_credentials

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Fields = Mapping[str, Json]
Handler = Callable[[Fields], Awaitable[Fields]]
"""Takes the args of a request and gives the result of the reply. A DaemonError or OSError becomes
the reply's
error; the connection is held open until it returns."""

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
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests until cancelled; `started` is called when it listens.

    Args:
        path: of a socket of our own, mode 0600.
        handlers: by verb.
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
        serve_one = partial(_serve_one, handlers=handlers, log=log)
        await trio.serve_listeners(serve_one, [trio.SocketListener(listener)])


async def _serve_one(stream: trio.SocketStream, handlers: Mapping[str, Handler], log: Log) -> None:
    try:
        async with stream:
            uid = peer_credentials(stream.socket).uid
            if uid not in {0, os.geteuid()}:
                log.warning("control refused", uid=uid)
                return
            with trio.fail_after(REQUEST_TIMEOUT_S):
                line = await _receive_line(stream)
            reply = await _answer(line, handlers, log)
            with trio.fail_after(REQUEST_TIMEOUT_S):
                await stream.send_all(json.dumps(reply).encode() + b"\n")
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, DaemonError) as error:
        log.debug("control connection lost", reason=str(error) or type(error).__name__)


async def _answer(line: bytes, handlers: Mapping[str, Handler], log: Log) -> dict[str, Json]:
    try:
        verb, args = _parse_request(line)
        handler = handlers.get(verb)
        if handler is None:
            raise DaemonError(f"no such verb: {verb!r}; there are {', '.join(sorted(handlers))}")
        return {"ok": True, "result": dict(await handler(args))}
    except (DaemonError, OSError) as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        # The edge of a connection: a request must not take the TPM down with it.
        log.error("control request failed", reason=f"{type(error).__name__}: {error}")
        return {"ok": False, "error": f"internal error: {type(error).__name__}"}


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
                await stream.send_all(json.dumps(request).encode() + b"\n")
                reply = json.loads(await _receive_line(stream))
    except (OSError, trio.BrokenResourceError) as error:
        raise DaemonError(f"{path}: nobody answers") from error
    except trio.TooSlowError as error:
        raise DaemonError(f"{path}: no answer within {timeout_s:g} s") from error
    except ValueError as error:
        raise DaemonError(f"{path}: the answer is not JSON") from error
    match reply:
        case {"ok": True, "result": dict(result)}:
            return result
        case {"ok": False, "error": str(text)}:
            raise DaemonError(text)
        case _:
            raise DaemonError(f"{path}: the answer is not of this protocol")
