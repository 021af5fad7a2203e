# SPDX-License-Identifier: Apache-2.0
"""Storage, signatures, identities and changes of secrets: what there is with loaded keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.ordinals.chip import SECRET, TimedChip, template
from bench.ordinals.routine import Routine, Rsa, routine
from protocol.tpm12.constants import (
    EntityType,
    KeyUsage,
    Ordinal,
    PayloadType,
    ReservedHandle,
    ResourceType,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.stored import BoundData, StoredData
from protocol.tpm12.wire import U32, Reader
from tpmcore import tss12
from tpmcore.engine import KeySource
from tpmcore.tss12 import Conversation
from tpmcore.tss12.sessions import with_secret

SRK: Final = ReservedHandle.SRK
_DIGEST: Final = bytes(range(20))
_PCRS: Final = PcrSelection.of(range(8))


class KeyRing:
    """A chip with an owner, and how to make and load keys in it."""

    def __init__(self, keys: KeySource) -> None:
        self.chip = TimedChip(keys)
        self.chip.take_ownership()
        self.random = self.chip.client_random

    def create(self, wanted: Key, parent: int = SRK) -> Key:
        """Make a key."""
        return self.chip.run(
            tss12.create_wrap_key(
                parent,
                wanted,
                parent_auth=SECRET,
                usage_auth=SECRET,
                migration_auth=SECRET,
                random=self.random,
            )
        )

    def load(self, key: Key, parent: int = SRK) -> int:
        """Load a key."""
        return self.chip.run(tss12.load_key2(parent, key, parent_auth=SECRET, random=self.random))

    def flush(self, handle: int) -> None:
        """Unload a key."""
        self.chip.run(tss12.flush_specific(handle, ResourceType.KEY))


def routines(keys: KeySource) -> Iterator[Routine]:
    """Give the routines."""
    yield from _storage(KeyRing(keys))
    yield from _signatures(KeyRing(keys))
    yield from _identities(KeyRing(keys))
    yield from _changing_auth(KeyRing(keys))


def _load_key(key: Key, ring: KeyRing) -> Conversation[int]:
    """LoadKey, which no client here needs besides LoadKey2."""
    return with_secret(
        Ordinal.LOAD_KEY,
        Reader.u32,
        SECRET,
        random=ring.random,
        handles=U32.write(SRK),
        parameters=key.encode(),
    )


def _storage(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    key = ring.create(template(KeyUsage.SIGNING))
    binding = ring.create(template(KeyUsage.BIND))
    bind = ring.load(binding)
    bound = tss12.encrypt_oaep(binding.public_key, BoundData(PayloadType.BIND, bytes(32)).encode())

    def seal() -> StoredData:
        return run(
            tss12.seal(
                SRK,
                parent_auth=SECRET,
                blob_auth=SECRET,
                data=bytes(32),
                pcr_info=None,
                random=random,
            )
        )

    def sealx() -> StoredData:
        return run(
            tss12.sealx(
                SRK,
                parent_auth=SECRET,
                blob_auth=SECRET,
                data=bytes(32),
                pcr_info=tss12.pcr_info_long({}),
                random=random,
            )
        )

    blob = seal()

    def unseal() -> object:
        return run(tss12.unseal(SRK, blob, parent_auth=SECRET, blob_auth=SECRET, random=random))

    yield routine(chip, seal, SEAL=(Rsa.ENCRYPT,))
    yield routine(chip, sealx, SEALX=(Rsa.ENCRYPT,))
    yield routine(chip, unseal, UNSEAL=(Rsa.DECRYPT,))
    yield routine(
        chip,
        lambda: run(tss12.unbind(bind, bound, key_auth=SECRET, random=random)),
        UNBIND=(Rsa.DECRYPT,),
    )
    yield routine(
        chip,
        lambda: ring.create(template(KeyUsage.SIGNING)),
        CREATE_WRAP_KEY=(Rsa.ENCRYPT,),
    )
    yield routine(chip, lambda: ring.flush(ring.load(key)), LOAD_KEY2=(Rsa.DECRYPT,))
    yield routine(chip, lambda: ring.flush(run(_load_key(key, ring))), LOAD_KEY=(Rsa.DECRYPT,))
    yield routine(
        chip,
        lambda: run(tss12.get_pub_key(bind, key_auth=SECRET, random=random)),
        Ordinal.GET_PUB_KEY,
    )


def _signatures(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    sign = ring.load(ring.create(template(KeyUsage.SIGNING)))
    bind = ring.load(ring.create(template(KeyUsage.BIND)))

    def quote() -> object:
        return run(
            tss12.quote(
                sign, external_data=_DIGEST, selection=_PCRS, key_auth=SECRET, random=random
            )
        )

    def quote2() -> object:
        return run(
            tss12.quote2(
                sign, external_data=_DIGEST, selection=_PCRS, key_auth=SECRET, random=random
            )
        )

    def certify() -> object:
        return run(tss12.certify_key(sign, bind, cert_auth=SECRET, key_auth=SECRET, random=random))

    def certify2() -> object:
        return run(tss12.certify_key2(bind, sign, key_auth=SECRET, cert_auth=SECRET, random=random))

    def stamp() -> object:
        return run(
            tss12.tick_stamp_blob(
                sign, _DIGEST, anti_replay=_DIGEST, key_auth=SECRET, random=random
            )
        )

    yield routine(
        chip,
        lambda: run(tss12.sign(sign, _DIGEST, key_auth=SECRET, random=random)),
        SIGN=(Rsa.SIGN,),
    )
    yield routine(chip, quote, QUOTE=(Rsa.SIGN,))
    yield routine(chip, quote2, QUOTE2=(Rsa.SIGN,))
    yield routine(chip, certify, CERTIFY_KEY=(Rsa.SIGN,))
    yield routine(chip, certify2, CERTIFY_KEY2=(Rsa.SIGN,))
    yield routine(chip, stamp, TICK_STAMP_BLOB=(Rsa.SIGN,))


def _make_identity(ring: KeyRing) -> Key:
    return ring.chip.run(
        tss12.make_identity(
            owner_auth=SECRET,
            srk_auth=SECRET,
            identity_auth=SECRET,
            label_digest=_DIGEST,
            random=ring.random,
        )
    ).key


def _identities(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    identity = _make_identity(ring)
    handle = ring.load(identity)
    ek = run(tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=SECRET, random=random))
    session_key = bytes.fromhex("00000006 00ff 0010") + bytes(16)  # TPM_SYMMETRIC_KEY: AES-128
    # TPM_ASYM_CA_CONTENTS.
    contents = session_key + identity.public_key.digest()
    blob = tss12.encrypt_oaep(ek, contents)

    def activate() -> object:
        return run(
            tss12.activate_identity(
                handle, blob, owner_auth=SECRET, identity_auth=SECRET, random=random
            )
        )

    yield routine(
        chip, lambda: _make_identity(ring), MAKE_IDENTITY=(Rsa.SIGN_WITH_NEW, Rsa.ENCRYPT)
    )
    yield routine(chip, activate, ACTIVATE_IDENTITY=(Rsa.DECRYPT,))


def _changing_auth(ring: KeyRing) -> Iterator[Routine]:
    chip, random = ring.chip, ring.random
    run = chip.run
    key = ring.create(template(KeyUsage.SIGNING))
    identity = _make_identity(ring)
    handle = ring.load(identity)
    parms = KeyParms.for_rsa(enc_scheme=template(KeyUsage.BIND).algorithm_parms.enc_scheme)

    def change() -> object:
        return run(
            tss12.change_auth(
                SRK,
                key.enc_data,
                entity_type=EntityType.KEY,
                parent_auth=SECRET,
                old_auth=SECRET,
                new_auth=SECRET,
                random=random,
            )
        )

    def change_unseen() -> None:
        ephemeral = run(
            tss12.change_auth_asym_start(
                handle, identity.public_key, identity_auth=SECRET, parms=parms, random=random
            )
        )
        run(
            tss12.change_auth_asym_finish(
                SRK,
                ephemeral,
                key.enc_data,
                parent_auth=SECRET,
                old_auth=SECRET,
                new_auth=SECRET,
                random=random,
            )
        )

    yield routine(chip, change, CHANGE_AUTH=(Rsa.DECRYPT, Rsa.ENCRYPT))
    yield routine(
        chip,
        change_unseen,
        CHANGE_AUTH_ASYM_START=(Rsa.SIGN,),
        CHANGE_AUTH_ASYM_FINISH=(Rsa.DECRYPT, Rsa.DECRYPT_WITH_NEW, Rsa.ENCRYPT),
    )
