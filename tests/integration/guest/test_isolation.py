# SPDX-License-Identifier: Apache-2.0
"""Two guests at once: what happens to one, or to its vTPM, is nothing to the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.guest.image import Image
from tests.integration.guest.qemu import Guest, make_disk, running_guest
from tests.integration.guest.replacing import replace_daemons
from tests.integration.guest.sealing import (
    FIRMWARE,
    Worker,
    is_owned,
    new_tpm_complaints,
    seal,
    take_ownership,
    unseal,
)
from tests.integration.log_search import SEARCH
from tests.integration.stack import Stack, running_stack

GUESTS = ("g1", "g2")
SECRETS = {guest: SEARCH.password(f"only guest {guest} knows") for guest in GUESTS}


@contextmanager
def booted_again(stack: Stack, image: Image, folder: Path, disk: Path) -> Iterator[Guest]:
    """Boot guest g1, whose QEMU was killed, and see that its TPM is as it left it."""
    with running_guest(image, folder, stack.control_socket("g1"), disk=disk) as guest:
        assert is_owned(guest)
        guest.start_tcsd()
        assert unseal(guest) == SECRETS["g1"]
        yield guest
        guest.kill()


@pytest.mark.timeout(600)
def test_a_guest_that_is_killed_comes_back_and_the_other_does_not_notice(
    run_dir: Path, image: Image
) -> None:
    with ExitStack() as context:
        stack = context.enter_context(running_stack(run_dir, GUESTS))
        disks = {name: make_disk(run_dir / f"{name}.disk") for name in GUESTS}
        guests = {
            name: context.enter_context(
                running_guest(
                    *(image, run_dir / name, stack.control_socket(name)),
                    disk=disks[name],
                    wait=False,
                )
            )
            for name in GUESTS
        }
        for name, guest in guests.items():
            guest.wait_ready()
            take_ownership(guest)
            seal(guest, SECRETS[name], pcrs=FIRMWARE)
        bystander = guests["g2"]
        new_tpm_complaints(bystander)
        worker = Worker(bystander, SECRETS["g2"])
        worker.wait_rounds()

        guests["g1"].kill()
        worker.wait_rounds()
        again = stack, image, run_dir / "g1", disks["g1"]
        with booted_again(*again) as guest:
            worker.wait_rounds()
            replace_daemons(stack, "vtpm-g1", "tpmfront-g1")
            worker.wait_rounds()
            assert unseal(guest) == SECRETS["g1"]
        with booted_again(*again):
            worker.wait_rounds()
        worker.stop()
        assert new_tpm_complaints(bystander) == ""
