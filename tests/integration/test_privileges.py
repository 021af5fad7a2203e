# SPDX-License-Identifier: Apache-2.0
"""What is left of root in a process that has become another user, and who may not become one."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.machine import ROOT

NOBODY = pwd.getpwnam("nobody")
OF_NOBODY = {
    "uids": [NOBODY.pw_uid] * 3,
    "gids": [NOBODY.pw_gid] * 3,
    "groups": [],
    "capabilities": 0,
}
AS_NOBODY = ("--reuid", str(NOBODY.pw_uid), "--regid", str(NOBODY.pw_gid))
STRANGER = "4711"  # a group that is not nobody's

SCRIPT = """
import json, os, re, sys
from pathlib import Path
from daemons.runtime.errors import DaemonError
from daemons.tpmfront.privileges import become_user

exec(sys.argv[2])
said = None
try:
    become_user(sys.argv[1])
except DaemonError as error:
    said = str(error)
status = Path("/proc/self/status").read_text()
print(json.dumps({
    "said": said,
    "uids": os.getresuid(),
    "gids": os.getresgid(),
    "groups": os.getgroups(),
    "capabilities": int(re.search(r"^CapPrm:\\t(.*)$", status, re.M)[1], 16),
}))
"""


def become(user: str, *before: str, first: str = "") -> dict[str, Any]:
    """Have a process become a user, and return who it is then and what it says.

    Args:
        user: its name.
        before: what the process is when it begins, as options of setpriv.
        first: a line of Python that it runs before.
    """
    assert os.geteuid() == 0, "to be several users takes root"
    done = subprocess.run(
        ["setpriv", *before, sys.executable, "-c", SCRIPT, user, first],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("groups", [("--clear-groups",), (f"--groups={STRANGER}",)])
def test_of_root_nothing_is_left(groups: tuple[str, ...]) -> None:
    assert become("nobody", *groups) == {"said": None, **OF_NOBODY}


def test_root_is_nobody_to_become() -> None:
    told = become("root")
    assert told["said"] == "user root is root, who gives nothing up"
    told = become("root", *AS_NOBODY, "--clear-groups")
    assert told == {"said": "user root is root, who gives nothing up", **OF_NOBODY}


@pytest.mark.parametrize("groups", [("--clear-groups",), (f"--groups={NOBODY.pw_gid}",)])
def test_who_is_the_user_already_needs_no_rights(groups: tuple[str, ...]) -> None:
    told = become("nobody", *AS_NOBODY, *groups)
    groups_left = told.pop("groups")
    assert told == {"said": None, **{k: v for k, v in OF_NOBODY.items() if k != "groups"}}
    assert set(groups_left) <= {NOBODY.pw_gid}


@pytest.mark.parametrize(
    "before",
    [
        ("--reuid", str(NOBODY.pw_uid), "--regid", STRANGER, "--clear-groups"),
        (*AS_NOBODY, f"--groups={STRANGER}"),
        (*AS_NOBODY, f"--groups={NOBODY.pw_gid},0"),
        ("--reuid", "4711", "--regid", str(NOBODY.pw_gid), "--clear-groups"),
    ],
    ids=["another group", "a further group", "root's group", "another user"],
)
def test_who_is_the_user_in_part_only_does_not_pass_for_it(before: tuple[str, ...]) -> None:
    assert become("nobody", *before)["said"] == "to become user nobody takes root"


def test_no_way_back_is_left_in_a_saved_id() -> None:
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    first = f"os.setgroups([]); os.setresgid({gid}, {gid}, 0); os.setresuid({uid}, {uid}, 0)"
    assert become("nobody", first=first) == {"said": None, **OF_NOBODY}


def test_a_user_that_was_started_with_a_capability_does_not_keep_it_in_silence() -> None:
    with_setgid = ("--inh-caps=+setgid", "--ambient-caps=+setgid")
    told = become("nobody", *AS_NOBODY, f"--groups={STRANGER}", *with_setgid)
    assert told["groups"] == []
    assert told["said"] == "user nobody keeps capabilities that it was started with (0x40)"


def test_a_user_that_there_is_not_is_named() -> None:
    assert become("nobody-of-this-name")["said"] == "there is no user nobody-of-this-name"
