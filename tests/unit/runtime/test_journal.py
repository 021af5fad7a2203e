# SPDX-License-Identifier: Apache-2.0
"""Log entries in the journal's protocol, received by a socket that stands in for the journal."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.runtime.journal import ENVIRONMENT_NAME, Journal, encode
from daemons.runtime.log import FLOOD_LINES, Level, Log


class Receiver:
    """The other end: takes entries apart as the protocol's description says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(os.fspath(path))
        self.socket.settimeout(10)
        self.memories = 0

    def entry(self) -> dict[str, str]:
        data, fds, _flags, _address = socket.recv_fds(self.socket, 1 << 18, 1)
        if fds:
            assert data == b""
            self.memories += 1
            with os.fdopen(fds[0], "rb") as memory:
                # Sealed: nobody may change it under the journal.
                with pytest.raises(PermissionError):
                    os.ftruncate(memory.fileno(), 0)
                data = os.pread(memory.fileno(), os.fstat(memory.fileno()).st_size, 0)
        fields: dict[str, str] = {}
        while data:
            head, _, rest = data.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if equals:
                data = rest
            else:
                size = int.from_bytes(rest[:8], "little")
                value, end, data = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
                assert end == b"\n"
            assert name.decode() not in fields
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path / "journal")
    yield made
    made.socket.close()


@pytest.fixture
def lines() -> list[str]:
    """What went to standard error."""
    return []


@pytest.fixture
def log(receiver: Receiver, lines: list[str]) -> Iterator[Log]:
    journal = Journal({"SYSLOG_IDENTIFIER": "vtpm"}, address=os.fspath(receiver.path))
    made = Log("vtpm", level=Level.DEBUG, sink=lines.append, journal=journal, guest="g1")
    made.add_to_journal(uuid="u")
    yield made
    journal.close()
    journal.close()


def test_an_entry_has_its_fields_and_the_line_that_a_terminal_would_have(
    receiver: Receiver, log: Log, lines: list[str]
) -> None:
    log.debug("command", command="EXTEND", locality=3, code="AUTHFAIL", duration_ms=0.5)
    assert receiver.entry() == {
        "SYSLOG_IDENTIFIER": "vtpm",
        "MESSAGE": "[guest=g1] command command=EXTEND locality=3 code=AUTHFAIL duration_ms=0.5",
        "PRIORITY": "7",
        "VTPM_EVENT": "command",
        "VTPM_GUEST": "g1",
        "VTPM_UUID": "u",
        "VTPM_COMMAND": "EXTEND",
        "VTPM_LOCALITY": "3",
        "VTPM_CODE": "AUTHFAIL",
        "VTPM_DURATION_MS": "0.5",
    }
    assert lines == []


def test_levels_are_those_of_syslog(receiver: Receiver, log: Log) -> None:
    for write in (log.debug, log.info, log.warning, log.error):
        write("event")
    assert [receiver.entry()["PRIORITY"] for _ in range(4)] == ["7", "6", "4", "3"]


def test_a_bound_log_goes_to_the_same_journal(receiver: Receiver, log: Log) -> None:
    log.bind(daemon="hwtpm").info("started")
    assert receiver.entry()["VTPM_DAEMON"] == "hwtpm"


def test_line_breaks_in_a_value_stay_in_it_and_make_no_field(receiver: Receiver, log: Log) -> None:
    log.warning("refused", label="a\nPRIORITY=0\n\n", name="MESSAGE=x")
    entry = receiver.entry()
    assert entry["VTPM_LABEL"] == "a\nPRIORITY=0\n\n"
    assert entry["VTPM_NAME"] == "MESSAGE=x"
    assert entry["PRIORITY"] == "4"
    assert "\n" not in entry["MESSAGE"]


def test_bytes_are_shown_by_their_length_only(receiver: Receiver, log: Log) -> None:
    log.info("got", data=b"hunter2")
    entry = receiver.entry()
    assert entry["VTPM_DATA"] == "<7bytes>"
    assert "hunter2" not in str(entry)


def test_an_entry_too_long_for_a_datagram_travels_in_a_sealed_memory(
    receiver: Receiver, log: Log
) -> None:
    text = "x" * 400_000
    log.error("failed", reason=text)
    assert receiver.entry()["VTPM_REASON"] == text
    assert receiver.memories == 1


def test_a_journal_that_does_not_read_stops_nobody_and_lines_go_to_standard_error(
    log: Log, lines: list[str]
) -> None:
    for number in range(1000):
        log.error("event", number=number)
    # The kernel's queue of the socket took the first few.
    assert 0 < len(lines) < 1000
    assert lines[-1] == "vtpm[guest=g1] error: event number=999\n"


def test_a_journal_that_is_gone_stops_nobody_and_one_that_returns_is_used(
    receiver: Receiver, log: Log, lines: list[str]
) -> None:
    receiver.socket.close()
    receiver.path.unlink()
    log.info("nobody there")
    assert lines == ["vtpm[guest=g1] nobody there\n"]
    again = Receiver(receiver.path)
    log.info("back")
    assert again.entry()["VTPM_EVENT"] == "back"
    again.socket.close()


def test_the_flood_control_is_the_same(receiver: Receiver, log: Log, lines: list[str]) -> None:
    receiver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    seen = 0
    receiver.socket.setblocking(False)
    for _ in range(10 * FLOOD_LINES):
        log.info("front gone")
        try:
            receiver.entry()
            seen += 1
        except BlockingIOError:
            pass
    assert (seen, lines) == (FLOOD_LINES, [])


@pytest.mark.parametrize("name", ["", "lower", "_PID", "A-B", "A" * 65, "1A", "Ä"])
def test_a_name_that_the_journal_would_drop_is_a_bug(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a journal field"):
        encode([(name, "x")])


def test_the_journal_is_used_only_if_standard_error_leads_to_it(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "from daemons.runtime.journal import Journal\n"
        "found = os.fstat(2)\n"
        "ours = f'{found.st_dev}:{found.st_ino}'\n"
        "for value in (ours, ours + '0', '', None):\n"
        f"    environ = {{}} if value is None else {{{ENVIRONMENT_NAME!r}: value}}\n"
        "    print(Journal.of_stderr(environ, {}) is not None)\n"
    )
    with (tmp_path / "stderr").open("w") as stderr:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=stderr, check=True
        )
    assert done.stdout.split() == [b"True", b"False", b"False", b"False"]
    assert not stat.S_ISSOCK((tmp_path / "stderr").stat().st_mode)
