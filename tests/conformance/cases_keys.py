# SPDX-License-Identifier: Apache-2.0
"""Keys below the SRK: made, loaded, bound, read (Part 3, chapter 10, and LoadKey)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from protocol.tpm12.keys import Key, KeyParms, RsaKeyParms
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
from protocol.tpm12.wire import SIZED, U32
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
from tests.unit.tpm12.keychain import craft_key
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
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


_PROPERTIES: Final[Mapping[KeyUsage, tuple[set[int], set[int]]]] = {
    KeyUsage.SIGNING: ({1}, {2, 3, 4}),
    KeyUsage.STORAGE: ({3}, {1}),
    KeyUsage.IDENTITY: ({1}, {2}),
    KeyUsage.AUTHCHANGE: ({3}, {1}),
    KeyUsage.BIND: ({2, 3}, {1}),
    KeyUsage.LEGACY: ({2, 3}, {2, 3}),
    KeyUsage.MIGRATE: ({3}, {1}),
}
"""Encryption and signature schemes by usage: the table of key properties."""

_STRONG: Final = frozenset({KeyUsage.STORAGE, KeyUsage.IDENTITY, KeyUsage.MIGRATE})
"""Usages that ask for 2048 bits and the exponent 65537."""


def _unfit_keys() -> Iterator[Key]:
    """Give keys that no table allows: each usage with every other scheme, length and exponent."""
    for usage, (enc_schemes, sig_schemes) in _PROPERTIES.items():
        fit = KeyParms.for_rsa(enc_scheme=max(enc_schemes), sig_scheme=min(sig_schemes))
        template = Key(False, usage, 0, 1, fit)

        def unfit(parms: KeyParms, template: Key = template) -> Key:
            return replace(template, algorithm_parms=parms)

        for enc in range(7):
            for sig in range(6):
                if enc not in enc_schemes or sig not in sig_schemes:
                    yield unfit(KeyParms.for_rsa(enc_scheme=enc, sig_scheme=sig))
        lengths = (0, 256, 1000, 1025, 2047, 2049, 2064, 4096)
        for bits in (*lengths, 512, 1024, 2032) if usage in _STRONG else lengths:
            yield unfit(replace(fit, parms=RsaKeyParms(bits, 2, b"").encode()))
        exponents = (b"\0", b"\1", b"\2", b"\x0b", b"\1\0\3", b"\1\1\0\1")
        weak = (b"\3", b"\5", b"\7", b"\x11", b"\1\1") if usage in _STRONG else ()
        for exponent in (*exponents, *weak):
            yield unfit(replace(fit, parms=RsaKeyParms(2048, 2, exponent).encode()))
        for primes in (0, 1, 3):
            yield unfit(replace(fit, parms=RsaKeyParms(2048, primes, b"").encode()))
        for algorithm in (6, 8, 9):
            parms = bytes.fromhex("00000080 00000080 00000000")
            yield unfit(replace(fit, algorithm_id=algorithm, parms=parms))
    for number in (0, 0x0F, 0x17, 0x1010):
        yield replace(KEYS["sign"], key_usage=number)


@case(OWNED, Ordinal.CREATE_WRAP_KEY)
def keys_of_no_allowed_property_cannot_be_made(tpm: Script) -> None:
    for template in _unfit_keys():
        _create(tpm, template, RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.LOAD_KEY2)
def keys_of_no_allowed_property_cannot_be_loaded(tpm: Script) -> None:
    data = tpm.wrapped("sign").enc_data
    for template in _unfit_keys():
        key = replace(template, pub_key=bytes(128), enc_data=data)
        tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=RC.BAD_KEY_PROPERTY)


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


def unparsed_keys() -> Iterator[tuple[bytes, ReturnCode]]:
    """Give keys that do not parse, with the code of what is wrong."""
    old, new = KEYS["sign"].encode(), KEYS["sign-bound"].encode()
    info = release_info().encode()
    yield b"\1\2" + old[2:], RC.BAD_VERSION
    yield b"\0\x27" + new[2:], RC.BAD_KEY_PROPERTY
    yield new[:2] + b"\0\1" + new[4:], RC.BAD_KEY_PROPERTY
    for flags in (0x20, 0x80000000):
        yield old[:6] + flags.to_bytes(4, "big") + old[10:], RC.BAD_KEY_PROPERTY
    yield old[:11] + b"\0\0\0\x0b" + old[15:], RC.BAD_KEY_PROPERTY
    for bad, code in (
        (b"\0\7" + info[2:], RC.INVALID_STRUCTURE),
        (info[:2] + b"\0" + info[3:], RC.INVALID_STRUCTURE),
        (info[:3] + b"\x20" + info[4:], RC.INVALID_STRUCTURE),
        (info[:4] + b"\0\4" + bytes(4) + info[9:], RC.INVALID_PCR_INFO),
        (info[:-1], RC.BAD_PARAM_SIZE),
    ):
        yield new[:35] + SIZED.write(bad) + new[39 + len(info) :], code
    yield old[:35] + SIZED.write(b"\0\4" + bytes(44)) + old[39:], RC.INVALID_PCR_INFO


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2)
def keys_that_do_not_parse(tpm: Script) -> None:
    for key, code in unparsed_keys():
        body = U32.write(SRK) + bytes(40) + key
        tpm.call(Ordinal.CREATE_WRAP_KEY, body=body, auth=[tpm.osap_key()], code=code)
        body = U32.write(SRK) + key
        tpm.call(Ordinal.LOAD_KEY2, body=body, auth=[tpm.oiap(SRK_AUTH)], code=code)


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2)
def keys_with_bytes_behind_their_pcr_info(tpm: Script) -> None:
    info = PcrInfo(PCR_16, AT_RESET, bytes(20)).encode() + b"\0"
    old = KEYS["sign"].encode()
    key = old[:35] + SIZED.write(info) + old[39:]
    body = U32.write(SRK) + bytes(40) + key
    auth = [tpm.osap_key()]
    tpm.call(Ordinal.CREATE_WRAP_KEY, body=body, auth=auth, code=RC.BAD_PARAM_SIZE)
    auth = [tpm.oiap(SRK_AUTH)]
    tpm.call(Ordinal.LOAD_KEY2, body=U32.write(SRK) + key, auth=auth, code=RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.LOAD_KEY2)
def loading_keys_that_were_made_outside(tpm: Script) -> None:
    srk = tpm.public().key
    migratable = KEYS["sign-migratable"]

    def load(template: Key, code: ReturnCode, **wrong: object) -> None:
        key = craft_key(template, parent=srk, **wrong)  # type: ignore[arg-type]
        tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)], code=code)

    load(migratable, RC.SUCCESS)
    for payload in (6, 7):
        load(migratable, RC.SUCCESS, payload=payload)
    for payload in (0, 2, 3, 4, 5, 8, 9, 0x80):
        load(migratable, RC.INVALID_STRUCTURE, payload=payload)
    load(migratable, RC.BAD_PARAM_SIZE, cut=60)
    load(migratable, RC.BAD_PARAM_SIZE, cut=64)
    load(migratable, RC.BAD_PARAMETER, prime=b"\xc1" * 64)
    load(migratable, RC.AUTHFAIL, digest=bytes(20))
    load(replace(migratable, key_flags=0), RC.INVALID_KEYUSAGE)
    identity = replace(tss12.identity_template(), key_flags=2)
    load(identity, RC.INVALID_KEYUSAGE)
    parms = KeyParms.for_rsa(enc_scheme=3, bits=512)
    change = replace(migratable, key_usage=KeyUsage.AUTHCHANGE, algorithm_parms=parms)
    load(change, RC.INVALID_KEYUSAGE)
    blob = tpm.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=USAGE_AUTH,
            data=bytes(64),
            pcr_info=None,
            random=tpm.random,
        )
    )
    key = replace(tpm.wrapped("sign"), enc_data=blob.enc_data)
    auth = [tpm.oiap(SRK_AUTH)]
    tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=auth, code=RC.INVALID_STRUCTURE)


@case(OWNED, Ordinal.CREATE_WRAP_KEY, Ordinal.LOAD_KEY2, Ordinal.GET_PUB_KEY)
def keys_with_two_faults(tpm: Script) -> None:
    sign, migratable = tpm.load("sign"), tpm.load("storage-migratable")
    unfit = replace(KEYS["sign"], algorithm_parms=KeyParms.for_rsa(bits=1024))
    wrong = tpm.osap_key(spoil=True)
    _create(tpm, unfit, RC.AUTHFAIL, auth=wrong)
    _create(tpm, unfit, RC.BAD_KEY_PROPERTY, parent=sign)
    _create(tpm, unfit, RC.BAD_KEY_PROPERTY, parent=migratable)
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


@case(OWNED, Ordinal.GET_PUB_KEY, Ordinal.SIGN)
def reading_public_keys_whatever_the_pcrs_are(tpm: Script) -> None:
    handle = tpm.load("sign-bound-readable")
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.locality = 1
    tpm.call(Ordinal.GET_PUB_KEY, handle, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.WRONGPCRVAL)


@case(OWNED, Ordinal.LOAD_KEY2, Ordinal.CERTIFY_KEY)
def children_of_bound_keys_remember_it(tpm: Script) -> None:
    small = replace(KEYS["sign"], algorithm_parms=KeyParms.for_rsa(sig_scheme=2, bits=512))
    parent = tpm.load("storage-bound")
    below = _make_and_load(tpm, small, parent=parent)
    beside = _make_and_load(tpm, small)
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
