# SPDX-License-Identifier: Apache-2.0
"""Ports of tests that run at the same time."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.integration import ports
from tests.integration.machine import ROOT
from tests.integration.ports import free_port

SCRIPT = """
from tests.integration.ports import free_port
print([free_port() for _ in range(40)], flush=True)
input()
"""


def test_no_two_processes_are_given_the_same_port() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        given = [free_port() for _ in range(40)]
        for process in processes:
            assert process.stdout is not None
            given += [int(word) for word in process.stdout.readline().strip(b"[]\n").split(b",")]
    finally:
        for process in processes:
            process.communicate(b"\n")
    assert len(set(given)) == 4 * 40


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1"])
def test_a_port_that_is_used_at_any_address_is_not_given(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    port = free_port()
    monkeypatch.setattr(ports, "_claim", lambda candidate: candidate == port)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, port), family=family),
        pytest.raises(AssertionError, match="no TCP port is free"),
    ):
        free_port()
    assert free_port() == port
