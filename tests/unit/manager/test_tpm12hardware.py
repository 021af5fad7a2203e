# SPDX-License-Identifier: Apache-2.0
"""The manager on a whole TPM 1.2 engine, without the register interface between them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from daemons.runtime.errors import RefusedToStart
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.hardware import HardwareLost, SignedQuote
from daemons.vtpmmgr.tpm12hardware import Tpm12Hardware
from protocol.manager.transportkey import check_transport_key
from protocol.tis.driver import TisError
from protocol.tpm12 import Ordinal, ReturnCode
from protocol.tpm12.constants import NvAttributes, ResourceType
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection, composite_hash
from tests.unit.manager.agent import Agent, Operator
from tests.unit.manager.fakes import Lines
from tests.unit.manager.harness import NV_INDEX, A, managed, options
from tests.unit.manager.moves import Running
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, SeededRandom, make_chip
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tpm12.world import Profile

KEY = b"key".ljust(64, b".")


class Wire:
    """A transport to a chip, with faults.

    Attributes:
        before, after: called with each ordinal; what they raise stands for what the wire does
            before the chip has the command, and before the response is back.
    """

    def __init__(self, chip: Chip, locality: int = 2) -> None:
        self.chip = chip
        self.locality = locality
        self.before: Callable[[int], None] = lambda ordinal: None
        self.after: Callable[[int], None] = lambda ordinal: None
        self.ordinals: list[int] = []

    async def transact(self, command: bytes) -> bytes:
        ordinal = int.from_bytes(command[6:10], "big")
        self.ordinals.append(ordinal)
        self.before(ordinal)
        self.chip.locality = self.locality
        response = self.chip.send(command)
        self.after(ordinal)
        return response


def hardware_on(
    wire: Wire, *, owner_auth: bytes = OWNER_AUTH, srk_auth: bytes = SRK_AUTH
) -> Tpm12Hardware:
    return Tpm12Hardware(
        wire,
        locality=wire.locality,
        owner_auth=Secret(owner_auth),
        srk_auth=Secret(srk_auth),
        random=SeededRandom("manager"),
    )


def lost_once(ordinal: Ordinal) -> Callable[[int], None]:
    """Return a fault that loses one command of this kind."""
    left = [ordinal]

    def fault(seen: int) -> None:
        if seen in left:
            left.remove(Ordinal(seen))
            raise TisError("the test's wire is cut", certain=False)

    return fault


def sessions(chip: Chip) -> list[int]:
    return chip.run(tss12.handles(ResourceType.AUTH))


async def test_first_start_and_second_start(tmp_path: Path) -> None:
    chip = make_chip(Profile(make_ek=False))
    async with managed(options(tmp_path), hardware_on(Wire(chip))) as manager:
        await (await manager.guest(A)).save(KEY)
    assert chip.run(tss12.is_owned())
    chip.power_cycle()
    async with managed(options(tmp_path), hardware_on(Wire(chip))) as manager:
        assert await (await manager.guest(A)).load() == KEY


async def test_pcrs_and_locality_guard_the_root_secret(tmp_path: Path) -> None:
    chip = make_chip()
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass
    with pytest.raises(RefusedToStart, match="sealed to locality 2, the manager uses 0"):
        async with managed(options(tmp_path), hardware_on(Wire(chip, locality=0))):
            pass
    chip.run(tss12.extend(3, bytes(20)))
    with pytest.raises(RefusedToStart, match="PCR 3 is "):
        async with managed(options(tmp_path), hardware_on(Wire(chip))):
            pass
    chip.power_cycle()
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass


async def test_wrong_secrets_and_another_chip_are_named(tmp_path: Path) -> None:
    chip = make_chip()
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass
    with pytest.raises(RefusedToStart, match="or --srk-auth is wrong"):
        async with managed(options(tmp_path), hardware_on(Wire(chip), srk_auth=bytes(20))):
            pass
    other = make_chip(seed="another chip")
    other.keys.made = 10
    with pytest.raises(RefusedToStart, match="this one has no owner"):
        async with managed(options(tmp_path), hardware_on(Wire(other))):
            pass
    second = tmp_path / "second"
    second.mkdir()
    other = make_chip(Profile(make_ek=False), seed="another chip")
    other.keys.made = 10
    async with managed(options(second), hardware_on(Wire(other))):
        pass
    with pytest.raises(RefusedToStart, match="another hardware TPM"):
        async with managed(options(tmp_path), hardware_on(Wire(other))):
            pass


async def test_a_lost_database_is_not_founded_again_on_the_same_chip(tmp_path: Path) -> None:
    chip = make_chip()
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RefusedToStart, match="no database"):
        async with managed(options(empty), hardware_on(Wire(chip))):
            pass


async def test_a_save_costs_the_chip_one_command(tmp_path: Path) -> None:
    chip = make_chip()
    wire = Wire(chip)
    async with managed(options(tmp_path), hardware_on(wire)) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        wire.ordinals.clear()
        for _ in range(3):
            await guest.save(KEY)
        assert wire.ordinals == [Ordinal.NV_WRITE_VALUE_AUTH] * 3


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_mark_without_an_answer_is_written_again_and_leaks_no_session(
    tmp_path: Path, when: str, autojump_clock: object
) -> None:
    chip = make_chip()
    wire = Wire(chip)
    async with managed(options(tmp_path), hardware_on(wire)) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        open_before = len(sessions(chip))
        for n in range(40):
            setattr(wire, when, lost_once(Ordinal.NV_WRITE_VALUE_AUTH))
            await guest.save(bytes([n]) * 64)
        assert len(sessions(chip)) == open_before
        assert await guest.load() == bytes([39]) * 64


async def test_a_chip_that_was_reset_gets_a_new_session(tmp_path: Path) -> None:
    chip = make_chip()
    async with managed(options(tmp_path), hardware_on(Wire(chip))) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        chip.power_cycle()
        await guest.save(b"2" * 64)
        chip.run(tss12.reset())
        await guest.save(b"3" * 64)
        chip.restart()
        await guest.save(b"4" * 64)
        assert len(sessions(chip)) == 1


async def test_what_a_predecessor_left_open_is_flushed(tmp_path: Path) -> None:
    chip = make_chip()
    for _ in range(5):
        chip.run(tss12.oiap())
    lines = Lines()
    await hardware_on(Wire(chip)).prepare(lines.log)
    assert sessions(chip) == []
    assert "hardware TPM" in str(lines)


async def test_a_chip_without_answers_is_reachable_again_when_it_answers() -> None:
    chip = make_chip()
    wire = Wire(chip)
    hardware = hardware_on(wire)
    await hardware.wait_reachable()
    assert wire.ordinals == []
    wire.before = lost_once(Ordinal.PCR_READ)
    told = [hardware.answers]
    with pytest.raises(HardwareLost, match="wire is cut"):
        await hardware.read_pcrs([0])
    told.append(hardware.answers)
    wire.before = lost_once(Ordinal.GET_CAPABILITY)
    with pytest.raises(HardwareLost):
        await hardware.wait_reachable()
    await hardware.wait_reachable()
    assert [*told, hardware.answers] == [True, False, True]
    wire.ordinals.clear()
    await hardware.wait_reachable()
    assert wire.ordinals == []


async def test_a_response_that_does_not_authenticate_is_no_answer() -> None:
    chip = make_chip()
    wire = Wire(chip)
    hardware = hardware_on(wire)
    await hardware.take_ownership()

    class Forging(Wire):
        async def transact(self, command: bytes) -> bytes:
            response = await super().transact(command)
            if command[6:10] == Ordinal.OWNER_READ_INTERNAL_PUB.to_bytes(4, "big"):
                response = response[:-1] + bytes([response[-1] ^ 1])
            return response

    with pytest.raises(HardwareLost, match="HMAC"):
        await hardware_on(Forging(chip)).ek_digest()


async def test_a_command_that_no_chip_takes_leaves_no_session_behind() -> None:
    """Whoever may send blobs could use up the chip's sessions with it, a few at each call."""

    class Bounded(Wire):
        async def transact(self, command: bytes) -> bytes:
            if len(command) > 4096:
                raise TisError("longer than the buffer", certain=True)
            return await super().transact(command)

    chip = make_chip()
    hardware = hardware_on(Bounded(chip))
    await hardware.take_ownership()
    auth = Secret(20)
    made = await hardware.make_identity(bytes(20), auth)
    before = sessions(chip)
    for _ in range(2):
        with pytest.raises(TpmError) as refused:
            await hardware.activate_identity(made.key, auth, bytes(4050))
        assert refused.value.code == ReturnCode.BAD_PARAM_SIZE
    assert sessions(chip) == before
    assert chip.run(tss12.handles(ResourceType.KEY)) == []


