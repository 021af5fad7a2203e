# SPDX-License-Identifier: Apache-2.0
"""Round trip through the split driver, beside two plain blocking sockets.

    python -m bench.split_driver

Frontend and backend are two processes, on one core and on two; the handler answers at once. Each
round measures, in turn, the driver with and without spinning on either side and a bare exchange of
one-byte datagrams, so that whatever else the machine does hits all alike. Prints the 10th and 50th
percentile of the rounds' medians in microseconds.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Final
from uuid import UUID

import trio

from protocol.tpmif.unix import BackendDevice, open_frontend, serve_backend

_UUID: Final = UUID("00112233-4455-6677-8899-aabbccddeeff")
_REQUEST: Final = bytes.fromhex("00c1 0000000e 00000046 00000014")
_RESPONSE: Final = bytes.fromhex("00c4 0000000a 00000000")
_ROUNDS: Final = 100
_CALLS: Final = 100
# Bits say who spins; the locality of a request tells the backend.
_WAYS: Final = ("nobody spins", "backend spins", "frontend spins", "both spin")


class _Answer:
    """Answers at once; the locality says whether to spin for the next request."""

    async def opened(self, device: BackendDevice) -> None:
        return

    async def closed(self, device: BackendDevice) -> None:
        return

    def cancel(self, device: BackendDevice) -> None:
        return

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes:
        device._channel.wait.spin = bool(locality & 1)
        return _RESPONSE


async def _backend(listener: socket.socket) -> None:
    await serve_backend(
        trio.socket.from_stdlib_socket(listener), admit=lambda *_: None, handler=_Answer()
    )


def _echo(connection: socket.socket) -> None:
    while datagram := connection.recv(64):
        connection.send(datagram)


async def _frontend(path: Path, plain: socket.socket) -> dict[str, list[float]]:
    medians: dict[str, list[float]] = {way: [] for way in (*_WAYS, "plain sockets")}
    async with open_frontend(path, uuid=_UUID) as device:
        for _ in range(_ROUNDS):
            for bits, way in enumerate(_WAYS):
                device._channel.wait.spin = bool(bits & 2)
                times = []
                for _ in range(_CALLS):
                    began_at = perf_counter()
                    await device.transact(_REQUEST, bits)
                    times.append(perf_counter() - began_at)
                medians[way].append(statistics.median(times))
            times = []
            for _ in range(_CALLS):
                began_at = perf_counter()
                plain.send(b"N")
                plain.recv(64)
                times.append(perf_counter() - began_at)
            medians["plain sockets"].append(statistics.median(times))
    return medians


def _measure(cores: tuple[int, int]) -> dict[str, list[float]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        here,
    ):
        path = Path(folder) / "back"
        listener.bind(str(path))
        listener.listen()
        children = []
        for number in range(2):
            child = os.fork()
            if child == 0:
                here.close()
                os.sched_setaffinity(0, {cores[1]})
                if number == 0:
                    trio.run(_backend, listener)
                _echo(there)
                os._exit(0)
            children.append(child)
        there.close()
        os.sched_setaffinity(0, {cores[0]})
        try:
            return trio.run(_frontend, path, here)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def main() -> None:
    """Measure on one core and, if there are two, on two."""
    allowed = sorted(os.sched_getaffinity(0))
    places = {"one core": (allowed[0], allowed[0])}
    if len(allowed) > 1:
        places["two cores"] = (allowed[0], allowed[1])
    print(f"{'':10}{'':18}{'p10 us':>8}{'p50 us':>8}")
    for name, cores in places.items():
        for way, medians in _measure(cores).items():
            low, middle = statistics.quantiles(medians, n=10)[0], statistics.median(medians)
            print(f"{name:10}{way:18}{low * 1e6:8.1f}{middle * 1e6:8.1f}")
    os.sched_setaffinity(0, allowed)


if __name__ == "__main__":
    main()
