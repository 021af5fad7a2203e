# SPDX-License-Identifier: Apache-2.0
"""The prepared chips that runs begin with, and what a client of them knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import AuthDataUsage, KeyFlags, NvAttributes
from tests.fuzz.target import Snapshot
from tests.unit.tpm12.keychain import (
    MIGRATION_AUTH,
    USAGE_AUTH,
    binding_key,
    make_and_load,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile

AREA_AUTH: Final = b"area-secret-of-fuzz!"
COUNTER_AUTH: Final = b"counter-secret-fuzz!"
# "blob" and "data" are those of the sealed data among the seeds.
SECRETS: Final = {
    "owner": OWNER_AUTH,
    "srk": SRK_AUTH,
    "usage": USAGE_AUTH,
    "migration": MIGRATION_AUTH,
    "area": AREA_AUTH,
    "counter": COUNTER_AUTH,
    "blob": b"secret of the blob--",
    "data": b"secret-of-some-data!",
    "zero": bytes(20),
}


def _take(name: str, chip: Chip) -> Snapshot:
    return Snapshot(
        name,
        chip.profile,
        chip.durable,
        chip.engine.volatile_state(),
        chip.ticks.now_us,
        SECRETS,
    )


def _furnish(chip: Chip) -> None:
    """Keys of each usage, NV areas, a counter, physical presence by command."""
    for template in (
        binding_key(),
        signing_key(),
        signing_key(auth_data_usage=AuthDataUsage.NEVER),
        binding_key(legacy=True),
        storage_key(flags=KeyFlags.MIGRATABLE),
    ):
        make_and_load(chip, template)
    attributes = NvAttributes
    for index, wanted in (
        (0x10, attributes.OWNERWRITE | attributes.OWNERREAD),
        (0x11234, attributes.AUTHWRITE | attributes.AUTHREAD),
        (0x10050, attributes.PPWRITE | attributes.PPREAD),
    ):
        chip.run(
            tss12.nv_define_space(
                index,
                32,
                wanted,
                owner_auth=OWNER_AUTH,
                area_auth=AREA_AUTH,
                random=chip.client_random,
            )
        )
    chip.run(
        tss12.create_counter(
            owner_auth=OWNER_AUTH,
            counter_auth=COUNTER_AUTH,
            label=b"fuzz",
            random=chip.client_random,
        )
    )
    chip.assert_presence()


def prepare() -> dict[str, Snapshot]:
    """Make all prepared chips; they are the same each time."""
    furnished = make_owned_chip(Profile(maintenance_commands=True))
    _furnish(furnished)
    small = make_owned_chip(
        Profile(
            input_buffer_bytes=1024, max_keys=3, max_sessions=3, max_counters=1, nv_space_bytes=512,
            max_saved_contexts=2,
        )
    )  # fmt: skip
    new = make_chip()
    new.assert_presence()
    snapshots = [
        _take("furnished", furnished),
        _take("owned", make_owned_chip()),
        _take("new", new),
        _take("unstarted", make_chip(replace(Profile(), make_ek=False), startup=None)),
        _take("small", small),
    ]
    return {snapshot.name: snapshot for snapshot in snapshots}
