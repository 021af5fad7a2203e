# SPDX-License-Identifier: Apache-2.0
"""A suite under systemd, as `systemctl show` tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl import units
from daemons.vtpmctl.site import Daemon, Kind
from daemons.vtpmctl.units import Places, UnitsSite, show_units

UUID = "c2f4a1de-52b7-4b0e-9a55-8d1f2f6f3a01"
RUNNING = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "Result": "success",
    "MainPID": "4711",
    "ExecMainStatus": "0",
    "NRestarts": "2",
    "StatusText": "serving",
    "ExecStart": "",
}
MISSING = {**RUNNING, "LoadState": "not-found", "ActiveState": "inactive", "MainPID": "0"}


class Systemd:
    """Answers `systemctl show` for units that a test describes; the others are not there."""

    def __init__(self, **units: Mapping[str, str]) -> None:
        self.units = {name.replace("_at_", "@"): unit for name, unit in units.items()}
        self.asked: list[Sequence[str]] = []

    async def show(self, arguments: Sequence[str]) -> str:
        self.asked.append(arguments)
        blocks = []
        for name in arguments[1:]:
            stem, _, suffix = name.rpartition(".")
            if "*" in stem:
                wanted = [unit for unit in self.units if unit.startswith(stem.rstrip("*"))]
            else:
                wanted = [stem]
            for one in wanted:
                unit = self.units.get(one, MISSING)
                lines = [f"{key}={value}" for key, value in unit.items()]
                blocks.append("\n".join([f"Id={one}.{suffix}", *lines]))
        return "\n\n".join(blocks) + "\n"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "state", tmp_path / "run", tmp_path / "etc")
    guests = made.configuration / "guests.d"
    guests.mkdir(parents=True)
    (guests / "g1.toml").write_text(f'uuid = "{UUID}"\nuid = 1000\n')
    (guests / "no guest.toml").write_text(f'uuid = "{UUID}"\n')
    return made


def suite(**changed: Mapping[str, str]) -> Systemd:
    units = {"hwtpm": RUNNING, "vtpmmgr": RUNNING, "vtpm_at_g1": RUNNING, "tpmfront_at_g1": RUNNING}
    return Systemd(**{"vtpm": RUNNING, **units, **changed})


async def found(places: Places, systemd: Systemd) -> dict[str, Daemon]:
    return {one.name: one for one in await UnitsSite(places, systemd.show).daemons()}


async def test_every_unit_is_a_daemon_with_its_control_socket(places: Places) -> None:
    daemons = await found(places, suite())
    assert list(daemons) == [
        "hwtpm.service",
        "vtpmmgr.service",
        "vtpm@g1.service",
        "tpmfront@g1.service",
    ]
    vtpm = daemons["vtpm@g1.service"]
    assert (vtpm.kind, vtpm.guest, vtpm.uuid, vtpm.pid) == (Kind.VTPM, "g1", UUID, 4711)
    assert (vtpm.is_ready, vtpm.restarts, vtpm.note) == (True, 2, "serving")
    run = places.run
    assert [one.control for one in daemons.values()] == [
        run / "hwtpm/control.sock",
        run / "vtpmmgr/control.sock",
        run / "vtpms/g1/control.sock",
        run / "guests/g1/control.sock",
    ]


async def test_a_guest_that_runs_without_being_configured_is_found_too(places: Places) -> None:
    daemons = await found(places, suite(vtpm_at_old=RUNNING))
    assert daemons["vtpm@old.service"].uuid is None


@pytest.mark.parametrize(
    ("unit", "state", "note"),
    [
        ({"ActiveState": "activating", "SubState": "start"}, "starting", "serving"),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "signal"},
            "waiting to be started again",
            "ended by signal",
        ),
        ({"ActiveState": "deactivating"}, "stopping", "serving"),
        ({"ActiveState": "inactive", "MainPID": "0"}, "stopped", "serving"),
        (
            {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "3"},
            "refused to start",
            "exit code 3",
        ),
        (
            {"ActiveState": "failed", "Result": "signal", "ExecMainStatus": "9"},
            "failed",
            "signal, exit code 9",
        ),
        ({"LoadState": "not-found"}, "not installed", "not-found"),
    ],
)
async def test_states_have_the_words_that_vtpmctl_up_has(
    places: Places, unit: Mapping[str, str], state: str, note: str
) -> None:
    daemon = (await found(places, suite(vtpm_at_g1={**RUNNING, **unit})))["vtpm@g1.service"]
    assert (daemon.state, daemon.note, daemon.is_ready) == (state, note, False)


async def test_a_machine_without_the_units_has_no_daemons(places: Places) -> None:
    with pytest.raises(DaemonError, match="does not know the units"):
        await UnitsSite(places, Systemd().show).daemons()


async def test_the_premises_are_those_of_the_units(places: Places) -> None:
    start = "{ path=/opt/bin/vtpmmgr ; argv[]=vtpmmgr --owner-auth file:/etc/vtpm/owner "
    start += "--srk-auth file:/run/credentials/vtpmmgr.service/srk ; }"
    systemd = suite(vtpmmgr={**RUNNING, "ExecStart": start})
    premises = await UnitsSite(places, systemd.show).premises()
    assert premises.users == ("vtpm-hwtpm", "vtpm-manager", "vtpm-g1")
    assert premises.fronts == (("g1", places.run / "guests/g1/tpm.sock"),)
    assert {unit.name for unit in premises.units} >= {"vtpm.target", "vtpm@g1.service"}
    secrets = {rule.path for rule in premises.folders if rule.secret}
    assert Path("/etc/vtpm/owner") in secrets
    assert not any(path.is_relative_to("/run/credentials") for path in secrets)
    assert places.state / "guests/g1/slot0" in secrets
    locks = dict(premises.locks)
    assert locks[places.state / "hwtpm/.lock"] == "hwtpm.service"


def systemctl(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in the place of systemctl."""
    program = folder / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


async def test_systemctl_is_run_and_its_word_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl(tmp_path, 'echo "$@"', monkeypatch)
    assert await show_units(["--property=Id", "a.service"]) == (
        "show --no-pager --property=Id a.service\n"
    )


async def test_what_systemctl_complains_about_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl(tmp_path, "echo 'Failed to connect to bus' >&2; exit 1", monkeypatch)
    with pytest.raises(DaemonError, match="Failed to connect to bus"):
        await show_units([])
    systemctl(tmp_path, "exit 4", monkeypatch)
    with pytest.raises(DaemonError, match="exit code 4"):
        await show_units([])


async def test_a_systemctl_that_is_missing_or_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(DaemonError, match="there is no systemctl"):
        await show_units([])
    systemctl(tmp_path, "exec sleep 1000", monkeypatch)
    monkeypatch.setattr(units, "SYSTEMCTL_TIMEOUT_S", 0.1)
    with pytest.raises(DaemonError, match="did not answer"):
        await show_units([])
