# SPDX-License-Identifier: Apache-2.0
"""The guest's vTPM as a TPM device of this kernel: between `proxydevice` and `link`.

The kernel's driver sends one command at a time and waits for its response, with timeouts of its
own. It tells the locality of what follows by a command that no TPM knows, which is answered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import trio

from daemons.runtime.config.endpoints import MAX_LOCALITY
from daemons.runtime.log import Level, Log
from daemons.runtime.notify import Notifier, StatusLine
from daemons.runtime.reload import Reloads, changed_fields
from daemons.tpmfront.framing import HEADER_BYTES
from daemons.tpmfront.link import VtpmLink
from daemons.tpmfront.proxydevice import KeptDevice
from protocol.tpm12 import ReturnCode, error_response
from protocol.tpm12.constants import Tag
from protocol.tpm12.framing import build_message
from protocol.tpmif.page import capacity_bytes
from protocol.vtpm.control import is_request

SET_LOCALITY: Final = 0x20001000
"""TPM_ORD_SET_LOCALITY of linux/vtpm_proxy.h: behind the header one byte, the locality. Programs
cannot send it: the kernel lets it through only from its driver."""
DEFAULT_LOCALITIES: Final = frozenset(range(MAX_LOCALITY))
"""4 is that of the hardware which starts a measured environment, and a driver is none."""
STOP_GRACE_S: Final = 5.0
"""How long a stop waits for the response to a command that the vTPM has."""


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Options of one proxy.

    Attributes:
        localities: that the kernel may set.
    """

    localities: frozenset[int]
    backend: Path
    uuid: UUID
    name: str
    level: Level


class Proxy:
    """Answers the kernel.

    Args:
        kept: the device.
        link: to the vTPM.
        localities: that the kernel may set.
        log: for refusals.
    """

    def __init__(
        self, kept: KeptDevice, link: VtpmLink, localities: frozenset[int], log: Log
    ) -> None:
        self._kept = kept
        self._link = link
        self._localities = localities
        self._log = log
        self._is_stopping = False
        # Waits for a command.
        self._is_idle = True
        # Shielded, so that a stop tears no command apart; ended by `_stop_when_cancelled`.
        self._scope = trio.CancelScope(shield=True)
        # The vTPM may have the command; told by the link.
        self.is_submitted = False

    async def serve(self) -> None:
        """Answer until cancelled, and then what is under way.

        Raises:
            DaemonError: the kernel has given the device up.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cancelled)
            with self._scope:
                await self._answer_all()

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._is_stopping = True
            if self._is_idle or not self.is_submitted:
                self._scope.cancel()
            else:
                self._scope.deadline = trio.current_time() + STOP_GRACE_S

    async def _answer_all(self) -> None:
        device = self._kept.device
        while not self._is_stopping:
            self._is_idle = True
            await trio.lowlevel.wait_readable(device.fd)
            if self._scope.cancel_called:  # since it was woken: the command is the next process's
                return
            self._is_idle = False
            command = device.read()
            if command is None:
                continue
            if not device.write(await self._answer(command)):
                self._log.warning("kernel waits for no response")

    async def _answer(self, command: bytes) -> bytes:
        size = int.from_bytes(command[2:6], "big")
        if not HEADER_BYTES <= len(command) == size <= capacity_bytes(0):
            return error_response(ReturnCode.BAD_PARAM_SIZE)
        tag, ordinal = int.from_bytes(command[:2], "big"), int.from_bytes(command[6:10], "big")
        if (tag, ordinal) == (Tag.RQU_COMMAND, SET_LOCALITY):
            return self._set_locality(command[HEADER_BYTES:])
        if is_request(command):  # which is a control channel's to send
            return error_response(ReturnCode.BADTAG)
        return await self._link.transact(command, self._kept.locality, self)

    def _set_locality(self, body: bytes) -> bytes:
        if len(body) != 1:
            return error_response(ReturnCode.BAD_PARAMETER)
        if body[0] not in self._localities:
            self._log.warning("locality refused to the kernel", locality=body[0])
            return error_response(ReturnCode.BAD_LOCALITY)
        self._kept.locality = body[0]
        return build_message(Tag.RSP_COMMAND, ReturnCode.SUCCESS)


async def serve_proxy(
    config: ProxyConfig,
    kept: KeptDevice,
    notifier: Notifier,
    log: Log,
    reloads: Reloads[ProxyConfig] | None = None,
) -> None:
    """Be the chip of a TPM device until cancelled.

    Ready at once: the kernel's first commands wait for a vTPM that is still starting.

    Raises:
        DaemonError: the kernel has given the device up.
    """
    link = VtpmLink(config.backend, config.uuid, log)

    def describe() -> str:
        state = "serving" if link.is_connected else "waiting for the vtpm of"
        return f"{kept.device.path}: {state} guest {config.name}"

    def apply(new: ProxyConfig) -> Sequence[str]:
        log.level = new.level
        return changed_fields(config, new, frozenset({"level"}))

    line = StatusLine(notifier, describe)
    link.on_change = line.changed
    async with trio.open_nursery() as nursery:
        # It outlives the proxy: a stop waits for the last response.
        going = await nursery.start(link.run_shielded)
        try:
            async with trio.open_nursery() as serving:
                serving.start_soon(line.run)
                serving.start_soon(Proxy(kept, link, config.localities, log).serve)
                log.info("serving a device", device=kept.device.path)
                notifier.ready()
                if reloads is not None:
                    serving.start_soon(reloads.serve, apply)
        finally:
            going.cancel()
            kept.close()
