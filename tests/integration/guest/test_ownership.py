# SPDX-License-Identifier: Apache-2.0
"""The TPM is the guest's: its tcsd owns it and seals to what was measured, through reboots."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.guest.image import Image
from tests.integration.guest.qemu import make_disk, running_guest
from tests.integration.guest.sealing import (
    FIRMWARE,
    SEALED_IN_MEMORY,
    SECRET,
    is_owned,
    run_strange_program,
    settle,
    unseal,
    unseal_is_refused,
)
from tests.integration.stack import running_stack


@pytest.mark.timeout(600)
def test_a_guest_owns_its_tpm_and_unseals_after_a_reboot(run_dir: Path, image: Image) -> None:
    disk = make_disk(run_dir / "disk")
    with (
        running_stack(run_dir) as stack,
        running_guest(image, run_dir / "q", stack.control_socket("g1"), disk=disk) as guest,
    ):
        firmware = {index: guest.pcrs()[index] for index in FIRMWARE}
        settle(guest)
        run_strange_program(guest)
        assert unseal_is_refused(guest, path=SEALED_IN_MEMORY)
        assert unseal(guest) == SECRET

        guest.reboot()
        # Reset and measured again: the same values, and not on top of those before.
        assert {index: guest.pcrs()[index] for index in FIRMWARE} == firmware
        assert is_owned(guest)
        guest.start_tcsd()
        assert unseal(guest) == SECRET
