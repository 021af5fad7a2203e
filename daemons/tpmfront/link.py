# SPDX-License-Identifier: Apache-2.0
"""The connection to the guest's vTPM: made again whenever it is lost.

A command that the vTPM surely did not get is sent again on the next connection. One that it may
have executed is never repeated: it is answered by TPM_IOERROR, and the client finds out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

import trio

from daemons.runtime.log import Log
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpmif.errors import BackendLost, BackendRefused, RequestCancelled, TpmifError
from protocol.tpmif.unix import FrontendDevice, open_frontend

RECONNECT_FIRST_S: Final = 0.02
RECONNECT_LAST_S: Final = 1.0
RECONNECT_WAIT_S: Final = 60.0
"""How long a command waits for a vTPM that is away; a restarted one is back in two seconds."""
COMMAND_DEADLINE_S: Final = 900.0
"""Above the longest duration that the vTPM reports (600 s), so that only a stuck one meets it."""


class Submission(Protocol):
    """How far a command has come."""

    is_submitted: bool


class VtpmLink:
    """One device of the split driver, shared by all clients; one command at a time.

    Args:
        path: the backend's socket.
        uuid: which vTPM.
        log: for connects and losses.
    """

    def __init__(self, path: Path, uuid: UUID, log: Log) -> None:
        self._path = path
        self._uuid = uuid
        self._log = log
        # None while there is no connection.
        self._device: FrontendDevice | None = None
        # Set while there is one; replaced by a new event when it is lost.
        self._connected = trio.Event()
        # Tells `run` that the device is of no use any more.
        self._lost = trio.Event()
        # Whoever holds it has the device. Fair: waiters get it in the order in which they came.
        self._turn = trio.Lock()
        # Of whose command the device has.
        self._with_vtpm: Submission | None = None
        # Those that wait for their turn or for a connection.
        self._waiting: dict[Submission, trio.CancelScope] = {}
        self._connections = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when `is_connected` changes."""
        self.observer: Callable[[Submission], None] | None = None
        """Is told of each command that has its response, or is given up, before the next begins;
        None: nobody wants to know."""

    @property
    def is_connected(self) -> bool:
        """True if commands can be sent right now."""
        return self._device is not None

    @property
    def connections(self) -> int:
        """How often a connection was made."""
        return self._connections

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        delay_s = RECONNECT_FIRST_S
        while True:
            try:
                async with open_frontend(self._path, uuid=self._uuid) as device:
                    delay_s = RECONNECT_FIRST_S
                    await self._serve(device)
            except BackendRefused as error:
                self._log.warning("vtpm refuses this front", reason=error.reason)
                delay_s = RECONNECT_LAST_S
            except (OSError, TpmifError) as error:
                self._log.debug("vtpm not reached", reason=error)
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, RECONNECT_LAST_S)

    async def run_shielded(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Keep the connection up while others are stopped, for their last commands; until the scope
        that the caller is given is cancelled."""
        with trio.CancelScope(shield=True) as scope:
            task_status.started(scope)
            await self.run()

    async def _serve(self, device: FrontendDevice) -> None:
        self._connections += 1
        self._device = device
        self._lost = trio.Event()
        self._connected.set()
        self.on_change()
        self._log.info("vtpm connected", connection=self._connections)
        try:
            await self._lost.wait()
            self._log.warning("vtpm lost")
        finally:
            self._drop(device)

    def _drop(self, device: FrontendDevice) -> None:
        """Use this device no more; new commands wait for the next connection."""
        if self._device is device:
            self._device = None
            self._connected = trio.Event()
            self._lost.set()
            self.on_change()

    async def transact(self, command: bytes, locality: int, submission: Submission) -> bytes:
        """Return the vTPM's response to a whole command, in turn with other callers.

        A vTPM that is away, or that gave the command up, makes it a TPM error, never an exception.
        Does not suspend if the link is idle and the vTPM answers at once.

        Args:
            command: at most 4088 bytes.
            locality: 0 to 255.
            submission: is told whether the vTPM may have the command; false at the start. A caller
                that is cancelled before can give the same command again.
        """
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            if not await self._wait_turn(submission):
                return error_response(ReturnCode.FAIL)
        try:
            with trio.move_on_after(COMMAND_DEADLINE_S):
                return await self._transact(command, locality, submission)
            self._log.error("vtpm did not answer", seconds=COMMAND_DEADLINE_S)
            if self._device is not None:
                self._drop(self._device)
            return error_response(ReturnCode.IOERROR)
        finally:
            try:
                if self.observer is not None:
                    self.observer(submission)
            finally:
                self._turn.release()

    def cancel(self, submission: Submission) -> None:
        """Have a command given up that is under way: `transact` then returns TPM_FAIL.

        Does nothing if there is none any more. The vTPM may answer all the same, if it is done.
        """
        waiting = self._waiting.get(submission)
        if waiting is not None:
            waiting.cancel()
        elif self._with_vtpm is submission and self._device is not None:
            self._device.cancel_nowait()

    async def _wait(self, submission: Submission, what: Callable[[], Awaitable[None]]) -> bool:
        """Wait for something; False if the command was cancelled before."""
        with trio.CancelScope() as scope:
            self._waiting[submission] = scope
            try:
                await what()
            finally:
                del self._waiting[submission]
            return True
        return False

    async def _wait_turn(self, submission: Submission) -> bool:
        """Wait for the turn; False if the command was cancelled before."""
        if not await self._wait(submission, self._turn.acquire):
            return False
        try:
            # Who is cancelled at the moment at which its turn comes must not submit any more.
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self._turn.release()
            raise
        return True

    async def _wait_connected(self) -> None:
        with trio.move_on_after(RECONNECT_WAIT_S):
            await self._connected.wait()

    async def _transact(self, command: bytes, locality: int, submission: Submission) -> bytes:
        while True:
            submission.is_submitted = False
            device = self._device
            if device is None:
                if not await self._wait(submission, self._wait_connected):
                    return error_response(ReturnCode.FAIL)
                await trio.lowlevel.checkpoint_if_cancelled()  # as for the turn
                device = self._device
                if device is None:
                    return error_response(ReturnCode.RETRY)
            submission.is_submitted = True
            self._with_vtpm = submission
            try:
                return await device.transact(command, locality)
            except RequestCancelled:
                return error_response(ReturnCode.FAIL)
            except BackendLost as error:
                self._drop(device)
                if error.submitted:
                    self._log.warning("command lost with the vtpm")
                    return error_response(ReturnCode.IOERROR)
            except TpmifError:
                # The stream's limit is the page's capacity, so this is a locality no byte can hold.
                return error_response(ReturnCode.BAD_LOCALITY)
            finally:
                self._with_vtpm = None
