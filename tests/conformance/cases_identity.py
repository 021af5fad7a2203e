# SPDX-License-Identifier: Apache-2.0
"""Identity keys (Part 3, chapter 15)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    Ordinal,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms, RsaKeyParms
from tests.conformance.cases_unfit_keys import unparsed_keys
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
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
UNOWNED, OWNED = World.UNOWNED, World.OWNED
IDENTITY_AUTH: Final = b"secret of identity--"
_SYMMETRIC: Final = bytes.fromhex("00000006 00ff 0010") + bytes(16)
"""A TPM_SYMMETRIC_KEY."""


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
        KeyParms.for_rsa(sig_scheme=2, exponent=b"\3"),
        KeyParms(1, 1, 2, RsaKeyParms(2048, 3, b"").encode()),
    ):
        _identity(tpm, replace(template, algorithm_parms=parms), RC.BAD_KEY_PROPERTY)
    # The properties are those of the usage that the template names.
    _identity(tpm, replace(template, key_usage=KeyUsage.STORAGE), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities_of_another_usage(tpm: Script) -> None:
    template = replace(tss12.identity_template(), key_usage=KeyUsage.SIGNING)
    _identity(tpm, template, RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities_with_sessions_that_are_wrong(tpm: Script) -> None:
    template = tss12.identity_template()
    _identity(tpm, template, RC.INVALID_AUTHHANDLE, owner=tpm.no_session())
    _identity(tpm, template, RC.INVALID_AUTHHANDLE, srk=tpm.no_session(SRK_AUTH))
    _identity(tpm, template, RC.AUTHFAIL, owner=tpm.osap_key())
    _identity(tpm, template, RC.AUTHFAIL, srk=tpm.osap_key(tpm.load("sign"), USAGE_AUTH))
    _identity(tpm, template, RC.AUTHFAIL, srk=tpm.osap_owner())


@case(OWNED, Ordinal.MAKE_IDENTITY)
def making_identities_with_two_faults(tpm: Script) -> None:
    template = tss12.identity_template()
    unfit = replace(template, algorithm_parms=KeyParms.for_rsa(sig_scheme=3))
    migratable = replace(template, key_flags=KeyFlags.MIGRATABLE)
    wrong = tpm.oiap(SRK_AUTH, spoil=True)
    _identity(tpm, unfit, RC.BAD_KEY_PROPERTY, owner=tpm.oiap(), srk=wrong)
    # The owner is the second session and judged first.
    wrong = tpm.oiap(SRK_AUTH, spoil=True)
    _identity(tpm, template, RC.AUTH2FAIL, owner=tpm.osap_owner(spoil=True), srk=wrong)
    wrong = tpm.oiap(SRK_AUTH, spoil=True)
    _identity(tpm, migratable, RC.AUTHFAIL, srk=wrong)


@case(OWNED, Ordinal.MAKE_IDENTITY)
def identities_that_do_not_parse(tpm: Script) -> None:
    for key, code in unparsed_keys():
        both = [tpm.oiap(SRK_AUTH), tpm.osap_owner()]
        tpm.call(Ordinal.MAKE_IDENTITY, body=bytes(40) + key, auth=both, code=code)


def _own(tpm: Script, srk: Key) -> None:
    """Take ownership with an unusual SRK."""
    pubek = tpm.run(tss12.read_pubek(random=tpm.random))
    values = (5, tss12.encrypt_oaep(pubek, OWNER_AUTH), tss12.encrypt_oaep(pubek, SRK_AUTH), srk)
    tpm.call(Ordinal.TAKE_OWNERSHIP, *values, auth=[tpm.oiap()])


@case(UNOWNED, Ordinal.MAKE_IDENTITY)
def identities_below_an_srk_that_needs_no_secret(tpm: Script) -> None:
    _own(tpm, replace(tss12.srk_template(), auth_data_usage=0))
    template = tss12.identity_template()
    _identity(tpm, template, srk_needed=False)
    _identity(tpm, template, RC.BAD_MODE, owner=tpm.oiap(), srk_needed=False)
    _identity(tpm, template, RC.AUTHFAIL, owner=tpm.osap_owner(spoil=True), srk_needed=False)


@case(UNOWNED, Ordinal.MAKE_IDENTITY)
def identities_below_an_srk_that_is_bound(tpm: Script) -> None:
    _own(tpm, replace(tss12.srk_template(is_key12=True), pcr_info=release_info(localities=1)))
    template = tss12.identity_template()
    tpm.locality = 1
    _identity(tpm, template, RC.BAD_LOCALITY)
    tpm.locality = 0
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    _identity(tpm, template, RC.WRONGPCRVAL)


@case(OWNED, Ordinal.MAKE_IDENTITY, Ordinal.QUOTE)
def secrets_of_identities_under_aes(tpm: Script) -> None:
    aes = AdipScheme.AES128_CTR
    owner = tpm.osap(EntityType.OWNER, ReservedHandle.OWNER, OWNER_AUTH, adip=aes)
    values = (tpm.encrypt_aes(owner, IDENTITY_AUTH), DIGEST, tss12.identity_template(is_key12=True))
    made = tpm.call(Ordinal.MAKE_IDENTITY, *values, auth=[tpm.oiap(SRK_AUTH), owner])
    key = getattr(made, "id_key", None)
    loaded = tpm.call(Ordinal.LOAD_KEY2, SRK, key, auth=[tpm.oiap(SRK_AUTH)])
    handle = getattr(loaded, "inkey_handle", 0)
    tpm.call(Ordinal.QUOTE, handle, DIGEST, PCR_16, auth=[tpm.oiap(IDENTITY_AUTH)])
    wrong = tpm.oiap(USAGE_AUTH)
    tpm.call(Ordinal.QUOTE, handle, DIGEST, PCR_16, auth=[wrong], code=RC.AUTHFAIL)


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
    ek = tpm.public(ReservedHandle.EK)
    symmetric = _SYMMETRIC
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


def _activate(
    tpm: Script,
    plain: bytes,
    code: ReturnCode,
    *,
    name: str = "identity",
    handle: int | None = None,
    owner: Auth | None = None,
    identity: Auth | None = None,
    one: bool = False,
) -> None:
    blob = tss12.encrypt_oaep(tpm.public(ReservedHandle.EK), plain)
    auth = [owner or tpm.oiap()]
    if not one:
        auth.insert(0, identity or tpm.oiap(USAGE_AUTH))
    handle = tpm.load(name) if handle is None else handle
    tpm.call(Ordinal.ACTIVATE_IDENTITY, handle, blob, auth=auth, code=code)


def _blob(activate: bytes, *, kind: int = 1) -> bytes:
    """Return a TPM_EK_BLOB."""
    return b"\0\x0c" + kind.to_bytes(2, "big") + len(activate).to_bytes(4, "big") + activate


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_with_the_owner_alone(tpm: Script) -> None:
    digest = tpm.wrapped("identity-open").public_key.digest()
    contents = _SYMMETRIC + digest
    _activate(tpm, contents, RC.SUCCESS, name="identity-open", one=True)
    _activate(tpm, contents, RC.SUCCESS, name="identity-open", one=True, owner=tpm.osap_owner())
    _activate(tpm, contents, RC.AUTHFAIL, one=True)
    wrong = tpm.oiap(spoil=True)
    _activate(tpm, contents, RC.AUTHFAIL, name="identity-open", one=True, owner=wrong)


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_with_an_owner_session_that_is_wrong(tpm: Script) -> None:
    contents = _SYMMETRIC + tpm.wrapped("identity").public_key.digest()
    _activate(tpm, contents, RC.INVALID_AUTHHANDLE, owner=tpm.no_session())
    _activate(tpm, contents, RC.AUTHFAIL, owner=tpm.osap_key())
    # The owner is the second session but judged first: before the handle of the key.
    wrong = tpm.oiap(spoil=True)
    _activate(tpm, contents, RC.AUTHFAIL, handle=17, owner=wrong)


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_with_what_does_not_parse(tpm: Script) -> None:
    digest = tpm.wrapped("identity").public_key.digest()
    inner = b"\0\x2b" + _SYMMETRIC + digest + b"\0\3\0\0\0\x1f" + bytes(20)
    for plain, code in (
        (_SYMMETRIC + digest[:-1], RC.BAD_PARAM_SIZE),
        (_SYMMETRIC[:7], RC.BAD_PARAM_SIZE),
        (_blob(inner)[:-1], RC.BAD_PARAM_SIZE),
        (_blob(inner[:-1]), RC.BAD_PARAM_SIZE),
        (_blob(b"\0\x2c" + inner[2:]), RC.INVALID_STRUCTURE),
        (_blob(inner[:-21] + b"\0" + bytes(20)), RC.INVALID_STRUCTURE),
        (_blob(inner[:-26] + b"\0\4" + bytes(25)), RC.INVALID_PCR_INFO),
        (_blob(inner, kind=0), RC.BAD_TYPE),
    ):
        _activate(tpm, plain, code)


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_with_two_faults(tpm: Script) -> None:
    digest = tpm.wrapped("identity").public_key.digest()
    # The usage of the key before the blob, whom it is for before when it may be given out.
    sign = tpm.load("sign")
    garbled, both = bytes(256), [tpm.oiap(USAGE_AUTH), tpm.oiap()]
    tpm.call(Ordinal.ACTIVATE_IDENTITY, sign, garbled, auth=both, code=RC.BAD_PARAMETER)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    _activate(tpm, _SYMMETRIC, RC.AUTH2FAIL, handle=sign, identity=wrong)
    elsewhere = b"\0\3\1\0\0\2" + DIGEST
    head = b"\0\x2b" + _SYMMETRIC
    _activate(tpm, _blob(head + DIGEST + elsewhere), RC.BAD_PARAMETER)
    _activate(tpm, _blob(head + digest + elsewhere), RC.WRONGPCRVAL)
    _activate(tpm, _blob(head + DIGEST + elsewhere, kind=2), RC.BAD_TYPE)


@case(OWNED, Ordinal.ACTIVATE_IDENTITY)
def activating_with_bytes_behind_the_contents(tpm: Script) -> None:
    contents = _SYMMETRIC + tpm.wrapped("identity").public_key.digest()
    _activate(tpm, contents + b"\0", RC.BAD_PARAM_SIZE)
