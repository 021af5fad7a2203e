# SPDX-License-Identifier: Apache-2.0
"""Groups: agents, lists, closed groups and their recovery."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Self
from uuid import UUID

import pytest
import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA1

from daemons.runtime.secret import Secret
from daemons.vtpmmgr import groups
from daemons.vtpmmgr.commits import CommandRefused
from daemons.vtpmmgr.hardware import SignedQuote
from daemons.vtpmmgr.management import Command
from daemons.vtpmmgr.manager import ManagementOptions
from daemons.vtpmmgr.unsealing import NotApproved
from protocol.manager.constants import ManagementOrdinal, ManagerCode, QuoteFlags
from protocol.manager.exchange import PRIME, Exchange
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import (
    ConfigList,
    GroupActivate,
    GroupCount,
    GroupNew,
    GroupNumber,
    GroupQuote,
    GroupRecover2,
    GroupRegister,
    GroupUpdate,
    Nothing,
    SignedPcrs,
    VtpmEdit,
    VtpmList,
    VtpmName,
    VtpmNew,
    VtpmShown,
    VtpmsListed,
)
from protocol.manager.messages import GetQuote
from protocol.manager.quotes import Identification
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import LABEL, LABEL_DIGEST, Agent, Operator, composite
from tests.unit.manager.fakes import Chip, FakeHardware
from tests.unit.manager.harness import (
    OPTIONS,
    UID,
    A,
    B,
    C,
    Guest,
    Managed,
    client,
    managed,
    options,
)

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
KEY = b"key of A".ljust(64, b".")
OTHER = b"key of B".ljust(64, b".")
BOOT = PcrSelection.of(range(8))
ADMIN = UUID(int=0xD)
IN_ONE = UUID(int=0xE)
CLIENTS = (client(A), client(B), client(ADMIN, admin=True), client(IN_ONE, group=1))


def operator(manager: Managed) -> Operator:
    return Operator(manager.parts.management)


def present(chip: Chip, selection: PcrSelection = BOOT) -> tuple[PcrSelection, bytes]:
    """Return the configuration that the chip is in."""
    return selection, composite(selection, chip.pcrs)


async def approve(
    manager: Managed,
    agent: Agent,
    chip: Chip,
    *,
    sequence: int = 1,
    labels: tuple[str, ...] = (LABEL,),
) -> UUID:
    """Provision group 0 if need be and put a list into force that approves the present."""
    op = operator(manager)
    shown = await op.show()
    if not any(shown.saa_modulus):
        await op.new_group(agent)
    update = agent.sign_list(shown.uuid, [present(chip)], sequence=sequence, labels=labels)
    await op.send(O.GROUP_UPDATE, update)
    return shown.uuid


# --- making groups -------------------------------------------------------------------------------


async def test_the_first_new_group_provisions_group_0_and_later_ones_append(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        stub = await op.show()
        assert stub.saa_modulus == bytes(256)
        assert stub.config_list == ConfigList(0, (), ())

        made = await op.new_group(agent)
        assert made.uuid == stub.uuid
        assert len(chip.identities) == 1
        other = await op.new_group(Agent(8))
        assert other.uuid != made.uuid
        assert await op.ask(O.GROUP_LIST, Nothing(), GroupCount) == GroupCount(2)
        assert (await op.show(0)).saa_modulus == agent.modulus
        assert (await op.show(1)).uuid == other.uuid
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        assert (await operator(manager).show(1)).uuid == other.uuid


async def test_a_chip_that_makes_no_identity_leaves_the_groups_as_they_are(tmp_path: Path) -> None:
    chip = Chip()
    hardware = FakeHardware(chip)
    async with managed(options(tmp_path), hardware) as manager:
        op = operator(manager)
        hardware.unreachable = True
        request = GroupNew(LABEL_DIGEST, Agent().modulus)
        assert await op.refused(O.GROUP_NEW, request) == ManagerCode.FAIL
        hardware.unreachable = False
        assert (await op.show()).saa_modulus == bytes(256)


@pytest.mark.parametrize("modulus", [bytes(256), b"\xff" * 255 + b"\xfe", b"\x7f" + b"\xff" * 255])
async def test_what_is_no_rsa_2048_modulus_is_no_agent(tmp_path: Path, modulus: bytes) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip())) as manager:
        request = GroupNew(LABEL_DIGEST, modulus)
        assert await operator(manager).refused(O.GROUP_NEW, request) == ManagerCode.BAD_PARAMETER


async def test_a_deleted_group_is_gone_with_its_vtpms_and_later_ones_move_down(
    tmp_path: Path,
) -> None:
    chip = Chip()
    clients = (client(A), client(IN_ONE, group=1))
    async with managed(options(tmp_path), FakeHardware(chip), clients) as manager:
        op = operator(manager)
        for number in range(3):
            await op.new_group(Agent(number))
        last = (await op.show(2)).uuid
        await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))

        assert await op.refused(O.GROUP_DEL, GroupNumber(3)) == ManagerCode.BADINDEX
        assert await op.refused(O.GROUP_DEL, GroupNumber(0)) == ManagerCode.FAIL
        guest = await manager.guest(IN_ONE)
        await guest.load()
        assert await op.refused(O.GROUP_DEL, GroupNumber(1)) == ManagerCode.FAIL
        await guest.close()
        await op.send(O.GROUP_DEL, GroupNumber(1))

        assert await op.ask(O.GROUP_LIST, Nothing(), GroupCount) == GroupCount(2)
        assert (await op.show(1)).uuid == last
        listed = await op.ask(O.VTPM_LIST, VtpmList(1, 0), VtpmsListed)
        assert listed == VtpmsListed(0, ())
    async with managed(options(tmp_path), FakeHardware(chip), clients) as manager:
        assert (await operator(manager).show(1)).uuid == last


# --- lists ---------------------------------------------------------------------------------------


async def test_a_list_seals_anew_and_another_configuration_may_be_approved_ahead(
    tmp_path: Path,
) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await (await manager.guest(A)).save(KEY)
        op = operator(manager)
        await op.new_group(agent)
        group = (await op.show()).uuid
        future = Chip(pcrs=dict(chip.pcrs))
        future.extend(4, b"new kernel".ljust(20))
        update = agent.sign_list(group, [present(chip), present(future)])
        await op.send(O.GROUP_UPDATE, update)
        assert (await op.show()).config_list == update.config_list
    old = dict(chip.pcrs)
    chip.extend(4, b"another one".ljust(20))
    with pytest.raises(NotApproved, match="PCR 4 is "):
        async with managed(options(tmp_path), FakeHardware(chip), CLIENTS):
            pass
    for approved in (old, dict(future.pcrs)):
        chip.pcrs = dict(approved)
        async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
            assert await (await manager.guest(A)).load() == KEY


async def test_a_list_is_refused_unless_its_agent_signed_it_for_this_group(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        group = (await op.show()).uuid
        now = [present(chip)]
        good = agent.sign_list(group, now)
        assert await op.refused(O.GROUP_UPDATE, good) == ManagerCode.FAIL  # a stub has no agent
        await op.new_group(agent)
        await op.new_group(agent)
        other = (await op.show(1)).uuid

        def signed(signature: bytes) -> GroupUpdate:
            return GroupUpdate(0, signature, good.config_list, good.selections)

        flipped = bytes([good.signature[-1] ^ 1])
        foreign = Agent(8).sign_list(group, now)
        too_large = foreign.signature >= agent.modulus
        for update, code in (
            (
                foreign,
                ManagerCode.ENCRYPT_ERROR if too_large else ManagerCode.INAPPROPRIATE_SIG,
            ),
            (signed(good.signature[:-1] + flipped), ManagerCode.INAPPROPRIATE_SIG),
            (signed(b"\xff" * 256), ManagerCode.ENCRYPT_ERROR),
            (agent.sign_list(other, now), ManagerCode.DECRYPT_ERROR),
            (agent.sign_list(group, now, as_xen=True), ManagerCode.INAPPROPRIATE_SIG),
            (agent.sign_list(group, []), ManagerCode.BAD_PARAMETER),
            (GroupUpdate(0, good.signature, good.config_list, ()), ManagerCode.BAD_PARAMETER),
            (agent.sign_list(group, now, number=2), ManagerCode.BADINDEX),
        ):
            assert await op.refused(O.GROUP_UPDATE, update) == code
        assert (await op.show()).config_list == ConfigList(0, (), ())
        await op.send(O.GROUP_UPDATE, good)


async def test_a_sequence_number_that_does_not_grow_is_refused(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        group = await approve(manager, agent, chip, sequence=5)
        op = operator(manager)
        for sequence in (0, 4, 5):
            update = agent.sign_list(group, [present(chip)], sequence=sequence)
            assert await op.refused(O.GROUP_UPDATE, update) == ManagerCode.FAIL
        await approve(manager, agent, chip, sequence=6)
        assert (await op.show()).config_list.sequence == 6


async def test_a_list_signed_as_in_xen_is_taken_where_that_is_allowed(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    allowing = ManagementOptions(OPTIONS.identity_auth, OPTIONS.boot, xen_lists=True)
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS, allowing) as manager:
        op = operator(manager)
        await op.new_group(agent)
        update = agent.sign_list((await op.show()).uuid, [present(chip)], as_xen=True)
        await op.send(O.GROUP_UPDATE, update)
        assert (await op.show()).config_list == update.config_list


@pytest.mark.parametrize("as_xen", [True, False])
@pytest.mark.parametrize("select", [b"", bytes(1), bytes(3)])
async def test_a_configuration_of_no_pcrs_is_refused(
    tmp_path: Path, select: bytes, as_xen: bool
) -> None:
    """No chip looks at its hash. In Xen's form whoever passes a list on chooses the selections."""
    chip, agent = Chip(), Agent()
    allowing = ManagementOptions(OPTIONS.identity_auth, OPTIONS.boot, xen_lists=True)
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS, allowing) as manager:
        op = operator(manager)
        group = (await op.new_group(agent)).uuid
        entry = PcrSelection(select), present(chip)[1]
        update = agent.sign_list(group, [present(chip), entry], as_xen=as_xen)
        assert await op.refused(O.GROUP_UPDATE, update) == ManagerCode.BAD_PARAMETER
        assert (await op.show()).config_list == ConfigList(0, (), ())


