# SPDX-License-Identifier: Apache-2.0
"""Log lines: one per event, with fields, and nothing that a peer says makes two of them."""

from __future__ import annotations

import enum
import subprocess
import sys

import pytest

from daemons.runtime.log import FLOOD_LINES, FLOOD_PERIOD_S, Level, Log


class Colour(enum.Enum):
    RED = 1


def logged(level: Level = Level.DEBUG) -> tuple[Log, list[str]]:
    lines: list[str] = []
    return Log("vtpm", level=level, sink=lines.append, guest="g1"), lines


def test_a_line_has_the_daemon_its_fields_the_event_and_its_fields() -> None:
    log, lines = logged()
    log.info("image saved", slot=1, duration_ms=2.125)
    log.bind(uuid="u").warning("manager lost")
    log.error("it ended")
    log.debug("header", locality=0)
    assert lines == [
        "vtpm[guest=g1] image saved slot=1 duration_ms=2.12\n",
        "vtpm[guest=g1 uuid=u] warning: manager lost\n",
        "vtpm[guest=g1] error: it ended\n",
        "vtpm[guest=g1] debug: header locality=0\n",
    ]


def test_a_log_without_fields_has_no_brackets() -> None:
    lines: list[str] = []
    Log("hwtpm", sink=lines.append).info("ready")
    assert lines == ["hwtpm ready\n"]


@pytest.mark.parametrize("level", list(Level))
def test_only_lines_of_at_least_the_level_are_written(level: Level) -> None:
    log, lines = logged(level)
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    assert len(lines) == 4 - list(Level).index(level)


def test_values_from_peers_cannot_forge_a_line_or_a_field() -> None:
    log, lines = logged()
    log.info("refused", label="a\nvtpm ready", name='x" slot=2', empty="")
    log.error("bad\nvtpm[guest=g2] image saved")
    assert [line.count("\n") for line in lines] == [1, 1]
    assert lines[0] == (
        'vtpm[guest=g1] refused label="a\\nvtpm ready" name="x\\" slot=2" empty=""\n'
    )


def test_bytes_are_shown_by_length_and_enums_by_name() -> None:
    log, lines = logged()
    log.info("got", data=b"secret", colour=Colour.RED)
    assert lines == ["vtpm[guest=g1] got data=<6bytes> colour=RED\n"]


def test_a_peer_that_causes_lines_without_end_does_not_fill_the_disk() -> None:
    now, lines = [0.0], list[str]()
    log = Log("vtpm", sink=lines.append, clock=lambda: now[0])
    for _ in range(1000):
        log.warning("front refused", uid=1)
        log.info("front gone")
    assert len(lines) == 2 * FLOOD_LINES
    log.warning("manager lost")
    log.error("front refused")
    assert len(lines) == 2 * FLOOD_LINES + 2
    now[0] = FLOOD_PERIOD_S
    log.warning("front refused", uid=2)
    log.warning("front refused", uid=3)
    assert lines[-2:] == [
        f"vtpm warning: front refused uid=2 not_shown={1000 - FLOOD_LINES}\n",
        "vtpm warning: front refused uid=3\n",
    ]


def test_a_reader_that_does_not_read_loses_lines_and_stops_nobody() -> None:
    script = (
        "from daemons.runtime.log import Log\n"
        "log = Log('vtpm')\n"
        "for number in range(2000):\n"
        "    log.error('x' * 5000 if number == 0 else 'a line of the log', number=number)\n"
        "print('done')\n"
    )
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            # Nothing is read from its standard error until it has written all its lines.
            assert process.stdout.read() == b"done\n"
            lines = process.stderr.read().splitlines(keepends=True)
        finally:
            process.kill()
    assert len(lines[0]) == 4096
    assert lines[1] == b"vtpm error: a line of the log number=1\n"
    assert all(line.endswith(b"\n") for line in lines)
    assert 100 < len(lines) <= 2000
