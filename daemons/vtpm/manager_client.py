# SPDX-License-Identifier: Apache-2.0
"""The link to the manager: a split-driver frontend that comes back by itself, and its commands.

`ManagerLink.run` is the one task that talks to the device. Everybody else hands it a request and
waits; requests go out in the order in which they came (the device carries one at a time). A request
that was not submitted when a connection ended goes out on the next one, unnoticed; one that was
submitted ends in `ManagerLost`, for only its sender knows what it means to have no answer.

`run` is shielded: at the end of the daemon a save still needs it. Whoever started it calls `close`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias

import trio

from daemons.runtime.errors import RefusedToStart
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpm.image import HashKey
from daemons.vtpm.selection import Blank, Record
from daemons.vtpm.store import KeyKeeper, ManagerLost, growing_pauses
from protocol.errors import WireError
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import (
    GetQuote,
    decode_load_hash_key_response,
    decode_save_hash_key_response,
    encode_load_hash_key,
    encode_save_hash_key,
)
from protocol.manager.statekeys import (
    decode_state_key_new_response,
    decode_state_key_open_response,
    encode_state_key_new,
    encode_state_key_open,
)
from protocol.tpm12 import Ordinal, Reader, Tag, build_message, parse_header
from protocol.tpmif.errors import BackendLost, BackendRefused, RequestCancelled, TpmifError

CONNECT_DEADLINE_S: Final = 30.0
ANSWER_DEADLINE_S: Final = 120.0
"""Longest that one command of the manager may take: several operations of a slow hardware TPM."""
IDLE_LOOK_S: Final = 1.0
"""How often an idle link looks whether the manager is still there; a request finds out at once."""
CONNECT_WAIT_S: Final = 5.0
"""How long what a guest asks of the manager waits for one that is not there."""
REFUSED_FOR_S: Final = 5.0
"""How long a refusal at start may be that of a predecessor's connection not yet noticed as gone."""

_PAUSE_MIN_S: Final = 0.05
_PAUSE_MAX_S: Final = 0.25
_LOCALITY: Final = 0  # the manager ignores it
_RANDOM_REQUEST_BYTES: Final = 64


class Channel(Protocol):
    """A connected frontend device (`protocol.tpmif.unix.FrontendDevice`)."""

    async def transact(self, request: bytes, locality: int) -> bytes:
        """Return the response.

        Raises:
            RequestCancelled: the backend gave it up.
            BackendLost: the connection ended.
            TpmifError: not sent at all.
        """

    def cancel_nowait(self) -> None:
        """Ask the backend to give the request under way up."""

    def alive(self) -> bool:
        """False once the connection has ended."""


Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Channel]]


