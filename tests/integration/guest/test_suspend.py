# SPDX-License-Identifier: Apache-2.0
"""A machine is saved, goes on later, and its TPM is as it was then."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemons.vtpm.stateblob import MAGIC
from protocol.tpm12.constants import NvAttributes
from tests.integration.guest.image import Image
from tests.integration.guest.qemu import make_disk, running_guest
from tests.integration.guest.sealing import (
    SEALED_IN_MEMORY,
    is_settled,
    run_strange_program,
    settle,
    unseal_is_refused,
)
from tests.integration.log_search import SEARCH
from tests.integration.stack import Stack, running_stack
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12

WELL_KNOWN = bytes(20)
AREA = 0x10050
CONTENT = SEARCH.secret(b"in an NV area that the guest never reads")


def write_area(stack: Stack) -> None:
    """Put something into the TPM of guest g1 from outside: the guest has it nowhere else."""
    random = SeededRandom("area")
    attributes = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD
    for conversation in (
        tss12.nv_define_space(
            *(AREA, len(CONTENT), attributes),
            owner_auth=WELL_KNOWN,
            area_auth=WELL_KNOWN,
            random=random,
        ),
        tss12.nv_write_value(AREA, CONTENT, owner_auth=WELL_KNOWN, random=random),
    ):
        tss12.run_sync(lambda command: stack.transact("g1", command), conversation)


@pytest.mark.timeout(600)
def test_a_saved_machine_goes_on_with_its_tpm_as_it_was(run_dir: Path, image: Image) -> None:
    disk = make_disk(run_dir / "disk")
    with running_stack(run_dir) as stack:
        control = stack.control_socket("g1")
        with running_guest(image, run_dir / "q", control, disk=disk) as guest:
            settle(guest)
            write_area(stack)
            guest.save("settled")
            saved = disk.read_bytes()
            assert MAGIC in saved
            assert CONTENT not in saved
            assert is_settled(guest)
            # Back in the same machine,
            run_strange_program(guest)
            assert unseal_is_refused(guest, path=SEALED_IN_MEMORY)
            guest.load("settled")
            assert is_settled(guest)
            run_strange_program(guest)
            guest.kill()
        # and in another one, after its TPM had lost power.
        with running_guest(image, run_dir / "q2", control, disk=disk, snapshot="settled") as guest:
            assert is_settled(guest)
