# SPDX-License-Identifier: Apache-2.0
"""What a command of vtpmctl sends to a manager or a TPM, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.adminclient import Admin
from daemons.vtpmctl.packetstream import HungUp, PacketStream
from daemons.vtpmctl.tpmstream import GuestTpm
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.management import Nothing
from tpmcore import tss12

PATH = Path("/run/peer.sock")
ASKED = bytes.fromhex("00c1 0000000a 00000051")
ANSWER = bytes.fromhex("00c4 0000000e 00000000 01020304")
LIMIT_BYTES = 32
LIMIT_S = 5.0

Peer = Callable[[trio.abc.Stream], Awaitable[None]]


async def ask(peer: Peer) -> bytes:
    """Ask, the other end being in the hands of `peer`, and return the answer."""
    ours, theirs = trio.testing.memory_stream_pair()
    packets = PacketStream(ours, PATH, limit_bytes=LIMIT_BYTES, limit_s=LIMIT_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer, theirs)
        return await packets.transact(ASKED)
    raise AssertionError("unreachable")


def answering(*chunks: bytes, hangs_up: bool = False) -> Peer:
    """Return a peer that takes what is asked and answers so."""

    async def peer(stream: trio.abc.Stream) -> None:
        assert await stream.receive_some() == ASKED
        for chunk in chunks:
            await trio.testing.wait_all_tasks_blocked()  # so that each is read by itself
            await stream.send_all(chunk)
        if hangs_up:
            await stream.aclose()

    return peer


async def test_an_answer_may_come_in_any_pieces() -> None:
    assert await ask(answering(ANSWER)) == ANSWER
    assert await ask(answering(*[bytes([octet]) for octet in ANSWER])) == ANSWER
    assert await ask(answering(ANSWER[:7], ANSWER[7:12], ANSWER[12:])) == ANSWER


async def test_an_answer_ends_where_its_header_says() -> None:
    assert await ask(answering(ANSWER + b"more")) == ANSWER
    longest = bytes.fromhex("00c4 00000020 00000000").ljust(LIMIT_BYTES, b"\1")
    assert await ask(answering(longest)) == longest


@pytest.mark.parametrize("size_bytes", [0, 9, LIMIT_BYTES + 1, (1 << 32) - 1])
async def test_an_answer_of_a_length_that_cannot_be_is_refused(size_bytes: int) -> None:
    head = b"\x00\xc4" + size_bytes.to_bytes(4, "big") + bytes(4)
    with pytest.RaisesGroup(
        pytest.RaisesExc(DaemonError, match=f"^/run/peer.sock: an answer of {size_bytes} bytes$")
    ):
        await ask(answering(head))


@pytest.mark.parametrize("length", [0, 3, 10, 13])
async def test_silence_ends_at_the_limit(
    length: int, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    with pytest.RaisesGroup(
        pytest.RaisesExc(DaemonError, match="^/run/peer.sock: no answer in 5 s$")
    ):
        await ask(answering(ANSWER[:length]))
    assert trio.current_time() - began == LIMIT_S


@pytest.mark.parametrize("length", [0, 3, 10, 13])
async def test_a_peer_that_is_gone_is_told_from_one_that_breaks_off(length: int) -> None:
    with pytest.RaisesGroup(HungUp) as caught:
        await ask(answering(ANSWER[:length], hangs_up=True))
    (gone,) = caught.value.exceptions
    assert isinstance(gone, HungUp)
    assert gone.mid_answer == (length > 0)


async def test_a_peer_that_was_gone_before_is_one_that_does_not_answer() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(HungUp) as caught:
        await PacketStream(ours, PATH, limit_bytes=LIMIT_BYTES, limit_s=LIMIT_S).transact(ASKED)
    assert not caught.value.mid_answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "/run/peer.sock: the manager hung up; it hears root and its own user only"),
        (ANSWER[:12], "/run/peer.sock: the manager hung up"),
    ],
)
async def test_who_may_ask_is_said_if_the_manager_does_not_answer_at_all(
    answer: bytes, said: str
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(answer)
    await theirs.send_eof()
    with pytest.raises(DaemonError) as caught:
        await Admin(ours, PATH).send(ManagementOrdinal.GROUP_LIST, Nothing())
    assert str(caught.value) == said


async def test_a_tpm_that_hangs_up_is_told() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(DaemonError) as caught:
        await GuestTpm(ours, PATH).run("read a PCR", tss12.pcr_read(0))
    assert str(caught.value) == "/run/peer.sock: the TPM hung up"
