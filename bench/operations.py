# SPDX-License-Identifier: Apache-2.0
"""What is measured: one command each, in the smallest conversation that leads to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.peers import Peer
from protocol.tpm12.constants import (
    CapabilityProperty,
    EncScheme,
    KeyUsage,
    NvAttributes,
    Ordinal,
    ReservedHandle,
    ResourceType,
    SigScheme,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.stored import StoredData
from tpmcore import tss12
from tpmcore.errors import TpmError

SECRET: Final = bytes(20)
AREA: Final = 0x10050
PCR: Final = 16
SIGNING_KEY: Final = Key.template(
    KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
)


@dataclass(slots=True)
class Fixture:
    """What a provisioned peer has: a wrapped and a loaded signing key, a sealed blob."""

    key: Key
    handle: int
    blob: StoredData
    number: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table.

    Attributes:
        ordinal: the command whose round trip is noted; others of the conversation are not.
        batch: runs of it at one peer before it is the other's turn.
        target: largest ratio to swtpm that the project promises, with the client on a core of its
            own; None where the promise is in milliseconds.
        target_one_core: the same with everything on one core.
        pause_s: rest before a batch, for what is made ahead of time.
    """

    name: str
    ordinal: Ordinal
    run: Callable[[Peer, Fixture], object]
    batch: int
    target: float | None
    target_one_core: float | None = None
    limit_ms: float | None = None
    pause_s: float = 0.0


def provision(peer: Peer) -> Fixture:
    """Take ownership, define an area, make the keys and the blob."""
    random = peer.random
    try:
        peer.run(tss12.create_endorsement_key_pair(random=random))
    except TpmError:
        # It has one from its first start.
        peer.samples_us.clear()
    peer.run(tss12.take_ownership(owner_auth=SECRET, srk_auth=SECRET, random=random))
    attributes = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD
    peer.run(
        tss12.nv_define_space(
            AREA, 32, attributes, owner_auth=SECRET, area_auth=SECRET, random=random
        )
    )
    key = peer.run(
        tss12.create_wrap_key(
            ReservedHandle.SRK, SIGNING_KEY, parent_auth=SECRET, usage_auth=SECRET, random=random
        )
    )
    handle = peer.run(tss12.load_key2(ReservedHandle.SRK, key, parent_auth=SECRET, random=random))
    blob = peer.run(_seal(peer))
    return Fixture(key, handle, blob)


def _seal(peer: Peer) -> tss12.Conversation[StoredData]:
    return tss12.seal(
        ReservedHandle.SRK,
        parent_auth=SECRET,
        blob_auth=SECRET,
        data=b"thirty-two bytes of sealed data!",
        pcr_info=None,
        random=peer.random,
    )


def _oiap(peer: Peer, _fixture: Fixture) -> None:
    session = peer.run(tss12.oiap())
    peer.run(tss12.flush_specific(session.handle, ResourceType.AUTH))


def _sign(peer: Peer, fixture: Fixture) -> None:
    digest = hashlib.sha1(fixture.number.to_bytes(4, "big")).digest()
    fixture.number += 1
    peer.run(tss12.sign(fixture.handle, digest, key_auth=SECRET, random=peer.random))


def _quote(peer: Peer, fixture: Fixture) -> None:
    peer.run(
        tss12.quote(
            fixture.handle,
            external_data=SECRET,
            selection=PcrSelection.of(range(8)),
            key_auth=SECRET,
            random=peer.random,
        )
    )


def _unseal(peer: Peer, fixture: Fixture) -> None:
    peer.run(
        tss12.unseal(
            ReservedHandle.SRK,
            fixture.blob,
            parent_auth=SECRET,
            blob_auth=SECRET,
            random=peer.random,
        )
    )


def _load_key(peer: Peer, fixture: Fixture) -> None:
    handle = peer.run(
        tss12.load_key2(ReservedHandle.SRK, fixture.key, parent_auth=SECRET, random=peer.random)
    )
    peer.run(tss12.flush_specific(handle, ResourceType.KEY))


def _nv_write(peer: Peer, fixture: Fixture) -> None:
    fixture.number += 1
    data = fixture.number.to_bytes(32, "big")
    peer.run(tss12.nv_write_value(AREA, data, owner_auth=SECRET, random=peer.random))


def _create_wrap_key(peer: Peer, _fixture: Fixture) -> None:
    peer.run(
        tss12.create_wrap_key(
            ReservedHandle.SRK,
            SIGNING_KEY,
            parent_auth=SECRET,
            usage_auth=SECRET,
            random=peer.random,
        )
    )


_LIGHT: Final = 4.0
_LIGHT_ONE_CORE: Final = 8.0
_PRIVATE_KEY: Final = 0.25

OPERATIONS: Final = (
    Operation(
        "PCRRead",
        Ordinal.PCR_READ,
        lambda peer, _: peer.run(tss12.pcr_read(PCR)),
        100,
        _LIGHT,
        _LIGHT_ONE_CORE,
    ),
    Operation(
        "Extend",
        Ordinal.EXTEND,
        lambda peer, _: peer.run(tss12.extend(PCR, SECRET)),
        100,
        _LIGHT,
        _LIGHT_ONE_CORE,
    ),
    Operation(
        "GetRandom(32)",
        Ordinal.GET_RANDOM,
        lambda peer, _: peer.run(tss12.get_random(32)),
        100,
        _LIGHT,
        _LIGHT_ONE_CORE,
    ),
    Operation(
        "GetCapability",
        Ordinal.GET_CAPABILITY,
        lambda peer, _: peer.run(tss12.get_property(CapabilityProperty.MAX_AUTHSESS)),
        100,
        _LIGHT,
        _LIGHT_ONE_CORE,
    ),
    Operation("OIAP", Ordinal.OIAP, _oiap, 50, _LIGHT, _LIGHT_ONE_CORE),
    Operation("Sign", Ordinal.SIGN, _sign, 10, _PRIVATE_KEY, _PRIVATE_KEY),
    Operation("Quote", Ordinal.QUOTE, _quote, 10, _PRIVATE_KEY, _PRIVATE_KEY),
    Operation("Seal", Ordinal.SEAL, lambda peer, _: peer.run(_seal(peer)), 10, None),
    Operation("Unseal", Ordinal.UNSEAL, _unseal, 10, _PRIVATE_KEY, _PRIVATE_KEY),
    Operation("LoadKey2", Ordinal.LOAD_KEY2, _load_key, 10, _PRIVATE_KEY, _PRIVATE_KEY),
    Operation("NV write (durable)", Ordinal.NV_WRITE_VALUE, _nv_write, 10, None, limit_ms=10.0),
    Operation(
        "CreateWrapKey, warm pool",
        Ordinal.CREATE_WRAP_KEY,
        _create_wrap_key,
        2,
        0.05,
        0.05,
        pause_s=1.0,
    ),
)
