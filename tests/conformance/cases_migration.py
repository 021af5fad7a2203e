# SPDX-License-Identifier: Apache-2.0
"""Migration (Part 3, 11.1 to 11.4); certified migration is in `cases_cmk`.

A key goes from a chip to itself, from below the SRK to below another storage key. Blobs that no TPM
would make are made here: the inner block is masked with zeros.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    EncScheme,
    MigrationScheme,
    Ordinal,
    PayloadType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import KeyParms, PubKey, StoreAsymKey
from protocol.tpm12.migration import MigrationKeyAuth
from protocol.tpm12.wire import SIZED
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    Auth,
    Chapter,
    Script,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tpm12 import oaep
from tpmcore.tpm12.migrationblob import encode_inner
from tpmcore.tpm12.oaep import OaepBlock
from tpmcore.tss12 import MigrationBlob

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
SCHEME = MigrationScheme
AES: Final = KeyParms(6, 1, 1, bytes.fromhex("00000080 00000080 00000000"))
PRIME: Final = bytes(63) + b"\7"
"""Stands for the factor of a 1024-bit key where nothing looks whether it is one."""


def permit(tpm: Script, key: PubKey, scheme: int = SCHEME.MIGRATE) -> MigrationKeyAuth:
    """Have the owner permit migration to a key."""
    return tpm.run(
        tss12.authorize_migration_key(SCHEME(scheme), key, owner_auth=OWNER_AUTH, random=tpm.random)
    )


@case(OWNED, Ordinal.AUTHORIZE_MIGRATION_KEY)
def authorizing_migration_keys(tpm: Script) -> None:
    authorize = Ordinal.AUTHORIZE_MIGRATION_KEY
    public = tpm.wrapped("storage").public_key
    for scheme in SCHEME:
        tpm.call(authorize, scheme, public, auth=[tpm.oiap()])
    exponent = KeyParms.for_rsa(enc_scheme=3, exponent=b"\1\0\1")
    tpm.call(authorize, 1, PubKey(exponent, public.key), auth=[tpm.osap_owner()])
    wrong = tpm.oiap(spoil=True)
    tpm.call(authorize, 1, public, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(authorize, 1, public, auth=[tpm.osap_key()], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.AUTHORIZE_MIGRATION_KEY)
def authorizing_keys_that_are_unfit(tpm: Script) -> None:
    authorize = Ordinal.AUTHORIZE_MIGRATION_KEY
    public = tpm.wrapped("storage").public_key
    small = tpm.wrapped("bind").public_key
    other = KeyParms.for_rsa(enc_scheme=3, exponent=b"\3")
    weak = PubKey(other, public.key)
    for key in (small, weak, PubKey(AES, bytes(16))):
        tpm.call(authorize, 1, key, auth=[tpm.oiap()], code=RC.BAD_KEY_PROPERTY)
    # The key's strength is judged before the HMAC, its scheme after it.
    tpm.call(authorize, 1, small, auth=[tpm.oiap(spoil=True)], code=RC.BAD_KEY_PROPERTY)
    for scheme in (EncScheme.RSAESPKCSV15, EncScheme.NONE):
        key = PubKey(KeyParms.for_rsa(enc_scheme=scheme), public.key)
        tpm.call(authorize, 1, key, auth=[tpm.oiap()], code=RC.INAPPROPRIATE_ENC)
    tpm.call(authorize, 1, key, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.AUTHORIZE_MIGRATION_KEY)
def authorizing_a_scheme_that_does_not_exist(tpm: Script) -> None:
    public = tpm.wrapped("storage").public_key
    tpm.call(Ordinal.AUTHORIZE_MIGRATION_KEY, 0, public, auth=[tpm.oiap()])


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB, Ordinal.CONVERT_MIGRATION_BLOB)
def a_key_migrates(tpm: Script) -> None:
    key = tpm.wrapped("sign-migratable")
    target = tpm.load("storage")
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    blob = tpm.run(
        tss12.create_migration_blob(
            SRK,
            key.enc_data,
            scheme=SCHEME.MIGRATE,
            permission=permission,
            parent_auth=SRK_AUTH,
            migration_auth=MIGRATION_AUTH,
            random=tpm.random,
        )
    )
    convert = Ordinal.CONVERT_MIGRATION_BLOB
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(convert, target, blob.data, blob.random, auth=[wrong], code=RC.AUTHFAIL)
    for data, random, code in (
        (blob.data, blob.random[:-1], RC.BAD_PARAMETER),
        (bytes(256), blob.random, RC.DECRYPT_ERROR),
        (blob.data, bytes(len(blob.random)), RC.DECRYPT_ERROR),
    ):
        tpm.call(convert, target, data, random, auth=[tpm.oiap(USAGE_AUTH)], code=code)
    done = tpm.call(convert, target, blob.data, blob.random, auth=[tpm.oiap(USAGE_AUTH)])
    moved = replace(key, enc_data=getattr(done, "out_data", b""))
    handle = tpm.run(tss12.load_key2(target, moved, parent_auth=USAGE_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


def _convert(
    tpm: Script,
    blob: MigrationBlob,
    code: ReturnCode,
    *,
    parent: int = SRK,
    auth: list[Auth] | None = None,
) -> None:
    if auth is None:
        auth = [tpm.oiap(SRK_AUTH if parent == SRK else USAGE_AUTH)]
    values = (parent, blob.data, blob.random)
    tpm.call(Ordinal.CONVERT_MIGRATION_BLOB, *values, auth=auth, code=code)


def _blob(target: PubKey, inner: bytes) -> MigrationBlob:
    return MigrationBlob(bytes(len(inner)), tss12.encrypt_oaep(target, inner))


def _forged(target: PubKey, payload: int = PayloadType.MIGRATE) -> MigrationBlob:
    """Return a migration blob with a payload type, of a key that nobody has."""
    store = StoreAsymKey(0, USAGE_AUTH, MIGRATION_AUTH, DIGEST, PRIME)
    return _blob(target, encode_inner(store, PayloadType(payload), MIGRATION_AUTH))


@case(OWNED, Ordinal.CONVERT_MIGRATION_BLOB)
def conversions_that_are_refused(tpm: Script) -> None:
    target = tpm.load("storage")
    public = tpm.wrapped("storage").public_key
    good = _forged(public)
    _convert(tpm, good, RC.SUCCESS, parent=target)
    _convert(tpm, good, RC.AUTHFAIL, parent=target, auth=[])
    _convert(tpm, good, RC.AUTHFAIL, parent=target, auth=[tpm.osap_key()])
    _convert(tpm, good, RC.INVALID_KEYHANDLE, parent=7)
    for payload in PayloadType:
        if payload != PayloadType.MIGRATE:
            _convert(tpm, _forged(public, payload), RC.BAD_MIGRATION, parent=target)
    _convert(tpm, _blob(public, bytes(40)), RC.DECRYPT_ERROR, parent=target)
    unfit = tpm.load("sign-open")
    _convert(tpm, good, RC.INVALID_KEYUSAGE, parent=unfit, auth=[])
    # The key is looked up before the HMAC, its usage after it and before the blob.
    wrong = [tpm.oiap(spoil=True)]
    _convert(tpm, good, RC.INVALID_KEYHANDLE, parent=7, auth=wrong)
    wrong = [tpm.oiap(spoil=True)]
    _convert(tpm, good, RC.AUTHFAIL, parent=unfit, auth=wrong)
    _convert(tpm, MigrationBlob(b"", b""), RC.INVALID_KEYUSAGE, parent=unfit, auth=[])


@case(OWNED, Ordinal.CONVERT_MIGRATION_BLOB)
def conversions_of_what_does_not_parse(tpm: Script) -> None:
    target = tpm.load("storage")
    public = tpm.wrapped("storage").public_key
    for message in (b"\3", b"\3" + bytes(40) + b"\0\0\0\xff"):
        inner = oaep.encode(OaepBlock(DIGEST, DIGEST, message))
        _convert(tpm, _blob(public, inner), RC.BAD_PARAM_SIZE, parent=target)


@case(OWNED, Ordinal.CONVERT_MIGRATION_BLOB)
def a_key_is_converted_below_a_key_that_needs_no_secret(tpm: Script) -> None:
    target = tpm.load("storage-open")
    _convert(
        tpm, _forged(tpm.wrapped("storage-open").public_key), RC.SUCCESS, parent=target, auth=[]
    )


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB, Ordinal.CONVERT_MIGRATION_BLOB, Ordinal.MIGRATE_KEY)
def migration_with_keys_whose_pcrs_have_changed(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    parent, authority = tpm.load("storage-bound"), tpm.load("migrate-bound")
    public = tpm.wrapped("storage-bound").public_key
    _convert(tpm, _forged(public), RC.SUCCESS, parent=parent)
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    _convert(tpm, _forged(public), RC.WRONGPCRVAL, parent=parent)
    create_blob(tpm, permission, RC.WRONGPCRVAL, parent=parent)
    _pass_on(tpm, public, bytes(256), RC.WRONGPCRVAL, authority=authority)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB, Ordinal.CONVERT_MIGRATION_BLOB, Ordinal.MIGRATE_KEY)
def migration_with_keys_of_another_locality(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    parent, authority = tpm.load("storage-bound"), tpm.load("migrate-bound")
    public = tpm.wrapped("storage-bound").public_key
    tpm.locality = 1
    _convert(tpm, _forged(public), RC.BAD_LOCALITY, parent=parent)
    create_blob(tpm, permission, RC.BAD_LOCALITY, parent=parent)
    _pass_on(tpm, public, bytes(256), RC.BAD_LOCALITY, authority=authority)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def a_key_is_rewrapped(tpm: Script) -> None:
    key = tpm.wrapped("sign-migratable")
    target = tpm.load("storage-open")
    permission = permit(tpm, tpm.wrapped("storage-open").public_key, SCHEME.REWRAP)
    blob = tpm.run(
        tss12.create_migration_blob(
            SRK,
            key.enc_data,
            scheme=SCHEME.REWRAP,
            permission=permission,
            parent_auth=SRK_AUTH,
            migration_auth=MIGRATION_AUTH,
            random=tpm.random,
        )
    )
    moved = replace(key, enc_data=blob.data)
    tpm.call(Ordinal.LOAD_KEY2, target, moved)


def create_blob(
    tpm: Script,
    permission: MigrationKeyAuth,
    code: ReturnCode,
    *,
    kind: int = SCHEME.MIGRATE,
    parent: int = SRK,
    name: str = "sign-migratable",
    data: bytes | None = None,
    auth: list[Auth] | None = None,
) -> None:
    """Give out a key, the named one or that of the data."""
    if auth is None:
        secret = SRK_AUTH if parent == SRK else USAGE_AUTH
        auth = [tpm.oiap(secret), tpm.oiap(MIGRATION_AUTH)]
    enc_data = tpm.wrapped(name).enc_data if data is None else data
    tpm.call(
        Ordinal.CREATE_MIGRATION_BLOB, parent, kind, permission, enc_data, auth=auth, code=code
    )


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migrations_that_are_refused(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    wrong = [tpm.oiap(WRONG_AUTH), tpm.oiap(MIGRATION_AUTH)]
    create_blob(tpm, permission, RC.AUTHFAIL, auth=wrong)
    create_blob(tpm, permission, RC.AUTHFAIL, auth=[tpm.osap_owner(), tpm.oiap(MIGRATION_AUTH)])
    create_blob(tpm, permission, RC.AUTH2FAIL, auth=[tpm.oiap(SRK_AUTH), tpm.oiap(WRONG_AUTH)])
    create_blob(tpm, permission, RC.BAD_MODE, auth=[tpm.oiap(SRK_AUTH), tpm.osap_key()])
    create_blob(tpm, permission, RC.AUTHFAIL, auth=[tpm.oiap(MIGRATION_AUTH)])
    # Not migratable: its migration secret is one that nobody knows.
    create_blob(tpm, permission, RC.AUTH2FAIL, name="sign")
    create_blob(tpm, permission, RC.BAD_PARAMETER, kind=9)
    create_blob(tpm, permission, RC.BAD_PARAMETER, kind=SCHEME.RESTRICT_MIGRATE)
    create_blob(tpm, permission, RC.DECRYPT_ERROR, data=bytes(256))
    create_blob(tpm, permission, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    create_blob(tpm, permission, RC.INVALID_KEYHANDLE, parent=7)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migrations_with_two_faults_at_once(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    unfit = tpm.load("sign")
    create_blob(tpm, permission, RC.INVALID_KEYHANDLE, parent=7, auth=[tpm.oiap(WRONG_AUTH)] * 2)
    wrong = [tpm.oiap(WRONG_AUTH), tpm.oiap(MIGRATION_AUTH)]
    create_blob(tpm, permission, RC.AUTHFAIL, parent=unfit, auth=wrong)
    create_blob(tpm, permission, RC.INVALID_KEYUSAGE, parent=unfit, data=bytes(256))
    wrong = [tpm.oiap(SRK_AUTH), tpm.oiap(WRONG_AUTH)]
    create_blob(tpm, permission, RC.DECRYPT_ERROR, data=bytes(256), auth=wrong)
    wrong = [tpm.oiap(SRK_AUTH), tpm.oiap(WRONG_AUTH)]
    create_blob(tpm, replace(permission, digest=DIGEST), RC.AUTH2FAIL, kind=9, auth=wrong)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migration_from_below_a_key_that_needs_no_secret(tpm: Script) -> None:
    parent = tpm.load("storage-open")
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    data = _store(tpm.wrapped("storage-open").public_key)
    auth = [tpm.oiap(MIGRATION_AUTH)]
    create_blob(tpm, permission, RC.SUCCESS, parent=parent, data=data, auth=auth)
    auth = [tpm.osap_key()]
    create_blob(tpm, permission, RC.BAD_MODE, parent=parent, data=data, auth=auth)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migration_with_one_wrong_session(tpm: Script) -> None:
    parent = tpm.load("storage-open")
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    data = _store(tpm.wrapped("storage-open").public_key)
    auth = [tpm.oiap(WRONG_AUTH)]
    create_blob(tpm, permission, RC.AUTHFAIL, parent=parent, data=data, auth=auth)


def _store(parent: PubKey, payload: int = PayloadType.ASYM) -> bytes:
    """Return encData of a key that nobody has."""
    store = StoreAsymKey(payload, USAGE_AUTH, MIGRATION_AUTH, DIGEST, PRIME)
    return tss12.encrypt_oaep(parent, store.encode())


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migration_of_what_is_no_plain_key(tpm: Script) -> None:
    parent, public = tpm.load("storage"), tpm.wrapped("storage").public_key
    permission = permit(tpm, public)
    create_blob(tpm, permission, RC.SUCCESS, parent=parent, data=_store(public))
    for payload in PayloadType:
        if payload != PayloadType.ASYM:
            data = _store(public, payload)
            create_blob(tpm, permission, RC.BAD_MIGRATION, parent=parent, data=data)
    for plain in (b"\1", b"\1" + bytes(60) + b"\0\0\1\0"):
        data = tss12.encrypt_oaep(public, plain)
        create_blob(tpm, permission, RC.BAD_PARAM_SIZE, parent=parent, data=data)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migration_without_permission(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    create_blob(tpm, replace(permission, digest=DIGEST), RC.MIGRATEFAIL)
    # The scheme that was permitted, and the key, are part of it.
    create_blob(tpm, replace(permission, migration_scheme=SCHEME.REWRAP), RC.MIGRATEFAIL)
    other = tpm.wrapped("storage-open").public_key
    create_blob(tpm, replace(permission, migration_key=other), RC.MIGRATEFAIL)
    create_blob(tpm, replace(permission, digest=DIGEST), RC.MIGRATEFAIL, kind=9)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migration_with_a_permission_that_does_not_parse(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key).encode()
    body = SRK.to_bytes(4, "big") + b"\0\1" + b"\0\0\0\x0b" + permission[4:] + SIZED.write(b"")
    tpm.call(
        Ordinal.CREATE_MIGRATION_BLOB,
        body=body,
        auth=[tpm.oiap(SRK_AUTH), tpm.oiap(MIGRATION_AUTH)],
        code=RC.BAD_KEY_PROPERTY,
    )


def _pass_on(
    tpm: Script,
    target: PubKey,
    data: bytes,
    code: ReturnCode = RC.SUCCESS,
    *,
    authority: int,
    auth: list[Auth] | None = None,
) -> None:
    if auth is None:
        auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.MIGRATE_KEY, authority, target, data, auth=auth, code=code)


@case(OWNED, Ordinal.MIGRATE_KEY)
def an_authority_passes_a_key_on(tpm: Script) -> None:
    authority = tpm.load("migrate")
    public = tpm.wrapped("migrate").public_key
    target, handle = tpm.wrapped("storage").public_key, tpm.load("storage")
    blob = _forged(public)
    moved = tpm.run(
        tss12.migrate_key(
            authority, target, blob.data, authority_auth=USAGE_AUTH, random=tpm.random
        )
    )
    _convert(tpm, MigrationBlob(blob.random, moved), RC.SUCCESS, parent=handle)
    old = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESPKCSV15)
    _pass_on(tpm, PubKey(old, target.key), blob.data, authority=authority)


@case(OWNED, Ordinal.MIGRATE_KEY)
def an_authority_that_does_not_pass_a_key_on(tpm: Script) -> None:
    authority = tpm.load("migrate")
    target = tpm.wrapped("storage").public_key
    data = tss12.encrypt_oaep(tpm.wrapped("migrate").public_key, bytes(100))
    wrong = [tpm.oiap(USAGE_AUTH, spoil=True)]
    _pass_on(tpm, target, data, RC.AUTHFAIL, authority=authority, auth=wrong)
    _pass_on(tpm, target, data, RC.AUTHFAIL, authority=authority, auth=[tpm.osap_key()])
    _pass_on(tpm, target, data, RC.AUTHFAIL, authority=authority, auth=[])
    _pass_on(tpm, target, bytes(256), RC.DECRYPT_ERROR, authority=authority)
    other = tpm.load("storage-open")
    _pass_on(tpm, target, data, RC.INVALID_KEYUSAGE, authority=other)
    _pass_on(tpm, target, data, RC.INVALID_KEYHANDLE, authority=7)
    # The key is looked up before the HMAC, its usage after it and before the data.
    wrong = [tpm.oiap(USAGE_AUTH, spoil=True)]
    _pass_on(tpm, target, data, RC.AUTHFAIL, authority=other, auth=wrong)
    _pass_on(tpm, target, bytes(256), RC.INVALID_KEYUSAGE, authority=other)
    short = tpm.wrapped("bind").public_key
    _pass_on(tpm, short, data, RC.ENCRYPT_ERROR, authority=authority)


@case(OWNED, Ordinal.MIGRATE_KEY)
def an_authority_with_a_target_that_cannot_encrypt(tpm: Script) -> None:
    authority = tpm.load("migrate")
    data = tss12.encrypt_oaep(tpm.wrapped("migrate").public_key, bytes(100))
    modulus = tpm.wrapped("storage").public_key.key
    signer = KeyParms.for_rsa(sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    _pass_on(tpm, PubKey(signer, modulus), data, RC.INAPPROPRIATE_ENC, authority=authority)
    _pass_on(tpm, PubKey(AES, bytes(16)), data, RC.BAD_KEY_PROPERTY, authority=authority)