@pytest.mark.parametrize(("locality", "allowed"), [(0, False), (2, True)])
async def test_no_quote_identifies_anybody_by_pcrs_that_the_manager_did_not_set(
    locality: int, allowed: bool
) -> None:
    """At another locality than 2 they hold what somebody else put there."""
    hardware = hardware_on(Wire(make_chip(), locality))
    await hardware.take_ownership()
    auth = Secret(20)
    made = await hardware.make_identity(bytes(20), auth)
    identification = {23: [b"somebody".ljust(20)]}

    async def quote(*indices: int) -> SignedQuote:
        return await hardware.quote(
            made.key,
            auth,
            external_data=bytes(20),
            selection=PcrSelection.of(indices),
            identification=identification,
        )

    assert len((await quote(0, 7)).pcr_values) == 2
    if allowed:
        assert len((await quote(0, 23)).pcr_values) == 2
    else:
        with pytest.raises(TpmError) as refused:
            await quote(0, 23)
        assert refused.value.code == ReturnCode.BAD_LOCALITY


async def test_the_area_opens_with_its_own_secret_only() -> None:
    chip = make_chip()
    hardware = hardware_on(Wire(chip))
    await hardware.take_ownership()
    assert await hardware.nv_area_size(NV_INDEX) is None
    await hardware.nv_define(NV_INDEX, 44, Secret(b"the area's secret 20"))
    assert await hardware.nv_area_size(NV_INDEX) == 44
    area = hardware.nv_area(NV_INDEX, 44, Secret(b"the area's secret 20"))
    assert await area.read() == b"\xff" * 44
    await area.write(b"m" * 44)
    assert await area.read() == b"m" * 44
    stranger = hardware.nv_area(NV_INDEX, 44, Secret(20))
    for attempt in (stranger.read(), stranger.write(bytes(44))):
        with pytest.raises(TpmError) as refused:
            await attempt
        assert refused.value.code == ReturnCode.AUTHFAIL
    assert await area.read() == b"m" * 44