async def test_a_long_list_is_in_force_though_no_page_can_show_it(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        await op.new_group(agent)
        pairs = [present(chip)] + [(BOOT, os.urandom(20)) for _ in range(200)]
        labels = [LABEL, *(f"u{n}:vm_r:vtpm_t" for n in range(200))]
        update = agent.sign_list((await op.show()).uuid, pairs, labels=labels)
        await op.send(O.GROUP_UPDATE, update)
        assert (await op.show()).config_list == update.config_list
        paged = Operator(manager.parts.management, limit_bytes=4078)
        assert await paged.refused(O.GROUP_SHOW, GroupNumber(0)) == ManagerCode.SIZE
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        assert len((await operator(manager).show()).config_list.configurations) == 201


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("approved", "admitted"),
    [
        ((LABEL,), True),
        (("*:vm_r:vtpm_t",), True),
        (("*:vm_r:other_t",), False),
        (("*",), False),
        (("other_u:vm_r:vtpm_t",), False),
        ((), False),
    ],
)
async def test_only_an_approved_label_gets_its_key(
    tmp_path: Path, approved: tuple[str, ...], admitted: bool
) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        await guest.close()
        await approve(manager, agent, chip, labels=approved)
        guest = await manager.guest(A)
        if admitted:
            assert await guest.load() == KEY
            return
        for attempt in (guest.load(), guest.load(), guest.save(OTHER)):
            with pytest.raises(ManagerRefused) as refused:
                await attempt
            assert refused.value.code == ManagerCode.DISABLED
        with pytest.raises(ManagerRefused):  # nor does one come into being
            await (await manager.guest(B)).save(OTHER)
        await approve(manager, agent, chip, sequence=2)
        # the refused connection did not keep the vTPM
        assert await (await manager.guest(A)).load() == KEY


