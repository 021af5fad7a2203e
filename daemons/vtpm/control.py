# SPDX-License-Identifier: Apache-2.0
"""Answering the control extension: messages in, what the machine does, messages out.

Whatever a front sends gets an answer; one that is refused is logged with the reason, since the
front and what is behind it only see the code.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from daemons.runtime.control import Json
from daemons.runtime.log import Log
from daemons.vtpm.machine import Machine, RequestRefused
from protocol.errors import WireError
from protocol.tpm12 import ReturnCode
from protocol.tpm12.wire import Structure
from protocol.vtpm.control import (
    CHUNK_BYTES,
    MAX_BLOB_BYTES,
    BufferSize,
    BufferSizes,
    Config,
    ControlOrdinal,
    Data,
    Established,
    GetInfo,
    GetState,
    InfoChunk,
    PowerOn,
    SetState,
    StateChunk,
    StateFlags,
    decode_request,
    encode_response,
)
from tpmcore.engine import HashData, HashEnd, HashStart

INFO_BYTES: Final = 3000
_CONFIG: Final = 1 | 2  # the image is encrypted, and so are blobs
_RUNNING_ONLY: Final = frozenset(
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
_LOCALITY_4: Final = 4
_HASH_SEQUENCE: Final = frozenset(
    {ControlOrdinal.HASH_START, ControlOrdinal.HASH_DATA, ControlOrdinal.HASH_END}
)
"""What only the chipset does, which is locality 4."""
_AT_A_LOCALITY: Final = _HASH_SEQUENCE | {ControlOrdinal.RESET_ESTABLISHED}
_STOPPED_ONLY: Final = frozenset({ControlOrdinal.SET_STATE})

_Handler = Callable[[bytes, int], Awaitable[Structure | None]]


class Model(Protocol):
    """What is told of the TPM's kind (`daemons.vtpm.factory.Tpm12Maker`)."""

    buffer_bytes: int
    """Largest command and response, from the next power-on."""
    buffer_limits: tuple[int, int]
    """Least and most of it."""
    information: Mapping[int, tuple[str, Json]]
    """By flag of GET_INFO: name and value."""


class _Incoming:
    """A blob that comes in pieces."""

    def __init__(self, first: SetState) -> None:
        self._kind, self._total = first.kind, first.total
        self._data = bytearray()

    def add(self, chunk: SetState) -> bytes | None:
        """Take a piece; the whole blob if that was the last.

        Raises:
            RequestRefused: it does not belong here.
        """
        if (chunk.kind, chunk.total, chunk.offset) != (self._kind, self._total, len(self._data)):
            raise RequestRefused(ReturnCode.BAD_PARAMETER, "pieces of a blob that do not fit")
        self._data += chunk.data
        if len(self._data) > self._total:
            raise RequestRefused(ReturnCode.BAD_PARAMETER, "more than the whole blob")
        return bytes(self._data) if len(self._data) == self._total else None


