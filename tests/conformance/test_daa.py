# SPDX-License-Identifier: Apache-2.0
"""DAA on both machines: each response there depends on random numbers, so they are verified rather
than compared; return codes are compared.

That the reference passes our issuer and verifier shows that those two are right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, cast

import pytest

from protocol.tpm12.constants import ResourceType, ReturnCode
from tests.conformance.machines import EngineMachine, Machine, SwtpmMachine, World
from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Host,
    Joining,
    Signing,
    issuer,
    wide,
)
from tests.unit.tpm12.world import Chip, SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation

T = TypeVar("T")
GOOD = b"<as it should be>"


class Remote:
    """What a host of the issuer's model needs of a chip, on any machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.client_random = SeededRandom("daa")

    def run(self, conversation: Conversation[T]) -> T:
        """Run a conversation."""
        return tss12.run_sync(lambda command: self._machine.send(command, 0), conversation)

    def code(self, conversation: Conversation[T]) -> int:
        """Return the code that a conversation ends in."""
        try:
            self.run(conversation)
        except TpmError as error:
            return error.code
        return ReturnCode.SUCCESS


@pytest.fixture(scope="module", params=[EngineMachine, SwtpmMachine], ids=["engine", "swtpm"])
def chip(request: pytest.FixtureRequest) -> Iterator[Chip]:
    """Each machine in turn, with an owner."""
    machine = request.param()
    machine.enter(World.OWNED)
    yield cast(Chip, Remote(machine))
    if isinstance(machine, SwtpmMachine):
        machine.__exit__()


@pytest.fixture(scope="module")
def joined(chip: Chip) -> Joining:
    """A Join that is through."""
    join = Joining(chip, issuer())
    join.run(0, JOIN_END)
    return join


@pytest.fixture(autouse=True)
def free_slots(chip: Chip) -> Iterator[None]:
    """End what a test left."""
    yield
    for handle in sessions(chip):
        chip.run(tss12.flush_specific(handle, ResourceType.DAA_TPM))


def sessions(chip: Chip) -> list[int]:
    """Return the handles of DAA sessions."""
    return chip.run(tss12.handles(ResourceType.DAA_TPM))


def signing(joined: Joining) -> Signing:
    """Return a Sign with the credential of a Join."""
    done = joined.done
    return Signing(joined.chip, issuer(), blobs=(done[22], done[23], done[24]))


def test_a_join_and_a_sign_verify(joined: Joining) -> None:
    joined.check()
    sign = signing(joined)
    sign.run(0, SIGN_END)
    sign.check(*joined.credential())
    assert sign.done[7] == joined.done[14]
    assert sessions(joined.chip) == []


def test_outputs_have_the_same_lengths(joined: Joining) -> None:
    """But for the blobs, which are the chip's own business."""
    sizes = [len(joined.done[stage]) for stage in range(22)]
    assert sizes[:17] == [4, 0, 0, 0, 0, 0, 0, 256, 20, 0, 0, 0, 256, 0, 256, 256, 20]
    assert sizes[19:21] == [128, 20]


@pytest.mark.parametrize(
    ("stage", "data0", "data1", "code"),
    [
        (0, bytes(4), b"", ReturnCode.DAA_INPUT_DATA0),
        (1, GOOD, b"", ReturnCode.DAA_INPUT_DATA1),
        (1, GOOD, b"s" * 256, ReturnCode.DAA_ISSUER_VALIDITY),
        (2, b"", GOOD, ReturnCode.DAA_INPUT_DATA0),
        (2, GOOD, b"", ReturnCode.DAA_INPUT_DATA1),
        (2, GOOD, b"s" * 256, ReturnCode.DAA_ISSUER_VALIDITY),
        (3, b"abc", b"", ReturnCode.DAA_INPUT_DATA0),
        (4, b"x", GOOD, ReturnCode.DAA_INPUT_DATA0),
        (4, GOOD, b"x", ReturnCode.DAA_INPUT_DATA1),
        (8, b"", b"", ReturnCode.DAA_INPUT_DATA0),
        (8, b"x" * 256, b"", ReturnCode.DECRYPT_ERROR),
        (13, b"x", GOOD, ReturnCode.DAA_INPUT_DATA0),
        (13, GOOD, b"", ReturnCode.DAA_INPUT_DATA1),
        (13, GOOD, wide(2), ReturnCode.DAA_WRONG_W),
        (16, b"c" * 19, b"", ReturnCode.DAA_INPUT_DATA0),
        (22, b"u" * 127, b"", ReturnCode.DAA_INPUT_DATA0),
        (23, b"u" * 191, b"", ReturnCode.DAA_INPUT_DATA0),
    ],
)
def test_a_join_refuses(chip: Chip, stage: int, data0: bytes, data1: bytes, code: int) -> None:
    refuses(Joining(chip, issuer()), stage, data0, data1, code)


@pytest.mark.parametrize(
    ("stage", "data0", "data1", "code"),
    [
        (0, b"", b"", ReturnCode.DAA_INPUT_DATA0),
        (1, b"", b"", ReturnCode.DAA_INPUT_DATA0),
        (2, b"x", GOOD, ReturnCode.DAA_INPUT_DATA0),
        (6, GOOD, b"", ReturnCode.DAA_INPUT_DATA1),
        (9, b"c", b"", ReturnCode.DAA_INPUT_DATA0),
        (10, b"", b"", ReturnCode.DAA_INPUT_DATA0),
        (10, b"\x02", b"m" * 20, ReturnCode.DAA_INPUT_DATA0),
        (10, b"\x01", b"m", ReturnCode.DAA_INPUT_DATA1),
        (10, b"\x00", b"", ReturnCode.DAA_INPUT_DATA1),
        (10, b"\x00", b"\0\0\0\1", ReturnCode.DAA_INPUT_DATA1),
        (13, b"", b"", ReturnCode.DAA_INPUT_DATA0),
    ],
)
def test_a_sign_refuses(joined: Joining, stage: int, data0: bytes, data1: bytes, code: int) -> None:
    refuses(signing(joined), stage, data0, data1, code)


def refuses(host: Host, stage: int, data0: bytes, data1: bytes, code: int) -> None:
    """Check the code of a stage, and that the session ends."""
    host.run(0, stage - 1)
    if stage == 1 and isinstance(host, Joining):
        host.first_key()
    good0, good1 = host.inputs(stage)
    sent = (good0 if data0 == GOOD else data0, good1 if data1 == GOOD else data1)
    assert host.code(stage, *sent) == code
    assert sessions(host.chip) == []


def test_order_slots_and_contexts(chip: Chip) -> None:
    host = Joining(chip, issuer())
    host.run(0, 2)
    assert host.code(2, *host.inputs(2)) == ReturnCode.DAA_STAGE
    assert host.code(3, *host.inputs(3)) == ReturnCode.BAD_HANDLE
    one, two, three = [Joining(chip, issuer()) for _ in range(3)]
    one.step(0)
    two.step(0)
    assert three.code(0, *three.inputs(0)) == ReturnCode.RESOURCES
    blob = chip.run(tss12.save_context(one.handle, ResourceType.DAA_TPM))
    assert sessions(chip) == [two.handle]
    assert chip.run(tss12.load_context(blob)) == one.handle
    assert chip.code(tss12.load_context(blob)) == ReturnCode.BADCONTEXT
    one.run(1, 4)
    unknown = tss12.save_context(1, ResourceType.DAA_TPM)
    assert chip.code(unknown) == ReturnCode.INVALID_RESOURCE
