# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl trace` at a real stack: real tools are watched, and none of their secrets is seen."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.tpm12 import Ordinal, Tag, build_message
from tests.integration.log_search import SEARCH, LogSearch
from tests.integration.stack import VTPMCTL, Stack, running_stack, transact
from tests.integration.tcsd import running_tcsd
from tests.integration.waiting import wait_until
from tests.unit.vtpmctl.packets import read_capture

LIMIT_S = 60
POLL_S = 0.05
PCR_READ_10 = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, bytes([0, 0, 0, 10]))
EXTEND_10 = build_message(Tag.RQU_COMMAND, Ordinal.EXTEND, bytes([0, 0, 0, 10]) + b"\x11" * 20)
GET_RANDOM = build_message(Tag.RQU_COMMAND, Ordinal.GET_RANDOM, (32).to_bytes(4, "big"))


class Trace:
    """A `vtpmctl trace` process that watches already."""

    def __init__(self, stack: Stack, *options: str, guest: str = "g1") -> None:
        self.out = stack.root / f"trace-{os.urandom(4).hex()}.out"
        self._stack = stack
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [*VTPMCTL, "trace", "--guest", guest, "--dir", str(stack.root), *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
            )

    def wait_for(self, text: str) -> None:
        """Wait until standard error has a line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line == f"{text}\n":
                return
        raise AssertionError(f"ended without saying {text!r}")

    def wait_until(self, holds: Callable[[bytes], bool]) -> None:
        """Wait until what was written is as it should be."""
        deadline = time.monotonic() + LIMIT_S
        while not holds(self.out.read_bytes()):
            assert time.monotonic() < deadline, self.out.read_bytes()[-2000:]
            select.select([], [], [], POLL_S)

    def wait_objects(self, count: int) -> list[dict[str, Any]]:
        """Wait until there are so many JSON objects, and return them."""
        self.wait_until(lambda out: out.count(b"\n") >= count)
        return self.objects()

    def objects(self) -> list[dict[str, Any]]:
        """Return the JSON objects that there are."""
        # What comes behind the last line feed is a line that is being written.
        return [json.loads(line) for line in self.out.read_text().split("\n")[:-1]]

    def interrupt(self) -> str:
        """End it as Ctrl-C does; return what it wrote."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(LIMIT_S) == 0
        return self.out.read_text()


@contextlib.contextmanager
def tracing(stack: Stack, *options: str, guest: str = "g1") -> Iterator[Trace]:
    trace = Trace(stack, *options, guest=guest)
    try:
        if "--json" in options:
            assert trace.wait_objects(1)[0] == {"guest": guest, "event": "connected"}
        else:
            trace.wait_for(f"watching guest {guest}")
        yield trace
    finally:
        trace.process.kill()
        trace.process.wait()
        assert trace.process.stderr is not None
        trace.process.stderr.close()


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    """Shared: watching leaves nothing behind, and each test leaves the guest running."""
    module_dir.chmod(0o755)  # for user tss
    with running_stack(module_dir) as running:
        yield running


def _commands(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in objects if "command" in one]


def test_commands_are_told_with_all_that_is_known_of_them(stack: Stack) -> None:
    with tracing(stack, "--json") as trace, stack.connect("g1") as one, stack.connect("g1") as two:
        value = transact(one, EXTEND_10)[10:]
        transact(two, PCR_READ_10)
        drawn = transact(one, GET_RANDOM)[14:]
        told = _commands(trace.wait_objects(4))
    extend, read, random = told
    assert [one["command"] for one in told] == ["EXTEND", "PCR_READ", "GET_RANDOM"]
    assert extend["parameters"] == {"pcrNum": "10", "inDigest": "11" * 20}
    assert extend["result"] == "SUCCESS"
    assert extend["response"] == read["response"] == {"outDigest": value.hex()}
    assert random["response"] == {"randomBytes": "<32 bytes>"}
    assert drawn.hex() not in trace.out.read_text()
    assert all(one["locality"] == 0 for one in told)
    assert all(0 < one["duration_us"] < 60e6 for one in told)
    # Two connections of this process, and the front that both came by.
    assert {one["client"]["pid"] for one in told} == {os.getpid()}
    assert all(one["client"]["uid"] == os.getuid() for one in told)
    first, second, again = [one["client"]["connection"] for one in told]
    assert first == again != second
    assert {one["front"]["pid"] for one in told} == {stack.pid("tpmfront-g1")}


