# SPDX-License-Identifier: Apache-2.0
"""What the daemons have logged in this run shows none of the secrets that the run used.

Runs after everything else, so that it sees what that has logged (`conftest`). One of several
workers sees what itself has logged, and the process that started them sees all when they have
ended. A round of its own sees to it that there is something to see.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.tpm12.constants import NvAttributes
from tests.integration.log_search import SEARCH, LogSearch
from tests.integration.machine import ROOT
from tests.integration.stack import Stack, StackError, running_stack, transact
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError

OWNER = "the owner of the hardware in this test"
GUEST_OWNER = hashlib.sha1(b"the owner of a guest").digest()
GUEST_SRK = hashlib.sha1(b"the storage root of a guest").digest()
CONTENT = b"in an NV area, for the owner's eyes only"
AREA = 0x10042


def use_secrets(stack: Stack, search: LogSearch) -> None:
    """Have a guest's TPM see secrets of every kind, with success and without."""
    random = SeededRandom("whole log")
    with stack.connect("g1") as client:

        def send(command: bytes) -> bytes:
            return transact(client, command)

        for secret in (GUEST_OWNER, GUEST_SRK, CONTENT):
            search.secret(secret)
        tss12.run_sync(
            send, tss12.take_ownership(owner_auth=GUEST_OWNER, srk_auth=GUEST_SRK, random=random)
        )
        attributes = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE
        tss12.run_sync(
            send,
            tss12.nv_define_space(
                AREA,
                len(CONTENT),
                attributes,
                owner_auth=GUEST_OWNER,
                area_auth=GUEST_SRK,
                random=random,
            ),
        )
        tss12.run_sync(
            send, tss12.nv_write_value(AREA, CONTENT, owner_auth=GUEST_OWNER, random=random)
        )
        wrong = search.secret(hashlib.sha1(b"a wrong guess of the owner").digest())
        with pytest.raises(TpmError):
            tss12.run_sync(send, tss12.nv_read_value(AREA, 8, owner_auth=wrong, random=random))


def test_no_log_of_this_run_shows_a_secret(run_dir: Path) -> None:
    auth = f"text:{SEARCH.password(OWNER)}"
    options = ("--loglevel", "debug", "--owner-auth", auth)
    with running_stack(run_dir, options=options) as stack:
        use_secrets(stack, SEARCH)
    # In no form that there is: what says so does not quote it.
    refused = Stack(run_dir, options=("--owner-auth", SEARCH.password("typed without its form")))
    with pytest.raises(StackError):
        refused.wait_ready()
    SEARCH.collect(run_dir)
    assert len(SEARCH.secrets) >= 8
    assert any(b"TPM started" in log for log in SEARCH.logs.values())
    assert list(SEARCH.found()) == []


WORKERS = {
    "test_one.py": """
from tests.integration.log_search import SEARCH

def test_that_knows_a_secret():
    SEARCH.secret(b"known to one worker")
""",
    "test_other.py": """
def test_that_logs(run_dir):
    (run_dir / "vtpm.stderr").write_bytes(b"vtpm[guest=g1] %s")
""",
}


@pytest.mark.parametrize(("logged", "code"), [("known to one worker", 1), ("serving", 0)])
def test_what_several_workers_have_logged_is_searched_for_the_secrets_of_all(
    run_dir: Path, logged: str, code: int
) -> None:
    for name, text in WORKERS.items():
        (run_dir / name).write_text(text.replace("%s", logged))
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "tests.conftest",
                "-c",
                ROOT / "pyproject.toml",
            ),
            *("-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", run_dir),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "2 passed" in done.stdout
    assert done.returncode == code
    shown = re.findall("^/tmp/.*: a secret of 19 bytes, as it is$", done.stdout, re.MULTILINE)
    assert len(shown) == code
    assert ("secrets in the logs of this run" in done.stdout) == bool(code)


@pytest.mark.parametrize(
    "shown",
    [
        lambda secret: secret,
        lambda secret: secret.hex().encode(),
        lambda secret: b"key=" + secret.hex(" ").encode() + b" more",
        lambda secret: repr(secret).encode(),
        lambda secret: base64.b64encode(b"ab" + secret + b"tail"),
    ],
    ids=["as it is", "hexadecimal", "spaced", "repr", "base64"],
)
def test_a_secret_in_a_log_would_be_found(run_dir: Path, shown: object) -> None:
    assert callable(shown)
    search = LogSearch()
    search.secret(GUEST_OWNER)
    (run_dir / "deep").mkdir()
    log = run_dir / "deep" / "vtpm.stderr"
    log.write_bytes(b"vtpm[guest=g1] serving\n")
    search.collect(run_dir)
    assert list(search.found()) == []
    log.write_bytes(b"vtpm[guest=g1] saved " + shown(GUEST_OWNER) + b"\n")
    search.collect(run_dir)
    (found,) = {line.partition(",")[0] for line in search.found()}
    assert found == f"{log}: a secret of 20 bytes"
    log.unlink()
