# SPDX-License-Identifier: Apache-2.0
"""What a guest can do to the manager and the hardware TPM through its own TPM socket."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocol.manager.constants import ManagementOrdinal, ManagerCode, ManagerTag
from protocol.manager.framing import encode_request
from protocol.manager.management import (
    GroupCount,
    GroupNumber,
    GroupShown,
    Nothing,
    VtpmEdit,
    VtpmList,
    VtpmsListed,
    decode_answer,
    encode_management,
)
from protocol.tpm12.constants import ReservedHandle
from protocol.tpm12.pcr import PcrSelection
from tests.integration.operators import AgentFiles, Operator, configure, guest_code, uuid_of
from tests.integration.stack import Stack, running_stack
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation, ParentEvidence

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line

LABEL: Final = "system_u:vm_r:admin_t"
OWNER_AUTH: Final = b"owner of the guest--"
NONCE: Final = b"nonce of a verifier!"
VTPM_PCRS: Final = PcrSelection.of([0, 10])
HARDWARE_PCRS: Final = PcrSelection.of([0, 16, 20, 21, 22, 23])
GET_RANDOM: Final = bytes.fromhex("01c1 0000000e 00000046 00000010")
PCR_READ: Final = bytes.fromhex("01c1 0000000e 00000015 00000010")
EXTEND: Final = bytes.fromhex("01c1 00000022 00000014 00000010") + b"\x44" * 20


def sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    configure(module_dir, "admin", label=LABEL, admin=True)
    configure(module_dir, "plain", label="system_u:vm_r:plain_t")
    with running_stack(module_dir, ("admin", "plain")) as stack:
        yield stack


@pytest.fixture(scope="module")
def operator(stack: Stack) -> Operator:
    return Operator(stack.root, stack.root / "files")


@pytest.fixture(scope="module")
def agent(operator: Operator) -> AgentFiles:
    return operator.new_agent()


@pytest.fixture(scope="module", autouse=True)
def folder(operator: Operator, agent: AgentFiles) -> Path:
    """The identity key of group 0."""
    return operator.provision(agent)


def test_an_admin_guest_sends_management_commands_and_no_other_guest_does(stack: Stack) -> None:
    listed = encode_management(O.GROUP_LIST, Nothing())
    assert decode_answer(stack.transact("admin", listed), GroupCount).groups == 1
    assert stack.transact("plain", listed) == bytes.fromhex("01c5 0000000a 00000001")
    shown = encode_management(O.GROUP_SHOW, GroupNumber(0))
    assert any(decode_answer(stack.transact("admin", shown), GroupShown).saa_modulus)
    assert guest_code(stack, "plain", shown) == ManagerCode.AUTHFAIL
    vtpms = decode_answer(
        stack.transact("admin", encode_management(O.VTPM_LIST, VtpmList(0, 0))), VtpmsListed
    )
    assert set(vtpms.uuids) == {uuid_of("admin").bytes, uuid_of("plain").bytes}


def test_what_an_admin_guest_says_wrongly_has_xens_codes(stack: Stack) -> None:
    unknown = encode_request(ManagerTag.REQ2, 0x02000999)
    assert stack.transact("admin", unknown) == bytes.fromhex("01c5 0000000a 0000000a")
    trailing = encode_request(ManagerTag.REQ2, O.GROUP_LIST, b"x")
    assert stack.transact("admin", trailing) == bytes.fromhex("01c4 0000000a 00000003")
    absent = encode_management(O.GROUP_SHOW, GroupNumber(9))
    assert guest_code(stack, "admin", absent) == ManagerCode.BADINDEX


def test_the_right_to_manage_can_be_taken_and_given_back(stack: Stack, operator: Operator) -> None:
    listed = encode_management(O.GROUP_LIST, Nothing())
    assert operator.run("vtpm", "edit", "admin", "--no-admin")["admin"] is False
    assert guest_code(stack, "admin", listed) == ManagerCode.AUTHFAIL
    # not by itself
    edit = encode_management(O.VTPM_EDIT, VtpmEdit(uuid_of("admin"), 1, 1))
    assert guest_code(stack, "admin", edit) == ManagerCode.AUTHFAIL
    assert operator.run("vtpm", "edit", "admin", "--admin")["admin"] is True
    assert guest_code(stack, "admin", listed) == ManagerCode.SUCCESS


def test_a_guest_reads_the_hardwares_pcrs_and_random_bytes_and_only_an_admin_extends(
    stack: Stack, operator: Operator
) -> None:
    for guest in ("admin", "plain"):
        random = stack.transact(guest, GET_RANDOM)
        assert random[:14] == bytes.fromhex("00c4 0000001e 00000000 00000010")
        assert len(set(random[14:])) > 4
    before = stack.transact("plain", PCR_READ)[10:]
    assert guest_code(stack, "plain", EXTEND) == ManagerCode.DISABLED_CMD
    assert stack.transact("plain", PCR_READ)[10:] == before
    extended = stack.transact("admin", EXTEND)
    assert extended[10:] == sha1(before, b"\x44" * 20)
    assert stack.transact("plain", PCR_READ)[10:] == extended[10:]
    assert operator.run("manager", "pcrs", "--pcrs", "16")["pcrs"]["16"] == extended[10:].hex()


def test_what_changes_nothing_permanent_writes_nothing(stack: Stack, operator: Operator) -> None:
    before = operator.control("status")["commits"]
    for _ in range(20):
        stack.transact("plain", bytes.fromhex("00c1 0000000e 00000015 00000005"))
        stack.transact("plain", bytes.fromhex("00c1 00000022 00000014 00000010") + bytes(20))
        stack.transact("plain", GET_RANDOM)
    assert operator.control("status")["commits"] == before


def test_no_other_command_reaches_the_hardware_or_the_keys(stack: Stack) -> None:
    identifying = EXTEND.replace(b"\x14\0\0\0\x10", b"\x14\0\0\0\x17")
    save = encode_request(ManagerTag.REQ, 1, bytes(64))
    load = encode_request(ManagerTag.REQ, 2)
    state_key = encode_request(ManagerTag.REQ, 5)
    for request in (identifying, save, load, state_key, bytes.fromhex("01c1 0000000a 00000099")):
        assert guest_code(stack, "admin", request) == ManagerCode.DISABLED_CMD, request.hex()


def test_the_label_is_the_machines_where_it_labels_else_the_configured_one(
    operator: Operator,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        try:
            label = ours.getsockopt(socket.SOL_SOCKET, 31, 256).rstrip(b"\0").decode()
        except OSError:  # no security module that labels sockets
            label = ""
    expected = label if label.count(":") >= 2 else LABEL
    assert operator.vtpm("admin")["kern_hash"] == sha1(expected.encode()).hex()


# --- evidence by the hardware TPM ----------------------------------------------------------------


def run(stack: Stack, guest: str, conversation: Conversation[ParentEvidence]) -> ParentEvidence:
    return tss12.run_sync(lambda command: stack.transact(guest, command), conversation)


@pytest.fixture(scope="module")
def owned(stack: Stack) -> bytes:
    """A guest that has measured something and has an owner; its PCR 10."""
    random = SeededRandom("owner")
    take = tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=bytes(20), random=random)
    tss12.run_sync(lambda command: stack.transact("plain", command), take)
    extend = tss12.extend(10, b"m" * 20)
    return tss12.run_sync(lambda command: stack.transact("plain", command), extend)


def verify_evidence(
    aik: bytes, told: bytes, flags: int, evidence: ParentEvidence, selection: bytes
) -> None:
    """Verify with raw bytes: InvalidSignature if anything is not what was signed."""
    values = b"".join(evidence.pcr_values)
    composite = sha1(selection, len(values).to_bytes(4, "big"), values)
    external = sha1(flags.to_bytes(4, "little"), told, *evidence.hashes)
    info = b"\x01\x01\0\0QUOT" + composite + external
    key = rsa.RSAPublicNumbers(65537, int.from_bytes(aik[-256:], "big")).public_key()
    key.verify(evidence.signature, info, padding.PKCS1v15(), hashes.SHA1())


def flipped(evidence: ParentEvidence) -> Iterator[ParentEvidence]:
    """Give the evidence with one bit of each of its parts changed."""

    def flip(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    for at in (0, 100, 255):
        changed = flip(evidence.signature, at)
        yield ParentEvidence(changed, evidence.hashes, evidence.pcr_values)
    for part in ("hashes", "pcr_values"):
        digests = getattr(evidence, part)
        for index, digest in enumerate(digests):
            changed_digests = (*digests[:index], flip(digest, 7), *digests[index + 1 :])
            fields = {"hashes": evidence.hashes, "pcr_values": evidence.pcr_values}
            yield ParentEvidence(evidence.signature, **{**fields, part: changed_digests})


def check_all_of_it_counts(
    evidence: ParentEvidence, verify: Callable[[ParentEvidence], None]
) -> None:
    verify(evidence)
    count = 0
    for changed in flipped(evidence):
        with pytest.raises(InvalidSignature):
            verify(changed)
        count += 1
    assert count == 3 + len(evidence.hashes) + len(evidence.pcr_values)


SELECTION: Final = bytes.fromhex("0003 0100f1")


def test_a_guests_deep_quote_vouches_for_its_pcrs_and_says_who_it_is(
    stack: Stack, operator: Operator, folder: Path, owned: bytes
) -> None:
    random = SeededRandom(os.urandom(4).hex())
    quote = tss12.deep_quote(
        NONCE, VTPM_PCRS, HARDWARE_PCRS, flags=15, owner_auth=OWNER_AUTH, random=random
    )
    evidence = run(stack, "plain", quote)
    aik = (folder / "aik.pub").read_bytes()

    def told(pcr_10: bytes, nonce: bytes) -> bytes:
        composite = sha1(bytes.fromhex("0003 010400 00000028"), bytes(20), pcr_10)
        return sha1(bytes(4), b"DQUT", nonce, bytes.fromhex("0003 010400"), b"\x01", composite)

    check_all_of_it_counts(
        evidence, lambda one: verify_evidence(aik, told(owned, NONCE), 15, one, SELECTION)
    )
    for wrong in (told(bytes(20), NONCE), told(owned, bytes(20))):
        with pytest.raises(InvalidSignature):
            verify_evidence(aik, wrong, 15, evidence, SELECTION)
    with pytest.raises(InvalidSignature):
        verify_evidence(aik, told(owned, NONCE), 7, evidence, SELECTION)

    # who it is: uuid, label, agent and list, as hashes and as PCRs 20-23
    group = operator.group(0)
    uuid, kernel = uuid_of("plain").bytes, sha1(b"system_u:vm_r:plain_t")
    agent, config_list = bytes.fromhex(group["agent"]), bytes.fromhex(group["list_hash"])
    assert evidence.hashes[:2] == (sha1(uuid), sha1(kernel))
    assert evidence.hashes[3] == agent
    values = dict(zip(HARDWARE_PCRS.indices, evidence.pcr_values, strict=True))
    group_name = bytes.fromhex(group["uuid"].replace("-", "")) + bytes(4)
    assert values[23] == sha1(sha1(bytes(20), group_name), uuid + bytes(4))
    # 20-22 begin with FF: nothing was launched dynamically
    start = b"\xff" * 20
    assert values[20] == sha1(start, agent)
    assert values[21] == sha1(start, config_list)
    assert values[22] == sha1(start, kernel)


def test_a_guests_endorsement_key_is_vouched_for_in_the_run_that_made_it(
    stack: Stack, folder: Path, owned: bytes
) -> None:
    def send(command: bytes) -> bytes:
        return stack.transact("plain", command)

    random = SeededRandom(os.urandom(4).hex())
    sign = tss12.parent_sign_ek(NONCE, HARDWARE_PCRS, owner_auth=OWNER_AUTH, random=random)
    evidence = run(stack, "plain", sign)
    pubek = tss12.run_sync(
        send,
        tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=OWNER_AUTH, random=random),
    )
    aik = (folder / "aik.pub").read_bytes()
    told = sha1(pubek.encode(), NONCE)
    check_all_of_it_counts(evidence, lambda one: verify_evidence(aik, told, 0, one, SELECTION))
    for wrong in (sha1(pubek.encode(), bytes(20)), sha1(pubek.encode()[:-1] + b"\0", NONCE)):
        with pytest.raises(InvalidSignature):
            verify_evidence(aik, wrong, 0, evidence, SELECTION)


def test_evidence_takes_the_guests_owner(stack: Stack, owned: bytes) -> None:
    random = SeededRandom(os.urandom(4).hex())
    quote = tss12.deep_quote(NONCE, VTPM_PCRS, HARDWARE_PCRS, owner_auth=bytes(20), random=random)
    with pytest.raises(TpmError, match="AUTHFAIL"):
        run(stack, "plain", quote)
