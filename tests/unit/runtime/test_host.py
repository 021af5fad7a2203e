# SPDX-License-Identifier: Apache-2.0
"""The host of an engine: durable before volatile before response, and never half a command."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_never

import pytest
import trio

from daemons.runtime import host as host_module
from daemons.runtime.host import (
    POWERED_OFF,
    SLOW_COMMAND_S,
    EngineBroken,
    EngineHost,
    PersistOutcome,
)
from daemons.runtime.log import Level, Log
from daemons.runtime.volatile import VolatileMemory
from tpmcore.engine import (
    Description,
    Done,
    Duration,
    EffectResult,
    Event,
    EventDone,
    Exchange,
    Failed,
    ParentQuote,
    Persist,
    PowerOn,
    Snapshot,
    Step,
)


class ToyEngine:
    """Adds up what it is told; a command is its letters, executed in order.

    `+` counts up in volatile state, `p` persists the count, `q` asks the parent, `x` is a bug, `w`
    waits for `gate`, `r` is refused, `t` makes the command a long one. The response is what
    happened.
    """

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal
        self.count = 0
        self.version = 0
        self.gate = threading.Event()
        self.threads: list[int] = []
        self.cancelled = False
        self.fault: Exception | None = None
        self.is_established = False
        self._rest = b""
        self._said = b""

    def execute(self, command: bytes, locality: int) -> Step:
        self._rest, self._said = command, b"%d:" % locality
        return self._go_on()

    def handle(self, event: Event) -> Step:
        match event:
            case PowerOn():
                self.count = 0
                self.version += 1
                return Persist(b"on")
            case _:
                return EventDone(0)

    def resume(self, result: EffectResult) -> Step:
        match result:
            case Done(data):
                self._said += b"done" + data
            case Failed(code):
                self._said += b"failed%d" % (code or 0)
            case _:
                assert_never(result)
        if self._said == b"done":
            self._said = b""
            self.journal.append("event done")
            return EventDone(0)
        return self._go_on()

    def _go_on(self) -> Step:
        self.threads.append(threading.get_native_id())
        while self._rest:
            letter, self._rest = self._rest[:1], self._rest[1:]
            match letter:
                case b"+":
                    self.count += 1
                    self.version += 1
                case b"p":
                    return Persist(b"%d" % self.count)
                case b"q":
                    return ParentQuote(bytes(20), b"", 0)
                case b"r":
                    return bytes(9) + b"\1"
                case b"x":
                    raise ZeroDivisionError("a bug")
                case b"w":
                    assert self.gate.wait(10)
        said, self._said = self._said, b""
        return said + b"%d" % self.count

    def cancel(self) -> None:
        self.cancelled = True
        self.gate.set()

    def duration(self, command: bytes) -> Duration:
        return Duration.LONG if b"t" in command else Duration.SHORT

    def permanent_state(self) -> bytes:
        return b""

    def volatile_state(self) -> bytes:
        self.journal.append(f"volatile {self.count}")
        return b"%d" % self.count

    def snapshot(self) -> Snapshot:
        return Snapshot(False, (), (f"count {self.count}",))

    def describe(self, command: bytes, response: bytes) -> Description:
        return Description(command.hex(), response.hex(), (), (), (), command, response)

    def exchange(self, command: bytes, response: bytes) -> Exchange:
        return Exchange(command.decode(), f"code {response[-1]}", b"r" in command)

    @property
    def volatile_version(self) -> int:
        return self.version


class Lab:
    def __init__(
        self,
        *,
        outcome: PersistOutcome | Exception = PersistOutcome.SAVED,
        parent: Callable[[ParentQuote], Awaitable[EffectResult]] | None = None,
        effect_deadline_s: float = 120.0,
        level: Level = Level.INFO,
    ) -> None:
        self.journal: list[str] = []
        self.engine = ToyEngine(self.journal)
        self.lines: list[str] = []
        self.memory = VolatileMemory.create("test")
        self.outcome = outcome
        self.saving = trio.Event()
        self.may_save = trio.Event()
        self.may_save.set()
        self.host = EngineHost(
            self.engine,
            persist=self._persist,
            volatile=self.memory,
            log=Log("test", level=level, sink=self.lines.append),
            parent=parent,
            effect_deadline_s=effect_deadline_s,
        )

    async def _persist(self, state: bytes) -> PersistOutcome:
        self.saving.set()
        await self.may_save.wait()
        self.journal.append(f"saved {state.decode()}")
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_the_response_comes_after_the_permanent_and_the_volatile_state() -> None:
    lab = Lab()
    lab.journal.append("command")
    response = await lab.host.execute(b"+p+", 3)
    assert response == b"3:done2"
    assert lab.journal == ["command", "saved 1", "volatile 2"]
    assert lab.memory.load() == b"2"


async def test_volatile_state_is_stored_only_when_it_changed() -> None:
    lab = Lab()
    await lab.host.execute(b"+", 0)
    await lab.host.execute(b"", 0)
    await lab.host.execute(b"", 0)
    assert lab.journal == ["volatile 1"]


async def test_another_engine_takes_the_place_of_the_first_in_the_memory_too() -> None:
    lab = Lab()
    await lab.host.execute(b"+++", 0)
    other = ToyEngine(lab.journal)
    lab.host.replace(other)
    assert lab.memory.load() == b"0"
    await lab.host.execute(b"+", 0)
    assert (lab.host.engine, lab.memory.load()) == (other, b"1")


async def test_of_a_tpm_that_is_off_the_memory_says_only_that() -> None:
    lab = Lab()
    await lab.host.execute(b"+", 0)
    lab.host.forget()
    assert lab.memory.load() == POWERED_OFF
    await lab.host.execute(b"", 0)  # changes nothing, so there is nothing to keep
    assert lab.memory.load() == POWERED_OFF


async def test_an_engine_is_not_exchanged_under_a_command() -> None:
    lab = Lab()
    lab.may_save = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.host.execute, b"p", 0)
        await lab.saving.wait()
        for change in (partial(lab.host.replace, ToyEngine(lab.journal)), lab.host.forget):
            with pytest.raises(trio.BusyResourceError):
                change()
        lab.may_save.set()


async def test_a_save_that_did_not_happen_is_told_to_the_engine() -> None:
    lab = Lab(outcome=PersistOutcome.NOT_SAVED)
    assert await lab.host.execute(b"p", 0) == b"0:failed00"


@pytest.mark.parametrize("command", [b"+p", b"t+p"])
async def test_a_cancelled_caller_does_not_stop_the_command(command: bytes) -> None:
    lab = Lab()
    lab.may_save = trio.Event()
    responses = []
    async with trio.open_nursery() as nursery:

        async def client() -> None:
            responses.append(await lab.host.execute(command, 0))

        nursery.start_soon(client)
        await lab.saving.wait()
        nursery.cancel_scope.cancel()
        lab.may_save.set()
    assert responses == [b"0:done1"]
    assert lab.journal == ["saved 1", "volatile 1"]


async def test_a_short_command_runs_without_a_checkpoint() -> None:
    lab = Lab()
    with trio.testing.assert_no_checkpoints():
        assert await lab.host.execute(b"+", 0) == b"0:1"
    assert lab.engine.threads == [threading.get_native_id()]


async def test_a_long_command_and_what_follows_its_effects_run_outside_the_event_loop() -> None:
    lab = Lab()
    lab.engine.gate.set()
    await lab.host.execute(b"twpw", 0)
    assert len(lab.engine.threads) == 2
    assert threading.get_native_id() not in lab.engine.threads


async def test_two_commands_at_once_are_refused() -> None:
    lab = Lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.host.execute, b"tw+", 0)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await lab.host.execute(b"+", 0)
        with pytest.raises(trio.BusyResourceError):
            await lab.host.handle(PowerOn())
        lab.engine.gate.set()
    assert lab.engine.count == 1
    assert await lab.host.execute(b"+", 0) == b"0:2"


async def test_cancel_reaches_the_command_under_way() -> None:
    lab = Lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.host.execute, b"tw", 0)
        await trio.testing.wait_all_tasks_blocked()
        lab.host.cancel()
    assert lab.engine.cancelled


@pytest.mark.parametrize("command", [b"+x", b"t+x", b"+px"])
async def test_a_bug_in_the_engine_ends_the_daemon_and_stores_nothing(command: bytes) -> None:
    lab = Lab()
    with pytest.raises(EngineBroken, match="ZeroDivisionError in _go_on"):
        await lab.host.execute(command, 0)
    assert lab.memory.load() is None
    with pytest.raises(EngineBroken):
        await lab.host.execute(b"+", 0)
    with pytest.raises(EngineBroken):
        await lab.host.handle(PowerOn())
    with pytest.raises(EngineBroken):
        await lab.host.wait_broken()
    assert lab.engine.count == 1


async def test_a_persister_that_fails_ends_the_daemon() -> None:
    lab = Lab(outcome=OSError("the disk is gone"))
    with pytest.raises(EngineBroken, match="the disk is gone"):
        await lab.host.execute(b"p", 0)


async def test_an_effect_that_takes_too_long_ends_the_daemon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = Lab(effect_deadline_s=60.0)
    lab.may_save = trio.Event()
    with pytest.raises(EngineBroken, match="Persist took longer than 60 s"):
        await lab.host.execute(b"p", 0)
    assert trio.current_time() == pytest.approx(60.0)
    assert autojump_clock.rate == 0


async def test_what_the_parent_says_reaches_the_engine() -> None:
    async def parent(_quote: ParentQuote) -> EffectResult:
        return Failed(7)

    assert await Lab(parent=parent).host.execute(b"q", 0) == b"0:failed70"
    assert await Lab().host.execute(b"q", 0) == b"0:failed00"


class SlowParent:
    """Answers when it may, and knows whether it was waited for."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.may_answer = trio.Event()
        self.withdrawn = False

    async def __call__(self, _quote: ParentQuote) -> EffectResult:
        self.asked.set()
        try:
            await self.may_answer.wait()
        except trio.Cancelled:
            self.withdrawn = True
            raise
        return Done(b"!")


