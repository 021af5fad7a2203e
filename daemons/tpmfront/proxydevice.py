# SPDX-License-Identifier: Apache-2.0
"""A TPM device of this kernel whose chip is a process: Linux's vTPM proxy, `/dev/vtpmx`.

An ioctl there makes /dev/tpmN and gives a descriptor. Each read() of it takes one whole command
that the kernel's TPM driver has sent, each write() gives it the response; the device is gone when
the descriptor's last duplicate is closed. A response to no command is refused (EIO).

Source: linux/vtpm_proxy.h; behaviour as of Linux 6.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemons.runtime.errors import DaemonError
from daemons.runtime.notify import Notifier
from protocol.tpm12 import ReturnCode, error_response

CONTROL_DEVICE: Final = Path("/dev/vtpmx")
NEW_DEVICE: Final = 0xC014A100
"""VTPM_PROXY_IOC_NEW_DEV: _IOWR(0xa1, 0x00, 20 bytes)."""
BUFFER_BYTES: Final = 4096
"""TPM_BUFSIZE: no command is longer, and no response may be."""

_NEW_DEVICE: Final = struct.Struct("=5I")  # flags, tpm_num, fd, major, minor
_FLAGS_TPM12: Final = 0
_KEPT: Final = re.compile(r"proxy-([0-9]{1,5})-([0-4])", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProxyDevice:
    """The side of a TPM device on which its chip is.

    Attributes:
        fd: commands are read from it and responses written.
        number: N of /dev/tpmN.
    """

    fd: int
    number: int

    @property
    def path(self) -> str:
        """Where programs find the device."""
        return f"/dev/tpm{self.number}"

    def read(self) -> bytes | None:
        """Return the command that waits; None if there is none. Call it when `fd` is readable.

        Raises:
            DaemonError: the kernel has given the device up.
        """
        try:
            command = os.read(self.fd, BUFFER_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost() from error
        if not command:
            raise self._lost()
        return command

    def write(self, response: bytes) -> bool:
        """Give the response to the command that was read last.

        Returns: False if the kernel does not wait for any.

        Raises:
            DaemonError: the kernel has given the device up.
        """
        try:
            os.write(self.fd, response)
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise self._lost() from error
        return True

    def close(self) -> None:
        """Give it up; it is gone unless the supervisor keeps it."""
        os.close(self.fd)

    def _lost(self) -> DaemonError:
        return DaemonError(
            f"the kernel has given {self.path} up, as its driver does not take the TPM: see dmesg"
        )


OpenDevice = Callable[[Path], ProxyDevice]
"""Makes a TPM device; for tests, that there need not be a kernel that can."""


def open_device(path: Path) -> ProxyDevice:
    """Make a TPM device of this kernel.

    Args:
        path: of the control device.

    Raises:
        DaemonError: there is none, or it may not be used.
    """
    try:
        control = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DaemonError(
            f"there is no {path}: load the kernel's vTPM proxy with modprobe tpm_vtpm_proxy"
        ) from error
    except OSError as error:
        raise DaemonError(f"{path}: {error.strerror}") from error
    argument = bytearray(_NEW_DEVICE.pack(_FLAGS_TPM12, 0, 0, 0, 0))
    try:
        fcntl.ioctl(control, NEW_DEVICE, argument, True)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise DaemonError(f"{path}: to make a TPM device takes root") from error
        raise DaemonError(f"{path} makes no TPM device: {error.strerror}") from error
    finally:
        os.close(control)
    _flags, number, fd, _major, _minor = _NEW_DEVICE.unpack(argument)
    os.set_inheritable(fd, False)
    return ProxyDevice(fd, number)


class KeptDevice:
    """A device that the supervisor keeps while this process is replaced by the next.

    It does so under the name "proxy-N-L": the kernel sets the locality L once and never repeats it.
    """

    def __init__(self, device: ProxyDevice, locality: int, notifier: Notifier) -> None:
        """Use `make` or `take_over`."""
        self.device = device
        self._locality = locality
        self._notifier = notifier

    @classmethod
    def make(cls, device: ProxyDevice, notifier: Notifier) -> KeptDevice:
        """Have a new device kept."""
        made = cls(device, 0, notifier)
        notifier.store_fd(made._name, device.fd, poll=True)
        return made

    @classmethod
    def take_over(
        cls, inherited: Mapping[str, Sequence[int]], notifier: Notifier
    ) -> KeptDevice | None:
        """Return the device of the last process; None if there is none.

        A command that it had read is lost with it: it may have been executed, so the kernel is told
        that it failed.

        Raises:
            DaemonError: the kernel has given it up.
        """
        found: KeptDevice | None = None
        for name, fds in inherited.items():
            match = _KEPT.fullmatch(name)
            for fd in fds if match else ():
                if match is None or found is not None:  # a process died while it changed the name
                    os.close(fd)
                    notifier.remove_fd(name)
                else:
                    found = cls(ProxyDevice(fd, int(match[1])), int(match[2]), notifier)
        if found is not None:
            try:
                found.device.write(error_response(ReturnCode.IOERROR))
            except DaemonError:
                notifier.remove_fd(found._name)
                raise
        return found

    @property
    def locality(self) -> int:
        """Of the kernel's commands."""
        return self._locality

    @locality.setter
    def locality(self, locality: int) -> None:
        if locality == self._locality:
            return
        before = self._name
        self._locality = locality
        self._notifier.store_fd(self._name, self.device.fd, poll=True)
        self._notifier.remove_fd(before)

    @property
    def _name(self) -> str:
        return f"proxy-{self.device.number}-{self._locality}"

    def close(self) -> None:
        """Give our own duplicate up."""
        with contextlib.suppress(OSError):
            self.device.close()
