# SPDX-License-Identifier: Apache-2.0
"""Migration and certified migration: a key goes from a chip to itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from bench.ordinals.chip import BITS, EXPONENT, SECRET, template
from bench.ordinals.keys import SRK, KeyRing
from bench.ordinals.routine import Routine, Rsa, routine
from protocol.tpm12.constants import KeyFlags, KeyUsage, MigrationScheme, Ordinal
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from tpmcore import tss12
from tpmcore.engine import KeySource
from tpmcore.tss12 import MigrationBlob, Ticket

_CERTIFIED: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    yield from _migration(KeyRing(keys))
    yield from _certified_migration(KeyRing(keys))


def _permit(ring: KeyRing, scheme: MigrationScheme, key: PubKey) -> MigrationKeyAuth:
    return ring.chip.run(
        tss12.authorize_migration_key(scheme, key, owner_auth=SECRET, random=ring.random)
    )


def _migration(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    key = ring.create(template(KeyUsage.SIGNING, flags=KeyFlags.MIGRATABLE))
    target = ring.create(template(KeyUsage.STORAGE))
    target_handle = ring.load(target)
    authority = ring.create(template(KeyUsage.MIGRATE))
    authority_handle = ring.load(authority)
    permission = _permit(ring, MigrationScheme.MIGRATE, target.public_key)
    passed = tss12.encrypt_oaep(authority.public_key, bytes(100))

    def create() -> MigrationBlob:
        return run(
            tss12.create_migration_blob(
                SRK,
                key.enc_data,
                scheme=MigrationScheme.MIGRATE,
                permission=permission,
                parent_auth=SECRET,
                migration_auth=SECRET,
                random=random,
            )
        )

    blob = create()

    def convert() -> object:
        return run(
            tss12.convert_migration_blob(target_handle, blob, parent_auth=SECRET, random=random)
        )

    def migrate() -> object:
        return run(
            tss12.migrate_key(
                authority_handle, target.public_key, passed, authority_auth=SECRET, random=random
            )
        )

    yield routine(
        chip,
        lambda: _permit(ring, MigrationScheme.MIGRATE, target.public_key),
        Ordinal.AUTHORIZE_MIGRATION_KEY,
    )
    yield routine(chip, create, CREATE_MIGRATION_BLOB=(Rsa.DECRYPT, Rsa.ENCRYPT))
    yield routine(chip, convert, CONVERT_MIGRATION_BLOB=(Rsa.DECRYPT, Rsa.ENCRYPT))
    yield routine(chip, migrate, MIGRATE_KEY=(Rsa.DECRYPT, Rsa.ENCRYPT))


def _certified_migration(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    signer = rsa.generate_private_key(EXPONENT, BITS)
    modulus = signer.public_key().public_numbers().n.to_bytes(BITS // 8, "big")
    signer_pub = PubKey(
        KeyParms.for_rsa(sig_scheme=template(KeyUsage.SIGNING).algorithm_parms.sig_scheme), modulus
    )
    authority = ring.create(template(KeyUsage.MIGRATE))
    authorities = MsaComposite((authority.public_key.digest(), signer_pub.digest()))
    target = ring.create(template(KeyUsage.STORAGE))
    target_handle = ring.load(target)

    def approve() -> bytes:
        return run(tss12.cmk_approve_ma(authorities, owner_auth=SECRET, random=random))

    approval = approve()

    def create_key() -> Key:
        return run(
            tss12.cmk_create_key(
                SRK,
                template(KeyUsage.SIGNING, flags=_CERTIFIED, is_key12=True),
                authorities=authorities,
                approval=approval,
                parent_auth=SECRET,
                usage_auth=SECRET,
                random=random,
            )
        )

    key = create_key()
    restrict = CmkAuth(authorities.digest(), target.public_key.digest(), key.public_key.digest())
    signature = signer.sign(restrict.digest(), padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))

    def create_ticket() -> bytes:
        return run(
            tss12.cmk_create_ticket(
                signer_pub, restrict.digest(), signature, owner_auth=SECRET, random=random
            )
        )

    ticket = Ticket(restrict, create_ticket())
    permission = _permit(ring, MigrationScheme.RESTRICT_APPROVE, target.public_key)

    def create_blob() -> MigrationBlob:
        return run(
            tss12.cmk_create_blob(
                SRK,
                key,
                permission=permission,
                authorities=authorities,
                ticket=ticket,
                parent_auth=SECRET,
                random=random,
            )
        )

    blob = create_blob()

    def convert() -> object:
        return run(
            tss12.cmk_convert_migration(
                target_handle,
                replace(key, enc_data=blob.data),
                mask=blob.random,
                authorities=authorities,
                ticket=ticket,
                parent_auth=SECRET,
                random=random,
            )
        )

    def restrict_delegation() -> None:
        for restriction in (1 << 31, 0):
            run(tss12.cmk_set_restrictions(restriction, owner_auth=SECRET, random=random))

    yield routine(chip, restrict_delegation, Ordinal.CMK_SET_RESTRICTIONS)
    yield routine(chip, approve, Ordinal.CMK_APPROVE_MA)
    yield routine(chip, create_key, CMK_CREATE_KEY=(Rsa.ENCRYPT,))
    yield routine(chip, create_ticket, CMK_CREATE_TICKET=(Rsa.VERIFY,))
    yield routine(chip, create_blob, CMK_CREATE_BLOB=(Rsa.DECRYPT, Rsa.ENCRYPT))
    yield routine(chip, convert, CMK_CONVERT_MIGRATION=(Rsa.DECRYPT, Rsa.ENCRYPT))
