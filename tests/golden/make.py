# SPDX-License-Identifier: Apache-2.0
"""Makes the golden files of the formats as they are now: `python -m tests.golden.make FOLDER`.

The chip in them has something in every section: an owner, keys in a slot and pinned, NV areas with
data and locks, counters, PCRs, sessions of each kind, open and saved, audit status, delegations,
maintenance key, an EK of this run, and the state that SaveState kept. Nothing that exists is
written over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from daemons.hwtpm.store import encode_record
from daemons.vtpm.image import Content, seal_image
from protocol.tpm12.constants import (
    EncScheme,
    EntityType,
    KeyUsage,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    SigScheme,
)
from protocol.tpm12.delegation import DelegatePublic, DelegateType, Delegations
from protocol.tpm12.keys import DEFAULT_EXPONENT, Key, KeyParms, PubKey
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import U32
from tests.unit.tpm12.world import (
    OWNER_AUTH,
    SRK_AUTH,
    Chip,
    SeededRandom,
    key_pair,
    make_chip,
)
from tests.unit.vtpm.fakes import GUEST
from tpmcore import tss12
from tpmcore.tpm12.world import Profile

KEY_AUTH: Final = b"key-secret-of-golden"
AREA_AUTH: Final = b"area-secret-of-gold!"
COUNTER_AUTH: Final = b"counter-secret-gold!"
OPERATOR_AUTH: Final = b"operator-secret-gold"
OWNER_AREA: Final = 0x00010000
AUTH_AREA: Final = 0x00010001
MEASUREMENT: Final = b"golden measurement.."
DELEGATE_AUTH: Final = b"delegate-secret-gold"
FAMILY_LABEL: Final = 7
ROW_LABEL: Final = 9
SET_CAPABILITY_BIT: Final = 12
SIGNING: Final = Key.template(
    KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
)


def maintainer() -> PubKey:
    """The manufacturer's public key that the chip keeps."""
    p, q = key_pair(99, 2048, DEFAULT_EXPONENT)
    parms = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
    return PubKey(parms, (p * q).to_bytes(256, "big"))


def make(folder: Path) -> None:
    """Write the golden files into a folder that is not there yet."""
    chip = make_chip(Profile(maintenance_commands=True, has_parent=True), seed="golden")
    facts = _fill(chip)
    # SaveState comes last: the next command would drop what it kept.
    volatile = chip.engine.volatile_state()
    chip.run(tss12.save_state())
    permanent = chip.engine.permanent_state()
    slot, record = seal_image(Content(permanent), GUEST, 7, SeededRandom("golden slot"))
    facts |= {"uuid": str(GUEST), "sequence": 7, "hash_and_key": record.encode().hex()}
    folder.mkdir()
    files = {
        "permanent": permanent,
        "volatile": volatile,
        "slot": slot,
        "chip.state": encode_record(permanent),
        "facts.json": json.dumps(facts, indent=1).encode() + b"\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _fill(chip: Chip) -> dict[str, object]:
    random = chip.client_random
    chip.assert_presence()
    chip.run(tss12.set_operator_auth(OPERATOR_AUTH))
    chip.run(tss12.nv_lock())
    chip.run(tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=random))
    pinned, key = _load_key(chip)
    chip.run(
        tss12.key_control_owner(
            pinned, key.public_key, True, owner_auth=OWNER_AUTH, random=chip.client_random
        )
    )
    loaded, other_key = _load_key(chip)
    _define_areas(chip)
    counters = [
        chip.run(
            tss12.create_counter(
                owner_auth=OWNER_AUTH, counter_auth=COUNTER_AUTH, label=label, random=random
            )
        )
        for label in (b"one ", b"two ")
    ]
    chip.ticks.advance(10)
    value = chip.run(
        tss12.increment_counter(counters[1].count_id, counter_auth=COUNTER_AUTH, random=random)
    )
    chip.run(tss12.extend(10, MEASUREMENT))
    chip.run(tss12.extend(10, MEASUREMENT))
    saved = chip.run(tss12.oiap())
    context = chip.run(tss12.save_context(saved.handle, ResourceType.AUTH))
    deprecated = chip.run(tss12.oiap())
    deprecated_context = chip.run(tss12.save_auth_context(deprecated.handle))
    oiap = chip.run(tss12.oiap())
    osap = chip.run(tss12.osap(EntityType.KEYHANDLE, loaded, KEY_AUTH, random=random))
    return _sections_of_1_1(chip) | {
        "owner_auth": OWNER_AUTH.hex(),
        "srk_auth": SRK_AUTH.hex(),
        "key_auth": KEY_AUTH.hex(),
        "area_auth": AREA_AUTH.hex(),
        "counter_auth": COUNTER_AUTH.hex(),
        "operator_auth": OPERATOR_AUTH.hex(),
        "pinned_handle": pinned,
        "pinned_modulus": key.pub_key.hex(),
        "loaded_handle": loaded,
        "loaded_modulus": other_key.pub_key.hex(),
        "owner_area": OWNER_AREA,
        "owner_area_data": chip.run(
            tss12.nv_read_value(OWNER_AREA, 16, owner_auth=OWNER_AUTH, random=random)
        ).hex(),
        "auth_area": AUTH_AREA,
        "auth_area_data": b"written by area".hex(),
        "counter": counters[1].count_id,
        "counter_label": value.label.hex(),
        "counter_value": value.counter,
        "idle_counter": counters[0].count_id,
        "pcr": 10,
        "pcr_value": chip.run(tss12.pcr_read(10)).hex(),
        "saved_session": saved.handle,
        "saved_session_nonce": saved.nonce_even.hex(),
        "saved_session_context": context.hex(),
        "deprecated_session": deprecated.handle,
        "deprecated_context": deprecated_context.hex(),
        "oiap_handle": oiap.handle,
        "oiap_nonce": oiap.nonce_even.hex(),
        "osap_handle": osap.handle,
        "osap_nonce": osap.nonce_even.hex(),
        "osap_secret": osap.shared_secret.hex(),
        "ek_modulus": _public_modulus(chip, ReservedHandle.EK),
        "srk_modulus": _public_modulus(chip, ReservedHandle.SRK),
    }


