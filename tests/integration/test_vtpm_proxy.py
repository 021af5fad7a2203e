# SPDX-License-Identifier: Apache-2.0
"""`tpmfront vtpm-proxy` at a real vTPM, used as a kernel's driver and programs at the device do.

Where the kernel has no vTPM proxy, as in most test machines, its side is a stand-in
(`proxy_process`), and the command itself is held to saying so.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.tpmfront.proxydevice import CONTROL_DEVICE
from protocol.tpm12.constants import Ordinal, ReturnCode, Tag
from protocol.tpm12.framing import build_message, error_response
from tests.integration.proxy_process import (
    DEVICE_NUMBER,
    device_node,
    running_proxy,
    uids_of,
)
from tests.integration.stack import Stack, running_stack
from tests.integration.tcsd import running_tcsd
from tests.integration.waiting import wait_until

PCR_READ_20 = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, (20).to_bytes(4, "big"))
EXTEND_20 = build_message(Tag.RQU_COMMAND, Ordinal.EXTEND, (20).to_bytes(4, "big") + bytes(20))
SELF_TEST = build_message(Tag.RQU_COMMAND, Ordinal.SELF_TEST_FULL)
STARTUP = build_message(Tag.RQU_COMMAND, Ordinal.STARTUP, bytes.fromhex("0001"))


def set_locality(locality: int) -> bytes:
    return build_message(Tag.RQU_COMMAND, 0x20001000, bytes([locality]))


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    module_dir.chmod(0o755)  # a tcsd is somebody else
    with running_stack(module_dir, ("g1",)) as running:
        yield running


def options(stack: Stack) -> list[str]:
    backend = stack.root / "run/guests/g1/tpmback.sock"
    config = stack.root / "state/etc"
    return ["--backend", str(backend), "--config", str(config), "--guest", "g1"]


def test_the_drivers_first_commands_are_answered_as_by_a_chip(stack: Stack, run_dir: Path) -> None:
    with running_proxy(run_dir, options(stack)) as driver:
        assert driver.device == f"/dev/tpm{DEVICE_NUMBER}"
        # The driver sends TPM_Startup only if the chip says that it has not had one.
        assert driver.transmit(STARTUP) == error_response(ReturnCode.INVALID_POSTINIT)
        assert driver.transmit(SELF_TEST) == build_message(Tag.RSP_COMMAND, 0)
        for number in (0x115, 0x120):  # timeouts, durations
            body = bytes.fromhex("00000005 00000004") + number.to_bytes(4, "big")
            told = driver.transmit(build_message(Tag.RQU_COMMAND, Ordinal.GET_CAPABILITY, body))
            assert told[6:10] == bytes(4)
        assert driver.transmit(PCR_READ_20) == stack.transact("g1", PCR_READ_20)


def test_a_locality_that_the_kernel_sets_is_the_vtpms(stack: Stack, run_dir: Path) -> None:
    with running_proxy(run_dir, options(stack)) as driver:
        assert driver.transmit(EXTEND_20) == error_response(ReturnCode.BAD_LOCALITY)
        assert driver.transmit(set_locality(2))[6:10] == bytes(4)
        assert driver.transmit(EXTEND_20)[6:10] == bytes(4)
        assert driver.transmit(set_locality(4)) == error_response(ReturnCode.BAD_LOCALITY)
        assert driver.transmit(EXTEND_20)[6:10] == bytes(4)
        # Which is nothing to the front beside it.
        assert stack.transact("g1", EXTEND_20) == error_response(ReturnCode.BAD_LOCALITY)
    log = (run_dir / "proxy.log").read_text()
    assert "locality refused to the kernel locality=4" in log


def test_tcsd_takes_ownership_seals_and_unseals_at_the_device(stack: Stack) -> None:
    folder = stack.root / "node"
    folder.mkdir()
    folder.chmod(0o755)
    secret, sealed = folder / "secret", folder / "sealed"
    secret.write_text("what g1 alone knows")
    with (
        running_proxy(folder, options(stack)) as driver,
        device_node(driver, folder / "tpm0"),
        running_tcsd(folder / "tpm0", folder / "tcs") as tcsd,
    ):
        tcsd.run("tpm_takeownership", "-y", "-z")
        tcsd.run("tpm_sealdata", "-z", "-i", str(secret), "-o", str(sealed), "-p", "0")
        assert tcsd.run("tpm_unsealdata", "-z", "-i", str(sealed)) == "what g1 alone knows"
        # The vTPM may be replaced meanwhile: the proxy finds it again.
        before = stack.pid("vtpm-g1")
        os.kill(before, signal.SIGKILL)
        stack.wait_daemon_replaced("vtpm-g1", before)
        assert tcsd.run("tpm_unsealdata", "-z", "-i", str(sealed)) == "what g1 alone knows"


def test_root_is_given_up_once_the_device_is_made(run_dir: Path) -> None:
    """A process that becomes somebody else has no capability left, whatever it was given."""
    uid = str(pwd.getpwnam("nobody").pw_uid)
    uuid = "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"
    words = ["--backend", str(run_dir / "none"), "--uuid", uuid, "--user", "nobody"]
    with running_proxy(run_dir, words) as driver:
        uids, capabilities = uids_of(driver.process.pid)
        assert uids == {uid}
        assert int(capabilities, 16) == 0


def test_a_user_that_there_is_not_is_named(run_dir: Path) -> None:
    words = ["--backend", str(run_dir / "none"), "--user", "nobody-of-this-name"]
    uuid = "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"
    with (
        pytest.raises(AssertionError, match="there is no user nobody-of-this-name"),
        running_proxy(run_dir, [*words, "--uuid", uuid]),
    ):
        pass


def test_this_kernel_makes_a_device_or_the_command_says_what_is_missing(
    stack: Stack, run_dir: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "daemons.tpmfront", "vtpm-proxy", *options(stack)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        device = process.stdout.readline().strip()
        if CONTROL_DEVICE.exists():
            try:
                number = device.removeprefix("/dev/tpm")
                wait_registered(Path(f"/sys/class/tpm/tpm{number}/pcrs"))
            finally:
                process.terminate()
            assert process.wait(60) == 0
        else:
            assert device == ""
            assert process.wait(60) == 1
            assert "load the kernel's vTPM proxy with modprobe" in process.stderr.read()


def wait_registered(pcrs: Path) -> None:
    """Wait until the kernel has taken the device as one of its TPMs; its PCRs can be read then."""
    wait_until(pcrs.exists, str(pcrs))
    assert pcrs.read_text().startswith("PCR-00: ")
