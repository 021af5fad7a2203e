# SPDX-License-Identifier: Apache-2.0
"""What the platform does with its TPM at power-on, before software may use it.

The commands go to the engine at locality 0, as firmware sends them before the localities are open
to anybody else.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from daemons.runtime.config.values import ChipStartup

Execute = Callable[[bytes], Awaitable[bytes]]
"""Runs one command at locality 0 and returns its response."""


_STARTUP_PARAMETER: Final = {
    ChipStartup.CLEAR: 1,
    ChipStartup.STATE: 2,
    ChipStartup.DEACTIVATED: 3,
}
_TAG: Final = 0x00C1
_HEADER: Final = struct.Struct(">HII")
_ORD_CONTINUE_SELF_TEST: Final = 0x53
_ORD_STARTUP: Final = 0x99

_CONTINUE_SELF_TEST: Final = _HEADER.pack(_TAG, 10, _ORD_CONTINUE_SELF_TEST)

LOST_MEMORY_DIGEST: Final = hashlib.sha1(b"vTPM: volatile memory of the TPM was lost").digest()
"""What PCRs 0-7 are extended with when nobody knows any more what was measured."""


class StartupFailed(Exception):
    """The TPM answered a command of the firmware with an error."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"{command} answered {code:#x}")


def startup_command(startup: ChipStartup) -> bytes | None:
    """Return TPM_Startup for an option's value, None for no startup."""
    if startup is ChipStartup.NONE:
        return None
    return struct.pack(">HIIH", _TAG, 12, _ORD_STARTUP, _STARTUP_PARAMETER[startup])


async def power_on(execute: Execute, startup: ChipStartup) -> None:
    """Bring a TPM that has just been reset into use.

    Raises:
        StartupFailed: the TPM did not take it; it still answers commands, as one in failure mode.
    """
    command = startup_command(startup)
    if command is None:
        return
    for name, message in (
        ("TPM_Startup", command),
        ("TPM_ContinueSelfTest", _CONTINUE_SELF_TEST),
    ):
        code = return_code(await execute(message))
        if code:
            raise StartupFailed(name, code)


def return_code(response: bytes) -> int:
    """Return the code in the header of a response."""
    return int.from_bytes(response[6:10], "big")
