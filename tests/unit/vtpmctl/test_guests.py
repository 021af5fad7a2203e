# SPDX-License-Identifier: Apache-2.0
"""Adding and removing guests on a systemd machine: every step, every failure, every crash.

systemctl is a stand-in that keeps the state of units; the real one has tests of its own.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.config.findings import BadConfig
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.guest_cli import format_guests
from daemons.vtpmctl.guests import (
    add_guest,
    check_known,
    list_guests,
    reload_all,
    remove_guest,
)
from daemons.vtpmctl.host_systemd import SystemdHost
from tests.unit.vtpmctl.stand_in import StandIn, stand_in

UUID_TEXT = "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"
TARGET = "vtpm-guest@g1.target"
ADDING = [
    "systemd-sysusers vtpm-guest-g1.conf",
    f"systemctl enable {TARGET}",
    f"systemctl start {TARGET}",
]
SOCKETS = " ".join(
    f"{kind}@g1.socket"
    for kind in (
        *("vtpm", "vtpm-control"),
        *("tpmfront", "tpmfront-ctrl", "tpmfront-control", "tpmfront-tcp"),
    )
)
STOPPING = f"systemctl stop {TARGET} vtpm@g1.service tpmfront@g1.service {SOCKETS}"
DISCARDING = [
    f"systemctl disable {TARGET}",
    STOPPING,
    "systemctl reset-failed vtpm@g1.service tpmfront@g1.service",
]


@pytest.fixture
async def machine(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandIn]:
    async with stand_in(run_dir, monkeypatch) as machine:
        yield machine


def guest_file(machine: StandIn, name: str = "g1") -> Path:
    return machine.places.config / "guests.d" / f"{name}.toml"


def image(machine: StandIn, name: str = "g1") -> Path:
    """What the guest's vTPM has made when it was started."""
    path = machine.places.state / "guests" / name / "slot0"
    assert path.read_text() == "image\n"
    return path


async def test_a_guest_gets_a_user_a_file_and_its_units_and_the_manager_knows(
    machine: StandIn,
) -> None:
    added = await add_guest(machine.host, "g1", {"group": 0, "hwinitpcr": "0-7"})
    assert (added.is_new, added.is_running) == (True, True)
    assert added.guest.identity.uid == machine.find_uid("vtpm-g1")
    assert tomllib.loads(guest_file(machine).read_text()) == {
        "uuid": str(added.guest.identity.uuid),
        "group": 0,
        "hwinitpcr": "0-7",
    }
    assert guest_file(machine).stat().st_mode & 0o777 == 0o644
    users = machine.places.sysusers / "vtpm-guest-g1.conf"
    assert users.read_text() == 'u vtpm-g1 - "vTPM of guest g1"\n'
    assert machine.calls() == ADDING
    assert machine.state(TARGET) == ("active", "enabled")
    assert machine.reloads == 1


async def test_the_folders_of_the_configuration_are_made_and_closed_to_writers(
    machine: StandIn,
) -> None:
    guest_file(machine).parent.rmdir()
    machine.places.config.rmdir()
    before = os.umask(0)
    try:
        await add_guest(machine.host, "g1", {})
    finally:
        os.umask(before)
    for folder in (machine.places.config, guest_file(machine).parent):
        assert folder.stat().st_mode & 0o777 == 0o755


async def test_what_vtpm_toml_says_is_not_written_into_the_guests_file(machine: StandIn) -> None:
    added = await add_guest(machine.host, "g1", {})
    assert tomllib.loads(guest_file(machine).read_text()).keys() == {"uuid"}
    assert added.guest.identity.group == 0


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("systemd-sysusers", "systemd-sysusers .*: Failed"),
        ("systemctl-enable", "enable vtpm-guest@g1.target: Job failed"),
        ("systemctl-start", "start vtpm-guest@g1.target: Job failed"),
    ],
)
async def test_a_step_that_fails_leaves_nothing_behind(
    machine: StandIn, broken: str, reason: str
) -> None:
    before = machine.everything()
    machine.fail(broken)
    with pytest.raises(DaemonError, match=reason):
        await add_guest(machine.host, "g1", {})
    assert machine.everything() == before
    machine.mend()
    assert (await add_guest(machine.host, "g1", {})).is_new


