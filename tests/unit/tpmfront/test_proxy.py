# SPDX-License-Identifier: Apache-2.0
"""The vTPM as a device of the kernel, with a stand-in for the kernel's side of it.

The stand-in follows drivers/char/tpm/tpm_vtpm_proxy.c: one command at a time, a response only to a
command that was read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.tpmfront import proxydevice
from daemons.tpmfront.link import Submission, VtpmLink
from daemons.tpmfront.proxy import DEFAULT_LOCALITIES, Proxy
from daemons.tpmfront.proxydevice import KeptDevice, ProxyDevice, open_device
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpm12.framing import build_message
from protocol.vtpm.control import TAG_REQUEST, is_request

COMMAND = build_message(0x00C1, 0x46, (4).to_bytes(4, "big"))
RESPONSE = build_message(0x00C4, 0, bytes(8))
SUCCESS = build_message(0x00C4, 0)


def set_locality(*body: int) -> bytes:
    return build_message(0x00C1, 0x20001000, bytes(body))


class Kernel:
    """The driver's side of a device, and what the proxy's side may do."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.fd = theirs.detach()
        # STATE_WAIT_RESPONSE_FLAG: a command was read and not answered.
        self.waits = False

    def device(self, fd: int | None = None) -> ProxyDevice:
        """Return the proxy's side, with the kernel's refusals in it."""
        return _StandIn(self.fd if fd is None else fd, 7, self)

    def send(self, command: bytes) -> None:
        """Have a command wait, as the driver does."""
        self.waits = False
        self.ours.send(command)

    async def receive(self) -> bytes:
        """Return the next response."""
        await trio.lowlevel.wait_readable(self.ours)
        return self.ours.recv(4096)

    def close(self) -> None:
        self.ours.close()


class _StandIn(ProxyDevice):
    __slots__ = ("kernel",)

    def __init__(self, fd: int, number: int, kernel: Kernel) -> None:
        super().__init__(fd, number)
        object.__setattr__(self, "kernel", kernel)

    kernel: Kernel

    def read(self) -> bytes | None:
        command = super().read()
        self.kernel.waits = True
        return command

    def write(self, response: bytes) -> bool:
        if not self.kernel.waits:
            return False
        self.kernel.waits = False
        return super().write(response)