def _sections_of_1_1(chip: Chip) -> dict[str, object]:
    random = chip.client_random
    chip.run(
        tss12.set_ordinal_audit_status(
            Ordinal.PCR_RESET, True, owner_auth=OWNER_AUTH, random=random
        )
    )
    chip.run(tss12.load_manu_maint_pub(maintainer(), bytes(20)))
    family = chip.run(tss12.create_family(FAMILY_LABEL, owner_auth=OWNER_AUTH, random=random))
    public = DelegatePublic(
        ROW_LABEL,
        tss12.pcr_info_short({}),
        Delegations(DelegateType.OWNER, 1 << SET_CAPABILITY_BIT),
        family,
        0,
    )
    blob = chip.run(
        tss12.create_owner_delegation(
            public, owner_auth=OWNER_AUTH, delegate_auth=DELEGATE_AUTH, random=random
        )
    )
    chip.run(tss12.load_owner_delegation(0, blob, owner_auth=OWNER_AUTH, random=random))
    dsap = chip.run(tss12.dsap_row(0, DELEGATE_AUTH, random=random))
    transport = chip.run(tss12.establish_transport(TransportAttributes.LOG, random=random))
    daa = chip.run(tss12.daa_join(0, 0, U32.write(1), owner_auth=OWNER_AUTH, random=random))
    return {
        "audited_ordinal": Ordinal.PCR_RESET,
        "audit_counter": chip.run(tss12.get_audit_digest()).counter.counter,
        "audit_digest": chip.run(tss12.get_audit_digest()).digest.hex(),
        "family_label": FAMILY_LABEL,
        "family_id": family,
        "row_label": ROW_LABEL,
        "dsap_handle": dsap.handle,
        "dsap_nonce": dsap.nonce_even.hex(),
        "dsap_secret": dsap.shared_secret.hex(),
        "transport_handle": transport.channel.handle,
        "daa_handle": int.from_bytes(daa, "big"),
    }


def _load_key(chip: Chip) -> tuple[int, Key]:
    random = chip.client_random
    key = chip.run(
        tss12.create_wrap_key(
            ReservedHandle.SRK,
            SIGNING,
            parent_auth=SRK_AUTH,
            usage_auth=KEY_AUTH,
            random=random,
        )
    )
    handle = chip.run(tss12.load_key2(ReservedHandle.SRK, key, parent_auth=SRK_AUTH, random=random))
    return handle, key


def _define_areas(chip: Chip) -> None:
    random = chip.client_random
    owned = NvAttributes.OWNERREAD | NvAttributes.OWNERWRITE | NvAttributes.WRITEDEFINE
    authed = NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE | NvAttributes.WRITE_STCLEAR
    for index, permission, size_bytes in ((OWNER_AREA, owned, 16), (AUTH_AREA, authed, 15)):
        chip.run(
            tss12.nv_define_space(
                index,
                size_bytes,
                permission,
                owner_auth=OWNER_AUTH,
                area_auth=AREA_AUTH,
                random=random,
            )
        )
    chip.run(
        tss12.nv_write_value(OWNER_AREA, b"written by owner", owner_auth=OWNER_AUTH, random=random)
    )
    chip.run(
        tss12.nv_write_value_auth(AUTH_AREA, b"written by area", area_auth=AREA_AUTH, random=random)
    )
    # A write of no bytes sets the locks: one for ever, one until the next Startup(CLEAR).
    chip.run(tss12.nv_write_value(OWNER_AREA, b"", owner_auth=OWNER_AUTH, random=random))
    chip.run(tss12.nv_write_value_auth(AUTH_AREA, b"", area_auth=AREA_AUTH, random=random))


def _public_modulus(chip: Chip, handle: ReservedHandle) -> str:
    public = chip.run(
        tss12.owner_read_internal_pub(handle, owner_auth=OWNER_AUTH, random=chip.client_random)
    )
    return public.key.hex()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
