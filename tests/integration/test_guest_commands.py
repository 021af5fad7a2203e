# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl guest`, `config check` and `reload` on a running stack of `vtpmctl up`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tomllib
from pathlib import Path
from uuid import UUID

import pytest

from protocol.tpm12 import Ordinal, Tag, build_message
from tests.integration.stack import VTPMCTL, Stack, StackError, running_stack, transact

LIMIT_S = 120
GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")
PCR_READ_10 = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes([0, 0, 0, 10]))
EXTEND_10 = build_message(Tag.RQU_COMMAND, Ordinal.EXTEND, bytes([0, 0, 0, 10]) + b"\x11" * 20)
READ_PUBEK = build_message(Tag.RQU_COMMAND, Ordinal.READ_PUBEK, bytes(20))
OK = bytes(4)
UUID_TEXT = "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"


def pids(stack: Stack, *guests: str) -> dict[str, int]:
    """Return the processes of these guests and of the machine."""
    return {
        row["daemon"]: row["pid"]
        for row in stack.status()["daemons"]
        if row["guest"] is None or row["guest"] in guests
    }


def guests(stack: Stack) -> dict[str, dict[str, object]]:
    rows = json.loads(stack.vtpmctl("guest", "list", "--json"))["guests"]
    return {row["guest"]: row for row in rows}


def endorsement_key(stack: Stack, guest: str) -> bytes:
    response = stack.transact(guest, READ_PUBEK)
    assert response[6:10] == OK
    return response[10:-20]  # without the checksum over the nonce


def guest_file(stack: Stack, guest: str) -> Path:
    return stack.root / "state/etc/guests.d" / f"{guest}.toml"


def test_guests_come_and_go_and_the_others_do_not_notice(run_dir: Path) -> None:
    with running_stack(run_dir) as stack, stack.connect("g1") as client:
        before = pids(stack, "g1")
        assert transact(client, EXTEND_10)[6:10] == OK
        value = transact(client, PCR_READ_10)

        said = stack.vtpmctl("guest", "add", "g2", "--label", "a:b:c", "--hwinitpcr", "0-3")
        uuid = str(guests(stack)["g2"]["uuid"])
        assert said == f"guest g2 is added and runs; its uuid is {uuid}\n"
        assert stack.transact("g2", GET_RANDOM)[6:10] == OK
        key = endorsement_key(stack, "g2")
        assert key != endorsement_key(stack, "g1")
        assert stack.transact("g2", EXTEND_10)[6:10] == OK
        assert "was there already and runs" in stack.vtpmctl("guest", "add", "g2")

        stack.vtpmctl("guest", "stop", "g2")
        assert guests(stack)["g2"]["state"] == "stopped"
        with pytest.raises(OSError, match=r"No such file|refused"):
            stack.connect("g2")
        stack.vtpmctl("guest", "stop", "g2")

        stack.vtpmctl("guest", "start", "g2")
        assert endorsement_key(stack, "g2") == key
        assert stack.transact("g2", PCR_READ_10)[10:] == bytes(20)  # it was powered off
        assert stack.transact("g2", EXTEND_10)[6:10] == OK
        stack.vtpmctl("guest", "restart", "g2")
        assert stack.transact("g2", PCR_READ_10)[10:] == bytes(20)

        said = stack.vtpmctl("guest", "remove", "g2", "--yes", "g2")
        assert f"its image is kept, for vtpmctl guest add g2 --uuid {uuid}" in said
        assert list(guests(stack)) == ["g1"]
        assert not guest_file(stack, "g2").exists()
        with pytest.raises(StackError, match="to take it up again say its --uuid"):
            stack.vtpmctl("guest", "add", "g2")
        stack.vtpmctl("guest", "add", "g2", "--uuid", uuid)
        assert endorsement_key(stack, "g2") == key

        stack.vtpmctl("guest", "remove", "g2", "--yes", "g2", "--delete-state")
        assert not (run_dir / "state/guests/g2").exists()

        assert transact(client, PCR_READ_10) == value
        assert pids(stack, "g1") == before
        assert [row["restarts"] for row in stack.status()["daemons"]] == [0] * 4
    with running_stack(run_dir, ()) as stack:
        assert list(guests(stack)) == ["g1"]