def test_tools_work_as_ever_and_none_of_their_secrets_is_seen(stack: Stack) -> None:
    capture = stack.root / "g1.pcapng"
    sealed_text = SEARCH.secret(os.urandom(12).hex().encode()).decode()
    tools = stack.root / "tools"
    with tracing(stack, "--pcap", str(capture)) as trace:
        with running_tcsd(stack.tpm_socket("g1"), tools) as tcsd:
            (tcsd.folder / "secret").write_text(sealed_text)
            password = SEARCH.password("a password of the owner")
            tcsd.run("tpm_takeownership", "-y", "-z")
            tcsd.run_typing("tpm_changeownerauth", "-o", "-z", answers=[password, password])
            tcsd.run("tpm_sealdata", "-z", "-i", "secret", "-o", "sealed", "-p", "0")
            assert tcsd.run("tpm_unsealdata", "-z", "-i", "sealed") == sealed_text
            tcsd.run("tpm_nvdefine", "-i", "0x10000", "-s", "32", "-p", "OWNERWRITE|OWNERREAD",
                     f"--pwdo={password}")  # fmt: skip
            tcsd.run("tpm_nvwrite", "-i", "0x10000", "-s", "24", "-d", sealed_text,
                     f"--password={password}")  # fmt: skip
        with stack.connect("g1") as client:
            drawn = transact(client, GET_RANDOM)[14:]
            transact(client, PCR_READ_10)
        trace.wait_until(lambda out: b"PCR_READ pcrIndex=10" in out)
        text = trace.interrupt()

    # The tools are seen ...
    for command in ("TAKE_OWNERSHIP", "CHANGE_AUTH_OWNER", "SEAL", "UNSEAL", "NV_WRITE_VALUE"):
        assert f": {command} " in text, command
    assert "tcsd[" in text
    assert "encOwnerAuth=<256 bytes>" in text
    assert "secret=<" in text
    assert f"nvIndex={0x10000:#x} offset=0 data=<24 bytes>" in text
    # ... and nothing that must not be, in any form.
    search = LogSearch()
    for secret in (sealed_text.encode(), drawn):
        search.secret(secret)
    search.password("a password of the owner")
    for blob in _sealed_blobs(tools / "sealed"):
        search.secret(blob)
    search.logs = {"output": text.encode(), "capture": capture.read_bytes()}
    assert list(search.found()) == []
    name, packets = read_capture(capture.read_bytes())
    assert name == "g1"
    assert len(packets) == 2 * text.count("\n")
    # Every message is as long as it says, with zeros where secrets were.
    for packet in packets:
        assert int.from_bytes(packet.payload[2:6], "big") == len(packet.payload)
    _check_with_wireshark(capture, text)


def _sealed_blobs(path: Path) -> Iterator[bytes]:
    """Give, in pieces, what the TPM has encrypted in a file of tpm_sealdata: the private part of
    its key, and the key that its text is encrypted with. Both are the last 256 bytes of a blob."""
    blobs = 0
    for part in path.read_text().split("-----")[2::2]:
        lines = [line for line in part.splitlines() if line and ":" not in line]
        data = base64.b64decode("".join(lines))
        if len(data) > 256:
            blobs += 1
            yield from (data[start:][:32] for start in range(len(data) - 256, len(data), 32))
    assert blobs == 2


