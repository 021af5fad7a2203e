# SPDX-License-Identifier: Apache-2.0
"""What a driver does at its page: reads within a limit, a command in, the response out.

Nothing is kept here. What follows from trouble is the driver's business.
"""

from __future__ import annotations

from typing import Final

import trio

from protocol.tis.durations import Timeouts
from protocol.tis.mmio import MmioBus
from protocol.tis.registers import (
    BUFFER_SIZE,
    BURST_MASK,
    BURST_SHIFT,
    HEADER_SIZE,
    MAX_BURST,
    STS_CANCELLED,
    STS_MUST_BE_ZERO,
    Register,
    Sts,
)

FIRST_POLL_S: Final = 0.0005
LONGEST_POLL_S: Final = 0.02

# As plain integers: combining members of a Flag costs microseconds, and this is the hot path.
_STS: Final = int(Register.STS)
_EXPECT: Final = int(Sts.EXPECT)
_VALID: Final = int(Sts.VALID)
_DATA_AVAIL: Final = int(Sts.DATA_AVAIL)

_RECEIVE_ATTEMPTS: Final = 3


class Trouble(Exception):
    """The chip misbehaved; if the command did not run it may be sent again."""


class Hopeless(Trouble):
    """The chip misbehaved in a way that sending again does not cure: it was waited for."""


# --- reads within a limit -------------------------------------------------------------------------


async def read_register(bus: MmioBus, offset: int, limit_s: float, width: int = 1) -> int:
    """Return a register, little endian."""
    return await value_within(bus, bus.request_read(offset, width), limit_s)


async def read_status(bus: MmioBus, limit_s: float) -> int:
    """Return the 32 bits of STS, read while the locality is ours."""
    return held(await read_register(bus, _STS, limit_s, 4))


async def value_within(bus: MmioBus, tag: int, limit_s: float) -> int:
    """Return what the read `tag` gave; Hopeless if it is not answered."""
    with trio.move_on_after(limit_s):
        return await bus.value(tag)
    raise Hopeless("register reads are not answered")


def held(sts: int) -> int:
    """Return STS as it is; Trouble if it shows that the locality is not ours any more."""
    if sts & STS_MUST_BE_ZERO:
        raise Trouble(f"locality lost, STS reads {sts & 0xFF:#04x}")
    return sts


# --- command in -----------------------------------------------------------------------------------


async def send_command(bus: MmioBus, timeouts: Timeouts, command: bytes, sts: int) -> None:
    """Write a command by burstCount; Expect must stay until the last byte and fall with it.

    Args:
        sts: STS as it was read last, of a chip that is Ready.

    Raises:
        Trouble: the chip wants fewer or more bytes, or does not say what it wants.
    """
    last = len(command) - 1
    sent = 0
    while sent < last:
        burst = await _burst(bus, timeouts, sts)
        size = min(burst, last - sent)
        bus.write_fifo(command[sent : sent + size])
        sent += size
        tag = bus.request_read(_STS, 4)
        if sent == last and size < burst:
            # There is room for the last byte as well: one wait for both checks. Without
            # stsValid the first says nothing, and the second is what counts anyway.
            bus.write_fifo(command[last:])
            tail_tag = bus.request_read(_STS, 4)
            sts = held(await value_within(bus, tag, timeouts.c_s))
            if sts & _VALID:
                _check_unfinished(sts, sent)
            _check_finished(await _wait_valid(bus, timeouts, tail_tag))
            return
        sts = await _wait_valid(bus, timeouts, tag)
        _check_unfinished(sts, sent)
    await _burst(bus, timeouts, sts)
    bus.write_fifo(command[last:])
    _check_finished(await _wait_valid(bus, timeouts, bus.request_read(_STS, 4)))


def _check_unfinished(sts: int, sent: int) -> None:
    if not sts & _EXPECT:
        raise Trouble(f"chip wants no more after {sent} bytes of a command")


def _check_finished(sts: int) -> None:
    if sts & _EXPECT:
        raise Trouble("chip expects more than the whole command")


# --- response out ---------------------------------------------------------------------------------


async def receive_response(bus: MmioBus, timeouts: Timeouts, sts: int) -> bytes:
    """Read a response by burstCount, again with responseRetry if what came out does not add up.

    Args:
        sts: STS as it was read last, with dataAvail.

    Raises:
        Trouble: no attempt gave as many bytes as the header of the response says.
    """
    attempt = 1
    while True:
        response, fault = await _receive_once(bus, timeouts, sts)
        if fault is None:
            return response
        if attempt == _RECEIVE_ATTEMPTS:
            raise Trouble(fault)
        attempt += 1
        bus.write(_STS, int(Sts.RESPONSE_RETRY))
        sts = await _wait_valid(bus, timeouts, bus.request_read(_STS, 4))


async def _receive_once(bus: MmioBus, timeouts: Timeouts, sts: int) -> tuple[bytes, str | None]:
    response = b""
    total = HEADER_SIZE
    while sts & _DATA_AVAIL:
        left = total - len(response)
        if len(response) >= HEADER_SIZE:
            if left <= 0:
                return b"", f"data left after the {total} bytes of the response"
            size = min(left, await _burst(bus, timeouts, sts))
        else:
            size = await _burst(bus, timeouts, sts)
        data_tag = bus.request_fifo(size)
        sts_tag = bus.request_read(_STS, 4)
        # The STS after the data proves that the locality was ours when they were read.
        sts = await _wait_valid(bus, timeouts, sts_tag)
        response += await bus.data(data_tag)
        if len(response) >= HEADER_SIZE:
            total = int.from_bytes(response[2:6], "big")
            if not HEADER_SIZE <= total <= BUFFER_SIZE:
                return b"", f"response length field is {total}"
    if len(response) != total:
        return b"", f"response of {len(response)} bytes whose header says {total}"
    return response, None


# --- waiting on STS -------------------------------------------------------------------------------


async def _wait_valid(bus: MmioBus, timeouts: Timeouts, tag: int) -> int:
    """Take the STS read `tag`, and read on until stsValid; timeout C."""
    with trio.move_on_after(timeouts.c_s):
        sts = held(await bus.value(tag))
        pause_s = FIRST_POLL_S
        while not sts & _VALID:
            if sts & 0xFF == STS_CANCELLED:
                raise Trouble("command was cancelled")
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_POLL_S)
            sts = held(await bus.read(_STS, 4))
        return sts
    raise Trouble("stsValid does not come")


async def _burst(bus: MmioBus, timeouts: Timeouts, sts: int) -> int:
    """Return burstCount of `sts`, or wait until it is not zero; timeout D. At most 255."""
    burst = sts >> BURST_SHIFT & BURST_MASK
    if not burst:
        with trio.move_on_after(timeouts.d_s):
            pause_s = FIRST_POLL_S
            while not burst:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_POLL_S)
                burst = held(await bus.read(_STS, 4)) >> BURST_SHIFT & BURST_MASK
    if not burst:
        raise Trouble("burstCount stays 0")
    return min(burst, MAX_BURST)
