# SPDX-License-Identifier: Apache-2.0
"""Signatures and certificates of keys (Part 3, chapter 13)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
IDENTITY_AUTH: Final = b"secret of identity--"


@case(OWNED, Ordinal.SIGN)
def signing(tpm: Script) -> None:
    key = tpm.load("sign")
    auth = tpm.oiap(USAGE_AUTH, keep=True)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth])
    for size in (19, 21, 0):
        tpm.call(Ordinal.SIGN, key, bytes(size), auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_PARAMETER)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(Ordinal.SIGN, key, DIGEST, code=RC.AUTHFAIL)
    tpm.call(Ordinal.SIGN, tpm.load("sign-open"), DIGEST)


@case(OWNED, Ordinal.SIGN)
def signing_der_and_info(tpm: Script) -> None:
    der, info = tpm.load("sign-der"), tpm.load("sign-info")
    for size in (1, 20, 117):
        tpm.call(Ordinal.SIGN, der, bytes(size), auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.SIGN, der, bytes(118), auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_PARAMETER)
    for size in (1, 20, 200):
        tpm.call(Ordinal.SIGN, info, bytes(size), auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.SIGN)
def signing_with_unfit_keys(tpm: Script) -> None:
    bind = tpm.load("bind-open")
    tpm.call(Ordinal.SIGN, bind, DIGEST, code=RC.INVALID_KEYUSAGE)
    tpm.call(Ordinal.SIGN, SRK, DIGEST, auth=[tpm.oiap(SRK_AUTH)], code=RC.INVALID_KEYUSAGE)
    tpm.call(Ordinal.SIGN, tpm.load("legacy"), DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(Ordinal.SIGN, 3, DIGEST, code=RC.INVALID_KEYHANDLE)
    tpm.call(Ordinal.SIGN, 0x40000002, DIGEST, code=RC.INVALID_RESOURCE)


@case(OWNED, Ordinal.CERTIFY_KEY)
def certifying_keys(tpm: Script) -> None:
    cert, key = tpm.load("sign"), tpm.load("storage")

    def both(**spoil: bool) -> list[Auth]:
        return [
            tpm.oiap(USAGE_AUTH, spoil=spoil.get("one", False)),
            tpm.oiap(USAGE_AUTH, spoil=spoil.get("two", False)),
        ]

    certify = Ordinal.CERTIFY_KEY
    tpm.call(certify, cert, key, DIGEST, auth=both())
    tpm.call(certify, cert, key, DIGEST, auth=both(one=True), code=RC.AUTHFAIL)
    tpm.call(certify, cert, key, DIGEST, auth=both(two=True), code=RC.AUTH2FAIL)
    tpm.call(certify, cert, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.AUTHFAIL)
    tpm.call(certify, cert, key, DIGEST, code=RC.AUTHFAIL)
    open_cert = tpm.load("sign-open")
    tpm.call(certify, open_cert, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(certify, open_cert, tpm.load("sign-readable"), DIGEST)
    tpm.call(certify, open_cert, key, DIGEST, code=RC.AUTHFAIL)
    tpm.call(certify, tpm.load("sign-der"), key, DIGEST, auth=both(), code=RC.BAD_KEY_PROPERTY)
    tpm.call(certify, key, cert, DIGEST, auth=both(), code=RC.BAD_KEY_PROPERTY)
    tpm.call(certify, 7, key, DIGEST, auth=both(), code=RC.INVALID_KEYHANDLE)
    tpm.call(certify, cert, 7, DIGEST, auth=both(), code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.CERTIFY_KEY)
def certifying_with_one_wrong_session(tpm: Script) -> None:
    cert, key = tpm.load("sign-open"), tpm.load("storage")
    auth = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(Ordinal.CERTIFY_KEY, cert, key, DIGEST, auth=[auth], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CERTIFY_KEY2)
def certifying_keys_in_the_new_form(tpm: Script) -> None:
    cert, key = tpm.load("sign"), tpm.load("storage")

    def both(**spoil: bool) -> list[Auth]:
        return [
            tpm.oiap(USAGE_AUTH, spoil=spoil.get("one", False)),
            tpm.oiap(USAGE_AUTH, spoil=spoil.get("two", False)),
        ]

    certify = Ordinal.CERTIFY_KEY2
    tpm.call(certify, key, cert, bytes(20), DIGEST, auth=both())
    tpm.call(certify, key, cert, bytes(20), DIGEST, auth=both(one=True), code=RC.AUTHFAIL)
    tpm.call(certify, key, cert, bytes(20), DIGEST, auth=both(two=True), code=RC.AUTH2FAIL)
    tpm.call(certify, key, cert, bytes(20), DIGEST, code=RC.AUTHFAIL)
    readable = tpm.load("sign-readable")
    tpm.call(certify, readable, cert, bytes(20), DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    tpm.call(certify, readable, tpm.load("sign-open"), bytes(20), DIGEST)
    der = tpm.load("sign-der")
    tpm.call(certify, key, der, bytes(20), DIGEST, auth=both(), code=RC.BAD_KEY_PROPERTY)
    tpm.call(certify, 7, cert, bytes(20), DIGEST, auth=both(), code=RC.INVALID_KEYHANDLE)


@case(OWNED, Ordinal.CERTIFY_KEY2)
def certifying_in_the_new_form_with_one_wrong_session(tpm: Script) -> None:
    readable, cert = tpm.load("sign-readable"), tpm.load("sign")
    auth = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(Ordinal.CERTIFY_KEY2, readable, cert, bytes(20), DIGEST, auth=[auth], code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certifying_with_an_identity_or_what_cannot_be_certified(tpm: Script) -> None:
    made = tpm.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=DIGEST,
            random=tpm.random,
        )
    )
    identity = tpm.run(tss12.load_key2(SRK, made.key, parent_auth=SRK_AUTH, random=tpm.random))
    migratable, migrate = tpm.load("sign-migratable"), tpm.load("migrate")
    sign, key = tpm.load("sign"), tpm.load("bind")
    for cert, handle, code in (
        (identity, key, RC.SUCCESS),
        (identity, migratable, RC.MIGRATEFAIL),
        (sign, migratable, RC.SUCCESS),
        (sign, migrate, RC.INVALID_KEYUSAGE),
    ):
        both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
        tpm.call(Ordinal.CERTIFY_KEY, cert, handle, DIGEST, auth=both, code=code)
        both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
        values = (handle, cert, bytes(20), DIGEST)
        tpm.call(Ordinal.CERTIFY_KEY2, *values, auth=both, code=code)
