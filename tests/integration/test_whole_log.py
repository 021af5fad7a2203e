# SPDX-License-Identifier: Apache-2.0
"""What the daemons have logged in this run shows none of the secrets that the run used.

Runs after everything else, so that it sees what that has logged: in one process by the order of the
tests (`conftest`), after several ones as a run of its own on what they left (`--logs`). A round of
its own sees to it that there is something to see.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from protocol.tpm12.constants import NvAttributes
from tests.integration.log_search import LEFT_SUFFIX, SEARCH, LogSearch
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


def test_no_log_of_this_run_shows_a_secret(run_dir: Path, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("logs"):
        assert SEARCH.logs, "the runs before have left nothing"
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


def test_what_several_processes_have_logged_is_searched_for_the_secrets_of_all(
    run_dir: Path,
) -> None:
    left, shows, knows, last = run_dir / "left", LogSearch(), LogSearch(), LogSearch()
    left.mkdir()
    (run_dir / "vtpm.stderr").write_bytes(b"vtpm[guest=g1] \xff" + GUEST_OWNER)
    shows.collect(run_dir)
    shows.leave(left)
    (only,) = left.iterdir()
    assert only.stat().st_mode & 0o777 == 0o600
    only.rename(only.with_name(f"another{LEFT_SUFFIX}"))  # as of another process
    knows.secret(GUEST_OWNER)
    knows.leave(left)
    assert [*shows.found(), *knows.found()] == []
    last.take(left)
    assert list(last.found()) == [f"{run_dir}/vtpm.stderr: a secret of 20 bytes, as it is"]
    (run_dir / "vtpm.stderr").unlink()


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
