# SPDX-License-Identifier: Apache-2.0
"""Whoever has taken over a guest's vTPM or front gets no further: hostile code under the guest's
user, in the very sandbox of its unit, tries to."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration import probe
from tests.integration.suite_machine import BINDIR, SuiteMachine, guest_target, pair, suite_machine

GUESTS = ("a", "b")
MANAGER = "/run/vtpm/vtpmmgr/vtpmmgr.sock"
PLACE = "/opt/probe.py"
RESULT = "/var/log/probe"


@pytest.fixture(scope="module")
def suite(module_dir: Path, installed: Path) -> Iterator[SuiteMachine]:
    with suite_machine(module_dir, installed, GUESTS) as suite:
        suite.start()
        shutil.copy(probe.__file__, suite.path(PLACE))
        # Whoever may read them at all: what keeps others out are the folders and sockets.
        suite.path(RESULT).mkdir(mode=0o755)
        suite.path(PLACE).chmod(0o644)
        yield suite


def replace(suite: SuiteMachine, unit: str, attempts: Mapping[str, str]) -> dict[str, str]:
    """Run the probe as the main process of a unit; the words of its answer."""
    words = " ".join(f"{name}={attempt}" for name, attempt in attempts.items())
    output = f"{RESULT}/{unit}"
    suite.drop_in(
        unit,
        "[Service]\nType=oneshot\nExecStart=\n"
        f"ExecStart={BINDIR}/python -I {PLACE} {words}\n"
        f"StandardOutput=truncate:{output}\nStandardError=journal\nExecPaths={PLACE}\nRestart=no\n",
    )
    try:
        # All of the guest, so that nobody at a socket starts it a second time.
        suite.stop("a")
        suite.run("systemctl", "start", unit)
    finally:
        suite.path(f"/run/systemd/system/{unit}.d/50-test.conf").unlink()
        suite.run("systemctl", "daemon-reload")
    suite.stop("a")
    suite.run("systemctl", "start", guest_target("a"))
    lines = suite.path(output).read_text().splitlines()
    return dict(line.split("=") for line in lines)


def expected(attempts: Mapping[str, str], *allowed: str) -> dict[str, str]:
    return {name: "allowed" if name in allowed else "refused" for name in attempts}


def test_a_hostile_vtpm_reaches_what_is_its_own_and_nothing_of_another_guest(
    suite: SuiteMachine,
) -> None:
    image = next(suite.path("/var/lib/vtpm/guests/a").glob("slot*")).name
    other = next(suite.path("/var/lib/vtpm/guests/b").glob("slot*")).name
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", 0))
        neighbour.listen()
        attempts = {
            "own-image": f"read:/var/lib/vtpm/guests/a/{image}",
            "own-state": "write:/var/lib/vtpm/guests/a/probe",
            "own-uuid": f"claim:{MANAGER},{suite.uuids['a']}",
            "other-image": f"read:/var/lib/vtpm/guests/b/{other}",
            "other-state": "write:/var/lib/vtpm/guests/b/probe",
            "other-guests": "list:/var/lib/vtpm/guests/b",
            "other-uuid": f"claim:{MANAGER},{suite.uuids['b']}",
            "no-uuid": f"claim:{MANAGER},00000000-0000-0000-0000-000000000000",
            "database": "read:/var/lib/vtpm/vtpmmgr/manager.db",
            "chip-state": "list:/var/lib/vtpm/hwtpm",
            **{f"tis-{n}": f"connect:/run/vtpm/hwtpm/locality{n}.sock" for n in range(5)},
            "chip-control": "connect:/run/vtpm/hwtpm/control.sock",
            "manager-control": "connect:/run/vtpm/vtpmmgr/control.sock",
            "manager-admin": "connect:/run/vtpm/vtpmmgr/admin.sock",
            "other-vtpm": "connect:/run/vtpm/vtpms/b/tpmback.sock",
            "other-control": "connect:/run/vtpm/vtpms/b/control.sock",
            "other-front": "connect:/run/vtpm/guests/b/tpm.sock",
            "credential": "read:/run/credentials/vtpmmgr.service/owner-auth",
            "own-binary": "write:/opt/vtpm-suite/bin/vtpm",
            "new-socket": "listen:/var/lib/vtpm/guests/a/socket",
            "shell": "run:/bin/true",
            "network": f"internet:{neighbour.getsockname()[1]}",
            "passwords": "read:/etc/shadow",
        }
        found = replace(suite, pair("a")[0], attempts)
    assert found == expected(attempts, "own-image", "own-state", "own-uuid")


def test_a_hostile_front_reaches_its_vtpm_and_neither_image_nor_manager(
    suite: SuiteMachine,
) -> None:
    image = next(suite.path("/var/lib/vtpm/guests/a").glob("slot*")).name
    attempts = {
        "own-vtpm": f"claim:/run/vtpm/vtpms/a/tpmback.sock,{suite.uuids['a']}",
        "own-image": f"read:/var/lib/vtpm/guests/a/{image}",
        "own-uuid": f"claim:{MANAGER},{suite.uuids['a']}",
        "other-vtpm": f"claim:/run/vtpm/vtpms/b/tpmback.sock,{suite.uuids['b']}",
        "other-front": "connect:/run/vtpm/guests/b/tpm.sock",
        "tis": "connect:/run/vtpm/hwtpm/locality2.sock",
        "state": "write:/var/lib/vtpm/guests/a/probe",
        "new-socket": "listen:/tmp/socket",
        "shell": "run:/bin/true",
    }
    assert replace(suite, pair("a")[1], attempts) == expected(attempts, "own-vtpm")


def test_users_keep_guests_apart_even_without_the_sandbox(suite: SuiteMachine) -> None:
    """The second wall: only the guest's user and the modes of what there is."""
    image = next(suite.path("/var/lib/vtpm/guests/a").glob("slot*")).name
    other = next(suite.path("/var/lib/vtpm/guests/b").glob("slot*")).name
    attempts = {
        "own-image": f"read:/var/lib/vtpm/guests/a/{image}",
        "own-uuid": f"claim:{MANAGER},{suite.uuids['a']}",
        "other-image": f"read:/var/lib/vtpm/guests/b/{other}",
        "other-uuid": f"claim:{MANAGER},{suite.uuids['b']}",
        "database": "read:/var/lib/vtpm/vtpmmgr/manager.db",
        **{f"tis-{n}": f"connect:/run/vtpm/hwtpm/locality{n}.sock" for n in range(5)},
        "manager-control": "connect:/run/vtpm/vtpmmgr/control.sock",
        "other-vtpm": f"claim:/run/vtpm/vtpms/b/tpmback.sock,{suite.uuids['b']}",
        "credential": "read:/run/credentials/vtpmmgr.service/owner-auth",
        # The front is for every local user who can reach its folder.
        "other-front": "connect:/run/vtpm/guests/b/tpm.sock",
    }
    words = [f"{name}={attempt}" for name, attempt in attempts.items()]
    answer = suite.run(
        *("setpriv", "--reuid=vtpm-a", "--regid=vtpm", "--clear-groups", "--no-new-privs"),
        *(f"{BINDIR}/python", "-I", PLACE, *words),
    )
    found = dict(line.split("=") for line in answer.splitlines())
    assert found == expected(attempts, "own-image", "own-uuid", "other-front")
