# SPDX-License-Identifier: Apache-2.0
"""A character device through which TPM commands come, such as the server's end of a device of
Linux's vtpm_proxy: a read gives a whole command, a write takes a whole response."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import trio

from daemons.tpmfront.compat.errors import Refusal
from daemons.tpmfront.compat.options import Descriptor
from daemons.tpmfront.framing import CommandStream
from daemons.tpmfront.link import VtpmLink
from protocol.errors import WireError
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpmif.page import capacity_bytes
from protocol.vtpm.control import is_request

_READ_BYTES: Final = 4096
_GONE: Final = frozenset({errno.EPIPE, errno.ENODEV, errno.EIO, errno.EBADF, errno.ECONNRESET})


class _Submission:
    """How far a command has come; nobody asks."""

    is_submitted = False


@contextlib.contextmanager
def open_device(device: Path | Descriptor) -> Iterator[int]:
    """Give the descriptor of a device; on leaving it is closed.

    Raises:
        Refusal: it cannot be opened.
    """
    match device:
        case Descriptor(number):
            fd = number
        case _:
            try:
                fd = os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise Refusal(f"Cannot open {device}: {error.strerror}") from None
    try:
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        yield fd
    finally:
        os.close(fd)


async def serve_device(
    fd: int,
    link: VtpmLink,
    locality: Callable[[], int],
    answer_here: Callable[[bytes], bytes | None],
) -> None:
    """Answer commands until whoever sends them has gone.

    Args:
        fd: of the device, non-blocking.
        link: to the vTPM.
        locality: gives that of the next command.
        answer_here: gives the response to a command that is not for the vTPM, None for any other.
    """
    while True:
        await trio.lowlevel.wait_readable(fd)
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        if not data:
            return
        try:
            command = _whole_command(data)
            if isinstance(command, ReturnCode):
                response = error_response(command)
            else:
                response = answer_here(command) or await link.transact(
                    command, locality(), _Submission()
                )
            os.write(fd, response)
        except OSError as error:
            if error.errno in _GONE:
                return
            raise


def _whole_command(data: bytes) -> bytes | ReturnCode:
    """Return the command that one read gave, or why it is none."""
    if is_request(data):  # only the control channel's to send
        return ReturnCode.BADTAG
    stream = CommandStream(capacity_bytes(0))
    stream.feed(data)
    try:
        command = stream.next_command()
    except WireError:
        command = None
    return ReturnCode.BAD_PARAM_SIZE if command is None or stream.rest else command
