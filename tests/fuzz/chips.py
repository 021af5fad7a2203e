# SPDX-License-Identifier: Apache-2.0
"""The prepared chips that runs begin with, and what a client of them knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import AuthDataUsage, EntityType, KeyFlags, NvAttributes, ResourceType
from protocol.tpm12.framing import parse_header
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrSelection
from tests.fuzz.target import Snapshot
from tests.unit.tpm12.keychain import (
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    binding_key,
    encrypt_oaep,
    make_and_load,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation

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
    seeds: dict[int, list[tuple[int, bytes]]] = {}
    for command, response in chip.log:
        code = parse_header(response).code
        seeds.setdefault(parse_header(command).code, []).append((code, command))
    return Snapshot(
        name,
        chip.profile,
        chip.durable,
        chip.engine.volatile_state(),
        chip.ticks.now_us,
        SECRETS,
        seeds,
    )


def _furnish(chip: Chip) -> None:
    """Keys of each usage, NV areas, a counter, physical presence by command."""
    binding, bind = make_and_load(chip, binding_key())
    signing, sign = make_and_load(chip, signing_key())
    for template in (
        signing_key(auth_data_usage=AuthDataUsage.NEVER),
        binding_key(legacy=True),
        storage_key(flags=KeyFlags.MIGRATABLE),
    ):
        make_and_load(chip, template)
    _use(chip, sign, signing, bind, binding)
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


def _use(chip: Chip, sign: int, signing: Key, bind: int, binding: Key) -> None:
    """Use keys and blobs once, so that seeds have those that this very chip takes."""
    run, random = chip.run, chip.client_random
    blob_auth = SECRETS["blob"]
    blob = run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=blob_auth,
            data=b"sealed",
            pcr_info=None,
            random=random,
        )
    )
    run(tss12.unseal(SRK, blob, parent_auth=SRK_AUTH, blob_auth=blob_auth, random=random))
    bound = b"\x01\x01\x00\x00\x02bound"
    ciphertext = encrypt_oaep(binding.pub_key, bound)
    run(tss12.unbind(bind, ciphertext, key_auth=USAGE_AUTH, random=random))
    run(tss12.get_pub_key(sign, key_auth=USAGE_AUTH, random=random))
    run(tss12.sign(sign, bytes(20), key_auth=USAGE_AUTH, random=random))
    external = b"nonce of the client "
    selection = PcrSelection.of(range(3))
    for quote in (tss12.quote, tss12.quote2):
        conversation: Conversation[object] = quote(
            sign,
            external_data=external,
            selection=selection,
            key_auth=USAGE_AUTH,
            random=random,
        )
        run(conversation)
    run(
        tss12.tick_stamp_blob(
            sign, bytes(20), anti_replay=external, key_auth=USAGE_AUTH, random=random
        )
    )
    run(tss12.certify_key(sign, bind, cert_auth=USAGE_AUTH, key_auth=USAGE_AUTH, random=random))
    run(tss12.certify_key2(bind, sign, key_auth=USAGE_AUTH, cert_auth=USAGE_AUTH, random=random))
    run(
        tss12.change_auth(
            SRK,
            signing.enc_data,
            entity_type=EntityType.KEY,
            parent_auth=SRK_AUTH,
            old_auth=USAGE_AUTH,
            new_auth=SECRETS["data"],
            random=random,
        )
    )
    for evict in (True, False):
        run(
            tss12.key_control_owner(
                sign, signing.public_key, evict, owner_auth=OWNER_AUTH, random=random
            )
        )
    blob_of_key = run(tss12.save_context(sign, ResourceType.KEY))
    again = run(tss12.load_context(blob_of_key))
    run(tss12.load_key_context(run(tss12.save_key_context(again))))
    run(tss12.flush_specific(again, ResourceType.KEY))


def prepare() -> dict[str, Snapshot]:
    """Make all prepared chips; they are the same each time."""
    furnished = make_owned_chip(Profile(maintenance_commands=True, has_parent=True))
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
