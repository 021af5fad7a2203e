# SPDX-License-Identifier: Apache-2.0
"""Which suite a command means: a stack that is named, the default one if it runs, or the units."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest

from daemons.vtpmctl.host_supervisor import SupervisorHost
from daemons.vtpmctl.host_systemd import SystemdHost
from daemons.vtpmctl.options import find_host
from tests.unit.vtpmctl.stand_in import StandIn, stand_in


@pytest.fixture
async def machine(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandIn]:
    monkeypatch.setenv("XDG_STATE_HOME", str(run_dir / "xdg"))
    async with stand_in(run_dir, monkeypatch) as machine:
        yield machine


async def test_a_folder_that_is_named_is_meant(machine: StandIn) -> None:
    host = await find_host(machine.root / "d", system=False)
    assert host.config == machine.root / "d/state/etc"


async def test_without_a_running_stack_the_units_are_meant(machine: StandIn) -> None:
    assert isinstance(await find_host(None, system=False), SystemdHost)
    assert isinstance(await find_host(None, system=True), SystemdHost)


async def test_a_stack_that_runs_in_the_default_folder_is_meant_unless_told_otherwise(
    machine: StandIn,
) -> None:
    path = machine.root / "xdg/vtpm/run/control.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert isinstance(await find_host(None, system=False), SupervisorHost)
        assert isinstance(await find_host(None, system=True), SystemdHost)


async def test_on_a_machine_without_units_the_default_folder_is_meant(
    machine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine.root / "nowhere"))
    host = await find_host(None, system=False)
    assert host.config == machine.root / "xdg/vtpm/state/etc"


async def test_both_at_once_is_a_usage_error(machine: StandIn) -> None:
    with pytest.raises(click.UsageError, match="exclude each other"):
        await find_host(machine.root, system=True)
