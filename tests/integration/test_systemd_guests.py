# SPDX-License-Identifier: Apache-2.0
"""Guests under systemd as their operator and their users know them: `vtpmctl guest` makes them,
tcsd and tpm-tools use them, through restarts and kills of every daemon."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.tis.driver import open_tis
from protocol.tpm12 import ReturnCode
from tests.integration.log_search import SEARCH
from tests.integration.ports import free_port
from tests.integration.suite_machine import SHARED, SuiteMachine, pair, suite_machine
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError

SEALED = SEARCH.password("what only guest alice knows")
OWNER_PASSWORD = SEARCH.password("owner of this machine's chip")
GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
OK = bytes(4)


@pytest.fixture(scope="module")
def suite(module_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    """A machine without guests, whose root has put the owner's secret where credentials are."""
    etc = {"vtpm/credentials/owner-auth": f"text:{OWNER_PASSWORD}\n"}
    with suite_machine(module_dir, installed, (), etc=etc) as suite:
        suite.start()
        yield suite


class Tools:
    """tcsd at a guest's TPM, as a unit, and the tools that go to it."""

    def __init__(self, suite: SuiteMachine, guest: str) -> None:
        self._suite = suite
        port = free_port()
        self._environment = f"TSS_TCSD_PORT={port}"
        config = suite.path("/etc/tcsd-test.conf")
        config.write_text(f"port = {port}\nsystem_ps_file = /var/lib/tpm/system.data\n")
        suite.run("chown", "root:tss", "/etc/tcsd-test.conf")
        suite.run("chmod", "640", "/etc/tcsd-test.conf")
        # tcsd forks once it listens, which is what systemd waits for here.
        suite.run(
            *("systemd-run", "--unit=tcsd-test", "-p", "Type=forking"),
            *("-E", "TCSD_USE_TCP_DEVICE=1", "-E", "TCSD_TCP_DEVICE_PORT=1"),
            *("-E", f"TCSD_UN_SOCKET_DEVICE_PATH=/run/vtpm/guests/{guest}/tpm.sock"),
            *("tcsd", "-e", "-c", "/etc/tcsd-test.conf"),
        )

    def run(self, *command: str) -> str:
        return self._suite.run("env", self._environment, "HOME=/tmp", *command)

    def unsealed(self) -> str:
        return self.run("tpm_unsealdata", "-z", "-i", "/tmp/sealed")


def test_a_guest_that_is_added_serves_tpm_tools_until_it_is_removed(suite: SuiteMachine) -> None:
    assert "is added and runs" in suite.run("vtpmctl", "guest", "add", "alice", "--system")
    assert "is added and runs" in suite.run("vtpmctl", "guest", "add", "bob", "--system")
    suite.path("/tmp/secret").write_text(SEALED)
    tools = Tools(suite, "alice")
    assert "Chip Version:" in tools.run("tpm_version")
    tools.run("tpm_takeownership", "-y", "-z")
    tools.run("tpm_sealdata", "-z", "-i", "/tmp/secret", "-o", "/tmp/sealed", "-p", "0", "-p", "10")
    assert tools.unsealed() == SEALED
    public_key = tools.run("tpm_getpubek", "-z")

    # tcsd goes on with the one connection that it made, whatever is replaced.
    for unit in (*pair("alice"), *SHARED):
        before = suite.pid(unit)
        suite.run("systemctl", "restart", unit)
        suite.wait_replaced(unit, before)
        assert tools.unsealed() == SEALED
        suite.wait_noted("alice")
        suite.wait_replaced(unit, suite.kill(unit))
        assert tools.unsealed() == SEALED
    assert tools.run("tpm_getpubek", "-z") == public_key

    suite.run("vtpmctl", "guest", "stop", "alice", "--system")
    assert suite.exchange("bob", GET_RANDOM)[6:10] == OK
    suite.run("vtpmctl", "guest", "start", "alice", "--system")
    suite.run("systemctl", "stop", "tcsd-test")
    suite.run("systemctl", "reset-failed", "tcsd-test", check=False)
    tools = Tools(suite, "alice")
    assert tools.unsealed() == SEALED
    assert tools.run("tpm_getpubek", "-z") == public_key

    remove = ("vtpmctl", "guest", "remove", "alice", "--delete-state", "--yes", "alice")
    suite.run(*remove, "--system")
    assert not suite.tpm_socket("alice").exists()
    assert not suite.path("/var/lib/vtpm/guests/alice").exists()
    assert suite.run("id", "vtpm-alice", check=False) == ""
    assert suite.exchange("bob", GET_RANDOM)[6:10] == OK


async def test_the_owners_secret_is_the_credential(suite: SuiteMachine) -> None:
    """The manager took ownership of the chip with it, which the chip itself can tell."""
    random = SeededRandom("owner")

    async def read_as_owner(secret: bytes) -> None:
        # By another locality than the manager's, as root may.
        async with open_tis(suite.path("/run/vtpm/hwtpm"), 0) as driver:
            await tss12.converse(
                driver.transact, tss12.owner_read_pubek(owner_auth=secret, random=random)
            )

    await read_as_owner(hashlib.sha1(OWNER_PASSWORD.encode()).digest())
    with pytest.raises(TpmError) as raised:
        await read_as_owner(bytes(20))
    assert raised.value.code == ReturnCode.AUTHFAIL


def test_the_credential_is_for_the_manager_alone(suite: SuiteMachine) -> None:
    path = "/run/credentials/vtpmmgr.service/owner-auth"
    read = ("sh", "-c", f"cat {path} 2>&1 || :")
    assert OWNER_PASSWORD in suite.run("runuser", "-u", "vtpm-manager", "--", *read)
    for user in ("vtpm-hwtpm", "vtpm-bob", "nobody"):
        assert "Permission denied" in suite.run("runuser", "-u", user, "--", *read)
    assert OWNER_PASSWORD not in suite.run("systemctl", "show", "vtpmmgr.service")
    assert OWNER_PASSWORD not in suite.run("cat", f"/proc/{suite.pid('vtpmmgr.service')}/cmdline")


def test_a_reload_takes_up_a_guests_file_and_its_tpm_goes_on(suite: SuiteMachine) -> None:
    vtpm, front = pair("bob")
    before = {unit: suite.pid(unit) for unit in (*SHARED, vtpm, front)}
    with suite.path("/etc/vtpm/guests.d/bob.toml").open("a") as file:
        file.write('loglevel = "debug"\n')
    suite.run("systemctl", "reload", *before)
    assert suite.exchange("bob", GET_RANDOM)[6:10] == OK
    assert {unit: suite.pid(unit) for unit in before} == before
    while "configuration read again" not in suite.run("journalctl", "-u", vtpm):
        assert suite.show(vtpm, "ActiveState") in ("active", "reloading")
