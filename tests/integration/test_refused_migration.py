# SPDX-License-Identifier: Apache-2.0
"""A live migration whose target does not take the TPM's state, on the control channels as QEMU has
them: the source goes on, the target says so, and neither has lost anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from protocol.manager.constants import ManagerCode
from protocol.tpm12 import ReturnCode
from protocol.tpm12.stored import StoredData
from tests.integration.control_channel import Control
from tests.integration.stack import running_stack, transact
from tests.integration.test_move import GUEST, Machine, look, settle
from tests.integration.test_swtpm_control import (
    EXTEND,
    INIT,
    INIT_DELETING,
    OK,
    STARTUP,
    pcr,
    state,
)

OIAP = bytes.fromhex("00c1 0000000a 0000000a")
TERMINATE = "00c1 0000000e 00000096"
PERMANENT, VOLATILE = 1, 2
STOP, SHUTDOWN = "0000000e", "00000003"
Blobs = dict[int, bytes]


class End:
    """A machine with its TPM at one end of a migration, and the QEMU that holds it."""

    def __init__(self, machine: Machine, guest: str, qemu: Control) -> None:
        self.machine = machine
        self.guest = guest
        self.qemu = qemu
        self.data = qemu.open_data()

    def start(self) -> None:
        """Switch the TPM on as firmware does, and have it measure something."""
        assert self.qemu.ask(INIT_DELETING) == OK
        assert transact(self.data, STARTUP)[6:10] == bytes(4)
        transact(self.data, EXTEND)

    def give(self) -> Blobs:
        """Fetch the state as QEMU does when it has paused its machine."""
        blobs = {kind: state(self.qemu, kind) for kind in (PERMANENT, VOLATILE, 3)}
        assert blobs.pop(3) == b""
        return blobs

    def put(self, kind: int, blob: bytes) -> int:
        """Send a part of the state; the result."""
        head = bytes.fromhex(f"0000000d 00000002 {kind:08x} {len(blob):08x}")
        return int(self.qemu.ask(head + blob), 16)

    def switch_on(self) -> int:
        """Switch the TPM on with what came in; the result."""
        return int(self.qemu.ask(INIT_DELETING), 16)

    def open_session(self) -> bytes:
        """Open a session; its handle, which volatile state has."""
        answer = transact(self.data, OIAP)
        assert answer[6:10] == bytes(4)
        return answer[10:14]

    def has_session(self, handle: bytes) -> bool:
        """Say whether a session goes on, and end it."""
        return transact(self.data, bytes.fromhex(TERMINATE) + handle)[6:10] == bytes(4)

    def told(self) -> str:
        return self.machine.stack.stderr()


@contextmanager
def end(machine: Machine, guest: str) -> Iterator[End]:
    with Control(machine.stack.control_socket(guest)) as qemu:
        yield End(machine, guest, qemu)


@contextmanager
def two_ends(folder: Path, *, on_one_machine: bool) -> Iterator[tuple[End, End, StoredData]]:
    """Give a TPM in use, another one with something of its own, and what the first has sealed.

    Args:
        on_one_machine: as two guests; else as one guest of two machines, of which the source's
            manager was not told that its state may go there.
    """
    with ExitStack() as opened:
        folders = [folder / name for name in ("a", "b")]
        for each in folders:
            each.mkdir()
        guests = (GUEST, "other")
        source = Machine(opened.enter_context(running_stack(folders[0], guests)), folder)
        target, name = source, "other"
        if not on_one_machine:
            target = Machine(opened.enter_context(running_stack(folders[1], ("other",))), folder)
            rows = json.loads(source.insist("guest", "list", "--json"))["guests"]
            (uuid,) = (row["uuid"] for row in rows if row["guest"] == GUEST)
            target.insist("guest", "add", GUEST, "--uuid", uuid)
            name = GUEST
        left = opened.enter_context(end(source, GUEST))
        arrived = opened.enter_context(end(target, name))
        left.start()
        sealed = settle(source)
        look(source, sealed, 0)
        arrived.start()
        yield left, arrived, sealed


@pytest.mark.timeout(240)
@pytest.mark.parametrize("on_one_machine", [True, False])
def test_the_source_goes_on_where_the_target_does_not_get_the_key(
    run_dir: Path, on_one_machine: bool
) -> None:
    with two_ends(run_dir, on_one_machine=on_one_machine) as (left, arrived, sealed):
        value, session = pcr(left.data), left.open_session()
        own = arrived.open_session()
        kept = arrived.give()
        blobs = left.give()

        assert arrived.qemu.ask(STOP) == OK
        for kind in (PERMANENT, VOLATILE):
            assert arrived.put(kind, blobs[kind]) == ManagerCode.AUTHFAIL
        # QEMU gives up here; who goes on has the target's own TPM, which starts anew.
        assert arrived.switch_on() == 0
        assert transact(arrived.data, STARTUP)[6:10] == bytes(4)
        assert pcr(arrived.data) == bytes(20)
        assert not arrived.has_session(session)

        # and nothing of the source is lost, in memory or in the image
        assert pcr(left.data) == value
        assert left.has_session(session)
        look(left.machine, sealed, 1)

        # nor of the target, which can have its own state back
        assert arrived.qemu.ask(STOP) == OK
        for kind in (PERMANENT, VOLATILE):
            assert arrived.put(kind, kept[kind]) == 0
        assert arrived.switch_on() == 0
        assert pcr(arrived.data) != bytes(20)
        assert arrived.has_session(own)

        reason, whose = "of another manager", "state blob: manager refused"
        if on_one_machine:
            reason, whose = "of another vTPM", "state blob of another vTPM"
        assert f"the state is {reason}" in arrived.told()
        assert whose in arrived.told()


@pytest.mark.timeout(240)
def test_it_can_be_tried_again_when_the_operator_has_named_the_target(run_dir: Path) -> None:
    with two_ends(run_dir, on_one_machine=True) as (left, arrived, sealed):
        blobs = left.give()
        assert arrived.qemu.ask(STOP) == OK
        assert arrived.put(PERMANENT, blobs[PERMANENT]) == ManagerCode.AUTHFAIL
        transact(left.data, EXTEND)
        look(left.machine, sealed, 1)
        value, session = pcr(left.data), left.open_session()

        left.machine.insist("vtpm", "migrate-to", "--guest", GUEST, "--to-vtpm", "other")
        blobs = left.give()
        for kind in (PERMANENT, VOLATILE):
            assert arrived.put(kind, blobs[kind]) == 0
        assert arrived.switch_on() == 0
        assert pcr(arrived.data) == value
        assert arrived.has_session(session)
        # Nothing went out of service: QEMU would end here what goes on there.
        assert pcr(left.data) == value
        assert "state key given to another vTPM" in arrived.told()


@pytest.mark.timeout(240)
def test_states_of_two_attempts_start_no_tpm(run_dir: Path) -> None:
    with two_ends(run_dir, on_one_machine=True) as (left, arrived, sealed):
        left.machine.insist("vtpm", "migrate-to", "--guest", GUEST, "--to-vtpm", "other")
        first = left.give()
        look(left.machine, sealed, 1)  # writes into an area, which is permanent
        value = pcr(left.data)
        second = left.give()

        assert arrived.qemu.ask(STOP) == OK
        assert arrived.put(PERMANENT, first[PERMANENT]) == 0
        assert arrived.put(VOLATILE, second[VOLATILE]) == 0
        for init in (INIT, INIT_DELETING):
            assert int(arrived.qemu.ask(init), 16) == ReturnCode.BAD_PARAMETER
        assert transact(arrived.data, STARTUP)[6:10] != bytes(4)  # it is off
        assert "taken with another permanent state" in arrived.told()
        assert pcr(left.data) == value
        look(left.machine, sealed, 2)

        assert arrived.put(PERMANENT, second[PERMANENT]) == 0
        assert arrived.switch_on() == 0
        assert pcr(arrived.data) == value


@pytest.mark.timeout(240)
def test_a_state_that_was_changed_on_its_way_changes_nothing(run_dir: Path) -> None:
    with two_ends(run_dir, on_one_machine=True) as (left, arrived, sealed):
        left.machine.insist("vtpm", "migrate-to", "--guest", GUEST, "--to-vtpm", "other")
        value = pcr(left.data)
        blobs = left.give()
        changed = bytearray(blobs[PERMANENT])
        changed[-20] ^= 1
        assert arrived.qemu.ask(STOP) == OK
        assert arrived.put(PERMANENT, bytes(changed)) == ReturnCode.DECRYPT_ERROR
        assert arrived.put(PERMANENT, blobs[PERMANENT][:-1]) == ReturnCode.BAD_PARAMETER
        assert pcr(left.data) == value
        look(left.machine, sealed, 1)
        for kind in (PERMANENT, VOLATILE):
            assert arrived.put(kind, blobs[kind]) == 0
        assert arrived.switch_on() == 0
        assert pcr(arrived.data) == value
