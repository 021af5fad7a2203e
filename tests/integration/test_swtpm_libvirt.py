# SPDX-License-Identifier: Apache-2.0
"""libvirt's command lines for swtpm on this suite: what it says and what it wants."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from protocol.manager.compat import compat_uuid
from protocol.tpm12.constants import ReturnCode
from tests.integration.stack import running_stack, transact
from tests.integration.swtpm_link import (
    GET_TICKS,
    STARTED,
    STARTUP_CLEAR,
    Link,
    code_of,
    configure_localca,
    connect,
    ioctl,
    make_ek,
    make_link,
    read_ek,
    wait_gone,
)
from tpmcore.errors import TpmError


@pytest.fixture(scope="module")
def link(module_dir: Path) -> Iterator[Link]:
    """The link, on a stack whose manager admits this user's TPMs."""
    with running_stack(module_dir) as stack:
        yield make_link(module_dir / "bin", stack.root / "run" / "vtpmmgr.sock")


@pytest.fixture
def state(module_dir: Path) -> Path:
    """A new folder for a TPM, with a short name."""
    folder = module_dir / f"D{len(list(module_dir.glob('D*')))}"
    folder.mkdir()
    return folder


def test_libvirts_line_waits_for_init_and_ends_with_its_client(link: Link, state: Path) -> None:
    uuid = UUID("6a1f2b3c-1111-4222-8333-444455556666")
    folder = state / str(uuid) / "tpm1.2"
    folder.mkdir(parents=True)
    control = state / "ctrl"
    line = (
        *("socket", "--ctrl", f"type=unixio,path={control},mode=0600"),
        *("--tpmstate", f"dir={folder},mode=0600", "--log", f"file={state}/log"),
        *("--server", f"type=unixio,path={state}/sock"),
        *("--terminate", "--migration", "release-lock-outgoing"),
    )
    with link.daemon(*line, pid=state / "pid") as pid:
        assert (folder / "vtpm.uuid").read_text().strip() == str(compat_uuid(os.geteuid(), uuid))
        pidfd = os.pidfd_open(pid)
        with connect(state / "sock") as client:
            assert code_of(transact(client, GET_TICKS)) == ReturnCode.FAIL
            ioctl(control, "-i")
            assert code_of(transact(client, GET_TICKS)) == ReturnCode.INVALID_POSTINIT
            assert code_of(transact(client, STARTUP_CLEAR)) == 0
            assert code_of(transact(client, GET_TICKS)) == 0
        wait_gone(pidfd)
        os.close(pidfd)
    log = (state / "log").read_text()
    assert "option has no effect option=--migration" in log
    assert "vtpm[" in log


def test_what_libvirt_says_and_wants_in_a_machines_life(link: Link, state: Path) -> None:
    """Its own lines, of libvirt 9.0.0 with a secret in the machine's definition."""
    uuid = UUID("6a1f2b3c-9999-4222-8333-444455556666")
    folder, control, log = state / str(uuid) / "tpm1.2", state / "ctrl", state / "log"
    told = json.loads(link.run("socket", "--print-capabilities").stdout)
    assert "cmdarg-pwd-fd" in told["features"]
    config = configure_localca(state / "localca")
    folder.mkdir(parents=True)
    with secret_fd() as secret:
        setup = subprocess.run(
            [
                *("swtpm_setup", "--pwdfile-fd", str(secret), "--cipher", "aes-256-cbc"),
                *("--tpm-state", str(folder), "--vmid", f"m:{uuid}", "--logfile", str(log)),
                *("--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram"),
                *("--not-overwrite", "--config", str(config)),
            ],
            env=link.environment,
            pass_fds=[secret],
            timeout=120,
        )
    assert setup.returncode == 0, log.read_text()
    with secret_fd() as key, secret_fd() as migration_key:
        words = (
            *("--key", f"pwdfd={key},mode=aes-256-cbc"),
            *("--migration-key", f"pwdfd={migration_key},mode=aes-256-cbc"),
        )
        with link.of_libvirt(folder, control, *words, pass_fds=(key, migration_key)) as process:
            # It says where it is by this; who comes early waits.
            assert control.stat().st_mode & 0o777 == 0o600
            assert "0x17fff" in ioctl(control, "-c")
            ioctl(control, "-i")
            ioctl(control, "-s")
            assert process.wait(60) == 0
    assert not control.exists()
    assert "TPM can be used" in folder.with_name("tpm1.2.log").read_text()


@contextlib.contextmanager
def secret_fd() -> Iterator[int]:
    """Give the reading end of a pipe with a passphrase in it."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"open sesame")
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def test_a_folder_that_was_removed_and_made_anew_is_another_tpm(link: Link, state: Path) -> None:
    folder, tpm = state / "6a1f2b3c-7777-4222-8333-444455556666" / "tpm1.2", state / "sock"
    line = (
        *("socket", "--tpmstate", f"dir={folder}", "--server", f"type=unixio,path={tpm}"),
        *("--log", f"file={state}/log", *STARTED),
    )
    folder.mkdir(parents=True)
    with link.daemon(*line, pid=state / "pid"):
        ek = make_ek(tpm)
    former = (folder / "vtpm.uuid").read_text().strip()
    # A folder that has lost its name only is not made anew.
    name = folder / "vtpm.uuid"
    name.unlink()
    refused = link.run(*line, "--daemon", "--pid", f"file={state}/pid", fails=True)
    told = refused.stderr + (state / "log").read_text()
    assert f"{folder} has images of a TPM and no vtpm.uuid" in told
    assert not name.exists()
    name.write_text(f"{former}\n")
    with link.daemon(*line, pid=state / "pid"):
        assert read_ek(tpm) == ek
    shutil.rmtree(folder)
    folder.mkdir()
    for _ in range(2):
        with link.daemon(*line, pid=state / "pid"), pytest.raises(TpmError) as refusal:
            read_ek(tpm)
        assert refusal.value.code == ReturnCode.NO_ENDORSEMENT
    assert (folder / "vtpm.uuid").read_text().strip() != former
    lines = [one for one in (state / "log").read_text().splitlines() if "made anew is" in one]
    assert lines == [f"swtpm warning: folder made anew is another TPM former={former}"]
