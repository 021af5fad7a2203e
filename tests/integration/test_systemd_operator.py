# SPDX-License-Identifier: Apache-2.0
"""The manager under systemd as its operator sees it: what root asks it, and an older database that
is taken on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.suite_machine import SuiteMachine, suite_machine

OWNER = "hash:" + "5a" * 20
GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
STATE = "/var/lib/vtpm/vtpmmgr"
SECRET = "/etc/vtpm/credentials/owner-auth"


@pytest.fixture
def suite(run_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    etc = {"vtpm/credentials/owner-auth": f"{OWNER}\n"}
    with suite_machine(run_dir, installed, ("g1",), etc=etc) as suite:
        suite.start()
        yield suite


def ask(suite: SuiteMachine, *words: str) -> dict[str, object]:
    said: dict[str, object] = json.loads(suite.run("vtpmctl", *words, "--system", "--json"))
    return said


def accept(suite: SuiteMachine, *words: str) -> str:
    """Run the command and return all that it says, whatever comes of it."""
    command = ("vtpmctl", "manager", "accept-rollback", "--system", "--owner-auth", *words)
    return suite.run("sh", "-c", 'exec "$@" 2>&1', "sh", *command, check=False)


@pytest.mark.timeout(300)
def test_root_operates_the_manager_and_takes_an_older_database_on_purpose(
    suite: SuiteMachine,
) -> None:
    vtpm = ask(suite, "vtpm", "show", "g1")
    assert (vtpm["guest"], vtpm["open"]) == ("g1", True)
    assert ask(suite, "manager", "status")["state"] == "serving"
    said = accept(suite, f"file:{SECRET}", "--yes", "1")
    assert "systemctl stop vtpm.target first" in said

    suite.stop()
    suite.run("cp", "-a", STATE, "/var/lib/vtpm/older")
    suite.run("systemctl", "start", "vtpm.target")
    made = ask(suite, "vtpm", "new")["uuid"]
    suite.stop()
    suite.run("sh", "-c", f"rm -r {STATE} && mv /var/lib/vtpm/older {STATE}")
    suite.run("systemctl", "start", "vtpmmgr.service", check=False)
    assert suite.show("vtpmmgr.service", "ActiveState") == "failed"
    suite.stop()

    looked = accept(suite, f"file:{SECRET}")
    assert "hardware TPM" in looked
    sequence = looked.rsplit("--yes ", 1)[1].split()[0]
    assert "the owner's secret is not" in accept(suite, "well-known", "--yes", sequence)
    done = accept(suite, f"file:{SECRET}", "--yes", sequence)
    assert f"sequence {sequence} goes on as {int(sequence) + 1}" in done
    owner = suite.run("stat", "-c", "%U %a", f"{STATE}/manager.db").split()
    assert owner == ["vtpm-manager", "600"]

    suite.run("systemctl", "reset-failed")
    suite.run("systemctl", "start", "vtpm.target")
    assert suite.exchange("g1", GET_RANDOM)[6:10] == bytes(4)
    assert str(made) not in suite.run("vtpmctl", "vtpm", "list", "--system")
