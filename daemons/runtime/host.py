# SPDX-License-Identifier: Apache-2.0
"""Drives an engine: runs commands where they belong, performs their effects, keeps the volatile
state.

The order is the promise: permanent state durable, then volatile state stored, then the response.
Cancelling the caller never stops a command half way: short commands run without a checkpoint, all
waiting is shielded.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter_ns
from typing import Final, TypeVarTuple, assert_never

import trio

from daemons.runtime.errors import DaemonError, place
from daemons.runtime.latency import Latencies
from daemons.runtime.log import Level, Log
from daemons.runtime.volatile import VolatileMemory
from tpmcore.engine import (
    Description,
    Done,
    Duration,
    EffectResult,
    Engine,
    Event,
    EventDone,
    Failed,
    ParentQuote,
    Persist,
    Snapshot,
    Step,
)

SLOW_COMMAND_S: Final = 1.0
"""A command that takes longer, its save included, is worth a line in the log."""

_SLOW_COMMAND_NS: Final = int(SLOW_COMMAND_S * 1e9)
_DEBUG: Final = int(Level.DEBUG)

POWERED_OFF: Final = b""
"""What is kept of a TPM that is switched off."""

Args = TypeVarTuple("Args")


class PersistOutcome(enum.Enum):
    """What became of a save; a persister returns only when it is certain which."""

    SAVED = "saved"
    NOT_SAVED = "not saved"


Persister = Callable[[bytes], Awaitable[PersistOutcome]]
"""Makes a permanent state durable. An outcome that is not certain is its own to resolve; an
exception ends the
daemon, and the next start finds out which state is current."""

ParentQuoter = Callable[[ParentQuote], Awaitable[EffectResult]]
"""Has the parent TPM quote; what the parent refuses is `Failed` with the parent's code.
It is cancelled when nobody wants the quote any more."""


Observer = Callable[[bytes, int, bytes, int], None]
"""Is told of each command that was executed: the command, its locality, its response, and how long
it took in nanoseconds. It must not raise, and not take long."""


class EngineBroken(DaemonError):
    """The engine or a save failed in a way that leaves its state unknown; only a restart of the
    daemon helps."""


class EngineHost:
    """One engine and the two memories behind it. Not reentrant: callers serialize."""

    def __init__(
        self,
        engine: Engine,
        *,
        persist: Persister,
        volatile: VolatileMemory | None,
        log: Log,
        parent: ParentQuoter | None = None,
        effect_deadline_s: float = 120.0,
    ) -> None:
        """Take over an engine that has no step pending.

        Args:
            engine: used by nobody else from now on, but for `cancel`.
            persist: see `Persister`.
            volatile: where the volatile state is kept before a response leaves; None keeps it
                nowhere.
            log: told when the engine goes into failure mode.
            parent: see `ParentQuoter`; None fails every such effect.
            effect_deadline_s: an effect that takes longer ends the daemon.
        """
        self._engine = engine
        self._persist = persist
        self._parent = parent
        self._volatile = volatile
        self._log = log
        self._effect_deadline_s = effect_deadline_s
        self.observer: Observer | None = None
        """Whoever wants to know; None, which costs the least: nobody."""
        # Of commands, from when one is taken to when its response may leave.
        self._latencies = Latencies()
        # Last fault of the engine that was logged; None if it is well.
        self._fault: Exception | None = None
        # In `indivisible`: nothing goes into `volatile`.
        self._held = False
        # What `volatile` holds, by the engine's count; None: nothing of this engine yet.
        self._stored_version: int | None = None
        self._busy = False
        # Why no command is taken any more; once set never cleared.
        self._broken: BaseException | None = None
        self._broke = trio.Event()
        # RSA in two threads at once would gain nothing: commands of one TPM are serialized anyway.
        self._limiter = trio.CapacityLimiter(1)
        # Around the parent's quote under way, and whether there may be any.
        self._quoting: trio.CancelScope | None = None
        self._may_quote = True

    async def execute(self, command: bytes, locality: int) -> bytes:
        """Run one command to its response; effects are done and volatile state is stored when it
        returns.

        A SHORT command without effects runs without a checkpoint, others in a worker thread. If the
        caller is cancelled meanwhile the command still completes, and its response is returned.

        Raises:
            trio.BusyResourceError: another command or event is under way.
            EngineBroken: now or earlier something unexpected happened; `wait_broken` raises as
                well.
        """
        self._enter()
        started_ns = perf_counter_ns()
        try:
            engine = self._engine
            if engine.duration(command) is Duration.SHORT:
                step = engine.execute(command, locality)
                if type(step) is not bytes:
                    step = await self._finish(step, inline=True)
            else:
                step = await self._in_thread(engine.execute, command, locality)
                if type(step) is not bytes:
                    step = await self._finish(step, inline=False)
            if engine.volatile_version != self._stored_version:
                self._store()
            if engine.fault is not self._fault:
                self._note_fault()
            if not isinstance(step, bytes):
                raise TypeError(f"a command ended in {type(step).__name__}")
        except BaseException as error:
            self._break(error)
            if isinstance(error, Exception):
                raise EngineBroken(self._reason()) from error
            raise
        finally:
            self._busy = False
        elapsed_ns = perf_counter_ns() - started_ns
        latencies = self._latencies
        latencies.keep(elapsed_ns)
        latencies.count += 1
        # An error is a header alone, and the last byte of its code is 0 in no refusal. The level of
        # the log may change at any time.
        if (
            elapsed_ns >= _SLOW_COMMAND_NS
            or (len(step) == 10 and step[9])
            or self._log.level <= _DEBUG
        ):
            self._note(command, locality, step, elapsed_ns)
        if self.observer is not None:
            self.observer(command, locality, step, elapsed_ns)
        return step

    async def handle(self, event: Event) -> EventDone:
        """Run one event to its end, as `execute` does with commands."""
        self._enter()
        try:
            step = self._engine.handle(event)
            if not isinstance(step, EventDone):
                step = await self._finish(step, inline=True)
            if self._engine.volatile_version != self._stored_version:
                self._store()
            if self._engine.fault is not self._fault:
                self._note_fault()
            if not isinstance(step, EventDone):
                raise TypeError(f"an event ended in {type(step).__name__}")
        except BaseException as error:
            self._break(error)
            if isinstance(error, Exception):
                raise EngineBroken(self._reason()) from error
            raise
        finally:
            self._busy = False
        return step

    @property
    def latencies(self) -> Latencies:
        """How long the last commands took, and how many there were."""
        return self._latencies

    @property
    def engine(self) -> Engine:
        """For looking at while nothing is under way."""
        return self._engine

    @property
    def is_established(self) -> bool:
        """Whether the TPM's established flag is set."""
        return self._engine.is_established

    def replace(self, engine: Engine) -> None:
        """Go on with another engine, which has no step pending.

        What was kept of the last one's volatile state is not kept any more.

        Raises:
            trio.BusyResourceError: a command or event is under way.
            EngineBroken: see `execute`.
        """
        self._enter()
        self._busy = False
        self._engine = engine
        self._fault = None
        self._store()

    def forget(self) -> None:
        """The TPM is switched off: its volatile state is kept no more, only that it is off."""
        self._enter()
        self._busy = False
        if self._volatile is not None:
            self._volatile.store(POWERED_OFF)
        self._stored_version = self._engine.volatile_version

    def snapshot(self) -> Snapshot:
        """Return how the TPM is; may be called while a command is under way."""
        return self._engine.snapshot()

    def describe(self, command: bytes, response: bytes) -> Description:
        """Say what a command and its response are, without their secrets; may be called while
        another command is under way."""
        return self._engine.describe(command, response)

    @contextlib.contextmanager
    def indivisible(self) -> Iterator[None]:
        """Surround commands and events that mean something only together, such as a power-on.

        The volatile state is stored once, after the last of them: whoever is killed in between
        starts again from what was before the first. An error in between breaks the engine, for what
        it holds then is neither.
        """
        self._held = True
        try:
            yield
        except Exception as error:
            self._break(error)
            raise
        finally:
            self._held = False
        if self._engine.volatile_version != self._stored_version:
            self._store()

    def cancel(self) -> None:
        """Ask the command under way to end early; it may complete all the same.

        One that waits for the parent TPM does not wait any longer: it fails, for nothing hangs on a
        quote.
        """
        self._engine.cancel()
        if self._quoting is not None:
            self._quoting.cancel()

    def give_up_quotes(self) -> None:
        """From now on commands that need the parent TPM fail, one that waits for it too: for the
        end of the daemon."""
        self._may_quote = False
        if self._quoting is not None:
            self._quoting.cancel()

    async def wait_broken(self) -> None:
        """Wait until the engine is broken, then raise why: started in the daemon's nursery it makes
        that fatal.

        Raises:
            EngineBroken: always.
        """
        await self._broke.wait()
        raise EngineBroken(self._reason()) from self._broken

    def _enter(self) -> None:
        if self._broken is not None:
            raise EngineBroken(self._reason()) from self._broken
        if self._busy:
            raise trio.BusyResourceError("the engine runs one command at a time")
        self._busy = True

    def _break(self, error: BaseException) -> None:
        if self._broken is None:
            self._broken = error
            self._broke.set()

    def _reason(self) -> str:
        # Ours and the system's messages are for the operator. Any other may quote what the command
        # carried, so it is told where it happened instead.
        error = self._broken
        told = isinstance(error, DaemonError | OSError)
        return f"the engine stopped: {error if told or error is None else place(error)}"

    def _note(self, command: bytes, locality: int, response: bytes, elapsed_ns: int) -> None:
        """Log a command if somebody wants to hear of it."""
        exchange = self._engine.exchange(command, response)
        duration_ms = elapsed_ns / 1e6
        if elapsed_ns >= _SLOW_COMMAND_NS:
            self._log.info(
                "slow command",
                command=exchange.command,
                locality=locality,
                code=exchange.code,
                duration_ms=duration_ms,
            )
        elif exchange.refused:
            self._log.info(
                "command refused",
                command=exchange.command,
                locality=locality,
                code=exchange.code,
                duration_ms=duration_ms,
            )
        else:
            self._log.debug(
                "command",
                command=exchange.command,
                locality=locality,
                code=exchange.code,
                duration_ms=duration_ms,
            )

    def _note_fault(self) -> None:
        self._fault = self._engine.fault
        if self._fault is not None:
            self._log.error("the TPM went into failure mode", fault=place(self._fault))

    def _store(self) -> None:
        if self._held:
            return
        if self._volatile is not None:
            self._volatile.store(self._engine.volatile_state())
        self._stored_version = self._engine.volatile_version

    async def _finish(self, step: Step, *, inline: bool) -> bytes | EventDone:
        """Perform effects until there are no more."""
        engine = self._engine
        while True:
            match step:
                case bytes() | EventDone():
                    return step
                case Persist() | ParentQuote():
                    result = await self._perform(step)
                case _:
                    assert_never(step)
            if inline:
                step = engine.resume(result)
            else:
                step = await self._in_thread(engine.resume, result)

    async def _perform(self, effect: Persist | ParentQuote) -> EffectResult:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._effect_deadline_s):
            match effect:
                case Persist(state=state):
                    outcome = await self._persist(state)
                    return Done() if outcome is PersistOutcome.SAVED else Failed()
                case ParentQuote():
                    return await self._quote(effect)
                case _:
                    assert_never(effect)
        raise TimeoutError(
            f"{type(effect).__name__} took longer than {self._effect_deadline_s:g} s"
        )

    async def _quote(self, effect: ParentQuote) -> EffectResult:
        if self._parent is None or not self._may_quote:
            return Failed()
        result: EffectResult = Failed()
        try:
            with trio.CancelScope() as self._quoting:
                result = await self._parent(effect)
        finally:
            self._quoting = None
        return result

    async def _in_thread(self, run: Callable[[*Args], Step], *args: *Args) -> Step:
        with trio.CancelScope(shield=True):
            step = await trio.to_thread.run_sync(run, *args, limiter=self._limiter)
        return step