@pytest.mark.parametrize("command", [b"q+", b"tq+"])
@pytest.mark.parametrize("give_up", [EngineHost.cancel, EngineHost.give_up_quotes])
async def test_a_quote_that_nobody_wants_any_more_fails_and_the_engine_goes_on(
    command: bytes, give_up: Callable[[EngineHost], None]
) -> None:
    parent = SlowParent()
    lab = Lab(parent=parent)
    responses = []
    async with trio.open_nursery() as nursery:

        async def client() -> None:
            responses.append(await lab.host.execute(command, 0))

        nursery.start_soon(client)
        await parent.asked.wait()
        give_up(lab.host)
    assert responses == [b"0:failed01"]
    assert parent.withdrawn
    assert lab.memory.load() == b"1"
    assert await lab.host.execute(b"+", 0) == b"0:2"


async def test_after_quotes_were_given_up_the_parent_is_not_asked() -> None:
    parent = SlowParent()
    lab = Lab(parent=parent)
    lab.host.give_up_quotes()
    assert await lab.host.execute(b"q", 0) == b"0:failed00"
    assert not parent.asked.is_set()


async def test_a_cancel_before_a_quote_does_not_concern_it() -> None:
    parent = SlowParent()
    parent.may_answer.set()
    lab = Lab(parent=parent)
    lab.host.cancel()
    assert await lab.host.execute(b"q", 0) == b"0:done!0"


