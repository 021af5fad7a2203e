# SPDX-License-Identifier: Apache-2.0
"""The order of a commit, and many of them at once.

One task commits. What arrives while it is busy waits and is then committed together: one SQLite
transaction, one write to the hardware TPM, however many vTPMs saved. The order is SQLite, hardware
TPM, answers:

    before the transaction   the chip must be reachable; if it is not within a deadline, all that
                             wait are told TPM_IOERROR, and nothing has happened
    transaction fails        for lack of space: told TPM_FAIL, nothing has happened; otherwise the
                             process ends
    after the transaction    no error is told any more: the mark is written again and again, or
                             the process ends unanswered. The next start finds the database one
                             ahead of the chip and accepts that.

A vTPM whose connection breaks while its save waits does not take the save back; when it asks again
which data is stored, `read` waits until that save is settled, so the answer is final.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Final, Protocol, TypeVar
from uuid import UUID

import trio

from daemons.runtime.errors import DaemonError
from daemons.runtime.latency import Latencies, LatencyStatistics
from daemons.runtime.log import Log
from daemons.vtpmmgr.freshness import Freshness, Mark
from daemons.vtpmmgr.hardware import PASSING, Hardware, HardwareLost
from daemons.vtpmmgr.keyring import GroupClosed, KeyRing
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.store import DiskFull
from protocol.manager.constants import ManagerCode
from tpmcore.errors import TpmError

T = TypeVar("T")

REACHABLE_DEADLINE_S: Final = 10.0
"""How long a save waits for a chip that does not answer before it is refused."""

_ATTEMPT_S: Final = 5.0
"""How long one attempt to write the mark may take. The end of the daemon waits so long for it,
which has to be less than the patience of a supervisor (10 s).
"""
_RETRY_FIRST_S: Final = 0.05
_RETRY_LONGEST_S: Final = 2.0
_CHECKPOINT_PAGES: Final = 1000
"""Pages in the log (4 KiB each) from which it is copied into the main file: SQLite's own
default.
"""


class CommandRefused(Exception):
    """A command that ends with a return code other than success.

    Args:
        code: a ManagerCode, or a code of the hardware TPM.
        usual: True for what a well-behaved client asks too, which is not worth a warning.
    """

    def __init__(self, code: int, *, usual: bool = False) -> None:
        super().__init__(f"refused with code {code:#x}")
        self.code = code
        self.usual = usual


class Mutation(Protocol):
    """A change that a command wants."""

    @property
    def uuid(self) -> UUID:
        """The vTPM that it is about."""

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change and return the body of the response. Runs in a worker thread.

        Raises:
            CommandRefused: not possible; whatever it changed so far is forgotten.
            GroupClosed: likewise; told as TPM_AUTHFAIL.
        """


@dataclass(frozen=True, slots=True)
class CommitStatistics:
    """A snapshot for `status`.

    Attributes:
        sequence: of the newest commit.
        commits: since the start of this process.
        mutations: that were part of them.
        largest: most mutations in one commit.
        waiting: mutations not settled.
        bound: sequence that the hardware TPM is known to name.
        latencies: of the last commits, from the first look at the chip to the answers.
    """

    sequence: int
    commits: int
    mutations: int
    largest: int
    waiting: int
    bound: int
    latencies: LatencyStatistics


class _Pending:
    __slots__ = ("mutation", "outcome", "settled")

    def __init__(self, mutation: Mutation) -> None:
        self.mutation = mutation
        # Set at the latest when `settled` is.
        self.outcome: bytes | CommandRefused | None = None
        self.settled = trio.Event()


class _Turn:
    __slots__ = ("begun", "over", "scope")

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.over = trio.Event()
        # Of the operation; it must not go on when nobody commits any more.
        self.scope = trio.CancelScope()


class Exclusive:
    """What an operation may do while nothing else is committed."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    async def read(self, query: Callable[[Ledger], T]) -> T:
        """Return what `query` finds. Runs in a thread."""
        return await self._committer.read_now(query)

    async def commit(
        self,
        change: Callable[[Transaction], None],
        *,
        keys: KeyRing | None = None,
        freshness: Freshness | None = None,
        bind_now: bool = False,
    ) -> None:
        """Commit a change, made in a thread, and bind it.

        Args:
            keys: new ones, from this commit on.
            freshness: binds this commit and all later ones.
            bind_now: also in a mode that binds at intervals only, and if that takes some seconds.

        Raises:
            CommandRefused: nothing happened.
        """
        await self._committer.commit_now(change, keys, freshness, bind_now=bind_now)

    async def insist(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Do in the hardware TPM what belongs to a commit that was made, until it is done.

        Args:
            what: it is, for messages.
            action: may be begun again after any failure.

        Raises:
            DaemonError: the chip refuses for good.
        """
        await self._committer.insist(what, action)


