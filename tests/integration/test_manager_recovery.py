# SPDX-License-Identifier: Apache-2.0
"""A machine that boots something that nobody approved, and one whose agent approved it ahead."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.manager.management import GroupNumber, Nothing, VtpmNew
from protocol.tpm12.constants import NvAttributes
from tests.integration.operators import Operator, configure, restart_manager
from tests.integration.stack import Stack, running_stack
from tests.integration.waiting import wait_until
from tpmcore import tss12

O = ManagementOrdinal  # noqa: E741 - the ordinals, once a line
OPTIONS = ("--ek", "none")
LABEL = "system_u:vm_r:web_t"
NEW_KERNEL = b"\x22" * 20
UNKNOWN = b"\x55" * 20
PCR_READ = bytes.fromhex("00c1 0000000e 00000015 00000005")


def write_nv(stack: Stack, guest: str) -> None:
    """Have a guest's TPM keep something."""
    define = tss12.nv_define_space(0x10000, 8, NvAttributes.PPWRITE)
    for conversation in (define, tss12.nv_write_value(0x10000, b"to keep!")):
        tss12.run_sync(lambda command: stack.transact(guest, command), conversation)


def read_nv(stack: Stack, guest: str) -> bytes:
    read = tss12.nv_read_value(0x10000, 8)
    return tss12.run_sync(lambda command: stack.transact(guest, command), read)


def after(pcrs: Path, pcr: int, digest: bytes) -> str:
    """Return PCR values with one more measurement in them, as an agent computes them ahead."""
    lines = pcrs.read_text().splitlines()
    old = bytes.fromhex(lines[pcr].partition(": ")[2])
    lines[pcr] = f"PCR-{pcr:02}: {hashlib.sha1(old + digest).hexdigest()}"
    return "\n".join(lines) + "\n"


def wait_state(stack: Stack, operator: Operator, state: str) -> dict[str, object]:
    """Wait until the manager is in a state, and return its status."""
    status: dict[str, object] = {}

    def is_in_it() -> bool:
        nonlocal status
        stack.wait_daemon_ready("vtpmmgr")
        status = operator.control("status")
        return status["state"] == state

    wait_until(is_in_it, f"the manager in the state {state}")
    return status


def test_a_configuration_that_was_approved_ahead_needs_nobody(run_dir: Path) -> None:
    configure(run_dir, "g1", label=LABEL)
    with running_stack(run_dir, ("g1",), OPTIONS) as stack:
        operator = Operator(run_dir, run_dir / "files")
        agent = operator.new_agent()
        operator.provision(agent)
        write_nv(stack, "g1")
        now, ahead = operator.pcrs_file(), operator.new_path("ahead.txt")
        ahead.write_text(after(now, 4, NEW_KERNEL))
        group = operator.group(0)["uuid"]
        signed = operator.sign(agent, group, 1, pcrs=[now, ahead], labels=[LABEL])
        assert len(operator.run("group", "update", "0", signed)["configurations"]) == 2

        operator.extend_hardware(4, NEW_KERNEL)
        restart_manager(stack)
        assert operator.control("status")["state"] == "serving"
        assert read_nv(stack, "g1") == b"to keep!"
        # and nothing else is approved
        operator.extend_hardware(4, UNKNOWN)
        restart_manager(stack)
        assert operator.control("status")["state"] == "recovery"
        stack.vtpmctl("hwtpm", "power-cycle")
        restart_manager(stack)
        wait_state(stack, operator, "serving")
        assert read_nv(stack, "g1") == b"to keep!"


