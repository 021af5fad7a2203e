# SPDX-License-Identifier: Apache-2.0
"""`tpmfront vtpm-proxy` in the sandbox of its unit, with a stand-in for the kernel's device.

Runs as the unit's main process in a machine that has nothing of the tests, so it imports only what
is installed. It prints what it had when the device was made and after, and the vTPM's answer.
"""

from __future__ import annotations

import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daemons.tpmfront.proxy_cli import vtpm_proxy
from daemons.tpmfront.proxydevice import ProxyDevice

GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000014")


def say(line: str) -> None:
    """Write a line to the journal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def rights() -> str:
    """Return our uids and effective capabilities."""
    status = Path("/proc/self/status").read_text()
    uids = re.search(r"^Uid:\t(.*)$", status, re.M)
    capabilities = re.search(r"^CapEff:\t(.*)$", status, re.M)
    assert uids is not None
    assert capabilities is not None
    return f"{','.join(sorted(set(uids[1].split())))} {int(capabilities[1], 16):x}"


def drive(kernel: socket.socket) -> None:
    """Be a program at the device."""
    kernel.send(GET_RANDOM)
    code = kernel.recv(4096)[6:10].hex()
    say(f"answered {rights()} {code}")


def main() -> None:
    """Be the command."""
    kernels: list[socket.socket] = []  # which stay open
    with ThreadPoolExecutor(1) as pool:

        def make(_control: Path) -> ProxyDevice:
            kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            say(f"made {rights()}")
            kernels.append(kernel)
            pool.submit(drive, kernel)
            return ProxyDevice(device.detach(), 7)

        vtpm_proxy.main(sys.argv[1:], prog_name="tpmfront vtpm-proxy", obj=make)


if __name__ == "__main__":
    main()
