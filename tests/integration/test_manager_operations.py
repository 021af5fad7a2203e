# SPDX-License-Identifier: Apache-2.0
"""Every command of an operator on a running stack: what it does, and what it is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.framing import ManagerRefused
from protocol.manager.management import (
    GroupNumber,
    Nothing,
    NvDefineSpace,
    NvWriteValue,
    VtpmName,
    VtpmNew,
)
from protocol.manager.messages import decode_load_hash_key_response, encode_load_hash_key
from protocol.tpmif.unix import open_frontend
from tests.integration.operators import (
    AgentFiles,
    Operator,
    configure,
    restart_manager,
    uuid_of,
)
from tests.integration.stack import Stack, running_stack
from tests.integration.waiting import wait_until

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    """One stack for the whole module: every test works on a group or vTPM of its own."""
    configure(module_dir, "g1", label="system_u:vm_r:web_t")
    with running_stack(module_dir, ("g1",), ("--ek", "none")) as stack:
        yield stack


@pytest.fixture(scope="module")
def operator(stack: Stack) -> Operator:
    return Operator(stack.root, stack.root / "files")


@pytest.fixture(scope="module")
def agent(operator: Operator) -> AgentFiles:
    return operator.new_agent()


@pytest.fixture(scope="module", autouse=True)
def group_0(operator: Operator, agent: AgentFiles) -> Path:
    """Group 0 with its agent, registered; its folder."""
    before = operator.group(0)
    assert (before["agent"], before["sequence"], before["open"]) == (None, 0, True)
    folder = operator.provision(agent, "group of this machine")
    operator.register(agent, 0, folder)
    return folder


def new_group(operator: Operator, agent: AgentFiles) -> int:
    """Make another group and return its number."""
    return new_group_and_folder(operator, agent)[0]


def new_group_and_folder(operator: Operator, agent: AgentFiles) -> tuple[int, Path]:
    """Make another group and return its number and the folder of its identity key."""
    before = len(operator.run("group", "list")["groups"])
    return before, operator.provision(agent)


def public_key(pub: bytes) -> rsa.RSAPublicKey:
    """Read a TPM_PUBKEY of RSA-2048 by its bytes: modulus at the end, exponent 65537."""
    return rsa.RSAPublicNumbers(65537, int.from_bytes(pub[-256:], "big")).public_key()


def test_a_new_group_leaves_what_a_privacy_ca_needs(group_0: Path, operator: Operator) -> None:
    identity = json.loads((group_0 / "identity.json").read_text())
    aik, binding = (group_0 / "aik.pub").read_bytes(), (group_0 / "aik.priv-ca-data").read_bytes()
    assert (identity["aik"], identity["binding"]) == (aik.hex(), binding.hex())
    assert identity["group"] == operator.group(0)["uuid"]
    label = hashlib.sha1(b"group of this machine").digest()
    # TPM_IDENTITY_CONTENTS: version 1.1.0.0, ordinal of MakeIdentity, label digest, TPM_PUBKEY
    contents = bytes.fromhex("01010000 00000079") + label + aik
    public_key(aik).verify(binding, contents, padding.PKCS1v15(), hashes.SHA1())
    assert group_0.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in group_0.iterdir()} == {0o600}


def test_groups_are_listed_with_agent_list_and_number_of_vtpms(
    operator: Operator, agent: AgentFiles, stack: Stack
) -> None:
    number = new_group(operator, agent)
    (listed,) = operator.run("group", "list", str(number))["groups"]
    key = serialization.load_pem_public_key(agent.pub.read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    modulus = key.public_numbers().n.to_bytes(256, "big")
    assert listed["agent"] == hashlib.sha1(modulus).hexdigest()
    assert listed["list_hash"] == hashlib.sha1(bytes(16)).hexdigest()
    assert (listed["open"], listed["vtpms"], listed["sequence"]) == (True, 0, 0)
    operator.run("vtpm", "new", "--group", str(number))
    assert operator.group(number)["vtpms"] == 1
    text = stack.vtpmctl("group", "list")
    assert listed["uuid"] in text
    assert "SEQUENCE" in text
    assert "no such group" in operator.refused("group", "show", "4000")


def test_a_list_comes_into_force_and_only_a_newer_one_of_the_same_agent_replaces_it(
    operator: Operator, agent: AgentFiles
) -> None:
    number = new_group(operator, agent)
    uuid, pcrs = operator.group(number)["uuid"], [operator.pcrs_file()]
    first = operator.sign(agent, uuid, 5, pcrs=pcrs, labels=["a:b:c", "*:b:d"])
    shown = operator.saa("show", first, "--agent-pub", agent.pub)
    assert (shown["sequence"], shown["signed"]) == (5, True)
    after = operator.run("group", "update", str(number), first)
    assert after["sequence"] == 5
    assert after["kernels"] == [hashlib.sha1(text).hexdigest() for text in (b"a:b:c", b"*:b:d")]
    assert len(after["configurations"]) == 1

    for sequence in (5, 4):
        old = operator.sign(agent, uuid, sequence, pcrs=pcrs)
        assert "sequence number" in operator.refused("group", "update", str(number), old)
    stranger = operator.sign(operator.new_agent(), uuid, 6, pcrs=pcrs)
    assert "not signed by the group's agent" in operator.refused(
        "group", "update", str(number), stranger
    )
    assert "not signed" in operator.refused("saa", "show", stranger, "--agent-pub", agent.pub)
    changed = json.loads(operator.sign(agent, uuid, 6, pcrs=pcrs).read_text())
    for field, value in (("sequence", 7), ("kernels", ["11" * 20]), ("configurations", [])):
        path = operator.new_path("changed.json")
        path.write_text(json.dumps({**changed, field: value}))
        operator.refused("group", "update", str(number), path)
    assert operator.group(number) == after


def test_a_list_of_one_group_is_no_list_of_another(operator: Operator, agent: AgentFiles) -> None:
    one, other = new_group(operator, agent), new_group(operator, agent)
    uuid = operator.group(one)["uuid"]
    signed = operator.sign(agent, uuid, 1, pcrs=[operator.pcrs_file()])
    assert f"is for group {uuid}" in operator.refused("group", "update", str(other), signed)
    # not even by somebody who says so
    forged = json.loads(signed.read_text()) | {"group": operator.group(other)["uuid"]}
    path = operator.new_path("forged.json")
    path.write_text(json.dumps(forged))
    assert "not signed" in operator.refused("group", "update", str(other), path)


def test_registration_takes_the_agents_proof_and_works_once_until_a_new_key(
    operator: Operator,
) -> None:
    agent = operator.new_agent()
    number, folder = new_group_and_folder(operator, agent)
    uuid = operator.group(number)["uuid"]

    def begin(key: Path) -> tuple[Path, Path]:
        request, state = operator.new_path("request.json"), operator.new_path("state.json")
        operator.saa(
            *("register-begin", "--key", key, "--group", uuid, "--pcrs", "0-7"),
            *("--out", request, "--state", state),
        )
        return request, state

    request, _ = begin(operator.new_agent().key)
    register = ("group", "register", str(number), "--out", operator.new_path("answer.json"))
    assert "not signed by its agent" in operator.refused(*register, "--request", request)
    operator.register(agent, number, folder)
    request, _ = begin(agent.key)
    assert "registered already" in operator.refused(*register, "--request", request)
    operator.run("group", "rekey", str(number))
    # and the agent checks what it gets
    request, state = begin(agent.key)
    answer = operator.new_path("answer.json")
    operator.run("group", "register", str(number), "--request", request, "--out", answer)
    finish = (
        *("saa", "register-finish", "--key", agent.key, "--state", state, "--config", "0-7"),
        *("--out", operator.new_path("escrow.json")),
    )
    pcrs = operator.pcrs_file()
    said = json.loads(answer.read_text())
    for field in ("exchange", "recover_blob", "signature"):
        changed = operator.new_path("changed.json")
        first = int(said[field][:2], 16) ^ 1
        changed.write_text(json.dumps({**said, field: f"{first:02x}{said[field][2:]}"}))
        refusal = operator.refused(
            *finish, "--answer", changed, "--aik", folder / "aik.pub", "--pcrs-file", pcrs
        )
        assert "does not verify" in refusal
    other_pcrs = operator.new_path("pcrs.txt")
    other_pcrs.write_text(pcrs.read_text().replace("PCR-03: 00", "PCR-03: 01"))
    rest = ("--answer", answer, "--aik", folder / "aik.pub")
    assert "does not verify" in operator.refused(*finish, *rest, "--pcrs-file", other_pcrs)
    operator.saa(*finish[1:], *rest, "--pcrs-file", pcrs)
    assert not state.exists()
    assert Path(finish[-1]).stat().st_mode & 0o777 == 0o600


def test_a_groups_identity_signs_pcrs_that_name_the_group(
    operator: Operator, agent: AgentFiles
) -> None:
    number, folder = new_group_and_folder(operator, agent)
    group = operator.group(number)
    nonce = os.urandom(20)
    quoted = operator.run(
        *("group", "quote", str(number), "--nonce", nonce.hex(), "--pcrs", "0,20-23")
    )
    values = {int(index): bytes.fromhex(value) for index, value in quoted["pcrs"].items()}
    name = bytes.fromhex(group["uuid"].replace("-", "")) + bytes(4)
    assert values[23] == hashlib.sha1(bytes(20) + name).digest()
    chosen = b"".join(values[index] for index in sorted(values))
    composite = hashlib.sha1(bytes.fromhex("0003 0100f0") + b"\0\0\0\x64" + chosen).digest()
    external = hashlib.sha1(bytes(4) + hashlib.sha1(b"SHOW" + nonce).digest()).digest()
    info = b"\x01\x01\0\0QUOT" + composite + external
    aik = public_key((folder / "aik.pub").read_bytes())
    aik.verify(bytes.fromhex(quoted["signature"]), info, padding.PKCS1v15(), hashes.SHA1())


def test_a_groups_identity_is_activated_only_by_what_was_made_for_it(
    operator: Operator, group_0: Path
) -> None:
    # What a Privacy CA sends: TPM_ASYM_CA_CONTENTS of a session key and the AIK's digest.
    aik = (group_0 / "aik.pub").read_bytes()
    ek = operator.new_path("ek.pub")
    operator.run("manager", "pubek", "--out", ek)
    key = bytes.fromhex("00000006 0000 0010") + bytes(range(16))
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
    for digest, works in ((hashlib.sha1(aik).digest(), True), (bytes(20), False)):
        blob, out = operator.new_path("blob"), operator.new_path("session.key")
        blob.write_bytes(public_key(ek.read_bytes()).encrypt(key + digest, oaep))
        command = ("group", "activate", "0", "--blob", blob, "--out", out)
        if works:
            operator.run(*command)
            assert out.read_bytes() == key
        else:
            assert "refuses GROUP_ACTIVATE" in operator.refused(*command)
            assert not out.exists()


def test_more_groups_than_a_sector_of_xens_disk_holds_survive_a_restart(
    operator: Operator, agent: AgentFiles, stack: Stack
) -> None:
    while len(operator.run("group", "list")["groups"]) < 18:
        operator.provision(agent)
    before = operator.run("group", "list")["groups"]
    restart_manager(stack)
    assert operator.run("group", "list")["groups"] == before
    assert all(group["open"] for group in before)


def test_identity_keys_leave_nothing_in_the_chips_few_slots(
    operator: Operator, agent: AgentFiles
) -> None:
    number = new_group(operator, agent)
    blob = operator.new_path("blob")
    blob.write_bytes(b"\x01" * 256)
    command = ("group", "activate", str(number), "--blob", blob)
    for _ in range(12):
        operator.refused(*command, "--out", operator.new_path("session.key"))
        operator.run("group", "quote", str(number), "--nonce", "00" * 20, "--pcrs", "0")


def test_vtpms_are_registered_shown_and_deleted(operator: Operator) -> None:
    uuid = uuid4()
    operator.run("vtpm", "new", "--uuid", str(uuid))
    shown = operator.run("vtpm", "show", str(uuid))
    assert (shown["open"], shown["saved"], shown["admin"]) == (False, False, False)
    assert "there is a vTPM" in operator.refused("vtpm", "new", "--uuid", str(uuid))
    assert operator.code(O.VTPM_NEW, VtpmNew(4000, uuid4())) == ManagerCode.BADINDEX
    assert operator.run("vtpm", "delete", str(uuid), "--yes", str(uuid)) == {"deleted": str(uuid)}
    assert "no open group" in operator.refused("vtpm", "show", str(uuid))
    assert operator.code(O.VTPM_DEL, VtpmName(uuid)) == ManagerCode.FAIL


def test_more_vtpms_than_a_page_holds_are_all_listed(operator: Operator, agent: AgentFiles) -> None:
    number = new_group(operator, agent)
    made = {operator.run("vtpm", "new", "--group", str(number))["uuid"] for _ in range(260)}
    listed = operator.run("vtpm", "list", "--group", str(number))["vtpms"]
    assert {row["uuid"] for row in listed} == made
    assert operator.group(number)["vtpms"] == 260


def test_an_open_vtpm_is_shown_with_its_label_and_is_neither_deleted_nor_opened_twice(
    operator: Operator, stack: Stack
) -> None:
    # A test before this one may have restarted the manager, which its vTPM finds again by itself.
    wait_until(lambda: operator.vtpm("g1")["open"] is True, "g1 open")
    shown = operator.vtpm("g1")
    uuid = shown["uuid"]
    assert (shown["guest"], shown["saved"]) == ("g1", True)
    assert shown["kern_hash"] == hashlib.sha1(b"system_u:vm_r:web_t").hexdigest()
    refusal = operator.refused("vtpm", "delete", "g1", "--yes", uuid)
    assert "or it is open" in refusal

    async def load() -> None:
        async with open_frontend(stack.root / "run" / "vtpmmgr.sock", uuid=uuid_of("g1")) as device:
            decode_load_hash_key_response(await device.transact(encode_load_hash_key(), 0))

    with pytest.raises(ManagerRefused, match="DISABLED"):
        trio.run(load)
    assert operator.vtpm("g1") == shown


def test_the_right_to_manage_is_given_by_the_configuration_alone(operator: Operator) -> None:
    assert "guests.d: admin" in operator.refused("vtpm", "edit", "g1", "--admin")
    assert operator.run("vtpm", "edit", "g1", "--no-admin")["admin"] is False


def test_a_group_goes_with_its_vtpms_and_later_ones_move_down(
    operator: Operator, agent: AgentFiles
) -> None:
    number, later = new_group(operator, agent), new_group(operator, agent)
    vtpm = operator.run("vtpm", "new", "--group", str(number))["uuid"]
    uuid, later_uuid = operator.group(number)["uuid"], operator.group(later)["uuid"]
    operator.run("group", "delete", str(number), "--yes", uuid)
    assert operator.group(number)["uuid"] == later_uuid
    assert "no open group" in operator.refused("vtpm", "show", vtpm)
    group_0 = operator.group(0)["uuid"]
    assert "group 0, which stays" in operator.refused("group", "delete", "0", "--yes", group_0)
    count = len(operator.run("group", "list")["groups"])
    assert operator.code(O.GROUP_DEL, GroupNumber(count)) == ManagerCode.BADINDEX


def test_keys_change_while_a_guest_is_served(operator: Operator, stack: Stack) -> None:
    before = stack.transact("g1", bytes.fromhex("00c10000000e0000001500000005"))
    for command in (("manager", "rekey"), ("manager", "rekey-nv"), ("group", "rekey", "0")):
        operator.run(*command)
    assert "not bound to a counter" in operator.refused("manager", "rekey-counter")
    assert stack.transact("g1", bytes.fromhex("00c10000000e0000001500000005")) == before
    restart_manager(stack)
    assert operator.vtpm("g1")["saved"] is True


def test_status_and_pcrs_of_the_machine_are_shown(operator: Operator, stack: Stack) -> None:
    status = operator.run("manager", "status")
    assert (status["state"], status["freshness"]) == ("serving", "nv")
    assert status["groups"] == len(operator.run("group", "list")["groups"])
    operator.extend_hardware(16, b"\x33" * 20)
    value = hashlib.sha1(bytes(20) + b"\x33" * 20).hexdigest()
    assert operator.run("manager", "pcrs", "--pcrs", "16") == {"pcrs": {"16": value}}
    assert f"PCR-16: {value}" in operator.pcrs_file().read_text()
    assert "state" in stack.vtpmctl("manager", "status")


def test_an_nv_area_of_the_hardware_is_somebodys_own_and_never_the_managers(
    operator: Operator,
) -> None:
    auth = b"secret of the area!!"
    assert operator.code(O.NV_DEFINE_SPACE, NvDefineSpace(0x20077, 16, auth)) == ManagerCode.SUCCESS
    right, wrong = (NvWriteValue(0x20077, 0, each, b"data") for each in (auth, bytes(20)))
    assert operator.code(O.NV_WRITE_VALUE, right) == ManagerCode.SUCCESS
    assert operator.code(O.NV_WRITE_VALUE, wrong) == ManagerCode.AUTHFAIL
    own = NvDefineSpace(0x15654, 0, auth)
    assert operator.code(O.NV_DEFINE_SPACE, own) == ManagerCode.DISABLED_CMD
    assert operator.code(ManagementOrdinal.MANAGER_REKEY, Nothing()) == ManagerCode.SUCCESS


def test_nothing_that_is_there_is_written_over(operator: Operator, agent: AgentFiles) -> None:
    kept = agent.key.read_bytes()
    assert "is there already" in operator.refused("saa", "keygen", "--out", agent.key)
    groups = len(operator.run("group", "list")["groups"])
    make = ("group", "new", "--agent-pub", agent.pub, "--label", "x", "--out", operator.files)
    assert "is there already" in operator.refused(*make)
    assert (agent.key.read_bytes(), groups) == (
        kept,
        len(operator.run("group", "list")["groups"]),
    )


def test_a_key_with_a_passphrase_takes_it(operator: Operator) -> None:
    passphrase, wrong = operator.new_path("pass"), operator.new_path("wrong")
    passphrase.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    protected = operator.new_agent("--passphrase", f"file:{passphrase}")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in protected.key.read_bytes()
    assert protected.key.stat().st_mode & 0o777 == 0o600
    command = ("saa", "pubkey", "--key", protected.key, "--out", operator.new_path("x.pub"))
    assert "wrong passphrase" in operator.refused(*command, "--passphrase", f"file:{wrong}")
    assert "takes --passphrase" in operator.refused(*command)
