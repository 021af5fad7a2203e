# SPDX-License-Identifier: Apache-2.0
"""A guest does not notice that the daemons of its TPM are replaced under it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.guest.image import Image
from tests.integration.guest.qemu import make_disk, running_guest
from tests.integration.guest.replacing import replace_daemons
from tests.integration.guest.sealing import (
    FIRMWARE,
    SECRET,
    Worker,
    new_tpm_complaints,
    seal,
    take_ownership,
    unseal,
)
from tests.integration.stack import running_stack

RESTARTS = (
    ("tpmfront-g1", signal.SIGTERM),
    ("vtpm-g1", signal.SIGTERM),
    ("vtpmmgr", signal.SIGKILL),
)
"""At any moment, also while a command is under way."""
KILLS = ("vtpm-g1", "tpmfront-g1", "vtpm-g1")
"""Between commands: a command that is lost with its daemon is not executed twice, but fails."""


@pytest.mark.timeout(600)
def test_a_guest_does_not_notice_that_its_daemons_are_replaced(run_dir: Path, image: Image) -> None:
    disk = make_disk(run_dir / "disk")
    with (
        running_stack(run_dir) as stack,
        running_guest(image, run_dir / "q", stack.control_socket("g1"), disk=disk) as guest,
    ):
        take_ownership(guest)
        seal(guest, SECRET, pcrs=FIRMWARE)
        # All programs that are measured have been when it has opened once.
        assert unseal(guest) == SECRET
        pcrs = guest.pcrs()
        new_tpm_complaints(guest)
        worker = Worker(guest, SECRET)
        worker.wait_rounds()
        for daemon, number in RESTARTS:
            replace_daemons(stack, daemon, by=number)
            worker.wait_rounds()
        for daemon in KILLS:
            with worker.paused():
                replace_daemons(stack, daemon)
        worker.stop()
        assert guest.pcrs() == pcrs
        assert new_tpm_complaints(guest) == ""
