# SPDX-License-Identifier: Apache-2.0
"""What the manager asks of the hardware TPM, whatever TPM that is.

`daemons.vtpmmgr.tpm12hardware` is the TPM 1.2 of it. An operation either gives its result, or
raises TpmError (the chip answered with that code) or HardwareLost (no answer; it may or may not
have been executed).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Protocol

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.sealing import PcrValues
from protocol.tpm12 import ReturnCode

PASSING: Final = frozenset(
    {
        ReturnCode.RETRY,
        ReturnCode.DOING_SELFTEST,
        ReturnCode.NEEDS_SELFTEST,
        ReturnCode.DEFEND_LOCK_RUNNING,
        ReturnCode.RESOURCES,
        ReturnCode.INVALID_POSTINIT,
    }
)
"""Codes of a chip that may well take the same command later."""


class HardwareLost(DaemonError):
    """The chip gave no answer."""


class NvArea(Protocol):
    """An open NV area, protected by its own authorization value."""

    async def read(self) -> bytes:
        """Return all of it."""

    async def write(self, data: bytes) -> None:
        """Replace all of it."""


class Hardware(Protocol):
    """The hardware TPM."""

    @property
    def locality(self) -> int:
        """The locality at which the manager uses it, and to which it seals."""

    async def has_owner(self) -> bool:
        """Say whether somebody has taken ownership."""

    async def take_ownership(self) -> None:
        """Take ownership with the configured secrets; make the endorsement key if need be."""

    async def ek_digest(self) -> bytes:
        """Return SHA-256 of the modulus of the endorsement key, which names this chip.

        Raises:
            TpmError: AUTHFAIL if the owner's secret is another one.
        """

    async def read_pcrs(self, indices: Sequence[int]) -> PcrValues:
        """Return the values of PCRs, ascending."""

    async def seal(self, secret: bytes, pcr_values: PcrValues) -> bytes:
        """Return a blob from which `unseal` gets `secret` when the PCRs have these values again."""

    async def unseal(self, blob: bytes) -> Secret:
        """Return what is in a sealed blob; TpmError says why not."""

    async def nv_area_size(self, index: int) -> int | None:
        """Return the size in bytes of an NV area, None if there is none with this index."""

    async def nv_define(self, index: int, size_bytes: int, auth: Secret) -> None:
        """Make an NV area that its own authorization value opens, for reading and writing."""

    def nv_area(self, index: int, size_bytes: int, auth: Secret) -> NvArea:
        """Return access to an NV area; nothing is sent yet."""

    @property
    def answers(self) -> bool:
        """Whether the chip answered the last command."""

    async def probe(self) -> None:
        """Return if the chip answers now, to a command that changes nothing.

        Raises:
            HardwareLost, TpmError: it does not.
        """

    async def wait_reachable(self) -> None:
        """Return once the chip answers; at once if it answered last time."""

    async def pass_through(self, command: bytes, source: Hashable) -> bytes:
        """Have the chip execute a client's command, in that client's turn.

        Raises:
            HardwareLost: no answer.
            Withdrawn: see `withdraw`.
        """

    def withdraw(self, source: Hashable) -> None:
        """Give up a client's command that still waits for its turn."""
