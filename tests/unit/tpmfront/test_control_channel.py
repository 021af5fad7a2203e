# SPDX-License-Identifier: Apache-2.0
"""tpmfront's control channel as QEMU and swtpm_ioctl use it: what reaches the vTPM, what is
answered, and what a client can and cannot break."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from protocol.vtpm import control
from protocol.vtpm.control import ControlOrdinal
from tests.unit.tpm12.world import SeededRandom
from tests.unit.tpmfront.control_world import (
    LIMIT_S,
    QUICK,
    SLOW,
    Client,
    Front,
    front_at,
    quick_response,
)

OK = "00000000"
FAIL = "00c40000000a00000009"


@pytest.fixture
async def front(run_dir: Path) -> AsyncIterator[Front]:
    async with front_at(run_dir) as (front, _):
        yield front


@pytest.fixture
async def client(front: Front) -> Client:
    return await front.connect()


def ordinals(front: Front) -> list[ControlOrdinal]:
    return [ordinal for ordinal, _, _ in front.vtpm.requests]


async def test_plain_requests_are_passed_on(front: Front, client: Client) -> None:
    assert await client.ask("00000001", 8) == "0000000000017fff"
    assert await client.ask("00000004", 8) == "0000000001000000"
    assert await client.ask("00000006") == OK
    assert await client.ask("00000008") == OK
    assert await client.ask("0000000a") == OK
    assert await client.ask("0000000f", 8) == "0000000000000003"
    assert await client.ask("00000011 00000000", 16) == "0000000000000ff800000c0000000ff8"
    assert await client.ask("00000013 00000000") == OK
    assert front.vtpm.requests == [
        (ControlOrdinal.GET_ESTABLISHED, b"", 0),
        (ControlOrdinal.HASH_START, b"", 4),
        (ControlOrdinal.HASH_END, b"", 4),
        (ControlOrdinal.STORE_VOLATILE, b"", 0),
        (ControlOrdinal.GET_CONFIG, b"", 0),
        (ControlOrdinal.BUFFER_SIZE, bytes(4), 0),
        (ControlOrdinal.LOCK_STATE, b"", 0),
    ]


async def test_a_power_cycle_as_qemu_makes_it(front: Front, client: Client) -> None:
    data = await client.open_data()
    assert await client.ask("0000000e") == OK
    # The probe of a TPM that is stopped must be answered.
    assert await data.ask("00c1 0000000a 000000f1", 10) == FAIL
    assert await client.ask("00000004", 8) == "0000000a00000000"
    assert await client.ask("00000009") == "0000000a"
    assert await client.ask("0000000c 00000000 00000001 00000000") == "0000000a"
    assert await client.ask("00000011 00000800", 16) == "0000000000000ff800000c0000000ff8"
    assert await client.ask("00000002 00000000") == OK
    assert await data.ask(QUICK, 11) == quick_response(0).hex()
    assert await client.ask("00000002 00000001") == OK
    powers = [(o, body) for o, body, _ in front.vtpm.requests if o is ControlOrdinal.POWER_ON]
    assert powers == [(ControlOrdinal.POWER_ON, b"\0"), (ControlOrdinal.POWER_ON, b"\1")]


@pytest.mark.parametrize(
    ("ordinal", "request_", "answer"),
    [
        (ControlOrdinal.POWER_OFF, "0000000e", OK),
        (ControlOrdinal.POWER_ON, "00000002 00000000", OK),
        (
            ControlOrdinal.BUFFER_SIZE,
            "00000011 00000000",
            OK + "00000ff8" + "00000c00" + "00000ff8",
        ),
        (
            ControlOrdinal.BUFFER_SIZE,
            "00000011 00000ff8",
            OK + "00000ff8" + "00000c00" + "00000ff8",
        ),
        (ControlOrdinal.GET_ESTABLISHED, "00000004", OK + "01000000"),
    ],
)
async def test_a_machine_is_reset_while_its_vtpm_is_replaced(
    front: Front, client: Client, ordinal: ControlOrdinal, request_: str, answer: str
) -> None:
    front.vtpm.dies_over.add(ordinal)
    assert await client.ask(request_, len(answer) // 2) == answer
    assert ordinals(front) == [ordinal, ordinal]


@pytest.mark.parametrize(
    ("ordinal", "request_"),
    [
        # The volatile state may have served already: the second time it would be gone.
        (ControlOrdinal.POWER_ON, "00000002 00000001"),
        (ControlOrdinal.HASH_START, "00000006"),
        (ControlOrdinal.RESET_ESTABLISHED, "0000000b 03"),
    ],
)
async def test_what_must_not_be_done_twice_is_not(
    front: Front, client: Client, ordinal: ControlOrdinal, request_: str
) -> None:
    front.vtpm.dies_over.add(ordinal)
    assert await client.ask(request_) == "00000009"
    assert ordinals(front) == [ordinal]


async def test_codes_of_the_vtpm_are_passed_on(front: Front, client: Client) -> None:
    for ordinal, request, size in (
        (ControlOrdinal.POWER_ON, "00000002 00000000", 4),
        (ControlOrdinal.GET_CONFIG, "0000000f", 4),
        (ControlOrdinal.BUFFER_SIZE, "00000011 00000000", 4),
        (ControlOrdinal.GET_INFO, "00000012 0000000000000001 00000000 00000000", 4),
        (ControlOrdinal.GET_ESTABLISHED, "00000004", 8),
        (ControlOrdinal.GET_STATE, "0000000c 00000000 00000001 00000000", 16),
        (ControlOrdinal.HASH_END, "00000008", 4),
    ):
        front.vtpm.codes[ordinal] = 0x26
        assert await client.ask(request, size) == "00000026".ljust(2 * size, "0")


async def test_the_locality_holds_for_the_data_channel_only_and_survives_init(
    front: Front, client: Client
) -> None:
    data, stream = await client.open_data(), await front.connect_stream()
    assert await data.ask(QUICK, 11) == quick_response(0).hex()
    assert await client.ask("00000005 03") == OK
    assert await data.ask(QUICK, 11) == quick_response(3).hex()
    assert await client.ask("00000005 02000000") == OK
    assert await client.ask("00000002 00000000") == OK
    assert await data.ask(QUICK, 11) == quick_response(2).hex()
    assert await stream.ask(QUICK, 11) == quick_response(0).hex()
    assert await client.ask("00000005 05") == "0000003d"
    assert await data.ask(QUICK, 11) == quick_response(2).hex()
    # It is that of the channel: the next connection has it too.
    await data.close()
    data = await client.open_data()
    assert await data.ask(QUICK, 11) == quick_response(2).hex()


async def test_the_flag_is_reset_from_the_locality_of_the_request(
    front: Front, client: Client
) -> None:
    for body in ("03", "04000000"):
        assert await client.ask("0000000b" + body) == OK
    assert await client.ask("0000000b 05") == "0000003d"
    front.vtpm.codes[ControlOrdinal.RESET_ESTABLISHED] = 61
    assert await client.ask("0000000b 02") == "0000003d"
    asked = [locality for _, _, locality in front.vtpm.requests]
    assert asked == [3, 4, 2]


@pytest.mark.parametrize("size", [0, 1, 3999, 4000, 4001, 20_000])
async def test_data_of_any_length_is_hashed_in_order(
    front: Front, client: Client, size: int
) -> None:
    data = os.urandom(size)
    request = bytes.fromhex("00000007") + size.to_bytes(4, "big") + data
    for cut in (8, 5, len(request)):
        front.vtpm.requests.clear()
        await client.send(request[:cut])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(request[cut:])
        assert (await client.receive(4)).hex() == OK
        parts = [body for _, body, locality in front.vtpm.requests if locality == 4]
        assert b"".join(parts) == data
        assert parts
        assert max(map(len, parts)) <= control.CHUNK_BYTES


async def test_data_that_the_vtpm_does_not_take_is_read_to_its_end(
    front: Front, client: Client
) -> None:
    front.vtpm.codes[ControlOrdinal.HASH_DATA] = 26
    assert await client.ask(bytes.fromhex("00000007 00004e20") + bytes(20_000)) == "0000001a"
    assert await client.ask("00000001", 8) == "0000000000017fff"


@pytest.mark.parametrize("size", [1, 4000, 4001, 100_000])
async def test_a_state_blob_goes_out_and_in_again(front: Front, client: Client, size: int) -> None:
    blob = os.urandom(size)
    front.vtpm.blobs[2] = blob
    header = "0000000000000002" + 2 * size.to_bytes(4, "big").hex()
    assert await client.ask("0000000c 00000001 00000002 00000000", 16 + size) == header + blob.hex()
    # From an offset on: the count is that of the bytes that follow.
    rest = (size - 1).to_bytes(4, "big").hex()
    answer = await client.ask("0000000c 00000001 00000002 00000001", 15 + size)
    assert answer == "0000000000000002" + rest + rest + blob[1:].hex()

    assert await client.ask("0000000e") == OK
    request = bytes.fromhex("0000000d 00000002 00000001") + size.to_bytes(4, "big")
    await client.send(request)
    await trio.testing.wait_all_tasks_blocked()
    await client.send(blob)
    assert (await client.receive(4)).hex() == OK
    assert front.vtpm.blobs[1] == blob
    assert await client.ask(request + blob[::-1]) == OK
    assert front.vtpm.blobs[1] == blob[::-1]


async def test_a_blob_that_there_is_not_is_told_with_the_whole_header(client: Client) -> None:
    answer = await client.ask("0000000c 00000001 00000003 00000000", 16)
    assert answer == "00000800" + 24 * "0"


async def test_a_blob_of_the_wrong_length_is_refused_and_the_connection_goes_on(
    front: Front, client: Client
) -> None:
    await client.ask("0000000e")
    front.vtpm.requests.clear()
    too_long = control.MAX_BLOB_BYTES + 1
    request = bytes.fromhex("0000000d 00000002 00000001") + too_long.to_bytes(4, "big")
    assert await client.ask(request + bytes(too_long)) == "00000009"
    # None at all is what swtpm_ioctl makes of a blob that there is not.
    answers = [await client.ask(f"0000000d 00000002 0000000{kind} 00000000") for kind in range(5)]
    assert answers == ["00000003", "00000003", OK, OK, "00000003"]
    assert ControlOrdinal.SET_STATE not in ordinals(front)
    assert await client.ask("00000002 00000000") == OK
    assert await client.ask("0000000d 00000002 00000003 00000000") == "0000000a"
    # One that runs takes none; what came is no request.
    assert await client.ask("0000000d 00000002 00000001 00000004 0000000e") == "0000000a"
    assert front.vtpm.is_running


async def test_an_empty_blob_is_taken_by_a_tpm_that_was_stopped_before(
    front: Front, client: Client
) -> None:
    front.vtpm.is_running = False  # by the last process
    assert await client.ask("0000000d 00000002 00000003 00000000") == OK


async def test_a_text_comes_in_pages(front: Front, client: Client) -> None:
    front.vtpm.text = bytes(range(1, 256)) * 30  # 7650
    first = await client.ask("00000012 0000000000000004 00000000 00000000", 12 + 3072)
    assert first == "0000000000001de300000c00" + front.vtpm.text[:3072].hex()
    last = await client.ask("00000012 0000000000000004 00001d00 00000000", 12 + 227)
    assert last == "0000000000001de3000000e3" + front.vtpm.text[0x1D00:].hex() + "00"
    assert await client.ask("00000012 0000000000000004 00001de2 00000000") == "00000003"


async def test_an_unknown_command_is_answered_and_the_connection_stays(client: Client) -> None:
    assert await client.ask("00000063") == "0000000a"
    assert await client.ask("00000000 0011") == "0000000a"
    assert await client.ask("00000003 00") == "00000003"
    assert await client.ask("00000001", 8) == "0000000000017fff"


async def test_half_a_request_ends_the_connection_and_the_next_client_is_served(
    front: Front, client: Client
) -> None:
    waiting = await front.connect()
    await waiting.send("00000001")
    await client.send("00000002 0000")
    assert await client.ended()
    assert (await waiting.receive(8)).hex() == "0000000000017fff"
    assert ordinals(front) == []


async def test_one_client_at_a_time(front: Front, client: Client) -> None:
    await client.ask("00000001", 8)
    other = await front.connect()
    await other.send("00000001")
    await trio.testing.wait_all_tasks_blocked()
    assert await client.ask("00000001", 8) == "0000000000017fff"
    with trio.move_on_after(0.1):
        await other.receive(1)
        pytest.fail("served beside another")
    await client.close()
    assert (await other.receive(8)).hex() == "0000000000017fff"


async def test_a_cancelled_command_ends_at_the_vtpm(front: Front, client: Client) -> None:
    data = await client.open_data()
    await data.send(SLOW)
    await front.vtpm.has_slow.wait()
    assert await client.ask("00000009") == OK
    assert (await data.receive(10)).hex() == FAIL
    assert front.vtpm.cancels == 1
    # A lost race, and nothing to cancel at all.
    assert await client.ask("00000009") == OK
    assert await data.ask(QUICK, 11) == quick_response(0).hex()
    assert front.vtpm.cancels == 1


async def test_a_command_that_waits_for_its_turn_is_cancelled_as_well(
    front: Front, client: Client
) -> None:
    data, stream = await client.open_data(), await front.connect_stream()
    await stream.send(SLOW)
    await front.vtpm.has_slow.wait()
    await data.send(QUICK)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await client.ask("00000009") == OK
    assert (await data.receive(10)).hex() == FAIL
    # The other's command is not touched.
    assert front.vtpm.cancels == 0
    front.vtpm.release.set()
    assert (await stream.receive(11)) == quick_response(0)
    assert front.vtpm.commands == [(SLOW, 0)]


@pytest.mark.parametrize("source", ["stream", "data"])
async def test_clients_cannot_make_control_requests(
    front: Front, client: Client, source: str
) -> None:
    victim = await front.connect_stream() if source == "stream" else await client.open_data()
    for ordinal in ControlOrdinal:
        request = control.encode_request(ordinal)
        assert await victim.ask(request, 10) == "00c40000000a0000001e"
    assert front.vtpm.requests == []
    assert await victim.ask(QUICK, 11) == quick_response(0).hex()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_is_no_connected_stream_is_refused_and_not_kept(client: Client) -> None:
    await client.ask("00000001", 8)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    listener, alone = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    listener.bind(b"\0vtpm-suite-%d" % os.getpid())
    listener.listen()
    with ours, theirs, listener, alone, no_descriptor_left():
        for fd in (theirs.fileno(), read, write, listener.fileno(), alone.fileno()):
            assert await client.pass_socket([fd]) == "00000003"
        assert await client.ask("00000010") == "00000003"  # none at all
    os.close(read)
    os.close(write)


async def test_surplus_descriptors_are_closed(client: Client) -> None:
    await client.ask("00000001", 8)
    ours, theirs = socket.socketpair()
    with no_descriptor_left():
        # With a command that wants none, with half a request, and more than fit.
        assert await client.pass_socket([theirs.fileno()], "0000000f") == OK
        await client.receive(4)
        assert await client.pass_socket([theirs.fileno()] * 9, "00000099") == "0000000a"
    read, write = os.pipe()
    assert await client.pass_socket([theirs.fileno(), write]) == OK
    os.close(write)
    assert os.read(read, 1) == b"", "somebody holds the other end of the pipe"
    os.close(read)
    theirs.close()
    data = client.with_data(ours)
    assert await data.ask(QUICK, 11) == quick_response(0).hex()


async def test_a_descriptor_may_come_before_the_rest_of_its_request(client: Client) -> None:
    await client.ask("00000001", 8)
    ours, theirs = socket.socketpair()
    raw = client.stream.socket._sock  # type: ignore[attr-defined]
    socket.send_fds(raw, [b"\0\0"], [theirs.fileno()])
    await trio.testing.wait_all_tasks_blocked()
    assert await client.ask("0010") == OK
    theirs.close()
    data = client.with_data(ours)
    assert await data.ask(QUICK, 11) == quick_response(0).hex()


async def test_there_is_one_data_channel_until_it_is_closed(client: Client) -> None:
    data = await client.open_data()
    ours, theirs = socket.socketpair()
    assert await client.pass_socket([theirs.fileno()]) == "0000001f"
    theirs.close()
    assert ours.recv(1) == b"", "what was refused is closed"
    ours.close()
    assert await data.ask(QUICK, 11) == quick_response(0).hex()
    await data.close()
    # At once, although the front may not have noticed yet.
    data = await client.open_data()
    assert await data.ask(QUICK, 11) == quick_response(0).hex()


async def test_a_tcp_connection_is_a_data_channel_too(client: Client) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    assert await client.pass_socket([theirs.fileno()]) == OK
    theirs.close()
    listener.close()
    data = client.with_data(ours)
    await data.send(QUICK[:5])
    await trio.testing.wait_all_tasks_blocked()
    assert await data.ask(QUICK[5:], 11) == quick_response(0).hex()
    await data.close()
    data = await client.open_data()
    assert await data.ask(QUICK, 11) == quick_response(0).hex()


async def test_the_loss_of_a_client_changes_nothing(front: Front, client: Client) -> None:
    data = await client.open_data()
    await client.ask("00000005 01")
    await client.hang_up()
    assert await data.ask(QUICK, 11) == quick_response(1).hex()
    other = await front.connect()
    assert await other.pass_socket([]) == "00000003"
    assert await other.ask("0000000f", 8) == "0000000000000003"
    assert front.vtpm.is_running


async def test_shutdown_powers_off_answers_and_ends_the_connections(
    front: Front, client: Client
) -> None:
    data, stream = await client.open_data(), await front.connect_stream()
    await stream.ask(QUICK, 11)
    assert await client.ask("00000003") == OK
    assert await client.ended()
    assert await data.ended()
    assert not front.vtpm.is_running
    # The daemon goes on.
    assert await stream.ask(QUICK, 10) == FAIL
    other = await front.connect()
    assert await other.ask("00000002 00000000") == OK
    assert await stream.ask(QUICK, 11) == quick_response(0).hex()


async def test_the_process_may_end_with_a_shutdown(run_dir: Path) -> None:
    async with front_at(run_dir, ends_on_shutdown=True) as (front, _):
        first = await front.connect()
        await first.ask("00000001", 8)
        await first.close()
        client = await front.connect()
        assert await client.ask("00000003") == OK
        with trio.fail_after(LIMIT_S):
            await front.ended.wait()


async def test_a_shutdown_counts_though_nobody_waits_for_its_answer(run_dir: Path) -> None:
    async with front_at(run_dir, ends_on_shutdown=True) as (front, _):
        client = await front.connect()
        data = await client.open_data()
        await client.send("00000003")
        await client.hang_up()
        with trio.fail_after(LIMIT_S):
            await front.ended.wait()
        assert await data.ended()
        assert not front.vtpm.is_running


async def test_the_process_may_end_with_its_control_client(run_dir: Path) -> None:
    async with front_at(run_dir, ends_with_client=True) as (front, _):
        client = await front.connect()
        await client.ask("00000001", 8)
        assert not front.ended.is_set()
        await client.close()
        with trio.fail_after(LIMIT_S):
            await front.ended.wait()


async def test_control_and_data_connections_go_on_with_the_next_process(run_dir: Path) -> None:
    async with front_at(run_dir) as (front, nursery):
        client = await front.connect()
        data = await client.open_data()
        await client.ask("00000005 03")
        for locality in (3, 2):
            await front.stop()
            # What is sent meanwhile is not lost.
            await client.send("0000000f")
            await data.send(QUICK)
            await nursery.start(front.run)
            assert (await client.receive(8)).hex() == "0000000000000003"
            assert await data.receive(11) == quick_response(locality)
            # They still belong together.
            await client.ask("00000005 02")
            assert await data.ask(QUICK, 11) == quick_response(2).hex()
            ours, theirs = socket.socketpair()
            assert await client.pass_socket([theirs.fileno()]) == "0000001f"
            ours.close()
            theirs.close()
            await data.send(SLOW)
            await front.vtpm.has_slow.wait()
            assert await client.ask("00000009") == OK
            assert (await data.receive(10)).hex() == FAIL


async def test_a_request_that_waits_for_its_turn_is_given_to_the_next_process(
    run_dir: Path,
) -> None:
    async with front_at(run_dir) as (front, nursery):
        client, stream = await front.connect(), await front.connect_stream()
        await stream.send(SLOW)
        await front.vtpm.has_slow.wait()
        await client.send("0000000e")
        await trio.testing.wait_all_tasks_blocked(0.05)
        async with trio.open_nursery() as stopping:
            stopping.start_soon(front.stop)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert ordinals(front) == []
            front.vtpm.release.set()
        assert ordinals(front) == []
        await nursery.start(front.run)
        assert (await client.receive(4)).hex() == OK
        assert ordinals(front) == [ControlOrdinal.POWER_OFF]
        assert await stream.receive(11) == quick_response(0)


async def test_what_a_shutdown_ended_does_not_go_on_with_the_next_process(run_dir: Path) -> None:
    async with front_at(run_dir) as (front, nursery):
        client = await front.connect()
        data = await client.open_data()
        await client.ask("00000003")
        assert await data.ended()
        await front.stop()
        await nursery.start(front.run)
        other = await front.connect()
        data = await other.open_data()
        assert await data.ask(QUICK, 10) == FAIL


async def test_processes_that_end_as_soon_as_they_are_there_lose_nothing(run_dir: Path) -> None:
    async with front_at(run_dir) as (front, nursery):
        client = await front.connect()
        data = await client.open_data()
        await client.ask("00000005 03")
        for is_asked in (False, True) * 6:
            await front.stop()
            if is_asked:
                await client.send("0000000f")
                await data.send(QUICK)
            await nursery.start(front.run)
            await front.stop()
            await nursery.start(front.run)
            if is_asked:
                assert (await client.receive(8)).hex() == "0000000000000003"
                assert await data.receive(11) == quick_response(3)
        assert await client.ask("0000000f", 8) == "0000000000000003"
        assert await data.ask(QUICK, 11) == quick_response(3).hex()


@pytest.mark.parametrize("seed", range(20))
async def test_requests_in_pieces_are_answered_as_whole_ones(
    front: Front, client: Client, seed: int
) -> None:
    """Whatever pieces a stream comes in, but for the padding of a locality, of which swtpm and we
    take what is there."""
    source = SeededRandom(f"pieces {seed}")
    blob = source.random(1 + 450 * seed)
    await client.ask("0000000e")
    for request, answer in (
        (bytes.fromhex("00000002 00000000"), OK),
        (bytes.fromhex("00000007") + len(blob).to_bytes(4, "big") + blob, OK),
        (bytes.fromhex("00000012 0000000000000001 00000100 00000000"), "00000003"),
        (bytes.fromhex("00000005 07"), "0000003d"),
        (bytes.fromhex("0000000e"), OK),
        (bytes.fromhex("0000000d 00000002 00000001") + len(blob).to_bytes(4, "big") + blob, OK),
    ):
        left = request
        while left:
            chosen, pauses = source.random(2)
            size = (1, 2, 3, 7, 500, 5000)[chosen % 6]
            await client.send(left[:size])
            left = left[size:]
            for _ in range(pauses % 4):
                await trio.lowlevel.checkpoint()
        assert (await client.receive(4)).hex() == answer
    hashed = [body for ordinal, body, _ in front.vtpm.requests if ordinal.name == "HASH_DATA"]
    assert b"".join(hashed) == blob
    assert front.vtpm.blobs == {1: blob}
