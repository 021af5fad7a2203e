# SPDX-License-Identifier: Apache-2.0
"""Folders, the plan of a stack, pauses between restarts, and what users are shown."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.errors import RefusedToStart
from daemons.vtpmctl.child import RestartPolicy, describe_exit
from daemons.vtpmctl.layout import Layout, default_root
from daemons.vtpmctl.plan import ChildSpec, Guest, Stage, UpConfig, plan_guest, plan_machine
from daemons.vtpmctl.supervisor import Outcome
from daemons.vtpmctl.up import describe_ready

G1 = Guest("g1", UUID(int=1))
G2 = Guest("g2", UUID(int=2))


def test_the_default_folder_is_that_of_the_xdg_specification() -> None:
    assert default_root({"XDG_STATE_HOME": "/x"}) == Path("/x/vtpm")
    home = Path.home() / ".local/state/vtpm"
    assert default_root({}) == home
    assert default_root({"XDG_STATE_HOME": ""}) == home
    assert default_root({"XDG_STATE_HOME": "relative"}) == home


def _plan(config: UpConfig, *guests: Guest) -> list[ChildSpec]:
    specs = [*plan_machine(config)]
    for guest in guests:
        specs += plan_guest(config, guest)
    return specs


def test_the_folders_are_where_the_manual_says() -> None:
    layout = Layout(Path("/d"))
    specs = {spec.name: spec for spec in _plan(UpConfig(layout), G1)}
    assert list(specs) == ["hwtpm", "vtpmmgr", "vtpm-g1", "tpmfront-g1"]

    def option(daemon: str, name: str) -> str:
        args = specs[daemon].args
        return args[args.index(name) + 1]

    assert option("hwtpm", "--state") == "/d/state/hwtpm"
    assert option("hwtpm", "--run") == option("vtpmmgr", "--tis") == "/d/run/hwtpm"
    assert option("vtpmmgr", "--state") == "/d/state/vtpmmgr"
    assert option("vtpmmgr", "--socket") == option("vtpm-g1", "--manager") == "/d/run/vtpmmgr.sock"
    assert option("vtpm-g1", "--state") == "/d/state/guests/g1"
    back = "/d/run/guests/g1/tpmback.sock"
    assert option("vtpm-g1", "--socket") == option("tpmfront-g1", "--backend") == back
    assert option("tpmfront-g1", "--tpm") == "/d/run/guests/g1/tpm.sock"
    assert option("tpmfront-g1", "--ctrl") == "/d/run/guests/g1/ctrl.sock"
    for name in specs:
        assert option(name, "--config") == "/d/state/etc"
    assert option("vtpm-g1", "--guest") == option("tpmfront-g1", "--guest") == "g1"


def test_what_is_asked_on_the_way_stops_before_what_answers() -> None:
    stages = {spec.name: spec.stage for spec in _plan(UpConfig(Layout(Path("/d"))), G1)}
    order = ["tpmfront-g1", "vtpm-g1", "vtpmmgr", "hwtpm"]
    assert sorted(stages, key=lambda name: stages[name]) == order
    assert list(Stage) == sorted(Stage)


def test_options_reach_every_daemon_that_has_them() -> None:
    config = UpConfig(
        Layout(Path("/d")), ("g1", "g2"), ("0-7", "10"), "none", "text:o", "text:s", "debug"
    )
    specs = _plan(config, G1, G2)
    for spec in specs:
        assert "--loglevel debug" in " ".join(spec.args)
        pcrs = "--hwinitpcr 0-7 --hwinitpcr 10" in " ".join(spec.args)
        assert pcrs == ("--ek none" in " ".join(spec.args)) == (spec.stage is Stage.VTPM)
        secret = "--owner-auth text:o --srk-auth text:s" in " ".join(spec.args)
        assert secret == (spec.stage is Stage.MANAGER)
    assert "text:" not in repr(specs) + repr(config)


def test_folders_are_made_private_but_for_the_way_to_the_front_sockets(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "deep" / "d")
    old = os.umask(0o077)
    try:
        layout.prepare().close()
        layout.prepare_guest("g1")
    finally:
        os.umask(old)
    modes = {
        path.relative_to(layout.root).as_posix(): path.stat().st_mode & 0o777
        for path in (layout.root, *layout.root.rglob("*"))
        if path.is_dir()
    }
    assert modes == {
        ".": 0o711,
        "state": 0o700,
        "run": 0o711,
        "run/guests": 0o711,
        "run/guests/g1": 0o711,
        "run/hwtpm": 0o700,
        "run/notify": 0o700,
    }
    assert layout.closed_parent() is not None


def test_a_folder_that_others_can_write_to_is_closed_to_their_writing(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    root.chmod(0o777)
    Layout(root).prepare().close()
    assert root.stat().st_mode & 0o777 == 0o755


def test_a_link_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedToStart, match="not a folder"):
        Layout(tmp_path / "d").prepare()
    # And it has let go of the lock.
    (tmp_path / "d" / "run").unlink()
    Layout(tmp_path / "d").prepare().close()


def test_pauses_double_up_to_the_longest() -> None:
    policy = RestartPolicy(first_pause_s=0.1, longest_pause_s=1.0)
    pauses = [policy.pause_s(failures) for failures in (0, 1, 2, 3, 4, 5, 6, 7, 100_000)]
    assert pauses == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.8, 1, 1, 1])


def test_an_exit_is_named() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "SIGKILL"


def test_the_first_word_is_ready_and_who_is_missing_is_named() -> None:
    text = describe_ready(Layout(Path("/d")), Outcome((G2,), {G1: "vtpm-g1"}))
    lines = text.splitlines()
    assert lines[0] == "ready: 1 of 2 guests"
    assert "g1 (vtpm-g1 refused)" in lines[1]
    assert "/d/run/guests/g2/tpm.sock" in text
    assert "/d/run/guests/g2/ctrl.sock" in text
    assert "separates nothing" in text
