# SPDX-License-Identifier: Apache-2.0
"""What each request of the control channel does: mostly, ask the vTPM for it.

The shim has nothing of its own to answer with but the locality and the data channel. Everything
else is a request of the control extension (`protocol.vtpm.control`), which waits for its turn as a
command does; only a cancellation overtakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, assert_never

import trio

from daemons.runtime.log import Log
from daemons.tpmfront.datachannel import DataChannel
from daemons.tpmfront.link import Submission, VtpmLink
from protocol import swtpm
from protocol.errors import WireError
from protocol.swtpm import Command, responses
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpm12.wire import Structure
from protocol.vtpm import control
from protocol.vtpm.control import ControlOrdinal

HASH_LOCALITY: Final = 4
"""The only one at which a hash sequence can be (TIS)."""
LOCK_RETRY_S: Final = 0.01
MAX_LOCK_RETRIES: Final = 6000
"""One minute."""
MAX_INFO_TEXT_BYTES: Final = 64 * 1024
DISCARD_BYTES: Final = 64 * 1024
_LOST: Final = error_response(ReturnCode.IOERROR)
"""What the link says of a vTPM that was lost with what was asked."""
_REPEATABLE: Final = frozenset(
    {ControlOrdinal.POWER_OFF, ControlOrdinal.BUFFER_SIZE, ControlOrdinal.GET_ESTABLISHED}
)
"""What a machine asks for at its reset, and what is no other for being done twice: QEMU ends when
it gets an error there, or waits for the rest of the answer for ever, and all that happened is that
the vtpm was replaced. Of POWER_ON see `_is_repeatable`."""


_Answer = TypeVar("_Answer", bound=Structure)


class Source(Submission, Protocol):
    """Whoever sent a request."""

    async def more(self, limit_bytes: int) -> bytes:
        """Return what follows in the stream, b"" at its end.

        Args:
            limit_bytes: at most so much, at least 1.

        Raises:
            OSError: the connection is broken.
            trio.TooSlowError: nothing comes.
        """

    def open_data_channel(self) -> ReturnCode:
        """Serve the descriptor that came with the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets.

    Attributes:
        data: to be sent at once.
        is_last: the connections end then.
    """

    data: bytes
    is_last: bool = False


class ControlCommands:
    """Executes requests of one guest's control channel, one at a time.

    Args:
        link: to the vTPM.
        data: the data channel.
        max_locality: the last that SET_LOCALITY takes.
        log: for power cycles.
    """

    def __init__(
        self,
        link: VtpmLink,
        data: DataChannel,
        log: Log,
        *,
        max_locality: int = swtpm.MAX_LOCALITY,
    ) -> None:
        self._link = link
        self._data = data
        self._log = log
        self._max_locality = max_locality
        # Number of the connection over which the vTPM was stopped; None: it was not.
        self._stopped_over: int | None = None

    @property
    def is_stopped(self) -> bool:
        """True if the TPM was powered off from here, and its daemon has been there since."""
        return self._stopped_over == self._link.connections

    async def execute(self, request: swtpm.Request, source: Source) -> Answer:
        """Return the answer to a request.

        Raises:
            OSError: the source is gone.
            trio.TooSlowError: it does not send what it announced.
        """
        match request:
            case swtpm.Plain(Command.SHUTDOWN):
                return Answer(responses.result(await self._power_off(source)), is_last=True)
            case swtpm.Plain(command):
                data = await self._execute_plain(command, source)
            case swtpm.Unknown():
                data = responses.result(ReturnCode.BAD_ORDINAL)
            case swtpm.Malformed(command, reason):
                self._log.debug("control request refused", command=command.name, reason=reason)
                data = responses.result(ReturnCode.BAD_PARAMETER)
            case swtpm.Init(flags):
                data = responses.result(await self._power_on(flags, source))
            case swtpm.SetLocality(locality):
                data = responses.result(self._set_locality(locality))
            case swtpm.ResetEstablished(locality):
                data = responses.result(await self._reset_established(locality, source))
            case swtpm.HashData():
                data = responses.result(await self._hash_data(request, source))
            case swtpm.GetStateBlob():
                data = await self._get_state(request, source)
            case swtpm.SetStateBlob():
                data = responses.result(await self._set_state(request, source))
            case swtpm.SetBufferSize(size):
                data = await self._buffer_size(size, source)
            case swtpm.GetInfo():
                data = await self._get_info(request, source)
            case swtpm.LockStorage(retries):
                data = responses.result(await self._lock(retries, source))
            case _:
                assert_never(request)
        return Answer(data)

    async def _execute_plain(self, command: Command, source: Source) -> bytes:
        match command:
            case Command.GET_CAPABILITY:
                return responses.capability(swtpm.CAPABILITIES)
            case Command.STOP:
                return responses.result(await self._power_off(source))
            case Command.SET_DATAFD:
                return responses.result(source.open_data_channel())
            case Command.CANCEL_TPM_CMD:
                return responses.result(self._cancel())
            case Command.GET_TPMESTABLISHED:
                return await self._get_established(source)
            case Command.GET_CONFIG:
                code, config = await self._ask_for(
                    control.Config, source, ControlOrdinal.GET_CONFIG
                )
                return responses.config(config.flags) if config else responses.result(code)
            case Command.HASH_START:
                return await self._pass_on(source, ControlOrdinal.HASH_START, HASH_LOCALITY)
            case Command.HASH_END:
                return await self._pass_on(source, ControlOrdinal.HASH_END, HASH_LOCALITY)
            case Command.STORE_VOLATILE:
                return await self._pass_on(source, ControlOrdinal.STORE_VOLATILE)
            case _:  # pragma: no cover - all others have a body
                raise AssertionError(command)

    async def _ask(
        self,
        source: Source,
        ordinal: ControlOrdinal,
        body: Structure | None = None,
        locality: int = 0,
    ) -> tuple[int, bytes]:
        """Return the vTPM's code and what it gives.

        What the link answers itself, for a vTPM that is away or was lost, is TPM_FAIL: its own code
        for that would mean something here.
        """
        request = control.encode_request(ordinal, body)
        response = await self._link.transact(request, locality, source)
        if response == _LOST and _is_repeatable(ordinal, body):
            self._log.info("asking the vtpm again", request=ordinal.name)
            response = await self._link.transact(request, locality, source)
        try:
            return control.decode_response(response)
        except WireError as error:
            self._log.warning("vtpm did not do it", request=ordinal.name, reason=error)
            return ReturnCode.FAIL, b""

    async def _ask_for(
        self,
        kind: type[_Answer],
        source: Source,
        ordinal: ControlOrdinal,
        body: Structure | None = None,
    ) -> tuple[int, _Answer | None]:
        """As `_ask`, with what the vTPM gives decoded; None with a code that is not 0."""
        code, data = await self._ask(source, ordinal, body)
        if code:
            return code, None
        try:
            return code, kind.decode(data)
        except WireError as error:
            self._log.warning("vtpm did not do it", request=ordinal.name, reason=error)
            return ReturnCode.FAIL, None

    async def _pass_on(self, source: Source, ordinal: ControlOrdinal, locality: int = 0) -> bytes:
        code, _ = await self._ask(source, ordinal, None, locality)
        return responses.result(code)

    async def _power_on(self, flags: int, source: Source) -> int:
        delete_volatile = bool(flags & swtpm.InitFlag.DELETE_VOLATILE)
        code, _ = await self._ask(
            source, ControlOrdinal.POWER_ON, control.PowerOn(int(delete_volatile))
        )
        if not code:  # else it is what it was
            self._stopped_over = None
        self._log.info("powered on", code=code, delete_volatile=delete_volatile)
        return code

    async def _power_off(self, source: Source) -> int:
        code, _ = await self._ask(source, ControlOrdinal.POWER_OFF)
        if not code:
            self._stopped_over = self._link.connections
        self._log.info("powered off", code=code)
        return code

    def _cancel(self) -> int:
        if self.is_stopped:
            return ReturnCode.BAD_ORDINAL
        self._data.cancel_command()
        return ReturnCode.SUCCESS

    def _set_locality(self, locality: int) -> int:
        if locality > self._max_locality:
            return ReturnCode.BAD_LOCALITY
        self._data.set_locality(locality)
        return ReturnCode.SUCCESS

    async def _get_established(self, source: Source) -> bytes:
        code, flag = await self._ask_for(
            control.Established, source, ControlOrdinal.GET_ESTABLISHED
        )
        return responses.established(code, is_established=flag is not None and bool(flag.value))

    async def _reset_established(self, locality: int, source: Source) -> int:
        if locality > swtpm.MAX_LOCALITY:
            return ReturnCode.BAD_LOCALITY
        code, _ = await self._ask(source, ControlOrdinal.RESET_ESTABLISHED, None, locality)
        return code

    async def _hash_data(self, request: swtpm.HashData, source: Source) -> int:
        """Hash as it comes; all of it is read, whatever the vTPM says."""
        if not request.length:
            return await self._hash_part(b"", source)
        left, data, code = request.length - len(request.data), request.data, 0
        while True:
            for offset in range(0, len(data), control.CHUNK_BYTES):
                if not code:
                    part = data[offset : offset + control.CHUNK_BYTES]
                    code = await self._hash_part(part, source)
            if not left:
                return code
            data = await source.more(min(left, control.CHUNK_BYTES))
            if not data:
                return code or ReturnCode.IOERROR
            left -= len(data)

    async def _hash_part(self, part: bytes, source: Source) -> int:
        code, _ = await self._ask(
            source, ControlOrdinal.HASH_DATA, control.Data(part), HASH_LOCALITY
        )
        return code

    async def _get_state(self, request: swtpm.GetStateBlob, source: Source) -> bytes:
        blob, offset = bytearray(), request.offset
        while True:
            asked = control.GetState(request.kind, offset)
            code, chunk = await self._ask_for(
                control.StateChunk, source, ControlOrdinal.GET_STATE, asked
            )
            if code == ReturnCode.BAD_ORDINAL:
                return responses.result(code)  # it does not run
            if chunk is None:
                return responses.state_blob(code, 0, b"")
            blob += chunk.data
            offset += len(chunk.data)
            if len(blob) > control.MAX_BLOB_BYTES:
                return responses.state_blob(ReturnCode.FAIL, 0, b"")
            if not chunk.data or offset >= chunk.total:
                return responses.state_blob(code, chunk.flags, bytes(blob))

    async def _set_state(self, request: swtpm.SetStateBlob, source: Source) -> int:
        """Take the whole blob, then give it to the vTPM; its answer is that to the last part."""
        total = request.length
        if not total:
            return await self._set_nothing(request.kind, source)
        is_right = total <= swtpm.MAX_BLOB_BYTES
        blob, left = bytearray(request.data), total - len(request.data)
        while left:
            # What is too long is read all the same: it would be taken for the next request.
            data = await source.more(min(left, DISCARD_BYTES))
            if not data:
                return ReturnCode.BAD_PARAMETER
            left -= len(data)
            if is_right:
                blob += data
        if not is_right:
            return ReturnCode.FAIL
        # swtpm_ioctl says so of no blob: what is not encrypted the vTPM finds out itself.
        flags = request.flags | control.StateFlags.ENCRYPTED
        for offset in range(0, total, control.CHUNK_BYTES):
            part = bytes(blob[offset : offset + control.CHUNK_BYTES])
            chunk = control.SetState(flags, request.kind, total, offset, part)
            code, _ = await self._ask(source, ControlOrdinal.SET_STATE, chunk)
            if code:
                return code
        return ReturnCode.SUCCESS

    async def _set_nothing(self, kind: int, source: Source) -> int:
        """Return the answer to an empty blob.

        swtpm_ioctl makes an empty file of a blob that there is not, and gives it back as it is.
        """
        # The vTPM itself may have been stopped before this process was there.
        code, _ = await self._ask(source, ControlOrdinal.GET_ESTABLISHED)
        if code != ReturnCode.BAD_ORDINAL:
            return code or ReturnCode.BAD_ORDINAL
        if kind in (control.StateType.VOLATILE, control.StateType.SAVED):
            return ReturnCode.SUCCESS
        return ReturnCode.BAD_PARAMETER

    async def _buffer_size(self, size: int, source: Source) -> bytes:
        code, sizes = await self._ask_for(
            control.BufferSizes, source, ControlOrdinal.BUFFER_SIZE, control.BufferSize(size)
        )
        if sizes is None:
            return responses.result(code)
        return responses.buffer_size(sizes.size, sizes.least, sizes.most)

    async def _get_info(self, request: swtpm.GetInfo, source: Source) -> bytes:
        text = b""
        while True:
            asked = control.GetInfo(request.flags, len(text))
            code, chunk = await self._ask_for(
                control.InfoChunk, source, ControlOrdinal.GET_INFO, asked
            )
            if chunk is None:
                return responses.result(code)
            text += chunk.data
            if len(text) > MAX_INFO_TEXT_BYTES:
                return responses.result(ReturnCode.SIZE)
            if not chunk.data or len(text) >= chunk.total:
                break
        answer = responses.info(text, request.offset)
        return responses.result(ReturnCode.BAD_PARAMETER) if answer is None else answer

    async def _lock(self, retries: int, source: Source) -> int:
        # A vTPM that is away takes long to say so: no more tries than there is time for.
        end = trio.current_time() + LOCK_RETRY_S * min(retries, MAX_LOCK_RETRIES)
        while True:
            code, _ = await self._ask(source, ControlOrdinal.LOCK_STATE)
            if code != ReturnCode.FAIL or trio.current_time() >= end:
                return code
            await trio.sleep(LOCK_RETRY_S)


def _is_repeatable(ordinal: ControlOrdinal, body: Structure | None) -> bool:
    """Whether a request may be made again of which it is not known whether it was carried out."""
    # Not if volatile state has served: the second time it would be gone.
    return ordinal in _REPEATABLE or body == control.PowerOn(0)