def _check_with_wireshark(capture: Path, text: str) -> None:
    """See that Wireshark's TPM dissector takes every packet, and that nothing below it is wrong."""
    columns = ("frame.protocols", "ip.checksum.status", "tcp.checksum.status",
               "tcp.analysis.flags", "tpm.req.cc", "tpm.resp.rc")  # fmt: skip
    done = subprocess.run(
        ["tshark", "-r", str(capture), "-o", "ip.check_checksum:TRUE",
         "-o", "tcp.check_checksum:TRUE", "-T", "fields", *[f"-e{one}" for one in columns]],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    packets = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(packets) == 2 * text.count("\n")
    for protocols, ip_checksum, tcp_checksum, flags, _, _ in packets:
        assert protocols == "ip:tcp:tpm"
        assert (ip_checksum, tcp_checksum, flags) == ("1", "1", "")  # good, good, nothing to say
    ordinals = [int(packet[4], 0) for packet in packets[::2]]
    assert {Ordinal.TAKE_OWNERSHIP, Ordinal.SEAL, Ordinal.UNSEAL} <= set(ordinals)
    assert all(packet[5] for packet in packets[1::2])
    assert all(not packet[4] for packet in packets[1::2])


def test_a_watcher_that_does_not_read_slows_nobody_and_is_told(stack: Stack) -> None:
    with tracing(stack, "--json") as trace, stack.connect("g1") as client:
        os.kill(trace.process.pid, signal.SIGSTOP)
        started = time.monotonic()
        count = 5000
        for _ in range(count):
            transact(client, PCR_READ_10)
        assert time.monotonic() - started < LIMIT_S
        os.kill(trace.process.pid, signal.SIGCONT)
        trace.wait_until(lambda out: b'"dropped"' in out)
        # And it goes on: what comes now is seen again.
        transact(client, EXTEND_10)
        trace.wait_until(lambda out: b'"EXTEND"' in out and out.endswith(b"\n"))
        told = trace.objects()
    dropped = sum(one.get("dropped", 0) for one in told)
    assert dropped > 0
    assert len(_commands(told)) + dropped == count + 1
    # Whose commands they were is right all the same, or not known.
    clients = [one["client"] for one in _commands(told)]
    assert {one["pid"] for one in clients if one is not None} == {os.getpid()}


def test_a_vtpm_that_is_killed_is_picked_up_again(stack: Stack) -> None:
    with tracing(stack, "--json") as trace:
        stack.transact("g1", PCR_READ_10)
        trace.wait_objects(2)
        os.kill(stack.pid("vtpm-g1"), signal.SIGKILL)
        told = trace.wait_objects(4)
        assert told[2:4] == [
            {"guest": "g1", "event": "lost"},
            {"guest": "g1", "event": "connected"},
        ]
        stack.transact("g1", EXTEND_10)
        trace.wait_until(lambda out: b'"EXTEND"' in out and out.endswith(b"\n"))
        (last,) = [one for one in _commands(trace.objects()) if one["command"] == "EXTEND"]
        assert last["client"]["pid"] == os.getpid()
        trace.interrupt()


def test_a_front_that_is_killed_is_picked_up_again(stack: Stack) -> None:
    with tracing(stack, "--json") as trace:
        stack.transact("g1", PCR_READ_10)
        trace.wait_objects(2)
        before = stack.pid("tpmfront-g1")
        os.kill(before, signal.SIGKILL)
        stack.wait_daemon_replaced("tpmfront-g1", before)
        deadline = time.monotonic() + LIMIT_S
        known = None
        while known is None:
            assert time.monotonic() < deadline
            count = len(trace.objects())
            stack.transact("g1", EXTEND_10)
            last = trace.wait_objects(count + 1)[-1]
            assert last["front"]["pid"] != before
            known = last["client"]
        assert known["pid"] == os.getpid()


def test_it_ends_after_so_many_and_shows_only_what_is_wanted(stack: Stack) -> None:
    with tracing(stack, "--command", "TPM_Extend", "--count", "2") as trace:
        for command in (EXTEND_10, PCR_READ_10, EXTEND_10, PCR_READ_10):
            stack.transact("g1", command)
        assert trace.process.wait(LIMIT_S) == 0
        lines = trace.out.read_text().splitlines()
    assert len(lines) == 2
    assert all(": EXTEND pcrNum=10 inDigest=" in line for line in lines)


def test_a_guest_that_is_off_is_waited_for(stack: Stack) -> None:
    stack.vtpmctl("guest", "stop", "g1")
    trace = Trace(stack, "--count", "1")
    try:
        trace.wait_for("waiting for the vtpm of guest g1")
        stack.vtpmctl("guest", "start", "g1")
        trace.wait_for("watching guest g1")
        stack.transact("g1", PCR_READ_10)
        assert trace.process.wait(LIMIT_S) == 0
    finally:
        trace.process.kill()
        trace.process.wait()
        assert trace.process.stderr is not None
        trace.process.stderr.close()


def test_a_capture_can_be_piped(stack: Stack) -> None:
    with tracing(stack, "--pcap", "-") as trace:
        stack.transact("g1", PCR_READ_10)
        trace.wait_until(lambda out: b"pcrIndex=10" in out)
        trace.process.send_signal(signal.SIGTERM)
        assert trace.process.wait(LIMIT_S) == 0
        _, packets = read_capture(trace.out.read_bytes())
    assert packets[0].payload == PCR_READ_10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["standard output", "capture on standard output", "capture"])
def test_it_ends_by_a_signal_though_nobody_reads_what_it_writes(
    stack: Stack, where: str, number: signal.Signals
) -> None:
    """As wireshark may stop that reads from it."""
    fifo = stack.root / f"unread-{number}.fifo"
    words = {
        "standard output": ["--json"],
        "capture on standard output": ["--pcap", "-"],
        "capture": ["--pcap", str(fifo)],
    }[where]
    if where == "capture":
        os.mkfifo(fifo)
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(os.devnull, os.O_WRONLY)
    else:
        reading, writing = os.pipe()
    with open(reading, "rb", buffering=0):
        capacity = fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
        with open(writing, "wb") as out, (stack.root / "unread.err").open("wb") as err:
            process = subprocess.Popen(
                [*VTPMCTL, "trace", "--guest", "g1", "--dir", str(stack.root), *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        try:

            def is_full() -> bool:
                assert process.poll() is None
                stack.transact("g1", PCR_READ_10)
                (unread,) = struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))
                return int(unread) > capacity - 1000

            wait_until(is_full, "a pipe that is nearly full")
            # What tells of these is longer than what is free.
            for _ in range(10):
                stack.transact("g1", PCR_READ_10)
            process.send_signal(number)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.wait()
    fifo.unlink(missing_ok=True)


def test_others_may_not_watch(stack: Stack) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *VTPMCTL, "trace", "--guest", "g1",
         "--dir", str(stack.root)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert done.stdout == ""
