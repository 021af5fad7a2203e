# SPDX-License-Identifier: Apache-2.0
"""Making TPM 1.2 engines for a guest: new ones as a manufacturer delivers them, and old ones."""

from __future__ import annotations

from daemons.runtime.clock import MonotonicTicks
from daemons.runtime.config.values import EndorsementKey
from daemons.runtime.errors import DaemonError
from daemons.vtpm.options import Config
from protocol.tpm12 import Ordinal, Tag, build_message, parse_header
from protocol.tpm12.constants import PhysicalPresenceFlags, StartupType
from protocol.tpmif.page import capacity_bytes
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
from tpmcore.tpm12 import Profile, Tpm12Engine, World

_FACTORY_COMMANDS = (
    (Ordinal.STARTUP, StartupType.CLEAR),
    # A TPM comes with no way to assert physical presence switched on; the platform chooses.
    (Ordinal.TSC_PHYSICAL_PRESENCE, PhysicalPresenceFlags.CMD_ENABLE),
)


class Tpm12Maker:
    """Makes TPM 1.2 engines whose buffers are what a shared page carries."""

    def __init__(self, config: Config, random: RandomSource, keys: KeySource) -> None:
        """Args:
        config: for the profile.
        random: the TPM's generator.
        keys: where its RSA keys come from.
        """
        self._world = World(random, MonotonicTicks(), keys)
        self._profile = Profile(
            input_buffer_bytes=capacity_bytes(0),
            make_ek=config.ek is EndorsementKey.CREATE,
            maintenance_commands=config.maintenance_commands,
        )

    def manufacture(self) -> Engine:
        """Return a new TPM, as after TPM_Init; nothing of it is durable yet.

        Raises:
            DaemonError: it does not take what a manufacturer sets.
        """
        engine = Tpm12Engine.manufacture(self._world, self._profile)
        for ordinal, argument in _FACTORY_COMMANDS:
            command = build_message(Tag.RQU_COMMAND, ordinal, argument.to_bytes(2, "big"))
            response = _settle(engine, engine.execute(command, 0))
            if not isinstance(response, bytes) or parse_header(response).code:
                raise DaemonError(f"a new TPM does not take {ordinal.name}")
        _settle(engine, engine.handle(PowerOn()))
        return engine

    def restore(self, permanent: bytes, volatile: bytes | None) -> Engine:
        """Return the TPM of these states.

        Raises:
            WireError: not states that this version reads.
        """
        return Tpm12Engine.restore(self._world, self._profile, permanent, volatile)


def _settle(engine: Engine, step: Step) -> bytes | EventDone:
    """Finish a step of a TPM that nobody has yet: there is nothing to lose."""
    while not isinstance(step, (bytes, EventDone)):
        if not isinstance(step, Persist):
            raise DaemonError(f"a new TPM asks for {type(step).__name__}")
        step = engine.resume(Done())
    return step