@pytest.mark.parametrize("state", ["failed", "activating"])
async def test_a_vtpm_that_does_not_come_up_leaves_nothing_behind(
    machine: StandIn, state: str
) -> None:
    before = machine.everything()
    machine.fail("vtpm@g1.service.state", f"{state}\n")
    with pytest.raises(DaemonError, match=rf"vtpm@g1\.service is {state}; see journalctl"):
        await add_guest(machine.host, "g1", {})
    assert machine.everything() == before
    assert machine.calls() == [*ADDING, *DISCARDING, "userdel vtpm-g1"]
    # It was known to the manager meanwhile, and is not any more.
    assert machine.reloads == 2


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"label": ""}, "label: must be 1 to 127 printable ASCII characters"),
        ({"hwinitpcr": "0-24"}, "hwinitpcr: PCR 24"),
        ({"localities": ["x"]}, "localities: 'x' is not"),
        ({"group": -1}, "group: must be a number"),
    ],
)
async def test_a_key_that_is_wrong_is_named_and_nothing_is_left(
    machine: StandIn, keys: dict[str, str | int | list[str]], reason: str
) -> None:
    before = machine.everything()
    with pytest.raises(BadConfig, match=reason):
        await add_guest(machine.host, "g1", keys)
    assert machine.everything() == before
    assert machine.reloads == 0


async def test_a_uuid_that_another_guest_has_is_refused_and_nothing_is_left(
    machine: StandIn,
) -> None:
    await add_guest(machine.host, "g1", {"uuid": UUID_TEXT})
    before = machine.everything()
    with pytest.raises(BadConfig, match=f"{UUID_TEXT} is also that of g2"):
        await add_guest(machine.host, "g2", {"uuid": UUID_TEXT})
    assert machine.everything() == before


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 27])
async def test_a_name_that_its_user_could_not_have_is_refused_at_once(
    machine: StandIn, name: str
) -> None:
    with pytest.raises(DaemonError, match=r"no guest name|too long"):
        await add_guest(machine.host, name, {})
    assert machine.calls() == []


async def test_an_image_that_was_there_outlives_a_failure(machine: StandIn) -> None:
    await add_guest(machine.host, "g1", {"uuid": UUID_TEXT})
    await remove_guest(machine.host, "g1", delete_state=False)
    before = machine.everything()
    machine.fail("vtpm@g1.service.state", "failed\n")
    with pytest.raises(DaemonError, match="is failed"):
        await add_guest(machine.host, "g1", {"uuid": UUID_TEXT})
    assert machine.everything() == before


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
async def test_what_a_crash_has_left_is_finished_by_the_same_command(
    machine: StandIn, steps: int
) -> None:
    """A crash after so many steps; the command once more does the others, and no other change."""
    host = machine.host
    uuid = UUID_TEXT
    await host.make_user("g1")
    if steps > 1:
        host.make_file("g1", {"uuid": uuid, "admin": True})
    if steps > 2:
        await host.add("g1")
    if steps > 3:
        await host.stop("g1")
    added = await add_guest(host, "g1", {"uuid": uuid, "admin": True})
    assert added.is_new == (steps == 1)
    assert added.guest.identity.uuid == UUID(uuid)
    assert machine.state(TARGET) == ("active", "enabled")
    assert machine.users() == ["vtpm-g1"]
    assert (await add_guest(host, "g1", {})).guest == added.guest


async def test_a_failure_of_the_second_attempt_does_not_undo_what_the_first_has_done(
    machine: StandIn,
) -> None:
    await add_guest(machine.host, "g1", {})
    before = machine.everything()
    machine.fail("systemctl-start")
    with pytest.raises(DaemonError, match="Job failed"):
        await add_guest(machine.host, "g1", {})
    assert machine.everything() == before


async def test_another_guest_of_the_same_name_is_refused(machine: StandIn) -> None:
    await add_guest(machine.host, "g1", {"group": 0})
    before = machine.everything()
    with pytest.raises(DaemonError, match=r"there is a guest g1 already.* admin = True"):
        await add_guest(machine.host, "g1", {"admin": True})
    assert machine.everything() == before