# --- registration and recovery -------------------------------------------------------------------


async def test_an_agent_gets_the_groups_key_once_and_a_quote_of_it(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        made = await op.new_group(agent)
        exchange = Exchange(os.urandom(256))
        proof = agent.key.sign(exchange.public, PKCS1v15(), SHA1())

        def asked(half: bytes, by: bytes, number: int = 0) -> GroupRegister:
            return GroupRegister(number, half, by, BOOT)

        for number in (0, 1, PRIME - 1, PRIME, PRIME - 2):  # the last is no square
            half = number.to_bytes(256, "big")
            by = agent.key.sign(half, PKCS1v15(), SHA1())
            code = await op.refused(O.GROUP_REGISTER, asked(half, by))
            assert code == ManagerCode.BAD_PARAMETER, number
        other = bytes([exchange.public[0] ^ 1]) + exchange.public[1:]
        assert await op.refused(O.GROUP_REGISTER, asked(other, proof)) == ManagerCode.FAIL
        assert (
            await op.refused(O.GROUP_REGISTER, asked(exchange.public, proof, 1))
            == ManagerCode.BADINDEX
        )

        answer = await op.register(agent, made.uuid)
        assert await op.refused(O.GROUP_REGISTER, asked(exchange.public, proof)) == ManagerCode.FAIL
        assert len(agent.escrow[made.uuid]) == 32
        assert answer.exchange != exchange.public
    # PCRs 20-23 name the group
    assert chip.pcrs[23] == hashlib.sha1(bytes(20) + made.uuid.bytes + bytes(4)).digest()
    expected = hashlib.sha1(agent.modulus).digest()
    assert chip.pcrs[20] == hashlib.sha1(b"\xff" * 20 + expected).digest()


async def test_a_key_that_was_replaced_meanwhile_does_not_count_as_registered(
    tmp_path: Path,
) -> None:
    chip, agent = Chip(), Agent()

    class Rekeying(FakeHardware):
        """A chip that quotes so slowly that the group's key is replaced before."""

        async def quote(
            self,
            key: bytes,
            auth: Secret,
            *,
            external_data: bytes,
            selection: PcrSelection,
            identification: Identification | None = None,
            source: Hashable | None = None,
        ) -> SignedQuote:
            await op.send(O.GROUP_REKEY, GroupNumber(0))
            return await super().quote(
                key,
                auth,
                external_data=external_data,
                selection=selection,
                identification=identification,
                source=source,
            )

    hardware = Rekeying(chip)
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        op = operator(manager)
        group = (await op.new_group(agent)).uuid
        with pytest.raises(CommandRefused) as refused:
            await op.register(agent, group)
        assert refused.value.code == ManagerCode.FAIL
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await operator(manager).register(agent, group)
        ledger = manager.started.ledger
        record = ledger.group(0)
        assert record is not None
        assert agent.escrow[group] == ledger.keys.group_key(record)


async def test_a_registration_goes_on_under_a_new_manager_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, hide = Agent(), groups._hide
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        op = operator(manager)
        group = (await op.new_group(agent)).uuid

        def hide_late(peer: bytes, key: Secret) -> tuple[bytes, bytes]:
            trio.from_thread.run(op.send, O.MANAGER_REKEY, Nothing())
            return hide(peer, key)

        monkeypatch.setattr(groups, "_hide", hide_late)
        await op.register(agent, group)
        record = manager.started.ledger.group(0)
        assert record is not None
        assert agent.escrow[group] == manager.started.ledger.keys.group_key(record)


async def test_a_group_is_registered_in_the_boot_in_which_it_was_made_only(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await operator(manager).new_group(agent)
    later = ManagementOptions(OPTIONS.identity_auth, bytes(16))
    exchange = Exchange(os.urandom(256))
    proof = agent.key.sign(exchange.public, PKCS1v15(), SHA1())
    request = GroupRegister(0, exchange.public, proof, BOOT)
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS, later) as manager:
        assert await operator(manager).refused(O.GROUP_REGISTER, request) == ManagerCode.FAIL
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        await operator(manager).send(O.GROUP_REGISTER, request)


async def test_the_key_in_escrow_opens_a_manager_in_an_unapproved_configuration(
    tmp_path: Path,
) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        made = await op.new_group(agent)
        await op.register(agent, made.uuid)
        await approve(manager, agent, chip)
        await (await manager.guest(A)).save(KEY)
    chip.extend(0, b"other firmware".ljust(20))
    wrong = Secret(bytes(32))
    with pytest.raises(Exception, match="not the key of group 0"):
        async with managed(options(tmp_path), FakeHardware(chip), CLIENTS, recovered=wrong):
            pass
    key = Secret(agent.escrow[made.uuid])
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS, recovered=key) as manager:
        assert await (await manager.guest(A)).load() == KEY
        await approve(manager, agent, chip, sequence=2)
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        assert await (await manager.guest(A)).load() == KEY


