# SPDX-License-Identifier: Apache-2.0
"""`tpmfront vtpm-proxy` on a machine whose kernel has no vTPM proxy: a stand-in for the kernel.

Run as a module it is the real command, but for how a device is made: that is a descriptor which the
parent passes. `running_proxy` is the parent, with the driver's side: what the kernel's driver does
at first, and then programs that open the device one after the other.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemons.tpmfront.proxy_cli import vtpm_proxy
from daemons.tpmfront.proxydevice import BUFFER_BYTES, ProxyDevice
from protocol.tpm12.framing import build_message

DEVICE_NUMBER = 7
SET_LOCALITY_0 = build_message(0x00C1, 0x20001000, b"\0")
ANSWER_LIMIT_S = 60.0


@dataclass
class Driver:
    """The kernel's side of a device.

    Attributes:
        process: the proxy.
        device: what it has printed.
        log_path: its standard error.
    """

    process: subprocess.Popen[bytes]
    device: str
    log_path: Path
    _socket: socket.socket

    def transmit(self, command: bytes) -> bytes:
        """Send a command and return the response; one caller at a time."""
        self._socket.send(command)
        response = self._socket.recv(BUFFER_BYTES)
        if not response:
            raise ConnectionError("the proxy is gone")
        return response


@contextmanager
def running_proxy(folder: Path, options: Sequence[str]) -> Iterator[Driver]:
    """Start the command, and end it in order.

    Args:
        folder: for its log.
        options: of the command.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(ANSWER_LIMIT_S)
    log_path = folder / "proxy.log"
    with ours, theirs, log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(theirs.fileno()), *options],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        assert process.stdout is not None
        with process.stdout:
            try:
                device = process.stdout.readline().decode().strip()
                assert device, log_path.read_text()
                driver = Driver(process, device, log_path, ours)
                # As at the registration of a chip.
                assert driver.transmit(SET_LOCALITY_0)[6:10] == bytes(4)
                yield driver
                if process.poll() is None:
                    process.terminate()
                    assert process.wait(ANSWER_LIMIT_S) == 0
            finally:
                process.kill()
                process.wait()


@contextmanager
def device_node(driver: Driver, path: Path) -> Iterator[None]:
    """Serve a stream socket that stands for the device's node: whoever connects writes a command
    and reads its response."""
    stop_read, stop_write = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        serving = pool.submit(_serve_node, driver, listener, stop_read)
        try:
            yield
        finally:
            os.close(stop_write)
            serving.result()
            os.close(stop_read)


def _serve_node(driver: Driver, listener: socket.socket, stop: int) -> None:
    clients: list[socket.socket] = []
    try:
        while True:
            sources: list[socket.socket | int] = [listener, stop, *clients]
            readable, _, _ = select.select(sources, [], [])
            for one in readable:
                if isinstance(one, int):
                    return
                if one is listener:
                    clients.append(listener.accept()[0])
                elif command := one.recv(BUFFER_BYTES):
                    one.sendall(driver.transmit(command))
                else:
                    clients.remove(one)
                    one.close()
    finally:
        for client in clients:
            client.close()


def uids_of(pid: int) -> tuple[set[str], str]:
    """Return the user ids of a process and its effective capabilities in hex."""
    status = Path(f"/proc/{pid}/status").read_text()
    uids = re.search(r"^Uid:\t(.*)$", status, re.M)
    capabilities = re.search(r"^CapEff:\t(.*)$", status, re.M)
    assert uids is not None
    assert capabilities is not None
    return set(uids[1].split()), capabilities[1]


def main() -> None:
    """Be the command."""
    fd = int(sys.argv[1])

    def make(_control: Path) -> ProxyDevice:
        os.set_inheritable(fd, False)
        return ProxyDevice(fd, DEVICE_NUMBER)

    vtpm_proxy.main(sys.argv[2:], prog_name="tpmfront vtpm-proxy", obj=make)


if __name__ == "__main__":
    main()