async def test_a_removed_guest_keeps_its_image_and_the_user_who_owns_it(machine: StandIn) -> None:
    added = await add_guest(machine.host, "g1", {})
    slot = image(machine)
    machine.calls()
    removed = await remove_guest(machine.host, "g1", delete_state=False)
    assert (removed.uuid, removed.state_kept) == (str(added.guest.identity.uuid), True)
    assert machine.calls() == DISCARDING
    assert machine.state(TARGET) == ("inactive", "disabled")
    assert not guest_file(machine).exists()
    assert slot.read_text() == "image\n"
    assert machine.users() == ["vtpm-g1"]
    assert machine.reloads == 2
    with pytest.raises(DaemonError, match="to take it up again say its --uuid"):
        await add_guest(machine.host, "g1", {})
    again = await add_guest(machine.host, "g1", {"uuid": removed.uuid})
    assert again.guest.identity == added.guest.identity


async def test_a_guest_removed_with_its_state_leaves_nothing(machine: StandIn) -> None:
    before = machine.everything()
    await add_guest(machine.host, "g1", {})
    slot = image(machine)
    removed = await remove_guest(machine.host, "g1", delete_state=True)
    assert not removed.state_kept
    assert not slot.parent.exists()
    assert machine.everything() == before
    with pytest.raises(DaemonError, match="there is no guest g1"):
        await remove_guest(machine.host, "g1", delete_state=True)


async def test_a_removal_that_was_killed_is_finished_by_the_same_command(
    machine: StandIn,
) -> None:
    before = machine.everything()
    await add_guest(machine.host, "g1", {})
    image(machine)
    guest_file(machine).unlink()  # the first two steps were done
    await machine.host.discard("g1")
    await remove_guest(machine.host, "g1", delete_state=True)
    assert machine.everything() == before


async def test_a_guest_whose_file_is_broken_can_be_removed(machine: StandIn) -> None:
    await add_guest(machine.host, "g1", {})
    guest_file(machine).write_text("broken")
    assert (await remove_guest(machine.host, "g1", delete_state=False)).uuid == ""
    assert not guest_file(machine).exists()


async def test_the_list_has_every_guest_also_those_with_mistakes(machine: StandIn) -> None:
    added = await add_guest(machine.host, "g1", {"label": "a:b:c", "admin": True})
    guest_file(machine, "g2").write_text(f'uuid = "{UUID_TEXT}"\ngruop = 1\nuid = 7\n')
    guest_file(machine, "no name").write_text("")
    listed = await list_guests(machine.host)
    first, second = listed["guests"]
    assert first == {
        "guest": "g1",
        "state": "active",
        "uuid": str(added.guest.identity.uuid),
        "uid": machine.find_uid("vtpm-g1"),
        "group": 0,
        "label": "a:b:c",
        "admin": True,
        "findings": [],
    }
    assert isinstance(second, dict)
    assert (second["guest"], second["state"], second["uuid"]) == ("g2", "stopped", None)
    assert second["findings"] == [
        f"{guest_file(machine, 'g2')}: gruop: unknown key; did you mean group?"
    ]
    (other,) = listed["findings"]
    assert "'no name' is no guest name" in str(other)
    table = format_guests(listed).splitlines()
    assert [line.split()[:2] for line in table[:3]] == [
        ["GUEST", "STATE"],
        ["g1", "active"],
        ["g2", "stopped"],
    ]
    assert table[3:] == [*second["findings"], other]


async def test_starting_and_stopping_is_the_targets(machine: StandIn) -> None:
    await add_guest(machine.host, "g1", {})
    machine.calls()
    await machine.host.stop("g1")
    assert machine.state(TARGET) == ("inactive", "enabled")
    assert await machine.host.states(["g1"]) == {"g1": "stopped"}
    await machine.host.start("g1")
    assert machine.calls() == [STOPPING, f"systemctl start {TARGET}"]
    with pytest.raises(DaemonError, match="there is no guest g2"):
        check_known(machine.host, "g2")


def test_the_sockets_are_where_the_units_have_them() -> None:
    host = SystemdHost()
    assert host.control_socket("g1") == Path("/run/vtpm/vtpms/g1/control.sock")
    assert host.state("g1") == Path("/var/lib/vtpm/guests/g1")
    assert host.config == Path("/etc/vtpm")


