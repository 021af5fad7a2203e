# SPDX-License-Identifier: Apache-2.0
"""Signatures and certificates of keys (Part 3, chapter 13)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from protocol.tpm12.constants import (
    PCR_COUNT,
    KeyFlags,
    Ordinal,
    PayloadType,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms
from protocol.tpm12.migration import MsaComposite
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection, composite_hash
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, KEYS, SRK, USAGE_AUTH, Auth, Chapter, Script
from tests.unit.tpm12.keychain import craft_key, signed_block
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tpm12.certify import CertifyKey2Response

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
_CMK: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY
_SMALL: Final = replace(KEYS["sign"], algorithm_parms=KeyParms.for_rsa(sig_scheme=2, bits=512))


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


@case(OWNED, Ordinal.SIGN)
def what_is_signed(tpm: Script) -> None:
    # The padded block, which does not depend on the key, is what is compared.
    for name, area in (
        ("sign", DIGEST),
        ("legacy", DIGEST),
        ("sign-bound", DIGEST),
        ("sign-der", b"any bytes"),
        ("sign-info", b"any bytes"),
        ("sign-info", DIGEST),
    ):
        handle = tpm.load(name)
        block = partial(signed_block, tpm.wrapped(name).pub_key)
        tpm.call(Ordinal.SIGN, handle, area, auth=[tpm.oiap(USAGE_AUTH)], masks={"sig": block})


@case(OWNED, Ordinal.SIGN)
def signing_without_the_nonce_that_is_to_be_signed(tpm: Script) -> None:
    tpm.call(Ordinal.SIGN, tpm.load("sign-info-open"), DIGEST, code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.SIGN, tpm.load("sign-info-open"), DIGEST, auth=[tpm.oiap(USAGE_AUTH)])


@case(OWNED, Ordinal.SIGN)
def signing_with_two_faults(tpm: Script) -> None:
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(Ordinal.SIGN, tpm.load("sign"), b"", auth=[wrong], code=RC.AUTHFAIL)
    bind = tpm.load("bind-open")
    tpm.call(Ordinal.SIGN, bind, b"", code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.SIGN, bind, bytes(19), code=RC.INVALID_KEYUSAGE)


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


def _outside(tpm: Script, flags: int, payload: int) -> int:
    """Load a migratable key of any flags and payload, as a client can wrap one."""
    template = replace(KEYS["sign-migratable"], key_flags=flags)
    key = craft_key(template, parent=tpm.public().key, payload=payload)
    return tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certifying_keys_of_certified_migration(tpm: Script) -> None:
    identity, sign = tpm.load("identity-open"), tpm.load("sign-open")

    def certify(cert: int, key: int, old: ReturnCode, new: ReturnCode) -> None:
        tpm.call(Ordinal.CERTIFY_KEY, cert, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=old)
        values, both = (key, cert, bytes(20), DIGEST), [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
        tpm.call(Ordinal.CERTIFY_KEY2, *values, auth=both, code=new)

    for payload in (PayloadType.MIGRATE_RESTRICTED, PayloadType.MIGRATE_EXTERNAL):
        # The authority that the caller names is not the one that controls the key.
        certify(sign, _outside(tpm, _CMK, payload), RC.INVALID_KEYUSAGE, RC.MA_SOURCE)
        certify(identity, _outside(tpm, _CMK, payload), RC.INVALID_KEYUSAGE, RC.MA_SOURCE)
        certify(
            identity,
            _outside(tpm, KeyFlags.MIGRATABLE, payload),
            RC.INVALID_KEYUSAGE,
            RC.MIGRATEFAIL,
        )
    plain = _outside(tpm, _CMK, PayloadType.ASYM)
    certify(identity, plain, RC.MIGRATEFAIL, RC.MIGRATEFAIL)


@case(OWNED, Ordinal.CERTIFY_KEY2)
def certifying_a_key_that_an_authority_controls(tpm: Script) -> None:
    authorities = MsaComposite((DIGEST, bytes(20)))
    approval = tpm.run(tss12.cmk_approve_ma(authorities, owner_auth=OWNER_AUTH, random=tpm.random))
    key = tpm.run(
        tss12.cmk_create_key(
            SRK,
            replace(KEYS["sign"], is_key12=True, key_flags=_CMK),
            authorities=authorities,
            approval=approval,
            parent_auth=SRK_AUTH,
            usage_auth=USAGE_AUTH,
            random=tpm.random,
        )
    )
    handle = tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))
    for cert in ("sign-open", "identity-open"):
        both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
        values = (handle, tpm.load(cert), authorities.digest(), DIGEST)
        tpm.call(Ordinal.CERTIFY_KEY2, *values, auth=both)


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certifying_without_a_session_that_is_needed(tpm: Script) -> None:
    sign, free = tpm.load("sign"), tpm.load("sign-open")
    one = [tpm.oiap(USAGE_AUTH)]
    # C2 is the session of the certified key in the older form, of the certifying in the newer.
    tpm.call(Ordinal.CERTIFY_KEY, sign, free, DIGEST, auth=one, code=RC.AUTHFAIL)
    tpm.call(Ordinal.CERTIFY_KEY, sign, free, DIGEST, code=RC.AUTHFAIL)
    tpm.call(Ordinal.CERTIFY_KEY, free, sign, DIGEST, code=RC.AUTHFAIL)
    one = [tpm.oiap(USAGE_AUTH)]
    values = (bytes(20), DIGEST)
    tpm.call(Ordinal.CERTIFY_KEY2, sign, free, *values, auth=one, code=RC.AUTHFAIL)
    tpm.call(Ordinal.CERTIFY_KEY2, sign, free, *values, code=RC.AUTHFAIL)
    tpm.call(Ordinal.CERTIFY_KEY2, free, sign, *values, code=RC.AUTHFAIL)
    # To sign takes more than to read the public part.
    readable = tpm.load("sign-readable")
    tpm.call(Ordinal.CERTIFY_KEY, readable, free, DIGEST, code=RC.AUTHFAIL)
    tpm.call(Ordinal.CERTIFY_KEY2, free, readable, *values, code=RC.AUTHFAIL)


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certifying_with_two_faults(tpm: Script) -> None:
    sign, der, migratable = tpm.load("sign"), tpm.load("sign-der"), tpm.load("sign-migratable")
    identity, values = tpm.load("identity"), (bytes(20), DIGEST)

    def both(*, one: bool, two: bool) -> list[Auth]:
        return [tpm.oiap(USAGE_AUTH, spoil=one), tpm.oiap(USAGE_AUTH, spoil=two)]

    for cert, key, spoilt, code in (
        (der, sign, {"one": True, "two": True}, RC.BAD_KEY_PROPERTY),
        (sign, der, {"one": True, "two": True}, RC.AUTHFAIL),
        (identity, migratable, {"one": False, "two": True}, RC.AUTH2FAIL),
    ):
        tpm.call(Ordinal.CERTIFY_KEY, cert, key, DIGEST, auth=both(**spoilt), code=code)
        tpm.call(Ordinal.CERTIFY_KEY2, key, cert, *values, auth=both(**spoilt), code=code)
        tpm.call(Ordinal.RESET_LOCK_VALUE, auth=[tpm.oiap()])


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certifying_keys_whose_pcrs_do_not_matter_for_reading(tpm: Script) -> None:
    key, cert = tpm.load("sign-bound-readable"), tpm.load("sign-open")
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.call(
        Ordinal.CERTIFY_KEY,
        cert,
        key,
        DIGEST,
        auth=[tpm.oiap(USAGE_AUTH)],
        response=CertifyKey2Response,
    )
    both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.CERTIFY_KEY2, key, cert, bytes(20), DIGEST, auth=both)


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certificates_of_keys_bound_to_pcrs(tpm: Script) -> None:
    cert = tpm.load("sign-open")
    for selection, localities, newer in (
        (PcrSelection.of([]), 0x1F, False),
        (PcrSelection.of([0]), 0x1F, False),
        (PcrSelection(b"\0\0"), 0x1F, False),
        (PcrSelection.of([15]), 0x1F, False),
        (PcrSelection.of([16]), 0x1F, True),
        (PcrSelection.of([]), 0x01, True),
    ):
        digest = composite_hash(selection, [bytes(20)] * PCR_COUNT)
        for info in (
            PcrInfo(selection, digest, bytes(20)),
            PcrInfoLong(1, localities, selection, selection, bytes(20), digest),
        ):
            is_key12 = isinstance(info, PcrInfoLong)
            template = replace(_SMALL, pcr_info=info, is_key12=is_key12)
            key = _make_and_load(tpm, template)
            form = CertifyKey2Response if newer and (is_key12 or selection.indices) else None
            one = [tpm.oiap(USAGE_AUTH)]
            tpm.call(Ordinal.CERTIFY_KEY, cert, key, DIGEST, auth=one, response=form)
            both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
            tpm.call(Ordinal.CERTIFY_KEY2, key, cert, bytes(20), DIGEST, auth=both)
            tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY)


def _make_and_load(tpm: Script, template: Key) -> int:
    key = tpm.run(
        tss12.create_wrap_key(
            SRK, template, parent_auth=SRK_AUTH, usage_auth=USAGE_AUTH, random=tpm.random
        )
    )
    return tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))


@case(OWNED, Ordinal.CERTIFY_KEY, Ordinal.CERTIFY_KEY2)
def certifying_keys_of_every_usage(tpm: Script) -> None:
    for cert in ("sign-open", "sign-info-open", "identity-open"):
        signer = tpm.load(cert)
        for name in ("sign", "storage", "identity", "bind", "legacy"):
            key = tpm.load(name)
            tpm.call(Ordinal.CERTIFY_KEY, signer, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
            both = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
            tpm.call(Ordinal.CERTIFY_KEY2, key, signer, bytes(20), DIGEST, auth=both)
            tpm.call(Ordinal.FLUSH_SPECIFIC, key, ResourceType.KEY)
    legacy, both = tpm.load("legacy"), [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.CERTIFY_KEY, legacy, tpm.load("sign"), DIGEST, auth=both)
    # The SRK has no handle of its own slot, and it can be certified too.
    both = [tpm.oiap(USAGE_AUTH), tpm.oiap(SRK_AUTH)]
    tpm.call(Ordinal.CERTIFY_KEY, legacy, SRK, DIGEST, auth=both)
