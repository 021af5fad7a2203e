# SPDX-License-Identifier: Apache-2.0
"""The power of source or target goes at step n of a move, for every n.

However much of the move was done: at most one of the two serves the vTPM, and an operator who has
kept the files that he was given ends the move by doing the rest.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemons.runtime.config.values import FreshnessMode
from daemons.runtime.errors import RefusedToStart
from daemons.vtpmmgr.commits import CommandRefused
from protocol.manager.constants import ManagerCode
from protocol.manager.moving import (
    MoveApproval,
    MovePackage,
    MoveReceipt,
    MoveRelease,
    MoveState,
    TransportKey,
)
from tests.unit.manager.fakes import Died, Loss, Power
from tests.unit.manager.harness import A
from tests.unit.manager.moves import KEY, Pair, Running, Side

DISABLED = int(ManagerCode.DISABLED)


@dataclass
class Carrier:
    """The operator, with what he got so far; each step is done until it was answered."""

    pair: Pair
    key: TransportKey
    approval: MoveApproval
    package: MovePackage | None = None
    receipt: MoveReceipt | None = None
    release: MoveRelease | None = None
    powers: tuple[Power, Power] = field(default_factory=lambda: (Power(), Power()))

    async def go_on(self) -> None:
        """Do what is left of the move."""
        self.pair.source.power, self.pair.target.power = self.powers
        async with self.pair.running() as (source, target):
            if self.package is None:
                self.package = await source.export(A, self.key, self.approval)
            if self.receipt is None:
                self.receipt = await target.take_in(self.package)
            if self.release is None:
                self.release = await source.release(self.receipt)
            await target.activate(self.release)

    async def look(self) -> tuple[bool, bool]:
        """Return who serves the vTPM; that both do must not be."""
        self.pair.source.power, self.pair.target.power = Power(), Power()
        async with self.pair.running() as (source, target):
            at_source, at_target = await source.load(A), await target.load(A)
            assert at_source in (KEY, DISABLED)
            # before the import the target knows nothing of it
            assert at_target in (KEY, DISABLED, ManagerCode.BAD_PARAMETER)
            live = at_source == KEY, at_target == KEY
            assert not all(live)
            await self._is_resumable(source, target)
        return live

    async def _is_resumable(self, source: Running, target: Running) -> None:
        left, right = await source.moves(), await target.moves()
        assert (left.get(A), right.get(A)) in {
            (None, None),
            (MoveState.LEAVING, None),
            (MoveState.LEAVING, MoveState.ARRIVING),
            (MoveState.GONE, MoveState.ARRIVING),
            (MoveState.GONE, MoveState.ARRIVED),
        }


@pytest.fixture(params=[FreshnessMode.NV, FreshnessMode.COUNTER], ids=lambda mode: mode.value)
async def ready(tmp_path: Path, request: pytest.FixtureRequest) -> Carrier:
    """A vTPM with an approval to move."""
    pair = Pair.new(tmp_path / "template", request.param)
    key, approval = await pair.provision(A)
    return Carrier(pair, key, approval)


def copied(ready: Carrier, folder: Path) -> Carrier:
    """Return the same two machines once more."""

    def copied_side(side: Side) -> Side:
        copy_of = folder / side.folder.name
        shutil.copytree(side.folder, copy_of)
        return Side(copy_of, copy.deepcopy(side.chip), side.freshness)

    pair = Pair(copied_side(ready.pair.source), copied_side(ready.pair.target))
    return Carrier(pair, ready.key, ready.approval)


async def cut(carrier: Carrier) -> None:
    """Go on until the power goes."""
    died = False
    try:
        await carrier.go_on()
    except* Died:
        died = True
    assert died


async def steps_of_a_move(ready: Carrier, folder: Path) -> tuple[int, int]:
    carrier = copied(ready, folder)
    await carrier.go_on()
    assert await carrier.look() == (False, True)
    return carrier.powers[0].steps, carrier.powers[1].steps


@pytest.mark.parametrize("victim", [0, 1], ids=["source", "target"])
@pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)
async def test_a_move_that_was_cut_is_ended_by_doing_the_rest(
    tmp_path: Path, ready: Carrier, victim: int, loss: Loss
) -> None:
    total = (await steps_of_a_move(ready, tmp_path / "whole"))[victim]
    assert total > 20
    for limit in range(1, total + 1):
        carrier = copied(ready, tmp_path / f"cut{limit}")
        powers = [Power(), Power()]
        powers[victim] = Power(limit, loss, limit)
        carrier.powers = (powers[0], powers[1])
        await cut(carrier)
        await carrier.look()
        carrier.powers = (Power(), Power())
        await carrier.go_on()
        assert await carrier.look() == (False, True)


@pytest.mark.parametrize("victim", [0, 1], ids=["source", "target"])
async def test_a_move_that_was_cut_is_cancelled_or_is_done(
    tmp_path: Path, ready: Carrier, victim: int
) -> None:
    """After a cancellation that succeeds no file makes the target live."""
    total = (await steps_of_a_move(ready, tmp_path / "whole"))[victim]
    outcomes = set()
    for limit in range(1, total + 1):
        carrier = copied(ready, tmp_path / f"cut{limit}")
        powers = [Power(), Power()]
        powers[victim] = Power(limit, Loss.SOME, limit)
        carrier.powers = (powers[0], powers[1])
        await cut(carrier)
        carrier.pair.source.power, carrier.pair.target.power = Power(), Power()
        async with carrier.pair.running() as (source, target):
            was_held = await source.load(A) == KEY
            try:
                await source.cancel(A)
            except CommandRefused:
                cancelled = False
            else:
                cancelled = True
                assert await source.load(A) == KEY
        outcomes.add((was_held, cancelled))
        if was_held:
            continue
        if cancelled:
            async with carrier.pair.running() as (source, target):
                if carrier.package is not None:
                    receipt = await target.take_in(carrier.package)
                    with pytest.raises(CommandRefused):
                        await source.release(receipt)
                if carrier.release is not None:
                    raise AssertionError("released and cancelled")
                assert await source.load(A) == KEY
                assert await target.load(A) != KEY
        else:
            carrier.powers = (Power(), Power())
            await carrier.go_on()
            assert await carrier.look() == (False, True)
    assert {(True, False), (False, True), (False, False)} >= outcomes
    assert (False, True) in outcomes


async def test_an_older_copy_of_either_database_is_no_second_vtpm(
    tmp_path: Path, ready: Carrier
) -> None:
    """Somebody puts back what the disk was before the move; the chips have gone on."""
    carrier = copied(ready, tmp_path / "moved")
    before = copied(ready, tmp_path / "before")
    await carrier.go_on()
    for name in ("source", "target"):
        shutil.rmtree(carrier.pair.source.folder.parent / name)
        shutil.copytree(before.pair.source.folder.parent / name, tmp_path / "moved" / name)
    for side in (carrier.pair.source, carrier.pair.target):
        side.power = Power()
        with pytest.raises(RefusedToStart, match="older copy"):
            async with side.running():
                pass