async def test_a_reload_asks_nobody_that_does_not_run_and_nobody_with_mistakes(
    machine: StandIn,
) -> None:
    assert await reload_all(machine.host) == {"vtpmmgr.service": []}
    guest_file(machine).write_text("broken")
    with pytest.raises(BadConfig, match="is no TOML"):
        await reload_all(machine.host)
    assert machine.reloads == 1
    guest_file(machine).unlink()
    (machine.root / "units/vtpmmgr.service.active").unlink()
    assert await reload_all(machine.host) == {}
    assert machine.reloads == 1


async def test_a_machine_without_systemd_is_said_to_be_none(
    machine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await machine.host.is_installed()
    monkeypatch.setenv("PATH", str(machine.root / "nowhere"))
    assert not await machine.host.is_installed()
    with pytest.raises(DaemonError, match="systemctl is missing: is this a systemd machine"):
        await machine.host.start("g1")


TCP = "tpmfront-tcp@g1.socket"


def drop_in(machine: StandIn) -> Path:
    return machine.places.units / f"{TCP}.d/50-vtpm-guest.conf"


async def test_a_guest_with_tcp_gets_a_socket_unit_with_its_address_until_it_is_removed(
    machine: StandIn,
) -> None:
    before = machine.everything()
    await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:6545"]})
    front = tomllib.loads(guest_file(machine).read_text())["front"]
    assert front == {"tcp": ["127.0.0.1:6545"]}
    text = drop_in(machine).read_text()
    assert text.endswith("[Socket]\nListenStream=\nListenStream=127.0.0.1:6545\n")
    assert machine.calls() == [*ADDING[:2], f"systemctl enable {TCP}", ADDING[2]]
    await remove_guest(machine.host, "g1", delete_state=True)
    assert machine.calls()[3:5] == [f"systemctl disable --now {TCP}", "systemctl daemon-reload"]
    assert machine.everything() == before


async def test_only_an_address_for_others_opens_the_filter_of_the_socket_unit(
    machine: StandIn,
) -> None:
    tcp = ["[::1]:6545=2", "0.0.0.0:6546"]
    await add_guest(machine.host, "g1", {}, {"tcp": tcp, "tcp_any_address": True})
    lines = drop_in(machine).read_text().splitlines()
    assert lines[3:] == [
        "ListenStream=[::1]:6545",
        "ListenStream=0.0.0.0:6546",
        "IPAddressAllow=any",
    ]


async def test_an_edited_file_counts_for_the_socket_unit_at_the_next_start(
    machine: StandIn,
) -> None:
    await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:6545"]})
    path = guest_file(machine)
    path.write_text(path.read_text().replace("6545", "6600"))
    await machine.host.start("g1")
    assert "ListenStream=127.0.0.1:6600" in drop_in(machine).read_text()
    path.write_text(path.read_text().partition("[front]")[0])
    machine.calls()
    await machine.host.start("g1")
    assert machine.calls()[0] == f"systemctl disable --now {TCP}"
    assert not drop_in(machine).parent.exists()


async def test_an_administrators_own_file_for_the_socket_unit_stays(machine: StandIn) -> None:
    await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:6545"]})
    own = drop_in(machine).with_name("mine.conf")
    own.write_text("[Socket]\nBindToDevice=lo\n")
    await remove_guest(machine.host, "g1", delete_state=True)
    assert own.exists()
    assert not drop_in(machine).exists()


@pytest.mark.parametrize("broken", ["systemctl-enable", "systemctl-start"])
async def test_a_step_that_fails_leaves_nothing_of_tcp_behind(
    machine: StandIn, broken: str
) -> None:
    before = machine.everything()
    machine.fail(broken)
    with pytest.raises(DaemonError, match="Job failed"):
        await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:6545"]})
    assert machine.everything() == before


async def test_another_tcp_address_of_a_guest_that_is_there_is_refused(machine: StandIn) -> None:
    await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:6545"]})
    with pytest.raises(DaemonError, match=r"does not say front\.tcp = \['127\.0\.0\.1:7000'\]"):
        await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:7000"]})
    assert not (await add_guest(machine.host, "g1", {}, {"tcp": ["127.0.0.1:6545"]})).is_new
