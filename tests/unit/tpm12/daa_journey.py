# SPDX-License-Identifier: Apache-2.0
"""One Join and one Sign of a test run, remembered before each of their stages."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Host,
    Joining,
    Signing,
    chain_key,
    issuer,
    public_part,
)
from tests.unit.tpm12.world import Chip, SeededRandom, make_owned_chip
from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.stateformat import (
    VolatileState,
    decode_permanent,
    decode_volatile,
    encode_volatile,
)
from tpmcore.tpm12.world import World


@dataclass(frozen=True, slots=True)
class Moment:
    """A chip that waits for a stage, to be brought back as often as it is wanted."""

    durable: bytes
    volatile: bytes
    host: Host

    def again(self) -> Host:
        """Return a host with a chip of its own that waits for the stage."""
        host = copy.copy(self.host)
        old = host.chip
        random = SeededRandom("again")
        host.chip = Chip(
            random,
            old.ticks,
            old.keys,
            old.profile,
            Tpm12Engine.restore(
                World(random, old.ticks, old.keys), old.profile, self.durable, self.volatile
            ),
            self.durable,
        )
        host.done = dict(host.done)
        return host


def moment(host: Host) -> Moment:
    """Remember a chip as it is now."""
    return Moment(host.chip.durable, host.chip.engine.volatile_state(), copy.copy(host))


def blobs_of(join: Joining) -> tuple[bytes, bytes, bytes]:
    """Return the blobs of v0, of v1, and of the chip's settings."""
    return join.done[22], join.done[23], join.done[24]


@functools.cache
def joined() -> dict[int, Moment]:
    """A Join before each of its stages, and under 25 after it; stage 1 at its second time."""
    host = Joining(make_owned_chip(), issuer())
    moments = {}
    for stage in range(JOIN_END + 1):
        if stage == 1:
            host.send(1, public_part(chain_key(702)))
            moments[1] = moment(host)
            host.done[1] = host.send(1, *host.inputs(1))
            continue
        moments[stage] = moment(host)
        host.step(stage)
    moments[JOIN_END + 1] = moment(host)
    return moments


@functools.cache
def signed() -> dict[int, Moment]:
    """A Sign before each of its stages, and under 16 after it."""
    join = joined()[JOIN_END + 1].again()
    assert isinstance(join, Joining)
    host = Signing(join.chip, issuer(), blobs=blobs_of(join))
    moments = {}
    for stage in range(SIGN_END + 1):
        moments[stage] = moment(host)
        host.step(stage)
    moments[SIGN_END + 1] = moment(host)
    return moments


def change_volatile(host: Host, change: Callable[[VolatileState], object]) -> None:
    """Let a chip go on from a volatile state that no command could bring about."""
    chip = host.chip
    permanent = decode_permanent(chip.durable)
    now_us = chip.ticks.now_us
    state = decode_volatile(chip.engine.volatile_state(), permanent, now_us)
    change(state)
    volatile = encode_volatile(state, permanent, now_us)
    world = World(chip.random, chip.ticks, chip.keys)
    chip.engine = Tpm12Engine.restore(world, chip.profile, chip.durable, volatile)
