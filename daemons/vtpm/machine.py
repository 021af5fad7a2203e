# SPDX-License-Identifier: Apache-2.0
"""The machine around a guest's TPM: its power, its way to measure a launch, its suspended states.

The TPM is *running* or *stopped*. It runs when the daemon has come up, for whoever reaches it by a
stream only; a machine such as QEMU then stops it and switches it on itself, and its firmware sends
TPM_Startup. A stopped TPM has no volatile state: what the daemon's memory says of it is
`volatility.POWERED_OFF`.

State goes out and comes in as encrypted blobs (`stateblob`). What came in is stored with the next
image and counts from the next power-on. A permanent and a volatile state come one after the other,
in either order, so it is the power-on that refuses two that were not taken together. Callers hold
the engine: nothing here runs beside a command.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol, TypeVar
from uuid import UUID

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.host import EngineHost, PersistOutcome
from daemons.runtime.log import Log
from daemons.vtpm import startup
from daemons.vtpm.image import Content
from daemons.vtpm.stateblob import Blob, Opened, digest_of, seal_blob
from daemons.vtpm.store import ManagerLost
from protocol.errors import WireError
from protocol.manager.framing import ManagerRefused
from protocol.tpm12 import ReturnCode
from protocol.vtpm.control import NO_SUCH_STATE, StateType
from tpmcore.engine import Engine, Event, RandomSource, ResetEstablished

KEY_WAIT_S: Final = 60.0
"""Longest that a state blob waits for its key: a hardware TPM may have to sign."""

ReadPcrs = Callable[[], Awaitable[Mapping[int, bytes]]]
"""Gives the values of the hardware TPM's PCRs that the guest's are to start with."""


_T = TypeVar("_T")


class RequestRefused(Exception):
    """A request that is not carried out; nothing was changed.

    Args:
        code: return code of TPM 1.2.
        reason: for the log.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StateKeys(Protocol):
    """The manager's keys for state blobs (`daemons.vtpm.manager_client.ManagerCommands`)."""

    async def state_key_new(self) -> tuple[bytes, bytes]:
        """Return a fresh key, 32 bytes, and the descriptor by which it is found again.

        Raises:
            ManagerRefused, ManagerLost: there is none.
        """

    async def state_key_open(self, descriptor: bytes) -> bytes:
        """Return the key of a descriptor.

        Raises:
            ManagerRefused: not for this vTPM.
            ManagerLost: no answer.
        """


class Store(Protocol):
    """What a machine needs of `daemons.vtpm.store.ImageStore`."""

    @property
    def sequence(self) -> int:
        """Number of the current image."""

    @property
    def kept_volatile(self) -> bytes | None:
        """The volatile state in it."""

    @property
    def astray_from(self) -> bytes | None:
        """Of that state, see `daemons.vtpm.image.Content`."""

    async def save_content(self, content: Content) -> PersistOutcome:
        """Make a state durable."""


