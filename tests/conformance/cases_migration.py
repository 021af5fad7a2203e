# SPDX-License-Identifier: Apache-2.0
"""Migration and certified migration (Part 3, chapter 11).

A key goes from a chip to itself: from below the SRK to below another storage key, or, certified, to
the SRK again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.constants import (
    EncScheme,
    KeyFlags,
    KeyUsage,
    MigrationScheme,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    KEYS,
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    Auth,
    Chapter,
    Script,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, key_pair
from tpmcore import tss12
from tpmcore.tss12 import Ticket

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
SCHEME = MigrationScheme
CMK: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY
_EXPONENT: Final = 65537


def _permit(tpm: Script, key: PubKey, scheme: int = SCHEME.MIGRATE) -> MigrationKeyAuth:
    return tpm.run(
        tss12.authorize_migration_key(SCHEME(scheme), key, owner_auth=OWNER_AUTH, random=tpm.random)
    )


@case(OWNED, Ordinal.AUTHORIZE_MIGRATION_KEY)
def authorizing_migration_keys(tpm: Script) -> None:
    authorize = Ordinal.AUTHORIZE_MIGRATION_KEY
    public = tpm.wrapped("storage").public_key
    for scheme in SCHEME:
        tpm.call(authorize, scheme, public, auth=[tpm.oiap()])
    wrong = tpm.oiap(spoil=True)
    tpm.call(authorize, 1, public, auth=[wrong], code=RC.AUTHFAIL)
    small = tpm.wrapped("bind").public_key
    tpm.call(authorize, 1, small, auth=[tpm.oiap()], code=RC.BAD_KEY_PROPERTY)
    parms = KeyParms.for_rsa(enc_scheme=EncScheme.RSAESPKCSV15)
    tpm.call(authorize, 1, PubKey(parms, public.key), auth=[tpm.oiap()], code=RC.INAPPROPRIATE_ENC)


@case(OWNED, Ordinal.AUTHORIZE_MIGRATION_KEY)
def authorizing_a_scheme_that_does_not_exist(tpm: Script) -> None:
    public = tpm.wrapped("storage").public_key
    tpm.call(Ordinal.AUTHORIZE_MIGRATION_KEY, 0, public, auth=[tpm.oiap()])


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB, Ordinal.CONVERT_MIGRATION_BLOB)
def a_key_migrates(tpm: Script) -> None:
    key = tpm.wrapped("sign-migratable")
    target = tpm.load("storage")
    permission = _permit(tpm, tpm.wrapped("storage").public_key)
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
    sign = tpm.load("sign")
    both = [tpm.oiap(USAGE_AUTH)]
    tpm.call(convert, sign, blob.data, blob.random, auth=both, code=RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def a_key_is_rewrapped(tpm: Script) -> None:
    key = tpm.wrapped("sign-migratable")
    target = tpm.load("storage-open")
    permission = _permit(tpm, tpm.wrapped("storage-open").public_key, SCHEME.REWRAP)
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


def _create(
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
    if auth is None:
        secret = SRK_AUTH if parent == SRK else USAGE_AUTH
        auth = [tpm.oiap(secret), tpm.oiap(MIGRATION_AUTH)]
    enc_data = tpm.wrapped(name).enc_data if data is None else data
    tpm.call(
        Ordinal.CREATE_MIGRATION_BLOB, parent, kind, permission, enc_data, auth=auth, code=code
    )


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migrations_that_are_refused(tpm: Script) -> None:
    permission = _permit(tpm, tpm.wrapped("storage").public_key)
    wrong = [tpm.oiap(WRONG_AUTH), tpm.oiap(MIGRATION_AUTH)]
    _create(tpm, permission, RC.AUTHFAIL, auth=wrong)
    _create(tpm, permission, RC.AUTH2FAIL, auth=[tpm.oiap(SRK_AUTH), tpm.oiap(WRONG_AUTH)])
    _create(tpm, permission, RC.AUTHFAIL, auth=[tpm.oiap(MIGRATION_AUTH)])
    _create(tpm, permission, RC.AUTH2FAIL, name="sign")
    _create(tpm, permission, RC.BAD_PARAMETER, kind=9)
    _create(tpm, permission, RC.DECRYPT_ERROR, data=bytes(256))
    _create(tpm, permission, RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    _create(tpm, permission, RC.INVALID_KEYHANDLE, parent=7)


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def migration_without_permission(tpm: Script) -> None:
    permission = _permit(tpm, tpm.wrapped("storage").public_key)
    _create(tpm, replace(permission, digest=DIGEST), RC.MIGRATEFAIL)


@case(OWNED, Ordinal.MIGRATE_KEY)
def an_authority_passes_a_key_on(tpm: Script) -> None:
    migrate = Ordinal.MIGRATE_KEY
    authority = tpm.load("migrate")
    target = tpm.wrapped("storage").public_key
    data = tss12.encrypt_oaep(tpm.wrapped("migrate").public_key, bytes(100))
    tpm.call(migrate, authority, target, data, auth=[tpm.oiap(USAGE_AUTH)])
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(migrate, authority, target, data, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(migrate, authority, target, data, code=RC.AUTHFAIL)
    garbage = bytes(256)
    tpm.call(
        migrate, authority, target, garbage, auth=[tpm.oiap(USAGE_AUTH)], code=RC.DECRYPT_ERROR
    )
    other = tpm.load("storage-open")
    tpm.call(migrate, other, target, data, code=RC.INVALID_KEYUSAGE)
    tpm.call(migrate, 7, target, data, code=RC.INVALID_KEYHANDLE)


# Certified migration


def _signer(
    *,
    enc_scheme: int = EncScheme.NONE,
    sig_scheme: int = SigScheme.RSASSAPKCS1V15_SHA1,
) -> PubKey:
    p, q = key_pair(910, 2048, _EXPONENT)
    parms = KeyParms.for_rsa(enc_scheme=enc_scheme, sig_scheme=sig_scheme)
    return PubKey(parms, (p * q).to_bytes(256, "big"))


def _sign(digest: bytes) -> bytes:
    p, q = key_pair(910, 2048, _EXPONENT)
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(_EXPONENT, p * q)
    )
    prehashed = utils.Prehashed(hashes.SHA1())
    return numbers.private_key().sign(digest, padding.PKCS1v15(), prehashed)


def _authorities(tpm: Script) -> MsaComposite:
    return MsaComposite((tpm.wrapped("migrate").public_key.digest(), _signer().digest()))


def _template(flags: int = CMK, usage: KeyUsage = KeyUsage.SIGNING) -> Key:
    return replace(KEYS["sign"], key_flags=flags, key_usage=usage, is_key12=True)


def _approve(tpm: Script) -> bytes:
    return tpm.run(
        tss12.cmk_approve_ma(_authorities(tpm), owner_auth=OWNER_AUTH, random=tpm.random)
    )


def _certified(tpm: Script) -> Key:
    return tpm.run(
        tss12.cmk_create_key(
            SRK,
            _template(),
            authorities=_authorities(tpm),
            approval=_approve(tpm),
            parent_auth=SRK_AUTH,
            usage_auth=USAGE_AUTH,
            random=tpm.random,
        )
    )


@case(OWNED, Ordinal.CMK_APPROVE_MA, Ordinal.CMK_SET_RESTRICTIONS, Ordinal.CMK_CREATE_KEY)
def certified_keys_are_made(tpm: Script) -> None:
    wrong = tpm.oiap(spoil=True)
    tpm.call(Ordinal.CMK_APPROVE_MA, DIGEST, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1 << 31, auth=[tpm.oiap()])
    tpm.capability(5, 0x11F)
    key = _certified(tpm)
    handle = tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    cert = tpm.load("sign-open")
    digest = _authorities(tpm).digest()
    masks = {"certify_info.migration_authority": len}
    tpm.call(Ordinal.CERTIFY_KEY2, handle, cert, digest, DIGEST, code=RC.AUTHFAIL)
    auth = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.CERTIFY_KEY2, handle, tpm.load("sign"), digest, DIGEST, auth=auth, masks=masks)
    auth = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(
        Ordinal.CERTIFY_KEY2, handle, tpm.load("sign"), DIGEST, DIGEST, auth=auth, code=RC.MA_SOURCE
    )


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def certified_keys_that_cannot_be_made(tpm: Script) -> None:
    approval, digest = _approve(tpm), _authorities(tpm).digest()

    def create(
        template: Key,
        code: ReturnCode,
        *,
        approved: bytes = approval,
        parent: int = SRK,
        auth: Auth | None = None,
    ) -> None:
        auth = auth or tpm.osap_key(parent, SRK_AUTH if parent == SRK else USAGE_AUTH)
        values = (parent, bytes(20), template, approved, digest)
        tpm.call(Ordinal.CMK_CREATE_KEY, *values, auth=[auth], code=code)

    create(_template(), RC.AUTHFAIL, auth=tpm.osap_key(spoil=True))
    create(_template(), RC.BAD_MODE, auth=tpm.oiap(SRK_AUTH))
    create(_template(), RC.MA_AUTHORITY, approved=DIGEST)
    create(_template(KeyFlags.MIGRATABLE), RC.INVALID_KEYUSAGE)
    create(_template(KeyFlags.MIGRATE_AUTHORITY), RC.INVALID_KEYUSAGE)
    create(_template(), RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    create(_template(), RC.INVALID_KEYUSAGE, parent=tpm.load("storage-migratable"))
    parms = KeyParms.for_rsa(enc_scheme=3, sig_scheme=2)
    create(replace(_template(), algorithm_parms=parms), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def a_certified_key_in_the_old_form(tpm: Script) -> None:
    values = (SRK, bytes(20), replace(_template(), is_key12=False), _approve(tpm))
    digest = _authorities(tpm).digest()
    tpm.call(
        Ordinal.CMK_CREATE_KEY, *values, digest, auth=[tpm.osap_key()], code=RC.INVALID_STRUCTURE
    )


@case(OWNED, Ordinal.CMK_CREATE_TICKET)
def tickets(tpm: Script) -> None:
    create = Ordinal.CMK_CREATE_TICKET
    tpm.call(create, _signer(), DIGEST, _sign(DIGEST), auth=[tpm.oiap()])
    wrong = tpm.oiap(spoil=True)
    tpm.call(create, _signer(), DIGEST, _sign(DIGEST), auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(create, _signer(), bytes(20), _sign(DIGEST), auth=[tpm.oiap()], code=RC.BAD_SIGNATURE)
    for key, code in (
        (_signer(enc_scheme=3), RC.INAPPROPRIATE_ENC),
        (_signer(sig_scheme=3), RC.INVALID_KEYUSAGE),
    ):
        tpm.call(create, key, DIGEST, _sign(DIGEST), auth=[tpm.oiap()], code=code)


def _ticket(tpm: Script, restrict: CmkAuth) -> Ticket:
    digest = restrict.digest()
    signature = tpm.run(
        tss12.cmk_create_ticket(
            _signer(), digest, _sign(digest), owner_auth=OWNER_AUTH, random=tpm.random
        )
    )
    return Ticket(restrict, signature)


def _srk_public(tpm: Script) -> PubKey:
    return tpm.run(
        tss12.owner_read_internal_pub(ReservedHandle.SRK, owner_auth=OWNER_AUTH, random=tpm.random)
    )


@case(OWNED, Ordinal.CMK_CREATE_BLOB, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_key_migrates_with_approval(tpm: Script) -> None:
    key, srk = _certified(tpm), _srk_public(tpm)
    authorities = _authorities(tpm)
    restrict = CmkAuth(authorities.digest(), srk.digest(), key.public_key.digest())
    ticket = _ticket(tpm, restrict)
    permission = _permit(tpm, srk, SCHEME.RESTRICT_APPROVE)
    blob = tpm.run(
        tss12.cmk_create_blob(
            SRK,
            key,
            permission=permission,
            authorities=authorities,
            ticket=ticket,
            parent_auth=SRK_AUTH,
            random=tpm.random,
        )
    )
    enc_data = tpm.run(
        tss12.cmk_convert_migration(
            SRK,
            replace(key, enc_data=blob.data),
            mask=blob.random,
            authorities=authorities,
            ticket=ticket,
            parent_auth=SRK_AUTH,
            random=tpm.random,
        )
    )
    moved = replace(key, enc_data=enc_data)
    handle = tpm.run(tss12.load_key2(SRK, moved, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def a_certified_key_migrates_to_its_authority(tpm: Script) -> None:
    key = _certified(tpm)
    tpm.run(
        tss12.cmk_create_blob(
            SRK,
            key,
            permission=_permit(tpm, tpm.wrapped("migrate").public_key, SCHEME.RESTRICT_MIGRATE),
            authorities=_authorities(tpm),
            ticket=None,
            parent_auth=SRK_AUTH,
            random=tpm.random,
        )
    )


def _refused_blob(tpm: Script, **wrong: object) -> None:
    key, srk = _certified(tpm), _srk_public(tpm)
    authorities = _authorities(tpm)
    source = wrong.get("source", key.public_key.digest())
    destination = wrong.get("destination", srk.digest())
    assert isinstance(source, bytes)
    assert isinstance(destination, bytes)
    ticket = _ticket(tpm, CmkAuth(authorities.digest(), destination, source))
    if "ticket" in wrong:
        ticket = replace(ticket, signature=DIGEST)
    if "authorities" in wrong:
        authorities = MsaComposite((DIGEST, _signer().digest()))
    code = wrong["code"]
    assert isinstance(code, ReturnCode)
    tpm.fails(
        tss12.cmk_create_blob(
            SRK,
            key,
            permission=_permit(tpm, srk, SCHEME.RESTRICT_APPROVE),
            authorities=authorities,
            ticket=ticket,
            parent_auth=WRONG_AUTH if "auth" in wrong else SRK_AUTH,
            random=tpm.random,
        ),
        Ordinal.CMK_CREATE_BLOB,
        code,
    )


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migrations_that_are_refused(tpm: Script) -> None:
    _refused_blob(tpm, auth=True, code=RC.AUTHFAIL)
    _refused_blob(tpm, authorities=True, code=RC.MA_AUTHORITY)
    _refused_blob(tpm, destination=DIGEST, code=RC.MA_DESTINATION)
    _refused_blob(tpm, source=DIGEST, code=RC.MA_SOURCE)


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def a_certified_migration_with_a_false_ticket(tpm: Script) -> None:
    _refused_blob(tpm, ticket=True, code=RC.MA_AUTHORITY)


def _refused_conversion(tpm: Script, code: ReturnCode, **wrong: object) -> None:
    key, srk = _certified(tpm), _srk_public(tpm)
    authorities = _authorities(tpm)
    restrict = CmkAuth(authorities.digest(), srk.digest(), key.public_key.digest())
    ticket = _ticket(tpm, restrict)
    blob = tpm.run(
        tss12.cmk_create_blob(
            SRK,
            key,
            permission=_permit(tpm, srk, SCHEME.RESTRICT_APPROVE),
            authorities=authorities,
            ticket=ticket,
            parent_auth=SRK_AUTH,
            random=tpm.random,
        )
    )
    if "ticket" in wrong:
        ticket = replace(ticket, signature=DIGEST)
    if "destination" in wrong:
        ticket = _ticket(tpm, replace(restrict, destination_key_digest=DIGEST))
    if "source" in wrong:
        ticket = _ticket(tpm, replace(restrict, source_key_digest=DIGEST))
    data = bytes(256) if "data" in wrong else blob.data
    tpm.fails(
        tss12.cmk_convert_migration(
            SRK,
            replace(key, enc_data=data),
            mask=blob.random[:-1] if "mask" in wrong else blob.random,
            authorities=MsaComposite((DIGEST,)) if "authorities" in wrong else authorities,
            ticket=ticket,
            parent_auth=WRONG_AUTH if "auth" in wrong else SRK_AUTH,
            random=tpm.random,
        ),
        Ordinal.CMK_CONVERT_MIGRATION,
        code,
    )


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def certified_conversions_that_are_refused(tpm: Script) -> None:
    _refused_conversion(tpm, RC.AUTHFAIL, auth=True)
    _refused_conversion(tpm, RC.DECRYPT_ERROR, data=True)
    _refused_conversion(tpm, RC.BAD_PARAMETER, mask=True)
    _refused_conversion(tpm, RC.MA_DESTINATION, destination=True)
    _refused_conversion(tpm, RC.MA_SOURCE, source=True)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_with_a_false_ticket(tpm: Script) -> None:
    _refused_conversion(tpm, RC.MA_AUTHORITY, ticket=True)


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migration_of_a_key_that_is_not_certified(tpm: Script) -> None:
    srk = _srk_public(tpm)
    authorities = _authorities(tpm)
    for name in ("sign", "sign-migratable"):
        key = tpm.wrapped(name)
        tpm.fails(
            tss12.cmk_create_blob(
                SRK,
                key,
                permission=_permit(tpm, srk, SCHEME.RESTRICT_MIGRATE),
                authorities=authorities,
                ticket=None,
                parent_auth=SRK_AUTH,
                random=tpm.random,
            ),
            Ordinal.CMK_CREATE_BLOB,
            RC.INVALID_STRUCTURE,
        )


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def plain_migration_of_a_certified_key(tpm: Script) -> None:
    permission = _permit(tpm, tpm.wrapped("storage").public_key)
    _create(tpm, permission, RC.BAD_MIGRATION, data=_certified(tpm).enc_data)
