# SPDX-License-Identifier: Apache-2.0
"""What a vtpm tells those who watch its TPM: each command once, in order, with whose it was."""

from __future__ import annotations

import json

import pytest

from daemons.runtime.audience import QUEUE_LIMIT, SEATS
from daemons.runtime.control import LINE_LIMIT_BYTES, Fields
from daemons.runtime.errors import DaemonError
from daemons.runtime.tracing import FrontIdentity, TracedCommand
from daemons.vtpm.trace import Trace, describe_for_manager
from tests.unit.vtpm.test_service import FAIL, PCR_READ, SAVING, Bench, _bench, _echo

FRONT = FrontIdentity(pid=1, uid=1000, label="uid:1000", device=1)


def _watched(bench: Bench) -> Trace:
    trace = Trace()
    trace.attach_host(bench.host)
    trace.attach_service(bench.service)
    return trace


def _is_told(bench: Bench) -> bool:
    """Whether a command goes to somebody; host and service are of one mind about it."""
    told = bench.host.observer is not None
    assert (bench.service.observer is not None) == told
    return told


async def test_a_command_is_told_with_its_response_locality_time_and_front() -> None:
    async with _bench() as bench:
        trace, device = _watched(bench), await bench.front()
        stream = trace.open({})
        await bench.service.request(device, PCR_READ, 3)
        (line,) = await stream.next()
        told = TracedCommand.parse(json.loads(json.dumps(line)))
        assert told.description.command == PCR_READ.hex()
        assert told.description.shown_response == b"answer to " + PCR_READ
        assert (told.locality, told.front) == (3, FRONT)
        assert 0 < told.duration_us < 1e6


async def test_a_command_that_takes_a_save_is_told_when_its_response_may_leave() -> None:
    async with _bench() as bench:
        trace, device = _watched(bench), await bench.front()
        stream = trace.open({})
        bench.may_save.set()
        assert await bench.service.request(device, SAVING, 0) == b"saved"
        (line,) = await stream.next()
        assert TracedCommand.parse(line).description.shown_response == b"saved"
        assert TracedCommand.parse(line).front == FRONT


async def test_what_the_tpm_never_saw_is_told_as_well() -> None:
    async with _bench("uid:1000=0", answer=_echo) as bench:
        trace, device = _watched(bench), await bench.front()
        stream = trace.open({})
        assert await bench.service.request(device, PCR_READ, 2) == FAIL
        request = bytes.fromhex("01c2 00000010 02000101") + b"secret"
        await bench.service.request(device, request, 0)
        refused, passed = [TracedCommand.parse(line) for line in await stream.next()]
        assert refused.description.shown_response == FAIL
        assert (refused.locality, refused.front) == (2, FRONT)
        assert passed.description.command == "manager GROUP_LIST"
        # Only this daemon's TPM knows what may be shown; of the manager's commands nothing is.
        assert passed.description.shown_command == request[:10] + bytes(6)
        assert b"secret" not in passed.description.shown_response


async def test_what_the_daemon_asks_its_tpm_itself_is_of_no_front() -> None:
    async with _bench() as bench:
        stream = _watched(bench).open({})
        await bench.host.execute(PCR_READ, 0)
        (line,) = await stream.next()
        assert TracedCommand.parse(line).front is None


async def test_while_nobody_watches_nobody_is_told() -> None:
    async with _bench() as bench:
        trace = _watched(bench)
        assert not _is_told(bench)
        first, second = trace.open({}), trace.open({})
        assert _is_told(bench)
        first.close()
        assert _is_told(bench)
        second.close()
        assert not _is_told(bench)


async def test_who_watches_before_there_is_a_tpm_sees_its_first_command() -> None:
    async with _bench() as bench:
        trace = Trace()
        stream = trace.open({})
        trace.attach_host(bench.host)
        trace.attach_service(bench.service)
        device = await bench.front()
        await bench.service.request(device, PCR_READ, 0)
        assert len(await stream.next()) == 1


async def test_a_watcher_that_does_not_look_holds_nobody_up_and_is_told() -> None:
    async with _bench() as bench:
        trace, device = _watched(bench), await bench.front()
        stream = trace.open({})
        for _ in range(QUEUE_LIMIT + 7):
            await bench.service.request(device, PCR_READ, 0)
        lines: list[Fields] = []
        while not (lines and "dropped" in lines[-1]):
            lines += await stream.next()
        assert len(lines) == QUEUE_LIMIT + 1
        assert lines[-1] == {"dropped": 7}


def test_arguments_and_a_crowd_are_refused() -> None:
    trace = Trace()
    with pytest.raises(DaemonError, match="unknown arguments: speed"):
        trace.open({"speed": 1})
    for _ in range(SEATS):
        trace.open({})
    with pytest.raises(DaemonError, match="watch already"):
        trace.open({})


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        ("01c1 0000000e 00000046 00000010", "hardware TPM 0x46", "SUCCESS"),
        ("01c2 0000000a 02000501", "manager MOVE_EXPORT", "0x1"),
        ("01c2 0000000a 12345678", "manager 0x12345678", "0x1"),
    ],
)
def test_requests_to_the_manager_have_names(command: str, name: str, code: str) -> None:
    response = bytes.fromhex("00c4 0000000a") + (0 if code == "SUCCESS" else 1).to_bytes(4, "big")
    description = describe_for_manager(bytes.fromhex(command), response)
    assert (description.command, description.code) == (name, code)


async def test_the_longest_command_fits_into_a_line() -> None:
    async with _bench() as bench:
        trace, device = _watched(bench), await bench.front()
        stream = trace.open({})
        await bench.service.request(device, PCR_READ + bytes(4074), 0)
        (line,) = await stream.next()
        assert len(json.dumps(line)) < LINE_LIMIT_BYTES
