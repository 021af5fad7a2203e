# SPDX-License-Identifier: Apache-2.0
"""Commit and load of a vTPM's image: two slots here, hash and key with the manager.

A commit: encrypt under a fresh key, write the slot that is not in use, flush file and folder, then
give the manager the hash of the file and the key (SAVEHASHKEY). The moment at which the manager has
made that durable is the commit; only then is the old slot free. So

- a write that fails changes nothing that counts: the slot in use was not touched;
- a crash before the manager's commit leaves the old slot current, after it the new one, and
  LOADHASHKEY tells which;
- an answer that is lost is neither: the manager is asked, as often as it takes, and until it has
  told, the vTPM executes nothing. If it still has the old record, the new one is sent again: the
  slot written for it is whole, and should the first message arrive late, it says the same.

After the manager refused a save it is asked as well, since its word about what it has now is
better than our belief about what a refusal means.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

import trio

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import StateFolder
from daemons.runtime.host import PersistOutcome
from daemons.runtime.log import Log
from daemons.vtpm.filenames import SLOT_NAMES
from daemons.vtpm.image import MAX_SLOT_BYTES, Content, HashKey, seal_image
from daemons.vtpm.selection import (
    Blank,
    Image,
    NewVtpm,
    Record,
    Slot,
    Unreadable,
    select,
)
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.messages import NO_IMAGE
from tpmcore.engine import RandomSource

_ELSEWHERE: Final = Content(b"")
"""In the place of a content that only others have."""
_PAUSE_MIN_S: Final = 0.05
_PAUSE_MAX_S: Final = 0.25
_MAY_PASS: Final = frozenset({ManagerCode.IOERROR, ManagerCode.FAIL})
"""What a manager says whose hardware TPM does not answer, or whose disk is full."""
_OPEN_ELSEWHERE_S: Final = 5.0
"""How long the manager may take to notice that our predecessor's connection is gone."""


class ManagerLost(Exception):
    """The connection ended before the answer came.

    Attributes:
        submitted: True if the manager may have carried the request out; False if it surely did not.
    """

    def __init__(self, reason: str, *, submitted: bool) -> None:
        super().__init__(reason)
        self.submitted = submitted


class KeyKeeper(Protocol):
    """The two commands of the manager that a store needs. Both wait until there is a manager."""

    async def load_hash_key(self) -> Record:
        """Return what the manager has for this vTPM.

        Raises:
            ManagerRefused: any code but that of an unknown uuid.
            ManagerLost: no answer.
        """

    async def save_hash_key(self, data: bytes) -> None:
        """Have the manager keep 64 bytes; they are durable on return.

        Raises:
            ManagerRefused, ManagerLost: as above.
        """