class ControlService:
    """Everything that a front may ask beside TPM commands. The caller holds the engine."""

    def __init__(self, machine: Machine, model: Model, log: Log) -> None:
        """Args:
        machine: does it.
        model: of the TPM.
        log: for refusals.
        """
        self._machine = machine
        self._model = model
        self._log = log
        # The blob that is being fetched: encrypted, so it may wait here.
        self._outgoing: tuple[int, bytes] | None = None
        self._incoming: _Incoming | None = None
        self._handlers: Mapping[int, _Handler] = {
            ControlOrdinal.POWER_ON: self._power_on,
            ControlOrdinal.POWER_OFF: self._power_off,
            ControlOrdinal.GET_ESTABLISHED: self._get_established,
            ControlOrdinal.RESET_ESTABLISHED: self._reset_established,
            ControlOrdinal.HASH_START: self._hash_start,
            ControlOrdinal.HASH_DATA: self._hash_data,
            ControlOrdinal.HASH_END: self._hash_end,
            ControlOrdinal.STORE_VOLATILE: self._store_volatile,
            ControlOrdinal.GET_STATE: self._get_state,
            ControlOrdinal.SET_STATE: self._set_state,
            ControlOrdinal.BUFFER_SIZE: self._buffer_size,
            ControlOrdinal.GET_CONFIG: self._get_config,
            ControlOrdinal.GET_INFO: self._get_info,
            ControlOrdinal.LOCK_STATE: self._lock_state,
        }

    async def answer(self, request: bytes, locality: int, allowed: frozenset[int] | None) -> bytes:
        """Return the response to a request of any bytes.

        Args:
            request: with its header.
            locality: of the request.
            allowed: the localities that the front may use; None: any.
        """
        try:
            answer = await self._perform(request, locality, allowed)
            return encode_response(ReturnCode.SUCCESS, answer)
        except WireError as error:
            return self._refusal(request, ReturnCode.BAD_PARAMETER, str(error))
        except RequestRefused as error:
            return self._refusal(request, error.code, str(error))

    async def _perform(
        self, request: bytes, locality: int, allowed: frozenset[int] | None
    ) -> Structure | None:
        ordinal, body = decode_request(request)
        used = _LOCALITY_4 if ordinal in _HASH_SEQUENCE else locality
        if ordinal in _AT_A_LOCALITY and allowed is not None and used not in allowed:
            raise RequestRefused(ReturnCode.BAD_LOCALITY, f"locality {used} is not this front's")
        handler = self._handlers.get(ordinal)
        if handler is None:
            raise RequestRefused(ReturnCode.BAD_ORDINAL, f"no such request: {ordinal}")
        if ordinal in _RUNNING_ONLY and not self._machine.is_running:
            raise RequestRefused(ReturnCode.BAD_ORDINAL, "the TPM is stopped")
        if ordinal in _STOPPED_ONLY and self._machine.is_running:
            raise RequestRefused(ReturnCode.BAD_ORDINAL, "the TPM runs")
        return await handler(body, locality)

    def _refusal(self, request: bytes, code: int, reason: str) -> bytes:
        number = int.from_bytes(request[6:10], "big")
        known = number in set(ControlOrdinal)
        name = ControlOrdinal(number).name if known else f"{number:#x}"
        self._log.info("control request refused", request=name, code=code, reason=reason)
        return encode_response(code)

    async def _power_on(self, body: bytes, _locality: int) -> None:
        flag = PowerOn.decode(body).delete_volatile
        if flag > 1:
            raise RequestRefused(ReturnCode.BAD_PARAMETER, f"delete_volatile is {flag}")
        self._outgoing = self._incoming = None
        await self._machine.power_on(delete_volatile=flag == 1)

    async def _power_off(self, body: bytes, _locality: int) -> None:
        _no_body(body)
        self._outgoing = self._incoming = None
        self._machine.power_off()

    async def _get_established(self, body: bytes, _locality: int) -> Established:
        _no_body(body)
        return Established(int(self._machine.is_established))

    async def _reset_established(self, body: bytes, locality: int) -> None:
        _no_body(body)
        await self._machine.reset_established(locality)

    async def _hash_start(self, body: bytes, _locality: int) -> None:
        _no_body(body)
        await self._machine.event(HashStart())

    async def _hash_data(self, body: bytes, _locality: int) -> None:
        data = Data.decode(body).data
        if len(data) > CHUNK_BYTES:
            raise RequestRefused(ReturnCode.BAD_PARAMETER, f"{len(data)} bytes to hash at once")
        await self._machine.event(HashData(data))

    async def _hash_end(self, body: bytes, _locality: int) -> None:
        _no_body(body)
        await self._machine.event(HashEnd())

    async def _store_volatile(self, body: bytes, _locality: int) -> None:
        _no_body(body)
        await self._machine.store_volatile()

    async def _get_state(self, body: bytes, _locality: int) -> StateChunk:
        asked = GetState.decode(body)
        if asked.offset == 0:
            self._outgoing = None
            self._outgoing = (asked.kind, await self._machine.take_state(asked.kind))
        if self._outgoing is None or self._outgoing[0] != asked.kind:
            raise RequestRefused(ReturnCode.BAD_PARAMETER, "no blob of this type is being fetched")
        blob = self._outgoing[1]
        if asked.offset > len(blob):
            raise RequestRefused(
                ReturnCode.BAD_PARAMETER, f"offset {asked.offset} of {len(blob)} bytes"
            )
        data = blob[asked.offset : asked.offset + CHUNK_BYTES]
        return StateChunk(StateFlags.ENCRYPTED, len(blob), data)

    async def _set_state(self, body: bytes, _locality: int) -> None:
        chunk = SetState.decode(body)
        incoming, self._incoming = self._incoming, None
        if not 1 <= chunk.total <= MAX_BLOB_BYTES or not 1 <= len(chunk.data) <= CHUNK_BYTES:
            raise RequestRefused(
                ReturnCode.BAD_PARAMETER, f"{len(chunk.data)} of {chunk.total} bytes"
            )
        if chunk.offset == 0 or incoming is None:
            incoming = _Incoming(chunk)
        blob = incoming.add(chunk)
        if blob is None:
            self._incoming = incoming
        else:
            await self._machine.put_state(chunk.kind, blob)

    async def _buffer_size(self, body: bytes, _locality: int) -> BufferSizes:
        wanted = BufferSize.decode(body).wanted
        least, most = self._model.buffer_limits
        if wanted:
            if self._machine.is_running:
                raise RequestRefused(ReturnCode.BAD_ORDINAL, "the TPM runs")
            self._model.buffer_bytes = max(least, min(wanted, most))
        return BufferSizes(self._model.buffer_bytes, least, most)

    async def _get_config(self, body: bytes, _locality: int) -> Config:
        _no_body(body)
        return Config(_CONFIG)

    async def _get_info(self, body: bytes, _locality: int) -> InfoChunk:
        asked = GetInfo.decode(body)
        chosen = {
            name: value
            for flag, (name, value) in self._model.information.items()
            if flag & asked.flags
        }
        text = json.dumps(chosen, separators=(",", ":")).encode()
        if asked.offset > len(text):
            raise RequestRefused(
                ReturnCode.BAD_PARAMETER, f"offset {asked.offset} of {len(text)} bytes"
            )
        return InfoChunk(len(text), text[asked.offset : asked.offset + INFO_BYTES])

    async def _lock_state(self, body: bytes, _locality: int) -> None:
        # The image is ours alone as long as this process has its folder: there is nothing to do.
        _no_body(body)


def _no_body(body: bytes) -> None:
    if body:
        raise RequestRefused(ReturnCode.BAD_PARAMETER, f"{len(body)} bytes where none belong")