def test_a_machine_that_nobody_approved_is_opened_by_its_agent(run_dir: Path) -> None:
    configure(run_dir, "g1", label=LABEL)
    with running_stack(run_dir, ("g1",), OPTIONS) as stack:
        operator = Operator(run_dir, run_dir / "files")
        agent = operator.new_agent()
        folder = operator.provision(agent)
        operator.register(agent, 0, folder)
        ek = operator.new_path("ek.pub")
        operator.run("manager", "pubek", "--out", ek)
        write_nv(stack, "g1")
        group = operator.group(0)["uuid"]
        trusted = operator.pcrs_file()
        signed = operator.sign(agent, group, 1, pcrs=[trusted], labels=[LABEL])
        operator.run("group", "update", "0", signed)

        operator.extend_hardware(4, NEW_KERNEL)
        restart_manager(stack)
        status = operator.control("status")
        assert status["state"] == "recovery"
        assert "PCR 4 is " in str(status["reason"])
        assert not (run_dir / "run" / "vtpmmgr.sock").exists()
        check_only_recovery(operator)

        expected = operator.new_path("expected.txt")
        expected.write_text(after(trusted, 4, NEW_KERNEL))
        # the agent expects what it knows, not what the machine says
        check_agent_refuses(operator, agent.key, agent.escrow, ek, trusted, expected)
        assert operator.control("status")["state"] == "recovery"
        operator.recover(agent, 0, ek, expected)
        wait_state(stack, operator, "serving")
        assert read_nv(stack, "g1") == b"to keep!"

        # open until the manager ends; a list makes it last
        killed = stack.pid("vtpmmgr")
        os.kill(killed, signal.SIGKILL)
        stack.wait_daemon_replaced("vtpmmgr", killed)
        wait_state(stack, operator, "recovery")
        operator.recover(agent, 0, ek, expected)
        wait_state(stack, operator, "serving")
        signed = operator.sign(agent, group, 2, pcrs=[expected], labels=[LABEL])
        operator.run("group", "update", "0", signed)
        restart_manager(stack)
        wait_state(stack, operator, "serving")
        assert read_nv(stack, "g1") == b"to keep!"


def check_only_recovery(operator: Operator) -> None:
    (group,) = operator.run("group", "list")["groups"]
    assert (group["open"], group["vtpms"], group["sequence"]) == (False, None, 1)
    assert operator.run("manager", "status")["state"] == "recovery"
    for ordinal, request in (
        (O.VTPM_NEW, VtpmNew(0, None)),
        (O.MANAGER_REKEY, Nothing()),
        (O.GROUP_REKEY, GroupNumber(0)),
        (O.GROUP_DEL, GroupNumber(0)),
    ):
        assert operator.code(ordinal, request) == ManagerCode.BAD_ORDINAL
    assert operator.code(O.GROUP_SHOW, GroupNumber(1)) == ManagerCode.BADINDEX


def check_agent_refuses(
    operator: Operator, key: Path, escrow: Path, ek: Path, trusted: Path, expected: Path
) -> None:
    """Try what a thief of the machine, or of the agent's papers, would."""
    uuid = operator.group(0)["uuid"]
    identity, challenge = operator.new_path("identity.json"), operator.new_path("challenge.json")
    state, request = operator.new_path("pending.json"), operator.new_path("request.json")
    operator.run("manager", "identity", "--label", "recovery", "--out", identity)
    begin = (
        *("recover-begin", "--group", uuid, "--identity", identity, "--pcrs", "0-7"),
        *("--out", challenge, "--state", state),
    )
    # another TPM than the one that was trusted
    foreign = operator.new_path("ek.pub")
    foreign.write_bytes(ek.read_bytes()[:-1] + bytes([ek.read_bytes()[-1] ^ 2]))
    assert "another TPM" in operator.refused("saa", *begin, "--key", key, "--ek", foreign)
    # an identity that did not sign its binding
    forged = operator.new_path("forged.json")
    said = json.loads(identity.read_text())
    forged.write_text(json.dumps({**said, "label_digest": "00" * 20}))
    changed = [forged if word == identity else word for word in begin]
    refusal = operator.refused("saa", *changed, "--key", key, "--ek", ek)
    assert "not signed its binding" in refusal

    operator.saa(*begin, "--key", key, "--ek", ek)
    operator.run(
        *("group", "recover-begin", "0", "--identity", identity, "--challenge", challenge),
        *("--out", request),
    )
    answer = operator.new_path("answer.json")
    recover = ("recover", "--state", state, "--config", "0-7", "--out", answer)
    own = ("--key", key, "--escrow", escrow)
    refusal = operator.refused("saa", *recover, *own, "--request", request, "--pcrs-file", trusted)
    assert "other PCR values than expected" in refusal
    other = operator.new_agent().key
    refusal = operator.refused(
        *("saa", *recover, "--key", other, "--escrow", escrow, "--request", request),
        *("--pcrs-file", expected),
    )
    assert "of another agent" in refusal
    said = json.loads(request.read_text())
    for field, text in (("credential", "not in that TPM"), ("exchange", "does not verify")):
        first = int(said[field][:2], 16) ^ 1
        wrong = operator.new_path("request.json")
        wrong.write_text(json.dumps({**said, field: f"{first:02x}{said[field][2:]}"}))
        refusal = operator.refused(
            "saa", *recover, *own, "--request", wrong, "--pcrs-file", expected
        )
        assert text in refusal
    # an answer that somebody changed opens nothing, and is the only try
    operator.saa(*recover, *own, "--request", request, "--pcrs-file", expected)
    good = json.loads(answer.read_text())
    first = int(good["recover_blob"][:2], 16) ^ 1
    broken = operator.new_path("answer.json")
    broken.write_text(
        json.dumps({**good, "recover_blob": f"{first:02x}{good['recover_blob'][2:]}"})
    )
    assert "not the group's key" in operator.refused("group", "recover-finish", "0", broken)
    assert "was not asked for" in operator.refused("group", "recover-finish", "0", answer)


