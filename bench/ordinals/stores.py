# SPDX-License-Identifier: Apache-2.0
"""PCRs, hashing, randomness, ticks, NV areas, counters and the DIR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.ordinals.chip import SECRET, TimedChip
from bench.ordinals.routine import Routine, routine
from protocol.tpm12.constants import NvAttributes, Ordinal
from tpmcore import tss12
from tpmcore.engine import KeySource

_PCR: Final = 16
_DIGEST: Final = bytes(range(20))
_AREA: Final = 0x10050
_AREA_OF_ITS_OWN: Final = 0x10051
_OTHER_AREA: Final = 0x10052
_BYTES: Final = 32


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    chip = TimedChip(keys)
    chip.take_ownership()
    yield from _without_authorization(chip)
    yield from _nv(chip)
    yield from _counters(chip)


def _without_authorization(chip: TimedChip) -> Iterator[Routine]:
    run = chip.run

    def sha1() -> None:
        run(tss12.sha1_start())
        run(tss12.sha1_update(bytes(64)))
        run(tss12.sha1_complete(_DIGEST))

    def sha1_extend() -> None:
        run(tss12.sha1_start())
        run(tss12.sha1_complete_extend(_PCR, _DIGEST))

    yield routine(chip, lambda: run(tss12.pcr_read(_PCR)), Ordinal.PCR_READ)
    yield routine(chip, lambda: run(tss12.extend(_PCR, _DIGEST)), Ordinal.EXTEND)
    yield routine(chip, lambda: run(tss12.pcr_reset([_PCR])), Ordinal.PCR_RESET)
    yield routine(chip, sha1, Ordinal.SHA1_START, Ordinal.SHA1_UPDATE, Ordinal.SHA1_COMPLETE)
    yield routine(chip, sha1_extend, Ordinal.SHA1_COMPLETE_EXTEND)
    yield routine(chip, lambda: run(tss12.get_random(32)), Ordinal.GET_RANDOM)
    yield routine(chip, lambda: run(tss12.stir_random(_DIGEST)), Ordinal.STIR_RANDOM)
    yield routine(chip, lambda: run(tss12.get_ticks()), Ordinal.GET_TICKS)
    yield routine(chip, lambda: run(tss12.dir_read()), Ordinal.DIR_READ)


def _nv(chip: TimedChip) -> Iterator[Routine]:
    run, random = chip.run, chip.client_random
    attributes = NvAttributes
    by_owner = attributes.OWNERWRITE | attributes.OWNERREAD
    numbers = iter(range(1, 1 << 32))

    def define(index: int, permission: NvAttributes) -> None:
        run(
            tss12.nv_define_space(
                index, _BYTES, permission, owner_auth=SECRET, area_auth=SECRET, random=random
            )
        )

    def define_and_delete() -> None:
        define(_OTHER_AREA, by_owner)
        run(tss12.nv_delete_space(_OTHER_AREA, owner_auth=SECRET, random=random))

    def write() -> None:
        data = next(numbers).to_bytes(_BYTES, "big")
        run(tss12.nv_write_value(_AREA, data, owner_auth=SECRET, random=random))

    def write_auth() -> None:
        data = next(numbers).to_bytes(_BYTES, "big")
        run(tss12.nv_write_value_auth(_AREA_OF_ITS_OWN, data, area_auth=SECRET, random=random))

    def read_auth() -> object:
        return run(
            tss12.nv_read_value_auth(_AREA_OF_ITS_OWN, _BYTES, area_auth=SECRET, random=random)
        )

    def write_dir() -> None:
        contents = next(numbers).to_bytes(20, "big")
        run(tss12.dir_write_auth(contents, owner_auth=SECRET, random=random))

    define(_AREA, by_owner)
    define(_AREA_OF_ITS_OWN, attributes.AUTHWRITE | attributes.AUTHREAD)
    yield routine(chip, define_and_delete, Ordinal.NV_DEFINE_SPACE)
    yield routine(chip, write, Ordinal.NV_WRITE_VALUE)
    yield routine(chip, write_auth, Ordinal.NV_WRITE_VALUE_AUTH)
    yield routine(
        chip,
        lambda: run(tss12.nv_read_value(_AREA, _BYTES, owner_auth=SECRET, random=random)),
        Ordinal.NV_READ_VALUE,
    )
    yield routine(chip, read_auth, Ordinal.NV_READ_VALUE_AUTH)
    yield routine(chip, write_dir, Ordinal.DIR_WRITE_AUTH)


def _counters(chip: TimedChip) -> Iterator[Routine]:
    run, random = chip.run, chip.client_random

    def create() -> int:
        return run(
            tss12.create_counter(
                owner_auth=SECRET, counter_auth=SECRET, label=b"rate", random=random
            )
        ).count_id

    def create_and_release() -> None:
        run(tss12.release_counter(create(), counter_auth=SECRET, random=random))
        run(tss12.release_counter_owner(create(), owner_auth=SECRET, random=random))

    counter = create()

    def increment() -> object:
        return run(tss12.increment_counter(counter, counter_auth=SECRET, random=random))

    yield routine(
        chip,
        create_and_release,
        Ordinal.CREATE_COUNTER,
        Ordinal.RELEASE_COUNTER,
        Ordinal.RELEASE_COUNTER_OWNER,
    )
    yield routine(chip, increment, Ordinal.INCREMENT_COUNTER)
    yield routine(chip, lambda: run(tss12.read_counter(counter)), Ordinal.READ_COUNTER)
