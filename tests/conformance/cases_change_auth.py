# SPDX-License-Identifier: Apache-2.0
"""Changed secrets: of keys and sealed data, of the owner and the SRK (Part 3, chapter 17)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    Ordinal,
    PayloadType,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.stored import SealedData
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    KEYS,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    Auth,
    Chapter,
    Script,
)
from tests.unit.tpm12.keychain import craft_key
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
NEW_AUTH: Final = b"another secret------"


@case(OWNED, Ordinal.CHANGE_AUTH_OWNER)
def changing_the_secret_of_the_owner(tpm: Script) -> None:
    change = Ordinal.CHANGE_AUTH_OWNER
    auth = tpm.osap_owner()
    other = tpm.osap_owner()
    tpm.call(change, 4, tpm.encrypt(auth, NEW_AUTH), EntityType.OWNER, auth=[auth])
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[other], code=RC.INVALID_AUTHHANDLE)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.oiap(OWNER_AUTH)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.oiap(NEW_AUTH)])


@case(OWNED, Ordinal.CHANGE_AUTH_OWNER)
def changing_the_secret_of_the_srk(tpm: Script) -> None:
    key, change = tpm.wrapped("sign"), Ordinal.CHANGE_AUTH_OWNER
    auth = tpm.osap_owner(spoil=True)
    tpm.call(change, 4, bytes(20), EntityType.SRK, auth=[auth], code=RC.AUTHFAIL)
    tpm.call(change, 4, bytes(20), EntityType.SRK, auth=[tpm.oiap()], code=RC.BAD_MODE)
    for protocol, kind, code in ((3, 4, RC.BAD_PARAMETER), (4, 1, RC.WRONG_ENTITYTYPE)):
        tpm.call(change, protocol, bytes(20), kind, auth=[tpm.osap_owner()], code=code)
    auth = tpm.osap_owner()
    tpm.call(change, 4, tpm.encrypt(auth, NEW_AUTH), EntityType.SRK, auth=[auth])
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(NEW_AUTH)])


def _change(
    tpm: Script,
    data: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    parent: int = SRK,
    protocol: int = 4,
    kind: int = EntityType.KEY,
    auth: Auth | None = None,
    entity: Auth | None = None,
) -> bytes:
    auth = auth or tpm.osap_key(parent, SRK_AUTH if parent == SRK else USAGE_AUTH)
    secret = tpm.encrypt(auth, NEW_AUTH) if auth.session.shared_secret else NEW_AUTH
    both = [auth, entity or tpm.oiap(USAGE_AUTH)]
    changed = tpm.call(
        Ordinal.CHANGE_AUTH, parent, protocol, secret, kind, data, auth=both, code=code
    )
    out = getattr(changed, "out_data", b"")
    assert isinstance(out, bytes)
    return out


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_the_secret_of_a_key(tpm: Script) -> None:
    key: Key = tpm.wrapped("sign")
    changed = replace(key, enc_data=_change(tpm, key.enc_data))
    handle = tpm.run(tss12.load_key2(SRK, changed, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(NEW_AUTH)])


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_the_secret_of_sealed_data(tpm: Script) -> None:
    blob = tpm.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=b"sealed",
            pcr_info=None,
            random=tpm.random,
        )
    )
    changed = replace(blob, enc_data=_change(tpm, blob.enc_data, kind=EntityType.DATA))
    both = [tpm.oiap(SRK_AUTH), tpm.oiap(NEW_AUTH)]
    tpm.call(Ordinal.UNSEAL, SRK, changed, auth=both)


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_secrets_wrongly(tpm: Script) -> None:
    data = tpm.wrapped("sign").enc_data
    _change(tpm, data, RC.WRONG_ENTITYTYPE, kind=EntityType.OWNER)
    _change(tpm, data, RC.BAD_PARAMETER, protocol=3)
    _change(tpm, data, RC.AUTHFAIL, auth=tpm.osap_key(spoil=True))
    _change(tpm, data, RC.AUTH2FAIL, entity=tpm.oiap(WRONG_AUTH))
    _change(tpm, data, RC.BAD_MODE, auth=tpm.oiap(SRK_AUTH))
    _change(tpm, data, RC.BAD_MODE, entity=tpm.osap_owner())
    _change(tpm, data, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    _change(tpm, bytes(256), RC.DECRYPT_ERROR)


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_secrets_of_what_does_not_exist(tpm: Script) -> None:
    data = tpm.wrapped("sign").enc_data
    for kind in (0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 0x40, 0x0605):
        _change(tpm, data, RC.WRONG_ENTITYTYPE, kind=kind)
    for protocol in (0, 1, 2, 3, 5, 6, 7):
        _change(tpm, data, RC.BAD_PARAMETER, protocol=protocol)


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_secrets_with_two_faults(tpm: Script) -> None:
    data, sign = tpm.wrapped("sign").enc_data, tpm.load("sign")
    wrong = tpm.osap_key(spoil=True)
    _change(tpm, data, RC.WRONG_ENTITYTYPE, kind=EntityType.OWNER, parent=0x55, auth=wrong)
    wrong = tpm.osap_key(spoil=True)
    _change(tpm, data, RC.BAD_PARAMETER, protocol=3, auth=wrong)
    _change(tpm, data, RC.BAD_MODE, protocol=3, auth=tpm.oiap(SRK_AUTH))
    _change(tpm, data, RC.BAD_MODE, protocol=3, entity=tpm.osap_owner())
    wrong = tpm.osap_key(sign, USAGE_AUTH, spoil=True)
    _change(tpm, data, RC.AUTHFAIL, parent=sign, auth=wrong)
    _change(tpm, bytes(256), RC.INVALID_KEYUSAGE, parent=sign)
    _change(tpm, bytes(256), RC.DECRYPT_ERROR, entity=tpm.oiap(WRONG_AUTH))


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_secrets_with_an_entity_session_that_is_wrong(tpm: Script) -> None:
    data = tpm.wrapped("sign").enc_data
    _change(tpm, data, RC.INVALID_AUTHHANDLE, entity=tpm.no_session(USAGE_AUTH))
    _change(tpm, data, RC.AUTH2FAIL, entity=tpm.oiap(USAGE_AUTH, spoil=True))


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_secrets_of_something_else(tpm: Script) -> None:
    srk = tpm.public()
    migratable = KEYS["sign-migratable"]
    key, data = EntityType.KEY, EntityType.DATA
    for payload in (0, 2, 3, 4, 8):
        crafted = craft_key(migratable, parent=srk.key, payload=payload)
        _change(tpm, crafted.enc_data, RC.INVALID_STRUCTURE, kind=key)
    _change(tpm, _sealed(tpm), RC.INVALID_STRUCTURE, kind=key)
    # A key that cannot migrate has tpmProof where sealed data has it.
    _change(tpm, tpm.wrapped("sign").enc_data, RC.INVALID_STRUCTURE, kind=data)
    for cut in (20, 64):
        crafted = craft_key(migratable, parent=srk.key, cut=cut)
        for kind in (key, data):
            _change(tpm, crafted.enc_data, RC.BAD_PARAM_SIZE, kind=kind)
    forged = SealedData(PayloadType.SEAL, USAGE_AUTH, bytes(20), bytes(20), b"forged").encode()
    _change(tpm, tss12.encrypt_oaep(srk, forged), RC.AUTHFAIL, kind=data)


def _sealed(tpm: Script) -> bytes:
    return tpm.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=bytes(64),
            pcr_info=None,
            random=tpm.random,
        )
    ).enc_data


@case(OWNED, Ordinal.CHANGE_AUTH)
def changing_secrets_below_another_parent_and_under_aes(tpm: Script) -> None:
    parent = tpm.load("storage-open")
    template = KEYS["sign-migratable"]
    key = tpm.run(
        tss12.create_wrap_key(
            parent,
            template,
            parent_auth=USAGE_AUTH,
            usage_auth=USAGE_AUTH,
            random=tpm.random,
        )
    )
    kind = EntityType.KEYHANDLE
    auth = tpm.osap(kind, parent, USAGE_AUTH, adip=AdipScheme.AES128_CTR)
    values = (parent, 4, tpm.encrypt_aes(auth, NEW_AUTH), EntityType.KEY, key.enc_data)
    changed = tpm.call(Ordinal.CHANGE_AUTH, *values, auth=[auth, tpm.oiap(USAGE_AUTH)])
    key = replace(key, enc_data=getattr(changed, "out_data", b""))
    handle = tpm.run(tss12.load_key2(parent, key, parent_auth=USAGE_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(NEW_AUTH)])
    # Sessions end whatever they were asked to do.
    both = [tpm.osap_key(keep=True), tpm.oiap(USAGE_AUTH, keep=True)]
    values = (SRK, 4, bytes(20), EntityType.KEY, tpm.wrapped("sign").enc_data)
    tpm.call(Ordinal.CHANGE_AUTH, *values, auth=both)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[both[1]], code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.CHANGE_AUTH)
def changed_keys_of_certified_migration_and_with_their_old_secret(tpm: Script) -> None:
    srk = tpm.public().key
    for payload in (PayloadType.MIGRATE_RESTRICTED, PayloadType.MIGRATE_EXTERNAL):
        key = craft_key(KEYS["sign-migratable"], parent=srk, payload=payload)
        changed = replace(key, enc_data=_change(tpm, key.enc_data))
        # The old blob is as good as it was: nothing in the TPM knows of the change.
        for blob, secret in ((changed, NEW_AUTH), (key, USAGE_AUTH)):
            handle = tpm.run(tss12.load_key2(SRK, blob, parent_auth=SRK_AUTH, random=tpm.random))
            tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(secret)])


@case(OWNED, Ordinal.CHANGE_AUTH_OWNER)
def changing_the_owners_secrets_wrongly(tpm: Script) -> None:
    change, owner = Ordinal.CHANGE_AUTH_OWNER, EntityType.OWNER
    for auth, code in (
        (tpm.no_session(), RC.INVALID_AUTHHANDLE),
        (tpm.oiap(), RC.BAD_MODE),
        (tpm.osap_key(), RC.AUTHFAIL),
        (tpm.osap_owner(spoil=True), RC.AUTHFAIL),
    ):
        tpm.call(change, 4, bytes(20), owner, auth=[auth], code=code)
    for protocol in (0, 1, 2, 3, 5):
        tpm.call(change, protocol, bytes(20), owner, auth=[tpm.osap_owner()], code=RC.BAD_PARAMETER)
    for kind in (0, 1, 3, 5, 12, 0x0602):
        values = (4, bytes(20), kind)
        tpm.call(change, *values, auth=[tpm.osap_owner()], code=RC.WRONG_ENTITYTYPE)
    # Of two faults the earlier.
    tpm.call(change, 3, bytes(20), 1, auth=[tpm.osap_owner(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(change, 3, bytes(20), 1, auth=[tpm.osap_owner()], code=RC.BAD_PARAMETER)
    # The secrets are what they were.
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("sign"), auth=[tpm.oiap(SRK_AUTH)])


@case(OWNED, Ordinal.CHANGE_AUTH_OWNER)
def sessions_that_outlive_a_changed_secret(tpm: Script) -> None:
    of_owner, of_srk, of_key = tpm.osap_owner(), tpm.osap_key(), tpm.load("sign")
    kept = tpm.osap_key(of_key, USAGE_AUTH)
    auth = tpm.osap(
        EntityType.OWNER, ReservedHandle.OWNER, OWNER_AUTH, adip=AdipScheme.AES128_CTR, keep=True
    )
    values = (4, tpm.encrypt_aes(auth, NEW_AUTH), EntityType.SRK)
    tpm.call(Ordinal.CHANGE_AUTH_OWNER, *values, auth=[auth])
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[of_owner], code=RC.INVALID_AUTHHANDLE)
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[auth], code=RC.INVALID_AUTHHANDLE)
    tpm.call(Ordinal.SIGN, of_key, DIGEST, auth=[kept])
    tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("sign"), auth=[of_srk])
    tpm.call(Ordinal.LOAD_KEY2, SRK, tpm.wrapped("sign"), auth=[tpm.oiap(NEW_AUTH)])
    tpm.call(Ordinal.OWNER_SET_DISABLE, False, auth=[tpm.oiap()])
