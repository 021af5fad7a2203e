# SPDX-License-Identifier: Apache-2.0
"""Signatures, certificates of keys, quotes, PCRs, identities (Part 3, chapters 13, 15, 16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import KeyFlags, KeyUsage, Ordinal, ReservedHandle, ReturnCode
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.pcr import PcrSelection
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


@case(NEW, Ordinal.EXTEND, Ordinal.PCR_READ)
def extending_by_locality(tpm: Script) -> None:
    for locality in range(5):
        tpm.locality = locality
        for pcr in range(16, 24):
            allowed = {17: {2, 3, 4}, 18: {2, 3, 4}, 19: {2, 3}, 20: {1, 2, 3}, 21: {2}, 22: {2}}
            code = RC.SUCCESS if locality in allowed.get(pcr, set(range(5))) else RC.BAD_LOCALITY
            tpm.call(Ordinal.EXTEND, pcr, DIGEST, code=code)
    for pcr in range(24):
        tpm.call(Ordinal.PCR_READ, pcr)
    for pcr in (24, 255, 0xFFFFFFFF):
        tpm.call(Ordinal.EXTEND, pcr, DIGEST, code=RC.BADINDEX)
        tpm.call(Ordinal.PCR_READ, pcr, code=RC.BADINDEX)


@case(NEW, Ordinal.EXTEND)
def extending_while_disabled(tpm: Script) -> None:
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_DISABLE)
    tpm.call(Ordinal.EXTEND, 1, DIGEST)
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.PCR_READ, 1)


@case(NEW, Ordinal.PCR_RESET)
def resetting_pcrs_by_locality(tpm: Script) -> None:
    tpm.call(Ordinal.PCR_RESET, PcrSelection(), code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.PCR_RESET, PcrSelection(bytes(3)), code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.PCR_RESET, PcrSelection.of([0, 16]), code=RC.NOTRESETABLE)
    for locality in range(5):
        tpm.locality = locality
        for pcr in range(16, 24):
            allowed = {17: {4}, 18: {4}, 19: {4}, 20: {2, 4}, 21: {2}, 22: {2}}
            code = RC.SUCCESS if locality in allowed.get(pcr, set(range(5))) else RC.NOTLOCAL
            tpm.call(Ordinal.PCR_RESET, PcrSelection.of([pcr]), code=code)
    for pcr in range(16, 24):
        tpm.call(Ordinal.PCR_READ, pcr)


@case(NEW, Ordinal.PCR_RESET)
def pcr_selection_that_is_too_long(tpm: Script) -> None:
    tpm.call(Ordinal.PCR_RESET, body=b"\0\4\0\0\1\0", code=RC.INVALID_PCR_INFO)
    tpm.call(Ordinal.PCR_RESET, body=b"\0\3\0\0", code=RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.QUOTE, Ordinal.QUOTE2)
def quoting(tpm: Script) -> None:
    key = tpm.load("sign")
    for selection in (PcrSelection.of([0, 16]), PcrSelection.of([]), PcrSelection(b"\1")):
        tpm.call(Ordinal.QUOTE, key, DIGEST, selection, auth=[tpm.oiap(USAGE_AUTH)])
        for version in (False, True):
            auth = tpm.oiap(USAGE_AUTH)
            tpm.call(Ordinal.QUOTE2, key, DIGEST, selection, version, auth=[auth])
    selection = PcrSelection.of([0])
    tpm.locality = 3
    tpm.call(Ordinal.QUOTE2, tpm.load("sign-open"), DIGEST, selection, False)
    tpm.call(Ordinal.QUOTE, tpm.load("sign-info"), DIGEST, selection, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.QUOTE)
def quoting_nothing_at_all(tpm: Script) -> None:
    tpm.call(Ordinal.QUOTE, tpm.load("sign-open"), DIGEST, PcrSelection())


@case(OWNED, Ordinal.QUOTE, Ordinal.QUOTE2)
def quoting_errors(tpm: Script) -> None:
    key, der, bind = tpm.load("sign"), tpm.load("sign-der"), tpm.load("bind")
    for ordinal, more in ((Ordinal.QUOTE, ()), (Ordinal.QUOTE2, (False,))):
        values = (DIGEST, PcrSelection.of([0]), *more)
        tpm.call(ordinal, key, *values, code=RC.AUTHFAIL)
        wrong = tpm.oiap(USAGE_AUTH, spoil=True)
        tpm.call(ordinal, key, *values, auth=[wrong], code=RC.AUTHFAIL)
        tpm.call(ordinal, der, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INAPPROPRIATE_SIG)
        tpm.call(ordinal, bind, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INAPPROPRIATE_SIG)
        tpm.call(ordinal, 9, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYHANDLE)


def _identity(
    tpm: Script,
    template: Key,
    code: ReturnCode = RC.SUCCESS,
    *,
    owner: Auth | None = None,
    srk: Auth | None = None,
    srk_needed: bool = True,
) -> None:
    owner = owner or tpm.osap_owner()
    secret = IDENTITY_AUTH
    if owner.session.shared_secret:
        secret = tpm.encrypt(owner, IDENTITY_AUTH)
    auth = [srk or tpm.oiap(SRK_AUTH), owner] if srk_needed else [owner]
    tpm.call(Ordinal.MAKE_IDENTITY, secret, DIGEST, template, auth=auth, code=code)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities(tpm: Script) -> None:
    template = tss12.identity_template()
    _identity(tpm, template)
    _identity(tpm, template, RC.AUTH2FAIL, owner=tpm.osap_owner(spoil=True))
    _identity(tpm, template, RC.AUTHFAIL, srk=tpm.oiap(SRK_AUTH, spoil=True))
    _identity(tpm, template, RC.AUTHFAIL, srk_needed=False)
    _identity(tpm, template, RC.BAD_MODE, owner=tpm.oiap())
    _identity(tpm, replace(template, key_flags=KeyFlags.MIGRATABLE), RC.INVALID_KEYUSAGE)
    for parms in (
        KeyParms.for_rsa(sig_scheme=2, bits=1024),
        KeyParms.for_rsa(sig_scheme=3),
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=2),
    ):
        _identity(tpm, replace(template, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities_of_another_usage(tpm: Script) -> None:
    template = replace(tss12.identity_template(), key_usage=KeyUsage.SIGNING)
    _identity(tpm, template, RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_an_identity_with_one_wrong_session(tpm: Script) -> None:
    template = tss12.identity_template()
    _identity(tpm, template, RC.AUTHFAIL, owner=tpm.osap_owner(spoil=True), srk_needed=False)


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_an_identity(tpm: Script) -> None:
    made = tpm.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=IDENTITY_AUTH,
            label_digest=DIGEST,
            random=tpm.random,
        )
    )
    handle = tpm.run(tss12.load_key2(SRK, made.key, parent_auth=SRK_AUTH, random=tpm.random))
    ek = tpm.run(
        tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=OWNER_AUTH, random=tpm.random)
    )
    symmetric = bytes.fromhex("00000006 00ff 0010") + bytes(16)
    digest = made.key.public_key.digest()

    def activate(
        plain: bytes,
        code: ReturnCode,
        *,
        key: int = handle,
        id_bad: bool = False,
        bad: bool = False,
    ) -> None:
        secret = IDENTITY_AUTH if key == handle else USAGE_AUTH
        auth = [tpm.oiap(secret, spoil=id_bad), tpm.oiap(spoil=bad)]
        blob = tss12.encrypt_oaep(ek, plain) if plain else bytes(256)
        tpm.call(Ordinal.ACTIVATE_IDENTITY, key, blob, auth=auth, code=code)

    contents = symmetric + digest
    activate(contents, RC.SUCCESS)
    activate(symmetric + DIGEST, RC.BAD_PARAMETER)
    activate(b"", RC.DECRYPT_ERROR)
    activate(contents, RC.AUTHFAIL, bad=True)
    activate(contents, RC.AUTH2FAIL, id_bad=True)
    activate(contents, RC.BAD_PARAMETER, key=tpm.load("sign"))
    activate(contents, RC.INVALID_KEYHANDLE, key=17)
    inner = b"\0\x2b" + symmetric + digest + b"\0\3\0\0\0\x1f" + bytes(20)
    for kind, plain, code in (
        (1, inner, RC.SUCCESS),
        (2, inner, RC.BAD_TYPE),
        (1, b"\0\x2b" + symmetric + DIGEST + inner[-26:], RC.BAD_PARAMETER),
        (1, inner[:-21] + b"\2" + bytes(20), RC.BAD_LOCALITY),
        (1, inner[:-26] + b"\0\3\1\0\0\x1f" + DIGEST, RC.WRONGPCRVAL),
    ):
        head = b"\0\x0c" + kind.to_bytes(2, "big") + len(plain).to_bytes(4, "big")
        activate(head + plain, code)


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
