# SPDX-License-Identifier: Apache-2.0
"""Making TPM 1.2 engines for a guest: new ones as a manufacturer delivers them, and old ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from daemons.runtime.clock import MonotonicTicks
from daemons.runtime.config.values import EndorsementKey
from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from daemons.vtpm.options import Config
from protocol.tpm12.constants import PhysicalPresenceFlags
from protocol.tpmif.page import capacity_bytes
from tpmcore import tss12
from tpmcore.engine import (
    Done,
    Engine,
    EventDone,
    KeySource,
    Persist,
    PowerOn,
    RandomSource,
    Step,
)
from tpmcore.errors import TpmError
from tpmcore.tpm12 import Profile, Tpm12Engine, World
from tpmcore.tss12 import Conversation


def _factory_settings(*, locks_nv: bool) -> Iterator[Conversation[None]]:
    """Give what is done to a TPM before anybody has it, as to Xen's."""
    yield tss12.startup()
    # A TPM comes with no way to assert physical presence switched on; the platform chooses.
    yield tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE)
    # Until nvLocked is set no permission of any NV area counts.
    if locks_nv:
        yield tss12.nv_lock()


MIN_BUFFER_BYTES: Final = 3072
"""What a machine may have least, as with swtpm: firmware and drivers count on more than 2048."""

DURATIONS_US: Final = (50_000_000, 50_000_000, 300_000_000)
"""Short, medium, long: when a guest's kernel gives up on a command. The first two are swtpm's.
With Xen's 3 s a guest's kernel gave up on an Extend of IMA, on a busy machine (load fifteen on two
cores); and what changes permanent state waits for the manager and its chip besides."""


class Tpm12Maker:
    """Makes TPM 1.2 engines whose buffers are at most what a shared page carries.

    Attributes:
        buffer_bytes: largest command and response of the next engine.
        buffer_limits: least and most of it.
        information: what swtpm tells of a TPM on its control channel, by the flag of GET_INFO.
    """

    def __init__(self, config: Config, random: RandomSource, keys: KeySource) -> None:
        """Args:
        config: for the profile.
        random: the TPM's generator.
        keys: where its RSA keys come from.
        """
        self._locks_nv = config.locks_nv
        self._world = World(random, MonotonicTicks(), keys)
        self._profile = Profile(
            input_buffer_bytes=capacity_bytes(0),
            make_ek=config.ek is EndorsementKey.CREATE,
            enabled=config.opted_in,
            activated=config.opted_in,
            maintenance_commands=config.maintenance_commands,
            has_parent=True,
            durations_us=DURATIONS_US,
        )
        self.buffer_bytes = capacity_bytes(0)
        self.buffer_limits = (MIN_BUFFER_BYTES, self.buffer_bytes)
        manufacturer = int.from_bytes(self._profile.manufacturer, "big")
        version = int.from_bytes(bytes((1, 2, *self._profile.firmware)), "big")
        self.information: Mapping[int, tuple[str, Json]] = {
            1: ("TPMSpecification", {"family": "1.2", "level": 2, "revision": 116}),
            2: (
                "TPMAttributes",
                {
                    "manufacturer": f"id:{manufacturer:08X}",
                    "version": f"id:{version:08X}",
                    "model": "vtpm",
                },
            ),
        }

    def manufacture(self) -> Engine:
        """Return a new TPM, as after TPM_Init; nothing of it is durable yet.

        Raises:
            DaemonError: it does not take what a manufacturer sets.
        """
        engine = Tpm12Engine.manufacture(self._world, self._profile)
        try:
            for setting in _factory_settings(locks_nv=self._locks_nv):
                tss12.run_sync(partial(_send, engine), setting)
        except TpmError as error:
            raise DaemonError(f"a new TPM does not take what a factory sets: {error}") from error
        _settle(engine, engine.handle(PowerOn()))
        return engine

    def restore(self, permanent: bytes, volatile: bytes | None) -> Engine:
        """Return the TPM of these states.

        Raises:
            WireError: not states that this version reads.
        """
        profile = dataclasses.replace(self._profile, input_buffer_bytes=self.buffer_bytes)
        return Tpm12Engine.restore(self._world, profile, permanent, volatile)


def _send(engine: Engine, command: bytes) -> bytes:
    response = _settle(engine, engine.execute(command, 0))
    if not isinstance(response, bytes):
        raise DaemonError("a new TPM has no answer")
    return response


def _settle(engine: Engine, step: Step) -> bytes | EventDone:
    """Finish a step of a TPM that nobody has yet: there is nothing to lose."""
    while not isinstance(step, (bytes, EventDone)):
        if not isinstance(step, Persist):
            raise DaemonError(f"a new TPM asks for {type(step).__name__}")
        step = engine.resume(Done())
    return step