class _Job:
    """One request on its way."""

    __slots__ = ("abandoned", "answer", "done", "error", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.done = trio.Event()
        # Exactly one of the two is set when `done` is.
        self.answer: bytes | None = None
        self.error: Exception | None = None
        # Nobody waits for it any more.
        self.abandoned = False

    def finish(self, *, answer: bytes | None = None, error: Exception | None = None) -> None:
        self.answer = answer
        self.error = error
        self.done.set()


class ManagerLink:
    """The connection to the manager, made anew whenever it ends."""

    def __init__(
        self, opener: Opener, log: Log, tell: Callable[[bool], None] = lambda _: None
    ) -> None:
        """Args:
        opener: makes a connection.
        log: for each change.
        tell: called with True when the manager is there, with False when it is not any more.
        """
        self._opener = opener
        self._log = log
        self._tell = tell
        self._offer, self._jobs = trio.open_memory_channel[_Job](0)
        # Not submitted when the last connection ended.
        self._unsent: _Job | None = None
        self._running: tuple[_Job, Channel] | None = None
        self._up = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._connections = 0

    @property
    def is_up(self) -> bool:
        """Whether the manager is connected and known to be ours."""
        return self._up.is_set()

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._connections

    async def wait_up(self) -> None:
        """Return once connected."""
        await self._up.wait()

    def close(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def transact(self, request: bytes) -> bytes:
        """Return the manager's response; waits for a connection.

        Raises:
            ManagerLost: the answer did not come.
            RequestCancelled: the manager gave the request up.
        """
        job = _Job(request)
        try:
            await self._offer.send(job)
            await job.done.wait()
        except trio.Cancelled:
            job.abandoned = True
            if self._running is not None and self._running[0] is job:
                self._running[1].cancel_nowait()
            raise
        if job.answer is None:
            raise job.error or AssertionError("neither answer nor error")
        return job.answer

    async def run(
        self,
        check: Callable[[KeyKeeper], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the connection until `close`.

        Args:
            check: looks at each new connection before anybody uses it.

        Raises:
            RefusedToStart: `check` says so, or the manager does not admit this process.
        """
        pauses = growing_pauses()
        refused_since = math.inf
        told = ""
        with self._scope:
            task_status.started()
            while True:
                before = self._connections
                error = await self._connect(check)
                if isinstance(error, RefusedToStart):
                    raise error
                if self._connections > before:
                    pauses, told = growing_pauses(), ""
                elif isinstance(error, BackendRefused) and self._connections == 0:
                    now = trio.current_time()
                    refused_since = min(refused_since, now)
                    if now - refused_since >= REFUSED_FOR_S:
                        raise RefusedToStart(f"the manager does not admit this vTPM: {error}")
                # One line for each change; a manager that stays away would fill the log.
                if str(error) == told:
                    self._log.debug("manager not connected", reason=error)
                else:
                    self._log.warning("manager not connected", reason=error)
                told = str(error)
                await trio.sleep(next(pauses))

    async def _connect(self, check: Callable[[KeyKeeper], Awaitable[None]]) -> Exception:
        """Make a connection and serve it to its end; what ended it."""
        # Nothing is raised through the device's context: its nursery would wrap it in a group.
        ended: Exception = ManagerLost("no answer to the connection", submitted=False)
        with trio.move_on_after(CONNECT_DEADLINE_S) as attempt:
            try:
                async with self._opener() as channel:
                    try:
                        await check(ManagerCommands(_checked(channel)))
                    except (RefusedToStart, ManagerRefused, ManagerLost, RequestCancelled) as error:
                        return error
                    attempt.deadline = math.inf
                    ended = await self._serve(channel)
            except (BackendLost, OSError) as error:
                return error
        return ended

    async def _serve(self, channel: Channel) -> Exception:
        self._connections += 1
        self._up.set()
        self._tell(True)
        self._log.info("manager connected", connection=self._connections)
        try:
            while True:
                job = await self._next_job(channel)
                if job is None:
                    return ManagerLost("the manager closed the connection", submitted=False)
                if job.abandoned:
                    continue
                error = await self._carry_out(job, channel)
                if error is not None:
                    return error
        finally:
            self._up = trio.Event()
            self._tell(False)

    async def _next_job(self, channel: Channel) -> _Job | None:
        """Return what is to be done next; None if the connection ended meanwhile."""
        job, self._unsent = self._unsent, None
        while job is None and channel.alive():
            with trio.move_on_after(IDLE_LOOK_S):
                job = await self._jobs.receive()
        return job

    async def _carry_out(self, job: _Job, channel: Channel) -> Exception | None:
        """Send one request; the error that ended the connection, if it did."""
        self._running = (job, channel)
        try:
            with trio.fail_after(ANSWER_DEADLINE_S):
                job.finish(answer=await channel.transact(job.request, _LOCALITY))
        except BackendLost as error:
            if error.submitted:
                job.finish(error=ManagerLost(error.reason, submitted=True))
            else:
                self._unsent = job
            return error
        except trio.TooSlowError:
            lost = ManagerLost(f"no answer within {ANSWER_DEADLINE_S:.0f} s", submitted=True)
            job.finish(error=lost)
            return lost
        except TpmifError as error:
            job.finish(error=error)
        finally:
            self._running = None
        return None


class ManagerCommands:
    """The manager's commands over any way to send one."""

    def __init__(self, transact: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._transact = transact

    async def load_hash_key(self) -> Record:
        """Return what the manager has for this vTPM (LOADHASHKEY).

        Raises:
            ManagerRefused: any code but BAD_PARAMETER, which says that the uuid is unknown.
            ManagerLost: no answer, or none that can be understood.
        """
        response = await self._certain(encode_load_hash_key())
        try:
            record = HashKey.decode(decode_load_hash_key_response(response))
        except ManagerRefused as error:
            if error.code == ManagerCode.BAD_PARAMETER:
                return Blank.UNKNOWN
            raise
        except WireError as error:
            raise ManagerLost(f"LOADHASHKEY: {error}", submitted=True) from error
        return Blank.NO_IMAGE if record is None else record

    async def save_hash_key(self, data: bytes) -> None:
        """Have the manager keep 64 bytes (SAVEHASHKEY).

        Raises:
            ManagerRefused: it has not.
            ManagerLost: unknown.
        """
        response = await self._certain(encode_save_hash_key(data))
        try:
            decode_save_hash_key_response(response)
        except WireError as error:
            raise ManagerLost(f"SAVEHASHKEY: {error}", submitted=True) from error

    async def quote(self, request: GetQuote) -> bytes:
        """Return signature, hashes and PCR values of a quote by the hardware TPM (GET_QUOTE).

        Raises:
            ManagerRefused: a code of the manager or of the hardware.
            ManagerLost: no answer, or none of the right length.
        """
        response = await self._certain(request.encode())
        try:
            return request.decode_response(response)
        except WireError as error:
            raise ManagerLost(f"GET_QUOTE: {error}", submitted=True) from error

    async def state_key_new(self) -> tuple[Secret, bytes]:
        """Return a new key for this vTPM's state, and the descriptor by which a manager finds the
        key again (STATE_KEY_NEW).

        Raises:
            ManagerRefused: a code of the manager or of the hardware.
            ManagerLost: no answer, or none that can be understood.
        """
        response = await self._certain(encode_state_key_new())
        try:
            made = decode_state_key_new_response(response)
        except WireError as error:
            raise ManagerLost(f"STATE_KEY_NEW: {error}", submitted=True) from error
        return Secret(made.key), made.descriptor

    async def state_key_open(self, descriptor: bytes) -> Secret:
        """Return the key that a descriptor stands for (STATE_KEY_OPEN).

        Raises:
            ManagerRefused: this vTPM does not get it; a code of the manager or of the hardware.
            ManagerLost: no answer, or none that can be understood.
            WireError: no descriptor; nothing was asked.
        """
        response = await self._certain(encode_state_key_open(descriptor))
        try:
            return Secret(decode_state_key_open_response(response))
        except WireError as error:
            raise ManagerLost(f"STATE_KEY_OPEN: {error}", submitted=True) from error

    async def get_random(self, size_bytes: int) -> bytes:
        """Return random bytes of the hardware TPM (pass-through of TPM_GetRandom).

        Raises:
            ManagerRefused: a code of the manager or of the hardware.
            ManagerLost: no answer, or one that is not that of TPM_GetRandom.
        """
        collected = b""
        while len(collected) < size_bytes:
            wanted = min(size_bytes - len(collected), _RANDOM_REQUEST_BYTES)
            reader = await self._hardware(Ordinal.GET_RANDOM, wanted)
            try:
                part = reader.take(reader.u32("randomBytesSize"), "randomBytes")
                reader.finish()
            except WireError as error:
                raise ManagerLost(f"TPM_GetRandom: {error}", submitted=True) from error
            if not 1 <= len(part) <= wanted:
                raise ManagerLost(f"TPM_GetRandom: {len(part)} bytes for {wanted}", submitted=True)
            collected += part
        return collected

    async def read_pcr(self, index: int) -> bytes:
        """Return the value of a PCR of the hardware TPM, 20 bytes (pass-through of TPM_PCRRead).

        Raises: as `get_random`.
        """
        reader = await self._hardware(Ordinal.PCR_READ, index)
        try:
            value = reader.take(20, "outDigest")
            reader.finish()
        except WireError as error:
            raise ManagerLost(f"TPM_PCRRead: {error}", submitted=True) from error
        return value

    async def _hardware(self, ordinal: Ordinal, argument: int) -> Reader:
        """Send a TPM 1.2 command with one u32; the body of its successful response."""
        command = build_message(Tag.RQU_COMMAND, ordinal, argument.to_bytes(4, "big"))
        response = await self._certain(command)
        try:
            header = parse_header(response)
        except WireError as error:
            raise ManagerLost(f"{ordinal.name}: {error}", submitted=True) from error
        if header.code:
            raise ManagerRefused(header.code)
        return Reader(response, 10)

    async def _certain(self, request: bytes) -> bytes:
        try:
            return await self._transact(request)
        except RequestCancelled as error:
            raise ManagerLost("the manager gave the request up", submitted=True) from error


def _checked(channel: Channel) -> Callable[[bytes], Awaitable[bytes]]:
    """Return a way to use a connection that nobody else uses yet."""

    async def transact(request: bytes) -> bytes:
        try:
            return await channel.transact(request, _LOCALITY)
        except BackendLost as error:
            raise ManagerLost(error.reason, submitted=error.submitted) from error

    return transact
