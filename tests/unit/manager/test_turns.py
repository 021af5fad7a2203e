# SPDX-License-Identifier: Apache-2.0
"""Whose command goes to the chip next."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from daemons.vtpmmgr.turns import OWN, Turns, Withdrawn


class SlowChip:
    """Executes one command when it is let."""

    def __init__(self) -> None:
        self.executed: list[bytes] = []
        self._let, self._allowed = trio.open_memory_channel[None](100)

    def let(self, number: int = 1) -> None:
        for _ in range(number):
            self._let.send_nowait(None)

    async def transact(self, command: bytes) -> bytes:
        await self._allowed.receive()
        self.executed.append(command)
        return b"answer to " + command


async def ask(turns: Turns, command: bytes, source: Hashable) -> None:
    assert await turns.transact(command, source) == b"answer to " + command


async def queue(nursery: trio.Nursery, turns: Turns, *commands: tuple[bytes, Hashable]) -> None:
    for command, source in commands:
        nursery.start_soon(ask, turns, command, source)
        await wait_all_tasks_blocked()


async def test_a_client_that_asks_without_pause_costs_the_others_one_command() -> None:
    chip = SlowChip()
    turns = Turns(chip.transact)
    async with trio.open_nursery() as nursery:
        await queue(
            nursery, turns, *[(f"greedy{n}".encode(), 1) for n in range(5)], (b"b", 2), (b"c", 3)
        )
        chip.let(7)
    assert chip.executed[:4] == [b"greedy0", b"greedy1", b"b", b"c"]


async def test_a_commit_waits_for_one_command_at_most_and_shuts_nobody_out() -> None:
    chip = SlowChip()
    turns = Turns(chip.transact)
    async with trio.open_nursery() as nursery:
        await queue(nursery, turns, *[(f"client{n}".encode(), n) for n in range(4)])
        await queue(nursery, turns, *[(f"own{n}".encode(), OWN) for n in range(3)])
        chip.let(7)
    assert chip.executed == [
        b"client0", b"own0", b"client1", b"own1", b"client2", b"own2", b"client3"
    ]  # fmt: skip


async def test_a_commit_waits_for_one_quote_of_several_commands_at_most() -> None:
    chip = SlowChip()
    turns = Turns(chip.transact)

    async def quote(source: int) -> None:
        async with turns.hold(source) as transact:
            for part in range(3):
                await transact(b"quote%d.%d" % (source, part))

    async with trio.open_nursery() as nursery:
        for source in range(3):
            nursery.start_soon(quote, source)
            await wait_all_tasks_blocked()
        await queue(nursery, turns, (b"own", OWN))
        chip.let(10)
    assert chip.executed[:4] == [b"quote0.0", b"quote0.1", b"quote0.2", b"own"]


async def test_what_waits_can_be_withdrawn_and_what_runs_goes_on() -> None:
    chip = SlowChip()
    turns = Turns(chip.transact)
    async with trio.open_nursery() as nursery:
        await queue(nursery, turns, (b"runs", 1))

        async def withdrawn() -> None:
            with pytest.raises(Withdrawn):
                await turns.transact(b"waits", 2)

        nursery.start_soon(withdrawn)
        await wait_all_tasks_blocked()
        turns.withdraw(1)
        turns.withdraw(2)
        chip.let()
    assert chip.executed == [b"runs"]
    chip.let()
    await ask(turns, b"after", 3)


async def test_a_cancelled_wait_gives_the_place_in_the_line_back() -> None:
    chip = SlowChip()
    turns = Turns(chip.transact)
    async with trio.open_nursery() as nursery:
        await queue(nursery, turns, (b"first", 1))
        with trio.move_on_after(0):
            await turns.transact(b"impatient", 2)
        await queue(nursery, turns, (b"second", 3))
        assert turns.waiting == 1
        chip.let(2)
    assert chip.executed == [b"first", b"second"]


async def test_a_failed_command_does_not_stop_the_line() -> None:
    async def broken(command: bytes) -> bytes:
        if command == b"bad":
            raise OSError("no chip")
        return b"answer to " + command

    turns = Turns(broken)
    with pytest.raises(OSError, match="no chip"):
        await turns.transact(b"bad", 1)
    await ask(turns, b"good", 2)
