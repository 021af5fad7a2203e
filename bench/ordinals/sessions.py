# SPDX-License-Identifier: Apache-2.0
"""Sessions of all kinds, delegation, and what moves keys and sessions in and out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.ordinals.chip import SECRET, TimedChip, template
from bench.ordinals.keys import KeyRing
from bench.ordinals.routine import Routine, Rsa, routine
from protocol.tpm12.constants import EntityType, KeyFlags, KeyUsage, Ordinal, ResourceType
from protocol.tpm12.delegation import (
    DelegatePublic,
    DelegateType,
    Delegations,
    FamilyOperation,
)
from protocol.tpm12.transport import TransportAttributes
from tpmcore import tss12
from tpmcore.engine import KeySource

_OWNER_READ_PUBEK: Final = 1 << 9
_SIGN: Final = 1 << 14
_LABEL: Final = 0x41


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    yield from _sessions(KeyRing(keys))
    yield from _contexts(KeyRing(keys))
    yield from _delegation(KeyRing(keys))
    yield from _transport(KeyRing(keys))


def _flush(chip: TimedChip, handle: int) -> None:
    chip.run(tss12.flush_specific(handle, ResourceType.AUTH))


def _sessions(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    key = ring.create(template(KeyUsage.SIGNING))

    def osap() -> None:
        _flush(chip, run(tss12.osap_owner(SECRET, random=random)).handle)

    def reset() -> None:
        run(tss12.oiap())
        run(tss12.reset())

    yield routine(
        chip, lambda: _flush(chip, run(tss12.oiap()).handle), Ordinal.OIAP, Ordinal.FLUSH_SPECIFIC
    )
    yield routine(chip, osap, Ordinal.OSAP)
    yield routine(
        chip,
        lambda: run(tss12.terminate_handle(run(tss12.oiap()).handle)),
        Ordinal.TERMINATE_HANDLE,
    )
    yield routine(chip, reset, Ordinal.RESET)
    yield routine(chip, lambda: run(tss12.evict_key(ring.load(key))), Ordinal.EVICT_KEY)


def _contexts(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    key = ring.create(template(KeyUsage.SIGNING))
    handle = ring.load(key)

    def evict() -> None:
        for pinned in (True, False):
            run(
                tss12.key_control_owner(
                    handle, key.public_key, pinned, owner_auth=SECRET, random=random
                )
            )

    def save_and_load() -> None:
        saved = run(tss12.save_context(handle, ResourceType.KEY))
        ring.flush(run(tss12.load_context(saved)))

    # The old form of SaveContext takes the key away.
    swapped = ring.load(ring.create(template(KeyUsage.SIGNING)))

    def swap_key() -> None:
        nonlocal swapped
        swapped = run(tss12.load_key_context(run(tss12.save_key_context(swapped))))

    def swap_session() -> None:
        blob = run(tss12.save_auth_context(run(tss12.oiap()).handle))
        _flush(chip, run(tss12.load_auth_context(blob)))

    yield routine(chip, evict, Ordinal.KEY_CONTROL_OWNER)
    yield routine(chip, save_and_load, Ordinal.SAVE_CONTEXT, Ordinal.LOAD_CONTEXT)
    yield routine(chip, swap_key, Ordinal.SAVE_KEY_CONTEXT, Ordinal.LOAD_KEY_CONTEXT)
    yield routine(chip, swap_session, Ordinal.SAVE_AUTH_CONTEXT, Ordinal.LOAD_AUTH_CONTEXT)


def _delegation(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    key = ring.load(ring.create(template(KeyUsage.SIGNING)))
    family = run(tss12.create_family(_LABEL, owner_auth=SECRET, random=random))

    def public(kind: DelegateType, bits: int) -> DelegatePublic:
        return DelegatePublic(0, tss12.pcr_info_short(), Delegations(kind, bits), family, 0)

    owners = public(DelegateType.OWNER, _OWNER_READ_PUBEK)
    keys = public(DelegateType.KEY, _SIGN)
    blob = run(
        tss12.create_owner_delegation(
            owners, owner_auth=SECRET, delegate_auth=SECRET, random=random
        )
    )
    run(tss12.load_owner_delegation(0, blob, owner_auth=SECRET, random=random))

    def manage() -> None:
        made = run(tss12.create_family(_LABEL, owner_auth=SECRET, random=random))
        run(
            tss12.delegate_manage(
                made, FamilyOperation.INVALIDATE, b"", owner_auth=SECRET, random=random
            )
        )

    def for_key() -> object:
        return run(
            tss12.create_key_delegation(
                key, keys, key_auth=SECRET, delegate_auth=SECRET, random=random
            )
        )

    def for_owner() -> object:
        return run(
            tss12.create_owner_delegation(
                owners, owner_auth=SECRET, delegate_auth=SECRET, random=random
            )
        )

    def point() -> None:
        run(tss12.set_owner_pointer(EntityType.DEL_ROW, 0))
        run(tss12.set_owner_pointer(EntityType.OWNER, 0))

    def load() -> None:
        for row in (1, 2):
            run(tss12.load_owner_delegation(row, blob, owner_auth=SECRET, random=random))

    yield routine(chip, manage, Ordinal.DELEGATE_MANAGE)
    yield routine(chip, for_key, Ordinal.DELEGATE_CREATE_KEY_DELEGATION)
    yield routine(chip, for_owner, Ordinal.DELEGATE_CREATE_OWNER_DELEGATION)
    yield routine(chip, load, Ordinal.DELEGATE_LOAD_OWNER_DELEGATION)
    yield routine(chip, lambda: run(tss12.read_delegation_tables()), Ordinal.DELEGATE_READ_TABLE)
    yield routine(
        chip,
        lambda: run(tss12.update_verification(blob.encode(), owner_auth=SECRET, random=random)),
        Ordinal.DELEGATE_UPDATE_VERIFICATION,
    )
    yield routine(
        chip,
        lambda: run(tss12.verify_delegation(blob.encode())),
        Ordinal.DELEGATE_VERIFY_DELEGATION,
    )
    yield routine(
        chip,
        lambda: _flush(chip, run(tss12.dsap_row(0, SECRET, random=random)).handle),
        Ordinal.DSAP,
    )
    yield routine(chip, point, Ordinal.SET_OWNER_POINTER)


def _transport(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    storage = ring.create(template(KeyUsage.STORAGE, flags=KeyFlags.MIGRATABLE))
    parent = ring.load(storage)
    signing = ring.create(template(KeyUsage.SIGNING))
    sign = ring.load(signing)
    encrypted = run(
        tss12.establish_transport(
            TransportAttributes.ENCRYPT | TransportAttributes.LOG,
            random=random,
            enc_handle=parent,
            enc_key=storage.public_key,
            key_auth=SECRET,
        )
    )

    def establish() -> None:
        session = run(
            tss12.establish_transport(
                TransportAttributes.ENCRYPT,
                random=random,
                enc_handle=parent,
                enc_key=storage.public_key,
                key_auth=SECRET,
            )
        )
        run(tss12.flush_specific(session.channel.handle, ResourceType.TRANS))

    def release() -> None:
        session = run(tss12.establish_transport(TransportAttributes.LOG, random=random))
        run(
            tss12.release_transport_signed(
                session, sign, signing.public_key, anti_replay=SECRET, key_auth=SECRET
            )
        )

    yield routine(chip, establish, ESTABLISH_TRANSPORT=(Rsa.DECRYPT,))
    yield routine(
        chip,
        lambda: run(tss12.through(encrypted, tss12.pcr_read(0))),
        Ordinal.EXECUTE_TRANSPORT,
    )
    yield routine(chip, release, RELEASE_TRANSPORT_SIGNED=(Rsa.SIGN,))
