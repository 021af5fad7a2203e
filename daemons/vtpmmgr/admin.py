# SPDX-License-Identifier: Apache-2.0
"""The admin socket: management commands from this machine, without a vTPM.

A stream of messages as on the split driver, each answered in turn, without the limit of the shared
page: management commands (tag 0x01C2), and those raw TPM 1.2 commands that a vTPM with the ADMIN
right may send through (`protocol.manager.passthrough`). Who may connect is decided by the user at
the other end: root and the manager's own. Every connection is a task of its own, so a slow peer
holds up nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import trio

from daemons.runtime.log import Log
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.hardware import Hardware, HardwareLost
from daemons.vtpmmgr.management import Management, UnknownOrdinal
from protocol.errors import WireError
from protocol.manager.constants import HEADER_BYTES, ManagerCode, ManagerTag
from protocol.manager.framing import (
    Request,
    error_response,
    error_tag,
    parse_request,
    success_response,
)
from protocol.manager.passthrough import PASS_THROUGH_TAGS, judge
from protocol.tpmif.unix import peer_credentials

MESSAGE_LIMIT_BYTES: Final = 1 << 20
"""Longest message in either direction: a list of 40,000 configurations, or 60,000 vTPMs."""
_IDLE_S: Final = 60.0
"""How long a peer may take over a request, or over taking the answer."""


async def serve_admin(
    listener: trio.socket.SocketType,
    current: Callable[[], Management],
    hardware: Hardware,
    *,
    log: Log,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer commands on a listening stream socket until cancelled.

    Args:
        current: gives what answers the next management command.
        hardware: for what is passed through.
    """
    task_status.started()

    async def serve_one(stream: trio.SocketStream) -> None:
        await _serve_one(stream, current, hardware, log)

    await trio.serve_listeners(serve_one, [trio.SocketListener(listener)])


async def _serve_one(
    stream: trio.SocketStream, current: Callable[[], Management], hardware: Hardware, log: Log
) -> None:
    try:
        async with stream:
            uid = peer_credentials(stream.socket).uid
            if uid not in {0, os.geteuid()}:
                log.warning("admin refused", uid=uid)
                return
            while (message := await _receive(stream)) is not None:
                response = await _answer(current(), hardware, message, log)
                with trio.fail_after(_IDLE_S):
                    await stream.send_all(response)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, WireError) as error:
        log.debug("admin connection lost", reason=str(error) or type(error).__name__)


async def _answer(management: Management, hardware: Hardware, message: bytes, log: Log) -> bytes:
    try:
        request = parse_request(message)
        if request.tag in PASS_THROUGH_TAGS:
            return await _pass_through(hardware, request, message)
        if request.tag != ManagerTag.REQ2:
            return error_response(ManagerCode.BADTAG, error_tag(message))
        body = await management.execute(request, MESSAGE_LIMIT_BYTES - HEADER_BYTES)
    except UnknownOrdinal:
        return error_response(ManagerCode.BAD_ORDINAL, error_tag(message))
    except CommandRefused as refusal:
        log.info("admin request refused", header=message[:HEADER_BYTES].hex(), code=refusal.code)
        return error_response(refusal.code)
    return success_response(body, limit_bytes=MESSAGE_LIMIT_BYTES)


async def _pass_through(hardware: Hardware, request: Request, message: bytes) -> bytes:
    code = judge(request, admin=True)
    if code != ManagerCode.SUCCESS:
        return error_response(code, error_tag(message))
    try:
        # a source of its own: in no vTPM's line, and nobody withdraws it
        return await hardware.pass_through(message, object())
    except HardwareLost:
        return error_response(ManagerCode.IOERROR, error_tag(message))


async def _receive(stream: trio.SocketStream) -> bytes | None:
    """Return the next message; None if the peer hung up between two.

    Raises:
        WireError: its length is none, or it ends early.
    """
    header = await _exactly(stream, HEADER_BYTES)
    if not header:
        return None
    size_bytes = int.from_bytes(header[2:6], "big")
    if not HEADER_BYTES <= size_bytes <= MESSAGE_LIMIT_BYTES:
        raise WireError("paramSize", 2, f"{size_bytes}, not {HEADER_BYTES}-{MESSAGE_LIMIT_BYTES}")
    return header + await _exactly(stream, size_bytes - HEADER_BYTES)


async def _exactly(stream: trio.SocketStream, size_bytes: int) -> bytes:
    """Return so many bytes, or none if the peer hung up before the first."""
    received = bytearray()
    with trio.fail_after(_IDLE_S):
        while len(received) < size_bytes:
            chunk = await stream.receive_some(size_bytes - len(received))
            if not chunk:
                if received:
                    raise WireError("message", len(received), "the peer hung up inside of it")
                return b""
            received += chunk
    return bytes(received)