class Machine:
    """Where one vTPM sits."""

    def __init__(
        self,
        host: EngineHost,
        store: Store,
        maker: startup.EngineMaker,
        keys: StateKeys,
        read_pcrs: ReadPcrs,
        *,
        uuid: UUID,
        random: RandomSource,
        log: Log,
        is_running: bool,
        pcrs_due: Mapping[int, bytes] | None = None,
    ) -> None:
        """Args:
        host: has the engine.
        store: has its image.
        maker: makes engines of states.
        keys: of the manager.
        read_pcrs: see `ReadPcrs`.
        uuid: of the vTPM.
        random: for nonces.
        log: for power and states.
        is_running: how the TPM was found.
        pcrs_due: what its PCRs get if it is found still waiting for TPM_Startup.
        """
        self._host = host
        self._store = store
        self._maker = maker
        self._keys = keys
        self._read_pcrs = read_pcrs
        self._uuid = uuid
        self._random = random
        self._log = log
        self._is_running = is_running
        # A permanent state that came in and is stored; the engine is of the one before.
        self._arrived: bytes | None = None
        # That state came in a blob of the format which binds no volatile state to it.
        self._is_arrived_unbound = False
        # What the volatile state that is kept was taken with, if it came in since the TPM was last
        # told to stop, or waits for its permanent state since before this process.
        self._volatile_taken_with = store.astray_from
        # The permanent state that was given out last, until a volatile one is or power changes.
        self._given: bytes | None = None
        # What PCRs get when the guest's firmware has sent TPM_Startup, which succeeds once only: it
        # does no harm to have some for a TPM that is started up already.
        self._pcrs_due: Mapping[int, bytes] = pcrs_due or {}

    @property
    def is_running(self) -> bool:
        """Whether the TPM takes commands."""
        return self._is_running

    @property
    def awaits_startup(self) -> bool:
        """Whether `started_up` is to be told of commands."""
        return bool(self._pcrs_due)

    # --- power ------------------------------------------------------------------------------------

    async def power_on(self, *, delete_volatile: bool) -> None:
        """Do a power cycle.

        Args:
            delete_volatile: stored volatile state serves this start only.

        Raises:
            RequestRefused: the volatile state that came in was taken with another permanent one;
                nothing was changed. Or the stored state is none that this version reads, or it
                cannot be saved that the volatile part has served; the TPM is stopped.
        """
        if self._store.astray_from is not None:
            raise RequestRefused(
                ReturnCode.BAD_PARAMETER,
                "the volatile state that came in was taken with another permanent state",
            )
        self.power_off()
        permanent, volatile = self._permanent, self._store.kept_volatile
        # If volatile state goes on they count only where its TPM still waits for TPM_Startup.
        pcrs = await self._read_pcrs()
        engine = await self._restore(permanent, volatile)
        if volatile is not None and delete_volatile:
            await self._save(Content(permanent))
        self._arrived, self._is_arrived_unbound = None, False
        self._host.replace(engine)
        self._pcrs_due = pcrs
        self._is_running = True
        self._log.info("machine switched on", resumed=volatile is not None)

    def power_off(self) -> None:
        """Stop the TPM; what is volatile is lost."""
        self._volatile_taken_with = self._given = None
        if not self._is_running:
            return
        self._is_running = False
        self._pcrs_due = {}
        self._host.forget()
        self._log.info("machine switched off")

    async def reset(self, pcrs: Mapping[int, bytes]) -> None:
        """Do what a reset of the machine with its firmware does; see `startup.reset`. A volatile
        state that is kept for a later power-on is given up.

        Args:
            pcrs: of the hardware TPM. The caller asks for them before it takes the engine, since a
                guest that runs must not wait for a manager that is away.

        Raises:
            DaemonError: the TPM refuses, or it cannot be saved what was given up.
        """
        # Half a reset would leave a guest with a TPM that is not started up.
        with trio.CancelScope(shield=True):
            try:
                if self._store.kept_volatile is not None:
                    await self._save(Content(self._permanent))
                self._volatile_taken_with = None
                if not self._is_running:
                    engine = await self._restore(self._permanent, None)
                    self._arrived, self._is_arrived_unbound = None, False
                    self._host.replace(engine)
                    self._is_running = True
            except RequestRefused as error:
                raise DaemonError(f"vTPM {self._uuid} cannot be reset: {error}") from error
            self._pcrs_due = {}
            await startup.reset(self._host, pcrs, self._log)

    async def started_up(self, command: bytes, response: bytes) -> None:
        """Take note of a command of the guest while `awaits_startup`: after its TPM_Startup, PCRs
        get their first values."""
        if startup.is_startup(command, response):
            pcrs, self._pcrs_due = self._pcrs_due, {}
            await startup.set_pcrs(self._host, pcrs)

    # --- locality 4 and the established flag ------------------------------------------------------

    @property
    def is_established(self) -> bool:
        """Whether there was a dynamic launch since the flag was reset."""
        return self._host.is_established

    async def reset_established(self, locality: int) -> None:
        """Reset the flag; RequestRefused with the TPM's code (BAD_LOCALITY but at 3 and 4)."""
        await self.event(ResetEstablished(locality))

    async def event(self, event: Event) -> None:
        """Have the TPM take an event, such as a part of the hash sequence; RequestRefused with its
        code if it does not."""
        done = await self._host.handle(event)
        if done.code:
            raise RequestRefused(done.code, f"{type(event).__name__} is not possible")

    # --- states -----------------------------------------------------------------------------------

    async def store_volatile(self) -> None:
        """Keep the volatile state in the image, for the next power-on. The TPM goes on.

        Raises:
            RequestRefused: it is not saved.
        """
        engine = self._host.engine
        await self._save(Content(engine.permanent_state(), engine.volatile_state()))

    async def take_state(self, kind: int) -> bytes:
        """Return a blob with a part of the running TPM's state.

        Raises:
            RequestRefused: no such type, no such state, or no key from the manager; or the
                permanent state is not any more the one that was given out before this volatile one,
                so that nothing could be done with the two.
        """
        engine = self._host.engine
        permanent = engine.permanent_state()
        given, taken_with = self._given, digest_of(permanent)
        self._given = None
        match kind:
            case StateType.PERMANENT:
                state = permanent
            case StateType.VOLATILE:
                state = engine.volatile_state()
                if given not in (None, taken_with):
                    raise RequestRefused(
                        ReturnCode.FAIL, "the permanent state has changed since it was given out"
                    )
            case StateType.SAVED:
                raise RequestRefused(NO_SUCH_STATE, "saved state is part of the permanent one")
            case _:
                raise RequestRefused(ReturnCode.FAIL, f"state type {kind}")
        key, descriptor = await self._with_manager(self._keys.state_key_new)
        blob = seal_blob(
            state,
            taken_with=taken_with if kind == StateType.VOLATILE else None,
            uuid=self._uuid,
            sequence=self._store.sequence,
            key=key,
            descriptor=descriptor,
            random=self._random,
        )
        if kind == StateType.PERMANENT:
            self._given = taken_with
        self._log.info("state given out", kind=kind, image=self._store.sequence, bytes=len(blob))
        return blob

    async def put_state(self, kind: int, data: bytes) -> None:
        """Check and store a blob; it counts from the next power-on.

        A permanent state takes the place of everything but a volatile one that came since the TPM
        was last told to stop: clients may send the two in either order. Whether they belong
        together `power_on` looks at; until then a half can be replaced by the one that fits.

        Raises:
            RequestRefused: not a blob of this type, not for this vTPM, a state that this version
                does not read, a volatile one of a format that does not say what it belongs to
                without a permanent one of that format before it, or it cannot be saved.
        """
        try:
            blob = Blob.parse(data)
        except WireError as error:
            raise RequestRefused(ReturnCode.BAD_PARAMETER, str(error)) from error
        if blob.kind != kind:
            raise RequestRefused(
                ReturnCode.BAD_PARAMETER, f"a blob of type {blob.kind}, not {kind}"
            )
        key = await self._open_key(blob)
        try:
            opened = blob.open(key)
        except WireError as error:
            raise RequestRefused(ReturnCode.DECRYPT_ERROR, str(error)) from error
        if blob.kind is StateType.PERMANENT:
            taken_with = self._volatile_taken_with
            volatile = None if taken_with is None else self._store.kept_volatile
            content = _beside(opened.state, volatile, taken_with)
            is_unbound = not blob.is_bound
        else:
            taken_with = self._belonging(opened)
            content = _beside(self._permanent, opened.state, taken_with)
            is_unbound = self._is_arrived_unbound
        is_whole = content.astray_from is None
        await self._restore(content.permanent, content.volatile if is_whole else None)
        await self._save(content)
        self._arrived, self._is_arrived_unbound = content.permanent, is_unbound
        self._volatile_taken_with = taken_with
        self._log.info("state taken in", kind=kind, source=blob.uuid, source_image=blob.sequence)

    def _belonging(self, opened: Opened) -> bytes:
        """Return the digest of the permanent state that a volatile one belongs to."""
        if opened.taken_with is not None:
            return opened.taken_with
        # Otherwise a blob from before could be put beside any state of today.
        if not self._is_arrived_unbound:
            raise RequestRefused(
                ReturnCode.BAD_PARAMETER,
                "a volatile state of format 1.0 comes after its permanent one, of format 1.0 too",
            )
        return digest_of(self._permanent)

    @property
    def _permanent(self) -> bytes:
        """What the next power-on begins with."""
        arrived = self._arrived
        return self._host.engine.permanent_state() if arrived is None else arrived

    async def _restore(self, permanent: bytes, volatile: bytes | None) -> Engine:
        try:
            return await trio.to_thread.run_sync(self._maker.restore, permanent, volatile)
        except WireError as error:
            raise RequestRefused(ReturnCode.BAD_PARAMETER, f"not a state: {error}") from error

    async def _save(self, content: Content) -> None:
        if await self._store.save_content(content) is not PersistOutcome.SAVED:
            raise RequestRefused(ReturnCode.IOERROR, "the image is not saved")

    async def _open_key(self, blob: Blob) -> bytes:
        try:
            return await self._with_manager(partial(self._keys.state_key_open, blob.descriptor))
        except RequestRefused as error:
            # Nothing proves yet whose blob it is; for who reads the log it is what counts.
            whose = "" if blob.uuid == self._uuid else f" of another vTPM ({blob.uuid})"
            raise RequestRefused(error.code, f"state blob{whose}: {error}") from error

    async def _with_manager(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        try:
            with trio.move_on_after(KEY_WAIT_S):
                return await ask()
        except ManagerRefused as error:
            raise RequestRefused(_told_of(error.code), str(error)) from error
        except ManagerLost as error:
            raise RequestRefused(ReturnCode.IOERROR, str(error)) from error
        raise RequestRefused(ReturnCode.IOERROR, f"no key from the manager within {KEY_WAIT_S:g} s")


def _beside(permanent: bytes, volatile: bytes | None, taken_with: bytes | None) -> Content:
    """Return a permanent state with a volatile one that was taken with the state of a digest."""
    return Content(permanent, volatile, None if taken_with == digest_of(permanent) else taken_with)


def _told_of(code: int) -> int:
    """Return the code to answer with where the manager refused a key with this one."""
    # BAD_ORDINAL means here that the TPM is not in a state to be asked, and any non-fatal code of a
    # busy hardware TPM that there is no such state: QEMU would migrate without it.
    return ReturnCode.FAIL if code == ReturnCode.BAD_ORDINAL or code & NO_SUCH_STATE else code