class ImageStore:
    """The permanent state of one vTPM.

    One `save` at a time, after `load`; a second one meanwhile is a bug and raises.
    """

    def __init__(
        self,
        folder: StateFolder,
        uuid: UUID,
        keeper: KeyKeeper,
        random: RandomSource,
        log: Log,
        status: Callable[[str], None],
    ) -> None:
        """Args:
        folder: locked state folder.
        uuid: of this vTPM.
        keeper: the manager.
        random: for keys and nonces.
        log: for each image saved or not.
        status: told what is waited for, and "" when there is nothing more to wait for.
        """
        self._folder = folder
        self._uuid = uuid
        self._keeper = keeper
        self._random = random
        self._log = log
        self._status = status
        # The image that the manager is known to have the key of; None before the first.
        self._current: Image | None = None
        # Goes into every image, until somebody wants it otherwise.
        self._kept: bytes | None = None
        self._kept_astray_from: bytes | None = None
        # The TPM that runs did not begin with it.
        self._is_kept_outrun = False
        # The record of the save under way: what the manager may have as well.
        self._pending: HashKey | None = None
        self._loaded = False
        self._saving = trio.CancelScope()
        # Until when a save may wait for the manager: for ever, until the daemon stops.
        self._stop_at = math.inf
        self._busy = False

    @property
    def sequence(self) -> int:
        """Number of the last acknowledged image, 0 before the first."""
        return 0 if self._current is None else self._current.sequence

    @property
    def slot(self) -> Path | None:
        """The file of that image, None before the first."""
        return (
            None if self._current is None else self._folder.path / SLOT_NAMES[self._current.index]
        )

    @property
    def kept_volatile(self) -> bytes | None:
        """The volatile state in that image; None if there is none."""
        return self._kept

    @property
    def astray_from(self) -> bytes | None:
        """Of that volatile state, see `daemons.vtpm.image.Content`."""
        return self._kept_astray_from

    async def load(self) -> bytes | None:
        """Return the permanent state, or None for a new vTPM, whose uuid is then registered.

        Raises:
            RefusedToStart: what is here and what the manager has do not belong together, or the
                manager does not let this process have the vTPM. Nothing was changed.
            OSError: the folder cannot be read.
        """
        record = await self._ask(patience_s=_OPEN_ELSEWHERE_S)
        self._status("")
        slots = await trio.to_thread.run_sync(self._read_slots)
        chosen = select(record, slots, self._uuid)
        match chosen:
            case Image(index=index, sequence=sequence, content=content):
                # The state itself is the engine's now; no second copy of its secrets stays here.
                self._current = Image(index, sequence, chosen.record, _ELSEWHERE)
                self._keep(content)
                size = len(content.permanent)
                self._log.info("image loaded", slot=index, sequence=sequence, bytes=size)
                self._loaded = True
                return content.permanent
            case NewVtpm(register=register):
                if register:
                    await self._register()
                    self._status("")
                    self._log.info("registered with the manager")
        self._loaded = True
        return None

    async def check(self, keeper: KeyKeeper) -> None:
        """Look on a new connection whether the manager is still the one that we know.

        Asking also binds the connection to this vTPM, which the manager wants before it serves
        other commands.

        Args:
            keeper: the new connection, which nobody else uses yet.

        Raises:
            RefusedToStart: it has another record of this vTPM, or none: to go on would end in a
                state that nobody can load.
            ManagerRefused, ManagerLost: it does not say.
        """
        if not self._loaded:
            return  # `load` is about to ask, and knows what to make of a refusal
        record = await keeper.load_hash_key()
        if not self._is_current(record) and not self._is_pending(record):
            raise self._foreign(record)

    async def save(self, state: bytes) -> PersistOutcome:
        """Make a permanent state durable that a command changed; what volatile state is kept beside
        it stays, but for one that was `outrun`.

        As `save_content`.
        """
        if self._is_kept_outrun:
            return await self.save_content(Content(state))
        return await self.save_content(Content(state, self._kept, self._kept_astray_from))

    def outrun(self) -> None:
        """The TPM runs afresh, without the volatile state that is kept: with the first change of
        its permanent state the two belong together no more, and what is kept is given up. What
        never did belong stays, for the next power-on to refuse."""
        self._is_kept_outrun = self._kept is not None and self._kept_astray_from is None

    async def save_content(self, content: Content) -> PersistOutcome:
        """Make a state durable; shielded from cancellation, see `stop_waiting`.

        Returns: SAVED once the manager has committed; NOT_SAVED if it is certain that it has not,
            the state before being the current one.

        Raises:
            RefusedToStart: the manager has a record that is neither; nothing can be saved any more.
            DaemonError: the daemon stops and it is still not known (the next start will tell).
        """
        if self._busy or not self._loaded:
            raise AssertionError("one save at a time, after load")
        self._busy = True
        try:
            with trio.CancelScope(shield=True, deadline=self._stop_at) as self._saving:
                return await self._save(content)
        finally:
            self._busy = False
        raise DaemonError(
            f"vTPM {self._uuid}: stopped while the manager had not said whether image "
            f"{self.sequence + 1} is saved; the next start will tell"
        )

    def stop_waiting(self, grace_s: float) -> None:
        """The daemon stops: no save waits for the manager longer than so many seconds from now."""
        self._stop_at = min(self._stop_at, trio.current_time() + grace_s)
        self._saving.deadline = self._stop_at

    async def _save(self, content: Content) -> PersistOutcome:
        started = trio.current_time()
        index = 0 if self._current is None else 1 - self._current.index
        sequence = self.sequence + 1
        try:
            record = await trio.to_thread.run_sync(self._write_slot, index, sequence, content)
        except (OSError, ValueError) as error:
            # Whatever that slot holds now, it is not the one in use.
            self._log.error("image not saved", slot=index, sequence=sequence, reason=error)
            return PersistOutcome.NOT_SAVED
        self._pending = record
        try:
            saved = await self._settle(record)
        finally:
            self._pending = None
            self._status("")
        if not saved:
            self._log.error("image not saved", slot=index, sequence=sequence, reason="manager")
            return PersistOutcome.NOT_SAVED
        self._current = Image(index, sequence, record, _ELSEWHERE)
        self._keep(content)
        elapsed_ms = (trio.current_time() - started) * 1000
        self._log.debug("image saved", slot=index, sequence=sequence, duration_ms=elapsed_ms)
        return PersistOutcome.SAVED

    def _keep(self, content: Content) -> None:
        self._kept, self._kept_astray_from = content.volatile, content.astray_from
        self._is_kept_outrun = False

    async def _settle(self, record: HashKey) -> bool:
        """Send SAVEHASHKEY until it is certain; whether the manager has the new record now."""
        pauses = growing_pauses()
        while True:
            refused = False
            try:
                await self._keeper.save_hash_key(record.encode())
                return True
            except ManagerRefused as error:
                refused = True
                self._log.warning("manager refused to save", reason=error)
            except ManagerLost as error:
                self._status("waiting for the manager to say whether the image is saved")
                self._log.warning("answer to a save lost", reason=error, submitted=error.submitted)
            found = await self._ask()
            if self._is_pending(found):
                return True
            if not self._is_current(found):
                raise self._foreign(found)
            if refused:
                return False
            await trio.sleep(next(pauses))

    async def _register(self) -> None:
        """Make the manager know the uuid, with no image."""
        pauses = growing_pauses()
        while True:
            try:
                await self._keeper.save_hash_key(NO_IMAGE)
                return
            except ManagerLost as error:
                self._log.warning("answer to the registration lost", reason=error)
            except ManagerRefused as error:
                if error.code not in _MAY_PASS:
                    raise RefusedToStart(
                        f"vTPM {self._uuid}: the manager does not register it: {error}"
                    ) from error
                self._status("waiting for the manager to register this vTPM")
                self._log.warning("manager does not register this vTPM", reason=error)
            # SAVEHASHKEY overwrites: never send it again without having looked.
            match await self._ask():
                case Blank.NO_IMAGE:
                    return
                case Blank.UNKNOWN:
                    await trio.sleep(next(pauses))
                case HashKey() as record:
                    raise self._foreign(record)

    async def _ask(self, *, patience_s: float = math.inf) -> Record:
        """LOADHASHKEY until there is an answer.

        Args:
            patience_s: how long the manager may say that the vTPM is not for us.

        Raises:
            RefusedToStart: it said so for longer.
        """
        pauses = growing_pauses()
        refused_since = math.inf
        while True:
            try:
                return await self._keeper.load_hash_key()
            except ManagerLost as error:
                self._log.warning("manager lost", reason=error)
            except ManagerRefused as error:
                self._log.warning("manager does not tell the current image", reason=error)
                if error.code == ManagerCode.DISABLED:
                    refused_since = min(refused_since, trio.current_time())
                    if trio.current_time() - refused_since >= patience_s:
                        raise RefusedToStart(
                            f"vTPM {self._uuid}: the manager says that another connection has it "
                            "open, that its group does not approve our label, or that it moves "
                            f"or has moved to another manager ({error})"
                        ) from error
            self._status("waiting for the manager to tell the current image")
            await trio.sleep(next(pauses))

    def _is_current(self, record: Record) -> bool:
        if self._current is None:
            return record is Blank.NO_IMAGE
        return _same(record, self._current.record)

    def _is_pending(self, record: Record) -> bool:
        return self._pending is not None and _same(record, self._pending)

    def _foreign(self, record: Record) -> RefusedToStart:
        match record:
            case HashKey(digest=digest):
                found = f"has another image of it (SHA-256 {digest.hex()})"
            case Blank.UNKNOWN:
                found = "does not know it any more"
            case Blank.NO_IMAGE:
                found = "has no image of it any more"
        ours = "none" if self._current is None else self._current.record.digest.hex()
        return RefusedToStart(
            f"vTPM {self._uuid}: the manager {found}; the last one acknowledged is "
            f"{self.sequence} (SHA-256 {ours}); nothing was changed"
        )

    def _read_slots(self) -> tuple[Slot, Slot]:
        first, second = (self._read_slot(name) for name in SLOT_NAMES)
        return first, second

    def _read_slot(self, name: str) -> Slot:
        # Neither slot's trouble may keep the other one from being tried.
        try:
            return self._folder.read(name, MAX_SLOT_BYTES)
        except RefusedToStart as error:
            return Unreadable(str(error))
        except OSError as error:
            return Unreadable(error.strerror or str(error))

    def _write_slot(self, index: int, sequence: int, content: Content) -> HashKey:
        slot, record = seal_image(content, self._uuid, sequence, self._random)
        self._folder.overwrite(SLOT_NAMES[index], slot)
        return record


def _same(record: Record, ours: HashKey) -> bool:
    return isinstance(record, HashKey) and hmac.compare_digest(record.encode(), ours.encode())


def growing_pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt."""
    pause_s = _PAUSE_MIN_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)