async def test_a_save_is_waited_for_whoever_cancels() -> None:
    lab = Lab(parent=SlowParent())
    lab.may_save = trio.Event()
    responses = []
    async with trio.open_nursery() as nursery:

        async def client() -> None:
            responses.append(await lab.host.execute(b"p", 0))

        nursery.start_soon(client)
        await lab.saving.wait()
        lab.host.cancel()
        lab.host.give_up_quotes()
        await trio.testing.wait_all_tasks_blocked()
        assert responses == []
        lab.may_save.set()
    assert responses == [b"0:done0"]


async def test_an_event_is_durable_before_it_is_over() -> None:
    lab = Lab()
    assert await lab.host.handle(PowerOn()) == EventDone(0)
    assert lab.journal == ["saved on", "event done", "volatile 0"]


async def test_a_process_killed_among_commands_that_belong_together_has_done_none_of_them() -> None:
    lab = Lab()
    await lab.host.execute(b"+", 0)
    with lab.host.indivisible():
        await lab.host.handle(PowerOn())
        await lab.host.execute(b"++", 0)
        assert lab.memory.load() == b"1"
    assert lab.memory.load() == b"2"


async def test_an_error_among_commands_that_belong_together_ends_the_daemon() -> None:
    lab = Lab()
    await lab.host.execute(b"+", 0)

    async def half() -> None:
        with lab.host.indivisible():
            await lab.host.handle(PowerOn())
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await half()
    assert lab.memory.load() == b"1"
    with pytest.raises(EngineBroken):
        await lab.host.wait_broken()