async def closed_group(folder: Path, chip: Chip, agent: Agent) -> UUID:
    """Leave a group 1 with a vTPM that is closed in the present configuration of the chip."""
    async with managed(options(folder), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        await op.new_group(Agent(8))
        group = (await op.new_group(agent)).uuid
        await op.register(agent, group, 1)
        await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))
        guest = await manager.guest(IN_ONE)
        await guest.load()
        await guest.save(KEY)
        application = PcrSelection.of([16])
        update = agent.sign_list(group, [present(chip, application)], number=1)
        await op.send(O.GROUP_UPDATE, update)
    chip.extend(16, b"something else".ljust(20))
    return group


async def test_a_closed_group_is_there_and_of_no_use_until_its_agent_opens_it(
    tmp_path: Path,
) -> None:
    chip, agent = Chip(), Agent()
    group = await closed_group(tmp_path, chip, agent)
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        assert "group is closed" in str(manager.lines)
        op = operator(manager)
        assert await op.ask(O.GROUP_LIST, Nothing(), GroupCount) == GroupCount(2)
        assert (await op.show(1)).uuid == group
        for ordinal, request, code in (
            (O.GROUP_DEL, GroupNumber(1), ManagerCode.AUTHFAIL),
            (O.GROUP_ACTIVATE, GroupActivate(1, b"blob"), ManagerCode.AUTHFAIL),
            (O.GROUP_QUOTE, GroupQuote(1, bytes(20), BOOT), ManagerCode.AUTHFAIL),
            (
                O.GROUP_UPDATE,
                agent.sign_list(group, [present(chip)], sequence=2, number=1),
                ManagerCode.AUTHFAIL,
            ),
            (O.VTPM_LIST, VtpmList(1, 0), ManagerCode.AUTHFAIL),
            (O.VTPM_NEW, VtpmNew(1, None), ManagerCode.AUTHFAIL),
            (O.VTPM_SHOW, VtpmName(IN_ONE), ManagerCode.FAIL),
            (O.VTPM_DEL, VtpmName(IN_ONE), ManagerCode.FAIL),
            # its uuid is taken, also from another group
            (O.VTPM_NEW, VtpmNew(0, IN_ONE), ManagerCode.FAIL),
        ):
            assert await op.refused(ordinal, request) == code, ordinal
        guest = await manager.guest(IN_ONE)
        with pytest.raises(ManagerRefused, match="AUTHFAIL"):
            await guest.load()
        await guest.close()

        # without a half of ours nothing can be answered
        own = Exchange(os.urandom(256))
        blob = bytes(32)
        answer = GroupRecover2(1, own.public, blob)
        assert await op.refused(O.GROUP_RECOVER2, answer) == ManagerCode.FAIL
        ledger = manager.started.ledger
        record = ledger.group(1)
        assert record is not None
        assert not ledger.keys.is_open(record)


