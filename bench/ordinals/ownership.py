# SPDX-License-Identifier: Apache-2.0
"""Endorsement keys, owners, and maintenance."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from bench.ordinals.chip import BITS, EXPONENT, SECRET, TimedChip
from bench.ordinals.routine import Behind, Routine, Rsa, routine
from protocol.tpm12.constants import EncScheme, EntityType, Ordinal, ReservedHandle
from protocol.tpm12.keys import KeyParms, PubKey
from tpmcore import tss12
from tpmcore.engine import KeySource, PowerOn
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import MaintenanceArchive

_WITHOUT_EK: Final = Profile(make_ek=False)
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    yield from _endorsement(keys)
    yield from _owners(keys)
    yield from _owner_reads(keys)
    yield from _maintenance(keys)


def _endorsement(keys: KeySource) -> Iterator[Routine]:
    new = TimedChip(keys, _WITHOUT_EK)

    def create() -> None:
        new.renew(_WITHOUT_EK)
        new.run(tss12.create_endorsement_key_pair(random=new.client_random))

    revocable = TimedChip(keys, _WITHOUT_EK)

    def create_and_revoke() -> None:
        revocable.renew(_WITHOUT_EK)
        made = revocable.run(tss12.create_revocable_ek(random=revocable.client_random))
        revocable.assert_presence()
        revocable.run(tss12.revoke_trust(made.ek_reset))

    chip = TimedChip(keys)
    yield routine(new, create, Ordinal.CREATE_ENDORSEMENT_KEY_PAIR)
    yield routine(revocable, create_and_revoke, Ordinal.CREATE_REVOCABLE_EK, Ordinal.REVOKE_TRUST)
    yield routine(
        chip, lambda: chip.run(tss12.read_pubek(random=chip.client_random)), Ordinal.READ_PUBEK
    )


def _ready_for_an_owner(chip: TimedChip) -> None:
    """Undo what clearing leaves: a chip that is disabled and deactivated."""
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    chip.run(tss12.physical_set_deactivated(False))
    chip.handle(PowerOn())
    chip.start()
    chip.assert_presence()
    chip.take_ownership()


def _owners(keys: KeySource) -> Iterator[Routine]:
    chip = TimedChip(keys)
    run, random = chip.run, chip.client_random

    def take_and_clear() -> None:
        _ready_for_an_owner(chip)
        run(tss12.owner_clear(owner_auth=SECRET, random=random))

    def take_and_force_clear() -> None:
        _ready_for_an_owner(chip)
        run(tss12.disable_owner_clear(owner_auth=SECRET, random=random))
        run(tss12.force_clear())

    yield routine(
        chip,
        take_and_clear,
        Ordinal.OWNER_CLEAR,
        TAKE_OWNERSHIP=(Rsa.DECRYPT, Rsa.DECRYPT),
    )
    yield routine(chip, take_and_force_clear, Ordinal.DISABLE_OWNER_CLEAR, Ordinal.FORCE_CLEAR)


def _owner_reads(keys: KeySource) -> Iterator[Routine]:
    chip = TimedChip(keys)
    chip.take_ownership()
    run, random = chip.run, chip.client_random

    def change_secret() -> None:
        other = b"another secret......"
        for old, new in ((SECRET, other), (other, SECRET)):
            run(
                tss12.change_auth_owner(
                    entity_type=EntityType.OWNER, owner_auth=old, new_auth=new, random=random
                )
            )

    def read_internal() -> object:
        return run(
            tss12.owner_read_internal_pub(ReservedHandle.SRK, owner_auth=SECRET, random=random)
        )

    yield routine(chip, read_internal, Ordinal.OWNER_READ_INTERNAL_PUB)
    yield routine(
        chip,
        lambda: run(tss12.owner_read_pubek(owner_auth=SECRET, random=random)),
        Ordinal.OWNER_READ_PUBEK,
    )
    yield routine(
        chip,
        lambda: run(tss12.disable_pubek_read(owner_auth=SECRET, random=random)),
        Ordinal.DISABLE_PUBEK_READ,
    )
    yield routine(chip, change_secret, Ordinal.CHANGE_AUTH_OWNER)


def _maintenance(keys: KeySource) -> Iterator[Routine]:
    maker = rsa.generate_private_key(EXPONENT, BITS)
    modulus = maker.public_key().public_numbers().n.to_bytes(BITS // 8, "big")
    maker_pub = PubKey(KeyParms.for_rsa(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1), modulus)
    profile = Profile(maintenance_commands=True)
    chip = TimedChip(keys, profile)
    run, random = chip.run, chip.client_random

    def load_maker() -> None:
        chip.renew(profile)
        run(tss12.load_manu_maint_pub(maker_pub, SECRET))

    def archive(of: TimedChip) -> MaintenanceArchive:
        return of.run(
            tss12.create_maintenance_archive(generate_random=True, owner_auth=SECRET, random=random)
        )

    def pass_on() -> None:
        """Be archived, and become what the archive is of: itself, for this is one chip only."""
        load_maker()
        chip.take_ownership()
        run(tss12.read_manu_maint_pub(SECRET))
        given = archive(chip)
        srk = run(
            tss12.owner_read_internal_pub(ReservedHandle.SRK, owner_auth=SECRET, random=random)
        )
        numbers = rsa.RSAPublicNumbers(EXPONENT, int.from_bytes(srk.key, "big"))
        masked = maker.decrypt(given.key.enc_data, _OAEP)
        key = dataclasses.replace(
            given.key, enc_data=numbers.public_key().encrypt(masked, _OAEP)
        ).encode()
        signature = maker.sign(
            hashlib.sha1(key).digest(), padding.PKCS1v15(), utils.Prehashed(hashes.SHA1())
        )
        run(
            tss12.load_maintenance_archive(
                key, signature, given.random, owner_auth=SECRET, random=random
            )
        )

    def kill() -> None:
        chip.renew(profile)
        chip.take_ownership()
        run(tss12.kill_maintenance_feature(owner_auth=SECRET, random=random))

    yield routine(
        chip,
        pass_on,
        Ordinal.LOAD_MANU_MAINT_PUB,
        Ordinal.READ_MANU_MAINT_PUB,
        behind=Behind.FIRST_USE,
        LOAD_MAINTENANCE_ARCHIVE=(Rsa.VERIFY, Rsa.DECRYPT_WITH_NEW),
    )
    archived = TimedChip(keys, profile)
    archived.run(tss12.load_manu_maint_pub(maker_pub, SECRET))
    archived.take_ownership()
    yield routine(archived, lambda: archive(archived), CREATE_MAINTENANCE_ARCHIVE=(Rsa.ENCRYPT,))
    yield routine(chip, kill, Ordinal.KILL_MAINTENANCE_FEATURE)