class Link:
    """A vTPM that notes what it gets and answers when it may."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, int]] = []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.is_away = False

    async def transact(self, command: bytes, locality: int, submission: Submission) -> bytes:
        submission.is_submitted = not self.is_away
        self.got.append((command, locality))
        await self.may_answer.wait()
        return RESPONSE


class Served:
    """A proxy that runs."""

    def __init__(
        self, kernel: Kernel, link: Link, kept: KeptDevice, stop: Callable[[], None]
    ) -> None:
        self.kernel = kernel
        self.link = link
        self.kept = kept
        self.stop = stop
        self.lines: list[str] = []

    async def exchange(self, command: bytes) -> bytes:
        self.kernel.send(command)
        return await self.kernel.receive()


@asynccontextmanager
async def served(localities: frozenset[int] = DEFAULT_LOCALITIES) -> AsyncIterator[Served]:
    kernel, link = Kernel(), Link()
    kept = KeptDevice.make(kernel.device(), Notifier(None))
    lines: list[str] = []
    log = Log("test", sink=lines.append)
    try:
        async with trio.open_nursery() as nursery:
            result = Served(kernel, link, kept, nursery.cancel_scope.cancel)
            result.lines = lines
            nursery.start_soon(Proxy(kept, cast("VtpmLink", link), localities, log).serve)
            yield result
            nursery.cancel_scope.cancel()
    finally:
        kernel.close()
        kept.close()


async def test_a_command_goes_to_the_vtpm_at_locality_0_until_the_kernel_sets_another() -> None:
    async with served() as proxy:
        assert await proxy.exchange(COMMAND) == RESPONSE
        assert await proxy.exchange(set_locality(3)) == SUCCESS
        assert await proxy.exchange(COMMAND) == RESPONSE
        assert await proxy.exchange(set_locality(0)) == SUCCESS
        assert await proxy.exchange(COMMAND) == RESPONSE
        # Setting it is nothing that the vTPM hears of.
        assert proxy.link.got == [(COMMAND, 0), (COMMAND, 3), (COMMAND, 0)]


@pytest.mark.parametrize("locality", [4, 5, 255])
async def test_a_locality_that_is_not_allowed_is_refused_and_the_old_one_stays(
    locality: int,
) -> None:
    async with served() as proxy:
        await proxy.exchange(set_locality(2))
        refused = await proxy.exchange(set_locality(locality))
        assert refused == error_response(ReturnCode.BAD_LOCALITY)
        await proxy.exchange(COMMAND)
        assert proxy.link.got == [(COMMAND, 2)]
        assert f"locality refused to the kernel locality={locality}" in proxy.lines[-1]


async def test_localities_may_be_narrowed_and_widened() -> None:
    async with served(frozenset({0, 4})) as proxy:
        assert await proxy.exchange(set_locality(4)) == SUCCESS
        assert await proxy.exchange(set_locality(1)) == error_response(ReturnCode.BAD_LOCALITY)


@pytest.mark.parametrize("command", [set_locality(), set_locality(0, 0)])
async def test_a_set_locality_of_another_length_is_refused(command: bytes) -> None:
    async with served() as proxy:
        assert await proxy.exchange(command) == error_response(ReturnCode.BAD_PARAMETER)
        assert proxy.link.got == []


@pytest.mark.parametrize(
    "command",
    [
        COMMAND[:9],
        COMMAND[:-1],
        COMMAND + b"\0",
        build_message(0x00C1, 0x46, bytes(4089 - 10)),
    ],
)
async def test_what_is_no_command_that_a_vtpm_takes_is_answered_here(command: bytes) -> None:
    async with served() as proxy:
        assert await proxy.exchange(command) == error_response(ReturnCode.BAD_PARAM_SIZE)
        assert proxy.link.got == []
        assert await proxy.exchange(COMMAND) == RESPONSE


async def test_a_stop_waits_for_the_response_that_is_under_way() -> None:
    async with served() as proxy:
        proxy.link.may_answer = trio.Event()
        proxy.kernel.send(COMMAND)
        await trio.testing.wait_all_tasks_blocked(0.01)
        proxy.stop()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked(0.01)
            proxy.link.may_answer.set()
            assert await proxy.kernel.receive() == RESPONSE


async def test_a_stop_waits_for_no_command(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    async with served() as proxy:
        proxy.stop()
    assert trio.current_time() == started


async def test_a_stop_does_not_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    async with served() as proxy:
        proxy.link.may_answer = trio.Event()
        proxy.kernel.send(COMMAND)
        while not proxy.link.got:
            await trio.lowlevel.checkpoint()
        proxy.stop()
    assert trio.current_time() - started == pytest.approx(5.0)


async def test_a_stop_does_not_wait_for_a_vtpm_that_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    started = trio.current_time()
    async with served() as proxy:
        proxy.link.is_away = True
        proxy.link.may_answer = trio.Event()
        proxy.kernel.send(COMMAND)
        while not proxy.link.got:
            await trio.lowlevel.checkpoint()
        proxy.stop()
    assert trio.current_time() == started


async def test_a_program_cannot_ask_the_vtpm_for_more_than_tpm_commands() -> None:
    request = build_message(TAG_REQUEST, 0)
    assert is_request(request)
    async with served() as proxy:
        assert await proxy.exchange(request) == error_response(ReturnCode.BADTAG)
        assert proxy.link.got == []


async def test_a_response_that_the_kernel_does_not_want_is_nothing_to_end_for() -> None:
    async with served() as proxy:
        proxy.link.may_answer = trio.Event()
        proxy.kernel.send(COMMAND)
        await trio.testing.wait_all_tasks_blocked(0.01)
        proxy.kernel.waits = False
        proxy.link.may_answer.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert "kernel waits for no response" in proxy.lines[-1]
        assert await proxy.exchange(COMMAND) == RESPONSE


async def test_a_device_that_the_kernel_gives_up_ends_the_proxy() -> None:
    async def lose() -> None:
        async with served() as proxy:
            proxy.kernel.close()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await lose()
    (error,) = raised.value.exceptions
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, DaemonError)
    assert "the kernel has given /dev/tpm7 up" in str(error)


class Keeper(Notifier):
    """Keeps duplicates by name."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kept: dict[str, int] = {}

    def store_fd(self, name: str, fd: int, *, poll: bool = False) -> None:
        assert poll
        self.kept[name] = os.dup(fd)

    def remove_fd(self, name: str) -> None:
        os.close(self.kept.pop(name))

    def take(self) -> dict[str, list[int]]:
        return {name: [os.dup(fd)] for name, fd in self.kept.items()}

    def close(self) -> None:
        for name in list(self.kept):
            self.remove_fd(name)