# --- vTPMs ---------------------------------------------------------------------------------------


async def test_a_save_into_a_closed_group_is_refused_and_others_go_on(tmp_path: Path) -> None:
    chip = Chip()
    await closed_group(tmp_path, chip, Agent())
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        with pytest.raises(ManagerRefused, match="AUTHFAIL"):
            await (await manager.guest(IN_ONE)).save(OTHER)
        await (await manager.guest(A)).save(KEY)


async def test_vtpms_are_registered_listed_shown_and_removed(tmp_path: Path) -> None:
    chip = Chip()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        made = await op.ask(O.VTPM_NEW, VtpmNew(0, None), VtpmName)
        assert made.uuid.version == 4
        assert await op.ask(O.VTPM_NEW, VtpmNew(0, A), VtpmName) == VtpmName(A)
        assert await op.refused(O.VTPM_NEW, VtpmNew(0, A)) == ManagerCode.FAIL
        assert await op.refused(O.VTPM_NEW, VtpmNew(1, B)) == ManagerCode.BADINDEX

        listed = await op.ask(O.VTPM_LIST, VtpmList(0, 0), VtpmsListed)
        assert listed == VtpmsListed(2, tuple(sorted((A.bytes, made.uuid.bytes))))
        assert (await op.ask(O.VTPM_LIST, VtpmList(0, 1), VtpmsListed)).uuids == listed.uuids[1:]
        beyond = await op.ask(O.VTPM_LIST, VtpmList(0, 9), VtpmsListed)
        assert beyond == VtpmsListed(2, ())
        assert await op.refused(O.VTPM_LIST, VtpmList(1, 0)) == ManagerCode.BADINDEX

        fresh = await op.ask(O.VTPM_SHOW, VtpmName(A), VtpmShown)
        assert fresh == VtpmShown(0, 0, 0, 0, bytes(20))
        guest = await manager.guest(A)
        await guest.load()
        await guest.save(KEY)
        opened = await op.ask(O.VTPM_SHOW, VtpmName(A), VtpmShown)
        assert opened == VtpmShown(0, 0, 1, 1, hashlib.sha1(LABEL.encode()).digest())

        assert await op.refused(O.VTPM_DEL, VtpmName(A)) == ManagerCode.FAIL
        assert await op.refused(O.VTPM_DEL, VtpmName(C)) == ManagerCode.FAIL
        assert await op.refused(O.VTPM_SHOW, VtpmName(C)) == ManagerCode.FAIL
        await guest.close()
        await op.send(O.VTPM_DEL, VtpmName(A))
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        listed = await operator(manager).ask(O.VTPM_LIST, VtpmList(0, 0), VtpmsListed)
        assert listed == VtpmsListed(1, (made.uuid.bytes,))


