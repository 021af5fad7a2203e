# SPDX-License-Identifier: Apache-2.0
"""The optional unit that makes a guest's vTPM a device: for a moment it has more rights than any
other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.tpmfront.proxydevice import CONTROL_DEVICE
from tests.integration import proxy_probe
from tests.integration.suite_machine import BINDIR, SuiteMachine, suite_machine

UNIT = "tpmfront-proxy@a.service"
PLACE = "/opt/proxy_probe.py"
CAPABILITIES = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_ADMIN": 21}


@pytest.fixture(scope="module")
def suite(module_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    with suite_machine(module_dir, installed, ("a",)) as suite:
        suite.start()
        yield suite


def journal_of(suite: SuiteMachine) -> list[str]:
    suite.run("journalctl", "--sync")
    return suite.run("journalctl", "--output=cat", "-u", UNIT).splitlines()


def test_the_device_is_made_as_root_and_served_as_the_guests_user_without_any_right(
    suite: SuiteMachine,
) -> None:
    shutil.copy(proxy_probe.__file__, suite.path(PLACE))
    suite.path(PLACE).chmod(0o644)
    words = suite.run("systemctl", "cat", UNIT).replace("\\\n", " ")
    (command,) = [line for line in words.splitlines() if line.startswith("ExecStart=")]
    options = command.partition(" vtpm-proxy ")[2]
    suite.drop_in(
        UNIT,
        f"[Service]\nExecStart=\nExecStart={BINDIR}/python -I {PLACE} {options}\n"
        f"ExecPaths={PLACE}\n",
    )
    suite.run("systemctl", "start", UNIT)
    while not (answers := [line for line in journal_of(suite) if line.startswith("answered ")]):
        assert suite.show(UNIT, "ActiveState") == "active"
    (made,) = [line for line in journal_of(suite) if line.startswith("made ")]
    wanted = sum(1 << bit for bit in CAPABILITIES.values())
    assert made == f"made 0 {wanted:x}"
    uid = suite.run("id", "-u", "vtpm-a").strip()
    assert answers == [f"answered {uid} 0 00000000"]
    while suite.show(UNIT, "StatusText") != "/dev/tpm7: serving guest a":
        assert suite.show(UNIT, "ActiveState") == "active"
    suite.run("systemctl", "stop", UNIT)
    assert suite.show(UNIT, "Result") == "success"


def test_without_the_kernels_module_the_unit_fails_and_says_so(suite: SuiteMachine) -> None:
    suite.path(f"/run/systemd/system/{UNIT}.d/50-test.conf").unlink(missing_ok=True)
    suite.run("systemctl", "daemon-reload")
    suite.run("systemctl", "start", UNIT, check=False)
    try:
        if CONTROL_DEVICE.exists():
            assert suite.show(UNIT, "ActiveState") == "active"
        else:
            assert any("modprobe tpm_vtpm_proxy" in line for line in journal_of(suite))
    finally:
        suite.run("systemctl", "stop", UNIT)
        suite.run("systemctl", "reset-failed", UNIT, check=False)