def test_the_next_process_has_the_device_with_its_number_and_locality() -> None:
    kernel, keeper = Kernel(), Keeper()
    kept = KeptDevice.make(kernel.device(), keeper)
    kept.locality = 2
    kept.close()
    taken = KeptDevice.take_over(keeper.take(), keeper)
    assert taken is not None
    assert (taken.device.path, taken.locality) == ("/dev/tpm7", 2)
    assert list(keeper.kept) == ["proxy-7-2"]
    taken.close()
    keeper.close()
    kernel.close()


def test_a_command_that_died_with_the_last_process_has_failed_for_the_kernel() -> None:
    kernel, keeper = Kernel(), Keeper()
    kept = KeptDevice.make(kernel.device(), keeper)
    kernel.send(COMMAND)
    assert kept.device.read() == COMMAND
    kept.close()
    taken = KeptDevice.take_over(keeper.take(), keeper)
    assert kernel.ours.recv(4096) == error_response(ReturnCode.IOERROR)
    assert taken is not None
    taken.close()
    keeper.close()
    kernel.close()


def test_two_names_of_one_device_are_one() -> None:
    """A process died between the new name and the end of the old one."""
    kernel, keeper = Kernel(), Keeper()
    KeptDevice.make(kernel.device(), keeper).close()
    keeper.store_fd("proxy-7-1", keeper.kept["proxy-7-0"], poll=True)
    taken = KeptDevice.take_over(keeper.take(), keeper)
    assert taken is not None
    assert len(keeper.kept) == 1
    taken.close()
    keeper.close()
    kernel.close()


def test_other_descriptors_are_no_device() -> None:
    assert KeptDevice.take_over({"control": [5], "proxy-7-9": [6]}, Notifier(None)) is None


def _ioctl(fill: Callable[[bytearray], None]) -> Callable[..., int]:
    """Return a stand-in for ioctl(2)."""

    def ioctl(fd: int, request: int, argument: bytearray, mutate: bool) -> int:
        assert request == proxydevice.NEW_DEVICE
        assert bytes(argument) == bytes(20)
        assert mutate
        os.fstat(fd)
        fill(argument)
        return 0

    return ioctl


def test_the_ioctl_makes_a_tpm_1_2_and_its_descriptor_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "vtpmx"
    control.touch()
    fd = os.memfd_create("device", 0)
    os.set_inheritable(fd, True)  # as the kernel gives it

    def fill(argument: bytearray) -> None:
        struct.pack_into("=5I", argument, 0, 0, 9, fd, 253, 65545)

    monkeypatch.setattr(fcntl, "ioctl", _ioctl(fill))
    device = open_device(control)
    assert (device.fd, device.path) == (fd, "/dev/tpm9")
    assert not os.get_inheritable(fd)
    device.close()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EPERM, "to make a TPM device takes root"),
        (errno.ENOTTY, "makes no TPM device: Inappropriate ioctl"),
        (errno.ENOMEM, "makes no TPM device: Cannot allocate memory"),
    ],
)
def test_an_ioctl_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    control = tmp_path / "vtpmx"
    control.touch()

    def fail(_argument: bytearray) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", _ioctl(fail))
    with pytest.raises(DaemonError, match=reason):
        open_device(control)


def test_a_kernel_without_the_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match=r"there is no .*vtpmx: load .* modprobe tpm_vtpm_proxy"):
        open_device(tmp_path / "vtpmx")
