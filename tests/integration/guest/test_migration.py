# SPDX-License-Identifier: Apache-2.0
"""A machine moves between two QEMU processes while it runs, and takes its TPM along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.guest.image import Image
from tests.integration.guest.qemu import Guest, GuestError, make_disk, running_guest
from tests.integration.guest.sealing import SECRET, is_settled, settle, unseal
from tests.integration.stack import running_stack
from tests.integration.test_move import GUEST, Machine, provision


@contextmanager
def moved(image: Image, folder: Path, source: Path, target: Path) -> Iterator[Guest]:
    """Give a guest that has settled at one TPM and moved to another.

    Args:
        folder: for both QEMUs and the disk that they share.
        source: control socket.
        target: control socket.
    """
    disk = make_disk(folder / "disk")
    with running_guest(image, folder / "1", source, disk=disk) as left:
        settle(left)
        assert left.why_not_migratable() == []
        with running_guest(image, folder / "2", target, disk=disk, incoming=True) as arrived:
            left.migrate_to(arrived)
            yield arrived


@pytest.mark.timeout(600)
def test_a_machine_and_its_tpm_move_while_they_run(run_dir: Path, image: Image) -> None:
    with running_stack(run_dir, ("g1", "g2")) as stack:
        source, target = map(stack.control_socket, ("g1", "g2"))
        stack.vtpmctl("vtpm", "migrate-to", "--guest", "g1", "--to-vtpm", "g2")
        with moved(image, run_dir, source, target) as guest:
            assert is_settled(guest)
            guest.power_off()
        # It is a machine like any other there, which can boot.
        with running_guest(image, run_dir / "3", target, disk=run_dir / "disk") as guest:
            guest.start_tcsd()
            assert unseal(guest) == SECRET


@pytest.mark.timeout(600)
def test_a_machine_whose_tpm_is_refused_at_the_target_goes_on_and_moves_later(
    run_dir: Path, image: Image
) -> None:
    disk = make_disk(run_dir / "disk")
    with (
        running_stack(run_dir, ("g1", "g2")) as stack,
        running_guest(image, run_dir / "1", stack.control_socket("g1"), disk=disk) as left,
    ):
        settle(left)
        target = stack.control_socket("g2")
        with (
            running_guest(image, run_dir / "2", target, disk=disk, incoming=True) as refused,
            pytest.raises(GuestError, match="tpm-emulator: Setting the stateblob"),
        ):
            left.migrate_to(refused)
        left.go_on_here()
        assert is_settled(left)
        assert "state blob of another vTPM" in stack.stderr()
        stack.vtpmctl("vtpm", "migrate-to", "--guest", "g1", "--to-vtpm", "g2")
        with running_guest(image, run_dir / "3", target, disk=disk, incoming=True) as arrived:
            left.migrate_to(arrived)
            assert is_settled(arrived)


@pytest.mark.timeout(600)
def test_a_machine_and_its_tpm_move_to_another_manager_that_is_approved(
    run_dir: Path, image: Image
) -> None:
    folders = [run_dir / name for name in ("a", "b", "f")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stacks:
        source, target = machines = [
            Machine(stacks.enter_context(running_stack(folders[0], (GUEST,))), folders[2]),
            Machine(stacks.enter_context(running_stack(folders[1], ("other",))), folders[2]),
        ]
        provision(machines, folders[2])
        (row,) = json.loads(source.insist("guest", "list", "--json"))["guests"]
        target.insist("guest", "add", GUEST, "--uuid", row["uuid"])
        source.insist(
            *("vtpm", "migrate-to", "--guest", GUEST),
            *("--to", str(folders[2] / "1.key"), "--approval", str(folders[2] / "0.approval")),
        )
        controls = (machine.stack.control_socket(GUEST) for machine in machines)
        with moved(image, run_dir, *controls) as guest:
            assert is_settled(guest)
        assert "state key of another manager opened" in target.stack.stderr()