async def test_a_blob_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(TpmError) as refused:
        await hardware_on(Wire(make_chip())).unseal(b"rubbish")
    assert refused.value.code == ReturnCode.NOTSEALED_BLOB


async def test_the_root_secret_does_not_cross_the_wire_in_the_clear(tmp_path: Path) -> None:
    chip = make_chip()
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass
    for command, response in chip.log:
        assert b"VMR1" not in command
        assert b"VMR1" not in response


class Died(Exception):
    """The manager was killed."""


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_first_start_that_is_killed_at_any_command_comes_up_the_next_time(
    tmp_path: Path, when: str
) -> None:
    def dies_at(number: int) -> Callable[[int], None]:
        left = iter(range(number))

        def fault(ordinal: int) -> None:
            if next(left, None) is None:
                raise Died

        return fault

    for number in range(100):
        chip = make_chip(Profile(make_ek=False))
        wire = Wire(chip)
        folder = tmp_path / str(number)
        folder.mkdir()
        setattr(wire, when, dies_at(number))
        completed = False
        try:
            async with managed(options(folder), hardware_on(wire)):
                completed = True
        except Died:
            pass
        again = hardware_on(Wire(chip))
        await again.prepare(Lines().log)
        async with managed(options(folder), again) as manager:
            guest = await manager.guest(A)
            await guest.save(KEY)
            assert await guest.load() == KEY
        assert len(sessions(chip)) == 1
        if completed:
            break
    assert number > 15


async def test_nv_permissions_are_enforced_before_the_area_counts(tmp_path: Path) -> None:
    chip = make_chip()
    assert not chip.run(tss12.permanent_flags()).nv_locked
    async with managed(options(tmp_path), hardware_on(Wire(chip))):
        pass
    assert chip.run(tss12.permanent_flags()).nv_locked
    for conversation in (
        tss12.nv_write_value(NV_INDEX, bytes(44)),
        tss12.nv_define_space(NV_INDEX, 0, NvAttributes(0)),
    ):
        assert chip.code(conversation) != ReturnCode.SUCCESS


async def test_a_vtpm_moves_between_two_chips(tmp_path: Path) -> None:
    chips = [make_chip(seed=name) for name in ("source", "target")]
    for number, chip in enumerate(chips):
        chip.keys.made = 20 * number  # else both make the same keys
    agent = Agent()
    async with AsyncExitStack() as stack:
        sides = []
        for number, chip in enumerate(chips):
            folder = tmp_path / str(number)
            folder.mkdir()
            manager = await stack.enter_async_context(
                managed(options(folder), hardware_on(Wire(chip)))
            )
            sides.append(Running(manager, Operator(manager.parts.management)))
            await sides[-1].operator.new_group(agent)
        source, target = sides
        assert await source.save(A, KEY) == 0
        key = await target.transport_key()
        check_transport_key(key)
        approval = agent.approve(await source.transport_key(), key)
        package = await source.export(A, key, approval)
        release = await source.release(await target.take_in(package))
        await target.activate(release)
        assert await target.load(A) == KEY
        assert not chips[0].run(tss12.handles(ResourceType.KEY))
        assert not chips[1].run(tss12.handles(ResourceType.KEY))


async def test_what_was_packed_opens_in_the_configuration_of_the_key_only(tmp_path: Path) -> None:
    chip = make_chip()
    hardware = hardware_on(Wire(chip))
    async with managed(options(tmp_path), hardware):
        selection = PcrSelection.of(range(8))
        composite = composite_hash(selection, [bytes(20)] * 24)
        auth = Secret(b"a".ljust(20))
        made = await hardware.make_binding_key(auth, selection, composite)
        data = tss12.bind(PubKey.decode(made.public_key), b"secret")
        assert await hardware.unbind(made.key, auth, data) == b"secret"
        with pytest.raises(TpmError) as wrong:
            await hardware.unbind(made.key, Secret(bytes(20)), data)
        assert wrong.value.code == ReturnCode.AUTHFAIL
        chip.run(tss12.extend(3, bytes(20)))
        with pytest.raises(TpmError) as elsewhere:
            await hardware.unbind(made.key, auth, data)
        assert elsewhere.value.code == ReturnCode.WRONGPCRVAL
