# SPDX-License-Identifier: Apache-2.0
"""Keys below the SRK: made, loaded, bound, read (Part 3, chapter 10, and LoadKey)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import EntityType, KeyUsage, Ordinal, ReturnCode
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
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
from tests.unit.tpm12.world import SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED


def _create(
    tpm: Script,
    template: Key,
    code: ReturnCode = RC.SUCCESS,
    *,
    parent: int = SRK,
    auth: Auth | None = None,
) -> None:
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
        _create(tpm, KEYS[name])


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def keys_that_cannot_be_made(tpm: Script) -> None:
    sign, storage = KEYS["sign"], KEYS["storage"]
    _create(tpm, sign, RC.AUTHFAIL, auth=tpm.osap_key(spoil=True))
    _create(tpm, sign, RC.BAD_MODE, auth=tpm.oiap(SRK_AUTH))
    for usage, parms in (
        (KeyUsage.IDENTITY, KeyParms.for_rsa(sig_scheme=2)),
        (KeyUsage.AUTHCHANGE, KeyParms.for_rsa(enc_scheme=3)),
    ):
        template = replace(sign, key_usage=usage, algorithm_parms=parms)
        _create(tpm, template, RC.INVALID_KEYUSAGE)
    _create(tpm, replace(sign, key_flags=0x10), RC.INVALID_KEYUSAGE)
    for parms in (
        KeyParms.for_rsa(enc_scheme=1, sig_scheme=1, bits=1024),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=2, bits=1024),
        KeyParms.for_rsa(enc_scheme=1, sig_scheme=2, bits=256),
        KeyParms.for_rsa(enc_scheme=1, sig_scheme=5, bits=1024),
    ):
        _create(tpm, replace(sign, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)
    for parms in (
        KeyParms.for_rsa(enc_scheme=2, bits=2048),
        KeyParms.for_rsa(enc_scheme=3, bits=1024),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=2),
    ):
        _create(tpm, replace(storage, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)
    _create(tpm, sign, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    _create(tpm, sign, RC.INVALID_KEYUSAGE, parent=tpm.load("storage-migratable"))
    _create(tpm, KEYS["sign-migratable"], parent=tpm.load("storage-migratable"))


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