def test_an_added_guest_is_there_after_a_restart_of_the_stack(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        stack.vtpmctl("guest", "add", "g2", "--admin", "--group", "0", "--ek", "none")
        file = guest_file(stack, "g2")
        assert tomllib.loads(file.read_text()).keys() >= {"uuid", "uid", "admin", "group", "ek"}
        assert file.stat().st_mode & 0o777 == 0o600
    with running_stack(run_dir, ()) as stack:
        assert stack.wait_ready().startswith("ready: 2 of 2 guests")
        assert guests(stack)["g2"]["admin"] is True
        assert stack.transact("g2", GET_RANDOM)[6:10] == OK


def test_a_guest_can_be_added_to_a_stack_that_does_not_run(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        pass
    said = stack.vtpmctl("guest", "add", "g2")
    assert "is added and starts with vtpmctl up" in said
    assert {row["state"] for row in guests(stack).values()} == {"stopped"}
    with pytest.raises(StackError, match="nobody answers"):
        stack.vtpmctl("guest", "start", "g2")
    with running_stack(run_dir, ()) as stack:
        assert stack.transact("g2", GET_RANDOM)[6:10] == OK
    stack.vtpmctl("guest", "remove", "g2", "--yes", "g2", "--delete-state")
    assert list(guests(stack)) == ["g1"]


def test_a_guest_that_cannot_start_is_not_added(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        before = pids(stack, "g1")
        # An image that nobody has the key of.
        (run_dir / "state/guests/g2").mkdir(mode=0o700)
        (run_dir / "state/guests/g2/slot1").write_bytes(b"image")
        with pytest.raises(StackError, match="vtpm-g2 refused to start"):
            stack.vtpmctl("guest", "add", "g2", "--uuid", UUID_TEXT)
        assert list(guests(stack)) == ["g1"]
        assert not guest_file(stack, "g2").exists()
        assert {row["guest"] for row in stack.status()["daemons"]} == {None, "g1"}
        assert (run_dir / "state/guests/g2/slot1").read_bytes() == b"image"
        assert pids(stack, "g1") == before


def test_a_guest_that_refused_gets_another_attempt_by_start(run_dir: Path) -> None:
    with running_stack(run_dir, ("g1", "g2")) as stack:
        stack.vtpmctl("guest", "stop", "g2")
        folder = run_dir / "state/guests/g2"
        slots = {path: path.read_bytes() for path in folder.glob("slot*")}
        for path, content in slots.items():
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StackError, match="vtpm-g2 refused to start"):
            stack.vtpmctl("guest", "start", "g2")
        assert guests(stack)["g2"]["state"] == "refused to start"
        for path, content in slots.items():
            path.write_bytes(content)
        stack.vtpmctl("guest", "start", "g2")
        assert stack.transact("g2", GET_RANDOM)[6:10] == OK


def test_a_reload_takes_up_what_was_edited_and_mistakes_are_listed(run_dir: Path) -> None:
    with running_stack(run_dir) as stack, stack.connect("g1") as client:
        before = pids(stack, "g1")
        good = stack.vtpmctl("config", "check")
        assert good == f"{run_dir}/state/etc: no mistakes, 1 guest\n"
        file = guest_file(stack, "g1")
        text = file.read_text()
        assert stack.vtpmctl("reload") == "4 daemons read it again\n"

        file.write_text(f'startup = "save"\n{text}')
        assert "vtpm-g1: at its next start only: startup\n" in stack.vtpmctl("reload")

        file.write_text(f"gruop = 1\nadmin = 1\n{text}")
        checked = subprocess.run(
            [*VTPMCTL, "config", "check", "--dir", str(run_dir)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert checked.returncode == 1
        assert checked.stdout.splitlines() == [
            f"{file}: gruop: unknown key; did you mean group?",
            f"{file}: admin: must be true or false, not 1",
        ]
        with pytest.raises(StackError, match="gruop: unknown key") as caught:
            stack.vtpmctl("reload")
        assert "admin: must be" in str(caught.value)
        assert "gruop: unknown key" in stack.vtpmctl("guest", "list")
        with pytest.raises(StackError, match="gruop: unknown key"):
            stack.vtpmctl("guest", "add", "g2")
        assert not guest_file(stack, "g2").exists()
        assert transact(client, GET_RANDOM)[6:10] == OK
        assert pids(stack, "g1") == before
        assert "configuration not used" not in stack.stderr()  # nobody was asked


def test_a_guest_without_a_stream_has_none(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        stack.vtpmctl("guest", "add", "g2")
        stack.vtpmctl("guest", "stop", "g2")
        file = guest_file(stack, "g2")
        file.write_text(file.read_text() + "stream = false\n")
        stack.vtpmctl("guest", "start", "g2")
        assert stack.daemon("tpmfront-g2")["state"] == "ready"
        assert not stack.tpm_socket("g2").exists()


def test_resetting_is_for_guests_that_run(run_dir: Path) -> None:
    with running_stack(run_dir, ("g1", "g2")) as stack:
        assert stack.transact("g1", EXTEND_10)[6:10] == OK
        stack.vtpmctl("guest", "reset", "g1")
        assert stack.transact("g1", PCR_READ_10)[10:] == bytes(20)
        stack.vtpmctl("guest", "stop", "g2")
        with pytest.raises(StackError, match="guest g2 is stopped"):
            stack.vtpmctl("guest", "reset", "g2")
        with pytest.raises(StackError, match="there is no guest g3"):
            stack.vtpmctl("guest", "reset", "g3")


def _typed(master: int, process: subprocess.Popen[bytes], text: str) -> str:
    """Type at the terminal of a process when it asks, and return all that it shows."""
    shown = b""
    typed = False
    while select.select([master], [], [], LIMIT_S)[0]:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # how Linux says that the other side of a terminal is closed
            break
        if not chunk:
            break
        shown += chunk
        if b"Type its name" in shown and not typed:
            os.write(master, text.encode() + b"\n")
            typed = True
    process.wait(LIMIT_S)
    return shown.decode()


@pytest.mark.parametrize(
    ("options", "fate"), [((), "Its image is kept."), (("--delete-state",), "image is DELETED")]
)
def test_a_terminal_is_asked_for_the_name_and_told_what_becomes_of_the_image(
    run_dir: Path, options: tuple[str, ...], fate: str
) -> None:
    with running_stack(run_dir) as stack:
        pass
    command = [*VTPMCTL, "guest", "remove", "g1", *options, "--dir", str(run_dir)]
    without = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert without.returncode == 2
    assert "say --yes g1" in without.stderr
    for answer, code in (("g2", 2), ("g1", 0)):
        assert list(guests(stack)) == ["g1"]
        assert (run_dir / "state/guests/g1").exists()
        master, slave = os.openpty()
        try:
            process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
            os.close(slave)
            shown = _typed(master, process, answer)
        finally:
            os.close(master)
        assert fate in shown
        assert process.returncode == code, shown
    assert list(guests(stack)) == []
    assert (run_dir / "state/guests/g1").exists() == (not options)


def test_what_stands_for_two_places_is_a_usage_error(run_dir: Path) -> None:
    for words in (
        ("guest", "list", "--system", "--dir", str(run_dir)),
        ("config", "check", "--config", str(run_dir), "--dir", str(run_dir)),
    ):
        done = subprocess.run([*VTPMCTL, *words], capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 2
        assert "exclude each other" in done.stderr


def test_the_uuid_that_was_said_is_the_vtpms(run_dir: Path) -> None:
    with running_stack(run_dir) as stack:
        stack.vtpmctl("guest", "add", "g2", "--uuid", UUID_TEXT)
        assert UUID(str(guests(stack)["g2"]["uuid"])) == UUID(UUID_TEXT)
        assert stack.daemon("vtpm-g2")["uuid"] == UUID_TEXT
        with pytest.raises(StackError, match=f"{UUID_TEXT} is also that of g2"):
            stack.vtpmctl("guest", "add", "g3", "--uuid", UUID_TEXT)
        assert stack.transact("g2", GET_RANDOM)[6:10] == OK
