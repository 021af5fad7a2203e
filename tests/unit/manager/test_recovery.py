# SPDX-License-Identifier: Apache-2.0
"""Identities, closed groups and an unapproved platform, on a whole TPM 1.2 engine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from uuid import UUID

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA1

from daemons.vtpmmgr.management import Management
from daemons.vtpmmgr.platform import PlatformCommands
from daemons.vtpmmgr.recovered import RecoveredStart
from daemons.vtpmmgr.recovery import RecoveryCommands
from daemons.vtpmmgr.startup import start
from daemons.vtpmmgr.unsealing import NotApproved
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.exchange import Exchange
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import (
    ActivateIdentity,
    Endorsement,
    GroupActivate,
    GroupCount,
    GroupMade,
    GroupRecover1,
    GroupRecover2,
    IdentityMade,
    MakeIdentity,
    Nothing,
    NvDefineSpace,
    NvReadValue,
    NvValue,
    NvWriteValue,
    RecoveryAsked,
    VtpmNew,
)
from protocol.tpm12 import ReturnCode
from protocol.tpm12.attestation import AsymCaContents, SymmetricKey
from protocol.tpm12.constants import EncScheme, SigScheme
from protocol.tpm12.keys import KeyParms, PubKey
from protocol.tpm12.pcr import PcrSelection
from tests.unit.manager.agent import LABEL_DIGEST, Agent, Operator, composite
from tests.unit.manager.fakes import Lines
from tests.unit.manager.harness import NV_INDEX, OPTIONS, A, Managed, client, managed, options
from tests.unit.manager.test_tpm12hardware import Wire, hardware_on
from tests.unit.tpm12.world import Chip, make_chip
from tpmcore import tss12

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
KEY = b"key".ljust(64, b".")
IN_ONE = UUID(int=0xE)
CLIENTS = (client(A), client(IN_ONE, group=1))
BOOT = PcrSelection.of(range(8))
SESSION_KEY = SymmetricKey(6, 0, bytes(range(16)))


def operator(manager: Managed) -> Operator:
    return Operator(manager.parts.management)


def present(chip: Chip, selection: PcrSelection) -> tuple[PcrSelection, bytes]:
    values = {index: chip.run(tss12.pcr_read(index)) for index in selection.indices}
    return selection, composite(selection, values)


def certified(pubek: PubKey, aik: PubKey) -> bytes:
    """Return what a Privacy CA sends: a session key, for this identity on this TPM only."""
    contents = AsymCaContents(SESSION_KEY, hashlib.sha1(aik.encode()).digest())
    return tss12.encrypt_oaep(pubek, contents.encode())


def check_quote(
    modulus: bytes, answer: RecoveryAsked, nonce: bytes, selection: PcrSelection
) -> None:
    """Verify a quote by bytes and `cryptography` alone."""
    values = dict(zip(selection.indices, answer.pcr_values, strict=True))
    external = hashlib.sha1(b"RCVR" + nonce + answer.exchange).digest()
    info = b"\x01\x01\0\0QUOT" + composite(selection, values) + external
    key = RSAPublicNumbers(65537, int.from_bytes(modulus, "big")).public_key()
    key.verify(answer.signature, info, PKCS1v15(), SHA1())


async def recover(op: Operator, agent: Agent, group: UUID, number: int) -> None:
    """Do the agent's and the operator's part of a recovery."""
    proxy = await op.ask(O.MAKE_IDENTITY, MakeIdentity(LABEL_DIGEST), IdentityMade)
    pubek = (await op.ask(O.READ_PUBEK, Nothing(), Endorsement)).pubek
    blob = certified(pubek, proxy.aik.public_key)
    opened = await op.send(O.ACTIVATE_IDENTITY, ActivateIdentity(proxy.aik, blob))
    assert SymmetricKey.decode(opened) == SESSION_KEY
    nonce = os.urandom(20)
    asked = await op.ask(
        O.GROUP_RECOVER1, GroupRecover1(number, proxy.aik, nonce, BOOT), RecoveryAsked
    )
    check_quote(proxy.aik.public_key.key, asked, nonce, BOOT)

    wrong = Exchange(os.urandom(256))
    answer = GroupRecover2(number, wrong.public, wrong.mask(asked.exchange, bytes(32)))
    assert await op.refused(O.GROUP_RECOVER2, answer) == ManagerCode.DECRYPT_ERROR
    # one half, one answer
    assert await op.refused(O.GROUP_RECOVER2, answer) == ManagerCode.FAIL
    asked = await op.ask(
        O.GROUP_RECOVER1, GroupRecover1(number, proxy.aik, nonce, BOOT), RecoveryAsked
    )
    own = Exchange(os.urandom(256))
    blob = own.mask(asked.exchange, agent.escrow[group])
    await op.send(O.GROUP_RECOVER2, GroupRecover2(number, own.public, blob))


async def test_a_groups_identity_is_activated_with_pcrs_that_name_the_group(tmp_path: Path) -> None:
    chip, agent = make_chip(), Agent()
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        op = operator(manager)
        made: GroupMade = await op.new_group(agent)
        parms = KeyParms.for_rsa(
            enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
        )
        aik = PubKey(parms, made.aik_modulus)
        pubek = (await op.ask(O.READ_PUBEK, Nothing(), Endorsement)).pubek
        blob = certified(pubek, aik)
        opened = await op.send(O.GROUP_ACTIVATE, GroupActivate(0, blob))
        assert SymmetricKey.decode(opened) == SESSION_KEY
        broken = blob[:-1] + bytes([blob[-1] ^ 1])
        code = await op.refused(O.GROUP_ACTIVATE, GroupActivate(0, broken))
        assert code == ReturnCode.DECRYPT_ERROR
    assert chip.run(tss12.pcr_read(23)) == (
        hashlib.sha1(bytes(20) + made.uuid.bytes + bytes(4)).digest()
    )


async def test_a_closed_group_is_opened_by_its_agent(tmp_path: Path) -> None:
    chip, agent = make_chip(), Agent()
    application = PcrSelection.of([16])
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        op = operator(manager)
        await op.new_group(Agent(8))
        group = (await op.new_group(agent)).uuid
        await op.register(agent, group, 1)
        await op.send(O.VTPM_NEW, VtpmNew(1, IN_ONE))
        guest = await manager.guest(IN_ONE)
        await guest.load()
        await guest.save(KEY)
        update = agent.sign_list(group, [present(chip, application)], number=1)
        await op.send(O.GROUP_UPDATE, update)
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        assert await (await manager.guest(IN_ONE)).load() == KEY
    chip.run(tss12.extend(16, bytes(20)))
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        op = operator(manager)
        guest = await manager.guest(IN_ONE)
        with pytest.raises(ManagerRefused, match="AUTHFAIL"):
            await guest.load()
        await recover(op, agent, group, 1)
        assert await guest.load() == KEY
        update = agent.sign_list(group, [present(chip, application)], sequence=2, number=1)
        await op.send(O.GROUP_UPDATE, update)
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        assert await (await manager.guest(IN_ONE)).load() == KEY


async def test_a_manager_in_an_unapproved_configuration_is_opened_by_the_agent_of_group_0(
    tmp_path: Path,
) -> None:
    chip, agent, lines = make_chip(), Agent(), Lines()
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        op = operator(manager)
        group = (await op.new_group(agent)).uuid
        await op.register(agent, group)
        await op.send(O.GROUP_UPDATE, agent.sign_list(group, [present(chip, BOOT)]))
        await (await manager.guest(A)).save(KEY)
    chip.run(tss12.extend(2, bytes(20)))
    hardware = hardware_on(Wire(chip))
    with pytest.raises(NotApproved, match="PCR 2 is ") as refusal:
        await start(options(tmp_path), hardware, lines.log)

    recovered = RecoveredStart(refusal.value.unverified, options(tmp_path), hardware, lines.log)
    auth = OPTIONS.identity_auth
    op = Operator(
        Management(
            recovered.commands,
            PlatformCommands(hardware, auth, lines.log).identity_commands,
            RecoveryCommands(hardware, auth, recovered.read, recovered.opened, lines.log).commands,
        )
    )
    assert await op.ask(O.GROUP_LIST, Nothing(), GroupCount) == GroupCount(1)
    assert (await op.show()).uuid == group
    await recover(op, agent, group, 0)
    with trio.fail_after(60):
        started = await recovered.wait_started()
    started.ledger.abandon()


async def test_nv_areas_of_the_hardware_have_a_secret_of_their_own(tmp_path: Path) -> None:
    chip = make_chip()
    async with managed(options(tmp_path), hardware_on(Wire(chip)), CLIENTS) as manager:
        op = operator(manager)
        auth, index = b"secret of the area!!", 0x10077
        await op.send(O.NV_DEFINE_SPACE, NvDefineSpace(index, 32, auth))
        await op.send(O.NV_WRITE_VALUE, NvWriteValue(index, 4, auth, b"data"))
        asked = NvReadValue(index, 2, 8, auth)
        value = await op.ask(O.NV_READ_VALUE, asked, NvValue)
        assert value.data == b"\xff\xffdata\xff\xff"
        refused = await op.refused(O.NV_READ_VALUE, NvReadValue(index, 2, 8, bytes(20)))
        assert refused == ReturnCode.AUTHFAIL
        assert (
            await op.refused(O.NV_READ_VALUE, NvReadValue(index, 30, 8, auth)) == ReturnCode.NOSPACE
        )
        for taken in (NV_INDEX, 0, 1, 0x10000001, 0xFFFFFFFF):
            for ordinal, request in (
                (O.NV_DEFINE_SPACE, NvDefineSpace(taken, 0, auth)),
                (O.NV_WRITE_VALUE, NvWriteValue(taken, 0, auth, b"x")),
                (O.NV_READ_VALUE, NvReadValue(taken, 0, 1, auth)),
            ):
                assert await op.refused(ordinal, request) == ManagerCode.DISABLED_CMD
        await op.send(O.NV_DEFINE_SPACE, NvDefineSpace(index, 0, auth))
        assert await op.refused(O.NV_READ_VALUE, asked) == ReturnCode.BADINDEX