async def test_the_admin_right_is_given_in_the_table_and_may_be_taken_back(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        op = operator(manager)
        plain, admin = await manager.guest(A), await manager.guest(ADMIN)
        await plain.save(KEY)
        await admin.save(KEY)
        request = bytes.fromhex("01c2 0000000a 02000101")
        granted = bytes.fromhex("01c4 0000000e 00000000 00000001")
        denied = bytes.fromhex("01c5 0000000a 00000001")
        assert await plain.send(request) == denied
        assert await admin.send(request) == granted

        assert await op.refused(O.VTPM_EDIT, VtpmEdit(A, 1, 1)) == ManagerCode.AUTHFAIL
        assert await op.refused(O.VTPM_EDIT, VtpmEdit(ADMIN, 2, 2)) == ManagerCode.BAD_PARAMETER
        assert await op.refused(O.VTPM_EDIT, VtpmEdit(C, 1, 0)) == ManagerCode.FAIL
        await op.send(O.VTPM_EDIT, VtpmEdit(ADMIN, 1, 0))
        assert (await op.ask(O.VTPM_SHOW, VtpmName(ADMIN), VtpmShown)).flags == 0
        assert await admin.send(request) == denied
        await op.send(O.VTPM_EDIT, VtpmEdit(ADMIN, 1, 1))
        assert await admin.send(request) == granted


async def test_extend_of_the_hardware_is_for_admins_and_not_for_identifying_pcrs(
    tmp_path: Path,
) -> None:
    def extend(index: int, tail: bytes = b"") -> bytes:
        size = (34 + len(tail)).to_bytes(4, "big")
        head = b"\0\xc1" + size + bytes.fromhex("00000014")
        return head + index.to_bytes(4, "big") + bytes(20) + tail

    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        plain, admin = await manager.guest(A), await manager.guest(ADMIN)
        await plain.save(KEY)
        assert (await admin.send(extend(8)))[6:] == b"\0\0\0\x08"  # not bound yet
        await admin.save(KEY)
        assert (await plain.send(extend(8)))[6:] == b"\0\0\0\x08"
        assert (await admin.send(extend(8)))[6:10] == bytes(4)
        assert (await admin.send(extend(8, b"x")))[6:] == b"\0\0\0\x03"
        for index in range(20, 24):
            assert (await admin.send(extend(index)))[6:] == b"\0\0\0\x08"


# --- quotes --------------------------------------------------------------------------------------


def verify(modulus: bytes, signature: bytes, composite_hash: bytes, external: bytes) -> None:
    """Verify TPM_Quote's signature; shares nothing with the manager."""
    key = RSAPublicNumbers(65537, int.from_bytes(modulus, "big")).public_key()
    key.verify(signature, b"\x01\x01\0\0QUOT" + composite_hash + external, PKCS1v15(), SHA1())


async def quote(guest: Guest, request: GetQuote) -> bytes:
    return request.decode_response(await guest.send(request.encode()))


async def test_a_vtpms_quote_names_vtpm_label_and_group(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        aik = (await op.new_group(agent)).aik_modulus
        group = await approve(manager, agent, chip)
        config_list = (await op.show()).config_list
        guest = await manager.guest(A)
        data, selection = os.urandom(20), PcrSelection.of([0, 7, 20, 21, 22, 23])
        request = GetQuote(data, selection.encode(), sum(QuoteFlags))
        with pytest.raises(ManagerRefused, match="BAD_PARAMETER"):
            await quote(guest, request)  # not bound yet
        await guest.save(KEY)
        answer = await quote(guest, request)

        hashes = [
            hashlib.sha1(A.bytes).digest(),
            hashlib.sha1(hashlib.sha1(LABEL.encode()).digest()).digest(),
            hashlib.sha1(agent.modulus + config_list.encode()).digest(),
            hashlib.sha1(agent.modulus).digest(),
        ]
        assert answer[256:336] == b"".join(hashes)
        values = {
            index: answer[336 + 20 * at : 356 + 20 * at]
            for at, index in enumerate(selection.indices)
        }
        external = hashlib.sha1(b"\x0f\0\0\0" + data + b"".join(hashes)).digest()
        verify(aik, answer[:256], composite(selection, values), external)
        for other in (bytes([external[0] ^ 1]) + external[1:], bytes(20)):
            with pytest.raises(InvalidSignature):
                verify(aik, answer[:256], composite(selection, values), other)

        def extended(start: bytes, *digests: bytes) -> bytes:
            for digest in digests:
                start = hashlib.sha1(start + digest).digest()
            return start

        assert values[20] == extended(b"\xff" * 20, hashlib.sha1(agent.modulus).digest())
        assert values[21] == extended(b"\xff" * 20, hashlib.sha1(config_list.encode()).digest())
        assert values[22] == extended(b"\xff" * 20, hashlib.sha1(LABEL.encode()).digest())
        assert values[23] == extended(bytes(20), group.bytes + bytes(4), A.bytes + bytes(4))

        unknown = GetQuote(data, selection.encode(), 0x10)
        with pytest.raises(ManagerRefused, match="INVALID_REQUEST"):
            await quote(guest, unknown)


async def test_a_vtpms_quote_waits_in_its_own_line_for_the_chip(tmp_path: Path) -> None:
    """Guests that ask for quotes without pause must not keep the commits of all others waiting."""
    hardware = FakeHardware(Chip())
    async with managed(options(tmp_path), hardware, CLIENTS) as manager:
        await operator(manager).new_group(Agent())
        guest = await manager.guest(A)
        await guest.save(KEY)
        await quote(guest, GetQuote(bytes(20), BOOT.encode(), 0))
        assert hardware.quotes_for == [guest.device.serial]


async def test_no_other_group_vouches_for_a_vtpm_whose_groups_number_moved(tmp_path: Path) -> None:
    """The configuration names groups by number; a deletion moves what a number means."""
    clients = (*CLIENTS, client(C, group=2))
    async with managed(options(tmp_path), FakeHardware(Chip()), clients) as manager:
        op = operator(manager)
        for number in range(4):
            await op.new_group(Agent(number))
        await op.send(O.VTPM_NEW, VtpmNew(2, C))
        guest = await manager.guest(C)
        await guest.load()
        request = GetQuote(bytes(20), BOOT.encode(), 0)
        await quote(guest, request)
        await op.send(O.GROUP_DEL, GroupNumber(1))
        with pytest.raises(ManagerRefused, match="FAIL"):
            await quote(guest, request)


async def test_a_group_without_an_aik_quotes_nothing(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        guest = await manager.guest(A)
        await guest.save(KEY)
        with pytest.raises(ManagerRefused, match="FAIL"):
            await quote(guest, GetQuote(bytes(20), BOOT.encode(), 0))
        request = GroupQuote(0, bytes(20), BOOT)
        assert await operator(manager).refused(O.GROUP_QUOTE, request) == ManagerCode.FAIL


async def test_a_groups_own_quote_is_over_its_nonce(tmp_path: Path) -> None:
    chip, agent = Chip(), Agent()
    async with managed(options(tmp_path), FakeHardware(chip), CLIENTS) as manager:
        op = operator(manager)
        aik = (await op.new_group(agent)).aik_modulus
        nonce, selection = os.urandom(20), PcrSelection.of([0, 23])
        answer = await op.ask(O.GROUP_QUOTE, GroupQuote(0, nonce, selection), SignedPcrs)
        data = hashlib.sha1(b"SHOW" + nonce).digest()
        values = dict(zip(selection.indices, answer.pcr_values, strict=True))
        external = hashlib.sha1(bytes(4) + data).digest()
        verify(aik, answer.signature, composite(selection, values), external)


async def test_a_wrong_body_is_a_bad_parameter_and_an_unknown_ordinal_none(tmp_path: Path) -> None:
    async with managed(options(tmp_path), FakeHardware(Chip()), CLIENTS) as manager:
        admin = await manager.guest(ADMIN, uid=UID)
        await admin.save(KEY)
        # moves are for the admin socket only
        for ordinal in (one for one in ManagementOrdinal if one < ManagementOrdinal.TRANSPORT_KEY):
            body = bytes(3)
            message = b"\x01\xc2" + (10 + len(body)).to_bytes(4, "big")
            message += ordinal.to_bytes(4, "big") + body
            assert await admin.send(message) == bytes.fromhex("01c4 0000000a 00000003"), ordinal
        unknown = bytes.fromhex("01c2 0000000a 02000999")
        assert await admin.send(unknown) == bytes.fromhex("01c5 0000000a 0000000a")


@pytest.mark.parametrize(("size_bytes", "beside"), [(3800, False), (100_000, True)])
async def test_what_no_page_carries_is_decoded_beside_the_event_loop(
    size_bytes: int, beside: bool
) -> None:
    loop, decoding = threading.current_thread(), []

    class Told(SignedPcrs):
        @classmethod
        def decode(cls, data: bytes) -> Self:
            decoding.append(threading.current_thread())
            return super().decode(data)

    async def answer(request: Told) -> bytes:
        return request.signature

    body = b"s" * 256 + bytes(size_bytes // 20 * 20)
    assert await Command(Told, answer).run(body) == b"s" * 256
    assert [thread is not loop for thread in decoding] == [beside]