class Committer:
    """The one task that changes the ledger.

    Args:
        ledger: bound to `freshness`.
        freshness: gets the mark of each commit.
        hardware: asked whether it is reachable.
        log: of the daemon.
    """

    def __init__(self, ledger: Ledger, freshness: Freshness, hardware: Hardware, log: Log) -> None:
        self._ledger = ledger
        self._freshness = freshness
        self._hardware = hardware
        self._log = log
        # The ledger may be used by one thread at a time.
        self._limiter = trio.CapacityLimiter(1)
        self._waiting: list[_Pending] = []
        # Operations that want to be alone, each for once.
        self._turns: deque[_Turn] = deque()
        # The newest unsettled mutation of each vTPM; older ones of it are settled before or with
        # it.
        self._unsettled: dict[UUID, _Pending] = {}
        self._arrived = trio.Event()
        # Nobody will settle anything any more.
        self._ended = False
        self._commits = 0
        self._mutations = 0
        self._largest = 0
        self._latencies = Latencies()
        # The ledger that we are given is bound to the chip.
        self._bound = ledger.newest.sequence

    async def submit(self, mutation: Mutation) -> bytes:
        """Return the body of the response once the change is durable and bound to the chip.

        Not cancelled while the commit is under way, so that the end of the daemon does not keep an
        answer back that exists; `run` settles everything when it ends.

        Raises:
            CommandRefused: surely nothing changed.
            DaemonError: `run` ended first; whether the change was made is not known.
        """
        if self._ended:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise DaemonError("the manager is ending")
        pending = _Pending(mutation)
        self._waiting.append(pending)
        self._unsettled[mutation.uuid] = pending
        self._arrived.set()
        with trio.CancelScope(shield=True):
            await pending.settled.wait()
        if isinstance(pending.outcome, CommandRefused):
            raise pending.outcome
        if pending.outcome is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise DaemonError("the manager ended during a commit")
        return pending.outcome

    @property
    def freshness(self) -> Freshness:
        """How commits are bound to the hardware TPM."""
        return self._freshness

    @property
    def keys(self) -> KeyRing:
        """The manager's keys, those of the newest commit."""
        return self._ledger.keys

    async def exclusively(self, operation: Callable[[Exclusive], Awaitable[T]]) -> T:
        """Run an operation while nothing else is committed, and give what it gives.

        So that what it reads, does in the hardware TPM and commits belongs together. If `run` ends,
        so does the operation: before its commit, or after it, unanswered.

        Raises:
            CommandRefused: by the operation, which has committed nothing then.
            DaemonError: `run` ended first; whether the change was made is not known.
        """
        if self._ended:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise DaemonError("the manager is ending")
        turn = _Turn()
        self._turns.append(turn)
        self._arrived.set()
        try:
            with turn.scope:
                await turn.begun.wait()
                if not self._ended:
                    return await operation(Exclusive(self))
        finally:
            turn.over.set()
        raise DaemonError("the manager is ending")

    async def read(self, uuid: UUID, query: Callable[[Ledger], T]) -> T:
        """Return what `query` finds once no change of this vTPM is unsettled. Runs in a thread."""
        while (pending := self._unsettled.get(uuid)) is not None:
            await pending.settled.wait()
        return await trio.to_thread.run_sync(query, self._ledger, limiter=self._limiter)

    def statistics(self) -> CommitStatistics:
        """Return how it is."""
        return CommitStatistics(
            sequence=self._ledger.newest.sequence,
            commits=self._commits,
            mutations=self._mutations,
            largest=self._largest,
            waiting=len(self._unsettled),
            bound=self._bound,
            latencies=self._latencies.statistics(),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what arrives, for ever.

        Raises:
            CommitUncertain, Tampered, DaemonError: the process must end; what waits stays
                unanswered.
        """
        task_status.started()
        batch: list[_Pending] = []
        try:
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                batch, self._waiting = self._waiting, []
                if batch:
                    await self._commit(batch)
                while self._turns:
                    await self._leave_to(self._turns.popleft())
                if self._ledger.log_pages >= _CHECKPOINT_PAGES:
                    await self._checkpoint()
        except trio.Cancelled:
            self._ended = True
            await self._bind_last()
            raise
        finally:
            self._ended = True
            for turn in self._turns:
                turn.begun.set()
            for pending in (*batch, *self._waiting):
                # whatever it was going to be told is not true for certain
                if not pending.settled.is_set():
                    pending.outcome = None
                    pending.settled.set()

    async def _leave_to(self, turn: _Turn) -> None:
        """Let an operation be alone until it is over."""
        turn.begun.set()
        try:
            await turn.over.wait()
        except trio.Cancelled:
            turn.scope.cancel()
            with trio.CancelScope(shield=True):
                await turn.over.wait()
            raise

    async def _commit(self, batch: list[_Pending]) -> None:
        started_ns = perf_counter_ns()
        if not await self._is_reachable():
            self._log.warning("hardware TPM unreachable", refused=len(batch))
            self._refuse(batch, ManagerCode.IOERROR)
            return
        before = self._ledger.newest
        try:
            # Not abandoned on cancellation, and what it did must be known: to_thread sees to both.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._write, batch, limiter=self._limiter)
        except DiskFull as error:
            self._log.error("database not written", reason=error, refused=len(batch))
            self._refuse(batch, ManagerCode.FAIL)
            return
        if self._ledger.newest != before:
            await self._bind()
            self._commits += 1
            self._mutations += len(batch)
            self._largest = max(self._largest, len(batch))
            self._latencies.note(perf_counter_ns() - started_ns)
        self._settle(batch)

    def _write(self, batch: Iterable[_Pending]) -> None:
        """Apply and write a batch (in a thread). Outcomes are noted, not yet told."""
        transaction = self._ledger.transaction()
        for pending in batch:
            try:
                with transaction.attempt():
                    pending.outcome = pending.mutation.apply(transaction)
            except CommandRefused as refusal:
                pending.outcome = refusal
            except GroupClosed:
                pending.outcome = CommandRefused(ManagerCode.AUTHFAIL)
        if transaction:
            with transaction.attempt():
                self._freshness.stamp(transaction)
            self._ledger.commit(transaction)

    async def read_now(self, query: Callable[[Ledger], T]) -> T:
        """Return what `query` finds, for an operation that is alone."""
        return await trio.to_thread.run_sync(query, self._ledger, limiter=self._limiter)

    async def commit_now(
        self,
        change: Callable[[Transaction], None],
        keys: KeyRing | None,
        freshness: Freshness | None,
        *,
        bind_now: bool,
    ) -> None:
        """Commit and bind a change, for an operation that is alone."""

        def write() -> None:
            transaction = self._ledger.transaction()
            with transaction.attempt():
                change(transaction)
            with transaction.attempt():
                (freshness or self._freshness).stamp(transaction, last=bind_now)
            self._ledger.commit(transaction, keys)

        if not await self._is_reachable():
            raise CommandRefused(ManagerCode.IOERROR)
        try:
            await trio.to_thread.run_sync(write, limiter=self._limiter)
        except DiskFull as error:
            self._log.error("commit refused", reason=error)
            raise CommandRefused(ManagerCode.FAIL) from error
        if freshness is not None:
            self._freshness = freshness
        await self._bind()
        while bind_now and self._freshness.wants_last:
            # the chip wants to be left alone for a while
            await trio.sleep(_RETRY_LONGEST_S)
            await self._bind()
        self._commits += 1

    async def _bind_last(self) -> None:
        """Bind what is not bound yet, at the end of the process; if it fails, it is not."""
        if not self._freshness.wants_last:
            return
        with trio.move_on_after(_ATTEMPT_S, shield=True) as limit:
            try:
                await trio.to_thread.run_sync(self._stamp_last, limiter=self._limiter)
                await self._freshness.bind(Mark.of(self._ledger.newest))
            except (DiskFull, HardwareLost, TpmError) as error:
                self._log.warning("last commits not bound", reason=error)
        if limit.cancelled_caught:
            self._log.warning("last commits not bound", reason=f"not within {_ATTEMPT_S:g} s")

    def _stamp_last(self) -> None:
        transaction = self._ledger.transaction()
        with transaction.attempt():
            self._freshness.stamp(transaction, last=True)
        self._ledger.commit(transaction)

    async def _is_reachable(self) -> bool:
        """Say whether the chip answers, within a deadline."""
        pause_s = _RETRY_FIRST_S
        with trio.move_on_after(REACHABLE_DEADLINE_S):
            while True:
                try:
                    await self._hardware.wait_reachable()
                except (HardwareLost, TpmError) as error:
                    self._log.debug("hardware TPM not ready", reason=error)
                else:
                    return True
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_LONGEST_S)
        return False

    async def _bind(self) -> None:
        mark = Mark.of(self._ledger.newest)
        await self.insist(f"mark of sequence {mark.sequence}", partial(self._freshness.bind, mark))
        self._bound = mark.sequence

    async def insist(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Have the chip do what belongs to a commit until it is done; see `Exclusive.insist`.

        An attempt is not torn apart by the end of the daemon; between two it may end, unanswered.
        """
        pause_s = _RETRY_FIRST_S
        while True:
            reason: Exception = HardwareLost(f"no answer within {_ATTEMPT_S:g} s")
            try:
                with trio.move_on_after(_ATTEMPT_S, shield=True):
                    await action()
                    return
            except HardwareLost as error:
                reason = error
            except TpmError as error:
                if error.code not in PASSING:
                    raise DaemonError(f"the hardware TPM refuses: {what}: {error}") from error
                reason = error
            self._log.warning("not in the hardware TPM yet", what=what, reason=reason)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_LONGEST_S)

    async def _checkpoint(self) -> None:
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(
                    partial(self._ledger.checkpoint, keep_room=True), limiter=self._limiter
                )
        except DaemonError as error:
            # The log keeps everything; the next commit tries again.
            self._log.warning("log of the database not copied", reason=error)

    def _refuse(self, batch: Iterable[_Pending], code: ManagerCode) -> None:
        for pending in batch:
            pending.outcome = CommandRefused(code)
        self._settle(batch)

    def _settle(self, batch: Iterable[_Pending]) -> None:
        for pending in batch:
            uuid = pending.mutation.uuid
            if self._unsettled.get(uuid) is pending:
                del self._unsettled[uuid]
            pending.settled.set()