def test_a_guest_with_a_label_that_is_not_approved_gets_no_key(run_dir: Path) -> None:
    configure(run_dir, "g1", label=LABEL)
    configure(run_dir, "g2", label="system_u:vm_r:other_t")
    with running_stack(run_dir, ("g1", "g2"), OPTIONS) as stack:
        operator = Operator(run_dir, run_dir / "files")
        agent = operator.new_agent()
        operator.provision(agent)
        group, pcrs = operator.group(0)["uuid"], [operator.pcrs_file()]
        write_nv(stack, "g2")
        signed = operator.sign(agent, group, 1, pcrs=pcrs, labels=["*:vm_r:web_t"])
        operator.run("group", "update", "0", signed)
    stack = Stack(run_dir, ("g1", "g2"), OPTIONS)
    try:
        assert stack.wait_ready() == "ready: 1 of 2 guests"
        assert "DISABLED" in stack.stderr()
        # by the wildcard, whose hash counts then
        assert operator.vtpm("g1")["kern_hash"] == hashlib.sha1(b"*:vm_r:web_t").hexdigest()
        signed = operator.sign(
            agent, group, 2, pcrs=pcrs, labels=["*:vm_r:web_t", "system_u:vm_r:other_t"]
        )
        operator.run("group", "update", "0", signed)
        stack.vtpmctl("guest", "start", "g2")
        assert read_nv(stack, "g2") == b"to keep!"
    finally:
        stack.stop()


def test_a_group_that_is_closed_is_opened_by_its_agent_and_the_others_run(run_dir: Path) -> None:
    configure(run_dir, "g1", label=LABEL)
    with running_stack(run_dir, ("g1",), OPTIONS) as stack:
        operator = Operator(run_dir, run_dir / "files")
        first, second = operator.new_agent(), operator.new_agent()
        operator.provision(first)
        folder = operator.provision(second)
        operator.register(second, 1, folder)
        ek = operator.new_path("ek.pub")
        operator.run("manager", "pubek", "--out", ek)
        vtpm = operator.run("vtpm", "new", "--group", "1")["uuid"]
        now = operator.pcrs_file()
        uuid = operator.group(1)["uuid"]
        signed = operator.sign(second, uuid, 1, pcrs=[now], selection="16")
        operator.run("group", "update", "1", signed)
        operator.extend_hardware(16, UNKNOWN)
        restart_manager(stack)
        assert operator.control("status")["state"] == "serving"
        assert stack.transact("g1", PCR_READ)[6:10] == bytes(4)
        assert operator.group(1)["open"] is False
        assert operator.code(O.VTPM_NEW, VtpmNew(1, None)) == ManagerCode.AUTHFAIL
        assert "no open group" in operator.refused("vtpm", "show", vtpm)
        # its vTPM is there all the same: nobody gets the uuid a second time
        assert "there is a vTPM" in operator.refused("vtpm", "new", "--uuid", vtpm)
        refusal = operator.refused("group", "update", "1", signed)
        assert "the group is closed" in refusal
        operator.recover(second, 1, ek, now)
        assert operator.run("vtpm", "show", vtpm)["group"] == 1