@pytest.mark.parametrize("is_event", [False, True])
async def test_a_fault_of_the_engine_is_logged_once_and_without_its_message(is_event: bool) -> None:
    lab = Lab()
    await lab.host.execute(b"+", 0)
    assert lab.lines == []
    lab.engine.fault = ValueError("a secret that the command carried")
    for _ in range(2):
        if is_event:
            await lab.host.handle(PowerOn())
        else:
            await lab.host.execute(b"+", 0)
    assert len(lab.lines) == 1
    assert "error: the TPM went into failure mode" in lab.lines[0]
    assert "ValueError" in lab.lines[0]
    assert "secret" not in lab.lines[0]
    lab.engine.fault = None
    await lab.host.execute(b"+", 0)
    lab.engine.fault = KeyError(1)
    await lab.host.execute(b"+", 0)
    assert len(lab.lines) == 2


async def test_the_message_of_a_bug_is_not_told() -> None:
    lab = Lab(outcome=ValueError("a secret that the state holds"))
    with pytest.raises(EngineBroken, match="ValueError in _persist") as broken:
        await lab.host.execute(b"p", 0)
    assert "secret" not in str(broken.value)


def take(monkeypatch: pytest.MonkeyPatch, *durations_ms: float) -> None:
    """Have the next commands take so long, by the clock that the host looks at."""
    readings = [int(part * 1e6) for duration in durations_ms for part in (0.0, duration)]
    clock = iter(readings)
    monkeypatch.setattr(host_module, "perf_counter_ns", lambda: next(clock))


async def test_a_command_has_a_line_only_for_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, talkative = Lab(), Lab(level=Level.DEBUG)
    take(monkeypatch, 0.25, 0.25)
    await quiet.host.execute(b"+", 2)
    await talkative.host.execute(b"+", 2)
    assert quiet.lines == []
    assert talkative.lines == [
        'test debug: command command=+ locality=2 code="code 49" duration_ms=0.25\n'
    ]


async def test_a_slow_command_is_told_to_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    limit_ms = SLOW_COMMAND_S * 1e3
    take(monkeypatch, limit_ms - 1, limit_ms, 2 * limit_ms)
    await lab.host.execute(b"+", 0)
    await lab.host.execute(b"+", 0)
    await lab.host.execute(b"r", 0)
    assert [line.partition(" command=")[0] for line in lab.lines] == ["test slow command"] * 2
    assert "duration_ms=1000" in lab.lines[0]


async def test_a_refused_command_is_told_to_the_operator_and_other_errors_are_not() -> None:
    lab = Lab()
    await lab.host.execute(b"r", 1)
    assert len(lab.lines) == 1
    assert lab.lines[0].startswith('test command refused command=r locality=1 code="code 1" ')


async def test_every_command_counts_and_events_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    take(monkeypatch, 1.0, 3.0, 2.0)
    await lab.host.execute(b"+", 0)
    await lab.host.execute(b"t+", 0)
    await lab.host.handle(PowerOn())
    await lab.host.execute(b"p", 0)
    found = lab.host.latencies.statistics()
    assert lab.host.latencies.count == found.samples == 3
    assert (found.median_us, found.longest_us) == (2000, 3000)


async def test_a_snapshot_can_be_had_while_a_command_is_under_way() -> None:
    lab = Lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.host.execute, b"t+w", 0)
        await trio.testing.wait_all_tasks_blocked()
        assert lab.host.snapshot().flags[0].startswith("count")
        lab.engine.gate.set()
