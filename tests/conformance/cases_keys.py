# SPDX-License-Identifier: Apache-2.0
"""Keys below the SRK: made, loaded, bound, read (Part 3, chapter 10, and LoadKey)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    KeyUsage,
    MigrationScheme,
    Ordinal,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection
from tests.conformance.machines import World
from tests.conformance.script import (
    AT_RESET,
    DIGEST,
    KEYS,
    MIGRATION_AUTH,
    PCR_16,
    SRK,
    USAGE_AUTH,
    Auth,
    Chapter,
    Script,
    release_info,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
_SMALL: Final = replace(KEYS["sign"], algorithm_parms=KeyParms.for_rsa(sig_scheme=2, bits=512))


def create_key(
    tpm: Script,
    template: Key,
    code: ReturnCode = RC.SUCCESS,
    *,
    parent: int = SRK,
    auth: Auth | None = None,
) -> None:
    """Send TPM_CreateWrapKey with the secrets of every case."""
    auth = auth or tpm.osap_key(parent, SRK_AUTH if parent == SRK else USAGE_AUTH)
    tpm.call(
        Ordinal.CREATE_WRAP_KEY,
        parent,
        USAGE_AUTH,
        MIGRATION_AUTH,
        template,
        auth=[auth],
        code=code,
    )


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def keys_of_every_kind_are_made(tpm: Script) -> None:
    for name in ("sign", "sign-migratable", "bind", "legacy", "storage", "migrate"):
        create_key(tpm, KEYS[name])


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def keys_that_cannot_be_made(tpm: Script) -> None:
    sign, storage = KEYS["sign"], KEYS["storage"]
    create_key(tpm, sign, RC.AUTHFAIL, auth=tpm.osap_key(spoil=True))
    create_key(tpm, sign, RC.BAD_MODE, auth=tpm.oiap(SRK_AUTH))
    for usage, parms in (
        (KeyUsage.IDENTITY, KeyParms.for_rsa(sig_scheme=2)),
        (KeyUsage.AUTHCHANGE, KeyParms.for_rsa(enc_scheme=3)),
    ):
        template = replace(sign, key_usage=usage, algorithm_parms=parms)
        create_key(tpm, template, RC.INVALID_KEYUSAGE)
    create_key(tpm, replace(sign, key_flags=0x10), RC.INVALID_KEYUSAGE)
    for parms in (
        KeyParms.for_rsa(enc_scheme=1, sig_scheme=1, bits=1024),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=2, bits=1024),
        KeyParms.for_rsa(enc_scheme=1, sig_scheme=2, bits=256),
        KeyParms.for_rsa(enc_scheme=1, sig_scheme=5, bits=1024),
    ):
        create_key(tpm, replace(sign, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)
    for parms in (
        KeyParms.for_rsa(enc_scheme=2, bits=2048),
        KeyParms.for_rsa(enc_scheme=3, bits=1024),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=2),
    ):
        create_key(tpm, replace(storage, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)
    create_key(tpm, sign, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    create_key(tpm, sign, RC.INVALID_KEYUSAGE, parent=tpm.load("storage-migratable"))
    create_key(tpm, KEYS["sign-migratable"], parent=tpm.load("storage-migratable"))


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2, Ordinal.SIGN)
def keys_bound_to_pcrs(tpm: Script) -> None:
    for info in (PcrInfo(PCR_16, AT_RESET, bytes(20)), release_info()):
        template = replace(KEYS["sign"], pcr_info=info, is_key12=isinstance(info, PcrInfoLong))
        _key_bound(tpm, template)


def _key_bound(tpm: Script, template: Key) -> None:
    key = tpm.run(
        tss12.create_wrap_key(
            SRK, template, parent_auth=SRK_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    handle = tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.WRONGPCRVAL)
    tpm.call(Ordinal.PCR_RESET, PCR_16)


@case(OWNED, Ordinal.SIGN)
def keys_bound_to_localities(tpm: Script) -> None:
    template = replace(KEYS["sign"], pcr_info=release_info(localities=2), is_key12=True)
    key = tpm.run(
        tss12.create_wrap_key(
            SRK, template, parent_auth=SRK_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    handle = tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_LOCALITY)
    tpm.locality = 1
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.LOAD_KEY2, Ordinal.LOAD_KEY)
def loading_keys(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    for load in (Ordinal.LOAD_KEY2, Ordinal.LOAD_KEY):
        tpm.call(load, SRK, key, auth=[tpm.oiap(SRK_AUTH)])
        tpm.call(load, SRK, key, auth=[tpm.osap_key()])
        tpm.call(load, SRK, key, auth=[tpm.oiap(SRK_AUTH, spoil=True)], code=RC.AUTHFAIL)
        tpm.call(load, SRK, key, code=RC.AUTHFAIL)
        tpm.call(load, 5, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.LOAD_KEY2)
def loading_what_is_wrong(tpm: Script) -> None:
    key = tpm.wrapped("sign")
    flipped = bytes((key.enc_data[0] ^ 1, *key.enc_data[1:]))
    sign = tpm.load("sign")

    def load(value: Key, code: ReturnCode, parent: int = SRK) -> None:
        secret = SRK_AUTH if parent == SRK else USAGE_AUTH
        tpm.call(Ordinal.LOAD_KEY2, parent, value, auth=[tpm.oiap(secret)], code=code)

    load(replace(key, enc_data=flipped), RC.DECRYPT_ERROR)
    load(replace(key, enc_data=b""), RC.DECRYPT_ERROR)
    load(key, RC.INVALID_KEYUSAGE, parent=sign)
    load(replace(key, auth_data_usage=0), RC.AUTHFAIL)
    load(replace(key, key_flags=2), RC.AUTHFAIL)
    load(key, RC.DECRYPT_ERROR, parent=tpm.load("storage"))
    load(replace(key, algorithm_parms=KeyParms.for_rsa(bits=1024)), RC.BAD_KEY_PROPERTY)
    load(replace(key, pub_key=tpm.wrapped("sign-der").pub_key), RC.BAD_PARAMETER)


@case(OWNED, Ordinal.LOAD_KEY2)
def loading_below_other_parents(tpm: Script) -> None:
    for name in ("storage-open", "storage-migratable"):
        parent = tpm.load(name)
        child = tpm.run(
            tss12.create_wrap_key(
                parent,
                KEYS["sign-migratable"],
                parent_auth=USAGE_AUTH,
                usage_auth=USAGE_AUTH,
                migration_auth=MIGRATION_AUTH,
                random=tpm.random,
            )
        )
        tpm.call(Ordinal.LOAD_KEY2, parent, child, auth=[tpm.oiap(USAGE_AUTH)])
        code = RC.SUCCESS if name == "storage-open" else RC.AUTHFAIL
        tpm.call(Ordinal.LOAD_KEY2, parent, child, code=code)


@case(OWNED, Ordinal.GET_PUB_KEY)
def reading_public_keys(tpm: Script) -> None:
    key = tpm.load("sign")
    tpm.call(Ordinal.GET_PUB_KEY, key, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.GET_PUB_KEY, key, auth=[tpm.osap(EntityType.KEYHANDLE, key, USAGE_AUTH)])
    tpm.call(Ordinal.GET_PUB_KEY, key, auth=[tpm.oiap(USAGE_AUTH, spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.GET_PUB_KEY, key, code=RC.AUTHFAIL)
    for name in ("sign-open", "sign-readable"):
        tpm.call(Ordinal.GET_PUB_KEY, tpm.load(name))
    tpm.call(Ordinal.GET_PUB_KEY, 1, code=RC.INVALID_KEYHANDLE)
    tpm.call(Ordinal.GET_PUB_KEY, 0x40000006, code=RC.KEYNOTFOUND)


@case(OWNED, Ordinal.GET_PUB_KEY)
def reading_the_storage_root_key(tpm: Script) -> None:
    tpm.call(Ordinal.GET_PUB_KEY, SRK, auth=[tpm.oiap(SRK_AUTH)], code=RC.INVALID_KEYHANDLE)
    tpm.call(Ordinal.SET_CAPABILITY, 1, b"\0\0\0\x11", b"\1", auth=[tpm.oiap()])
    tpm.call(Ordinal.GET_PUB_KEY, SRK, auth=[tpm.oiap(SRK_AUTH)])
    tpm.call(Ordinal.GET_PUB_KEY, SRK, code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2, Ordinal.SIGN)
def keys_of_every_allowed_property_work(tpm: Script) -> None:
    for bits, exponent in (
        (512, b""),
        (768, b"\3"),
        (1024, b"\5"),
        (1024, b"\7"),
        (1040, b"\x11"),
        (1024, b"\1\1"),
        (1024, b"\1\0\1"),
    ):
        parms = KeyParms.for_rsa(sig_scheme=2, bits=bits, exponent=exponent)
        for is_key12 in (False, True):
            template = replace(KEYS["sign"], algorithm_parms=parms, is_key12=is_key12)
            handle = _make_and_load(tpm, template)
            tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
            tpm.call(Ordinal.GET_PUB_KEY, handle, auth=[tpm.oiap(USAGE_AUTH)])
    legacy = KEYS["legacy"]
    for parms in (
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=3, bits=512),
        KeyParms.for_rsa(enc_scheme=2, sig_scheme=3, bits=512),
    ):
        _make_and_load(tpm, replace(legacy, algorithm_parms=parms))


def _make_and_load(tpm: Script, template: Key, *, parent: int = SRK) -> int:
    parent_auth = SRK_AUTH if parent == SRK else USAGE_AUTH
    key = tpm.run(
        tss12.create_wrap_key(
            parent, template, parent_auth=parent_auth, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    return tpm.run(tss12.load_key2(parent, key, parent_auth=parent_auth, random=tpm.random))


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2, Ordinal.GET_PUB_KEY)
def keys_with_two_faults(tpm: Script) -> None:
    sign, migratable = tpm.load("sign"), tpm.load("storage-migratable")
    unfit = replace(KEYS["sign"], algorithm_parms=KeyParms.for_rsa(bits=1024))
    wrong = tpm.osap_key(spoil=True)
    create_key(tpm, unfit, RC.AUTHFAIL, auth=wrong)
    create_key(tpm, unfit, RC.BAD_KEY_PROPERTY, parent=sign)
    create_key(tpm, unfit, RC.BAD_KEY_PROPERTY, parent=migratable)
    key, garbled = tpm.wrapped("sign"), bytes(256)
    for value, parent, code, spoil in (
        (unfit, sign, RC.AUTHFAIL, True),
        (unfit, sign, RC.INVALID_KEYUSAGE, False),
        (replace(unfit, enc_data=garbled), SRK, RC.BAD_KEY_PROPERTY, False),
        (replace(key, enc_data=garbled, auth_data_usage=0), SRK, RC.DECRYPT_ERROR, False),
    ):
        secret = SRK_AUTH if parent == SRK else USAGE_AUTH
        auth = [tpm.oiap(secret, spoil=spoil)]
        tpm.call(Ordinal.LOAD_KEY2, parent, value, auth=auth, code=code)
    auth = [tpm.oiap(SRK_AUTH, spoil=True)]
    tpm.call(Ordinal.GET_PUB_KEY, SRK, auth=auth, code=RC.AUTHFAIL)


@case(OWNED, Ordinal.GET_PUB_KEY, Ordinal.SIGN, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def keys_by_when_they_need_a_secret(tpm: Script) -> None:
    cert = tpm.load("sign-open")
    for usage in (0, 1, 2, 3, 4, 0x80):
        key = _make_and_load(tpm, replace(_SMALL, auth_data_usage=usage))
        free = RC.SUCCESS if usage == 0 else RC.AUTHFAIL
        public = RC.SUCCESS if usage in (0, 3) else RC.AUTHFAIL
        certified = RC.AUTHFAIL if usage == 1 else RC.SUCCESS
        tpm.call(Ordinal.SIGN, key, DIGEST, code=free)
        tpm.call(Ordinal.GET_PUB_KEY, key, code=public)
        tpm.call(Ordinal.CERTIFY_KEY, cert, key, DIGEST, code=certified)
        tpm.call(Ordinal.CERTIFY_KEY2, key, cert, bytes(20), DIGEST, code=certified)
        tpm.call(Ordinal.CERTIFY_KEY, key, cert, DIGEST, code=free)
        tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.SEAL, Ordinal.UNSEAL)
def what_is_made_at_another_locality(tpm: Script) -> None:
    tpm.locality = 2
    info = PcrInfoLong(1, 0x1F, PCR_16, PcrSelection.of([]), DIGEST, bytes(20))
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    key = _make_and_load(tpm, replace(_SMALL, pcr_info=info, is_key12=True))
    blob = tpm.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=b"sealed",
            pcr_info=info,
            random=tpm.random,
        )
    )
    tpm.locality = 0
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    both = [tpm.oiap(SRK_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.UNSEAL, SRK, blob, auth=both)


@case(OWNED, Ordinal.GET_PUB_KEY, Ordinal.SIGN)
def reading_public_keys_whatever_the_pcrs_are(tpm: Script) -> None:
    handle = tpm.load("sign-bound-readable")
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.locality = 1
    tpm.call(Ordinal.GET_PUB_KEY, handle, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.WRONGPCRVAL)


@case(OWNED, Ordinal.LOAD_KEY2, Ordinal.CERTIFY_KEY)
def children_of_bound_keys_remember_it(tpm: Script) -> None:
    parent = tpm.load("storage-bound")
    below = _make_and_load(tpm, _SMALL, parent=parent)
    beside = _make_and_load(tpm, _SMALL)
    for handle in (below, beside):
        both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
        tpm.call(Ordinal.CERTIFY_KEY, tpm.load("sign"), handle, DIGEST, auth=both)


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def secrets_of_new_keys_under_aes(tpm: Script) -> None:
    auth = tpm.osap(EntityType.SRK, SRK, SRK_AUTH, adip=AdipScheme.AES128_CTR)
    auth = replace(auth, nonce_odd=DIGEST)
    secrets = tpm.encrypt_aes(auth, USAGE_AUTH), tpm.encrypt_aes(auth, MIGRATION_AUTH, nonce=DIGEST)
    made = tpm.call(Ordinal.CREATE_WRAP_KEY, SRK, *secrets, KEYS["sign-migratable"], auth=[auth])
    key = getattr(made, "wrapped_key", None)
    loaded = tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)])
    handle = getattr(loaded, "inkey_handle", 0)
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    target = tpm.wrapped("storage").public_key
    permission = tpm.run(
        tss12.authorize_migration_key(
            MigrationScheme.REWRAP, target, owner_auth=OWNER_AUTH, random=tpm.random
        )
    )
    assert isinstance(key, Key)
    tpm.run(
        tss12.create_migration_blob(
            SRK,
            key.enc_data,
            scheme=MigrationScheme.REWRAP,
            permission=permission,
            parent_auth=SRK_AUTH,
            migration_auth=MIGRATION_AUTH,
            random=tpm.random,
        )
    )
