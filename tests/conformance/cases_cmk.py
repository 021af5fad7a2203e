# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys are made (Part 3, 11.5 to 11.8); they migrate in
`cases_cmk_migration`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.constants import (
    EncScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    Ordinal,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.delegation import DelegatePublic, DelegateType, Delegations
from protocol.tpm12.keys import Key, KeyParms, PubKey, RsaKeyParms
from protocol.tpm12.migration import MsaComposite
from tests.conformance.cases_delegation import make_key_blob, new_family, open_dsap
from tests.conformance.cases_migration import AES
from tests.conformance.machines import World
from tests.conformance.script import (
    DIGEST,
    KEYS,
    SRK,
    USAGE_AUTH,
    Auth,
    Chapter,
    Script,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, key_pair
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
CMK: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY
DELEGATE_AUTH: Final = b"secret of a delegate"
_EXPONENT: Final = 65537
_SIGNER: Final = 910


def authority_key(
    *,
    enc_scheme: int = EncScheme.NONE,
    sig_scheme: int = SigScheme.RSASSAPKCS1V15_SHA1,
) -> PubKey:
    """Return the key that an authority signs with; it is in no TPM."""
    p, q = key_pair(_SIGNER, 2048, _EXPONENT)
    parms = KeyParms.for_rsa(enc_scheme=enc_scheme, sig_scheme=sig_scheme)
    return PubKey(parms, (p * q).to_bytes(256, "big"))


def authority_signs(digest: bytes) -> bytes:
    """Return its signature of a digest."""
    p, q = key_pair(_SIGNER, 2048, _EXPONENT)
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(_EXPONENT, p * q)
    )
    prehashed = utils.Prehashed(hashes.SHA1())
    return numbers.private_key().sign(digest, padding.PKCS1v15(), prehashed)


def authority_list(tpm: Script) -> MsaComposite:
    """Return the authorities of the cases: one that migrates, one that signs."""
    return MsaComposite((tpm.wrapped("migrate").public_key.digest(), authority_key().digest()))


def cmk_template(flags: int = CMK, usage: KeyUsage = KeyUsage.SIGNING) -> Key:
    """Return the description of a certified migratable key."""
    return replace(KEYS["sign"], key_flags=flags, key_usage=usage, is_key12=True)


def approve(tpm: Script) -> bytes:
    """Have the owner approve of the authorities."""
    return tpm.run(
        tss12.cmk_approve_ma(authority_list(tpm), owner_auth=OWNER_AUTH, random=tpm.random)
    )


def make_certified(tpm: Script) -> Key:
    """Make a certified key below the SRK."""
    return tpm.run(
        tss12.cmk_create_key(
            SRK,
            cmk_template(),
            authorities=authority_list(tpm),
            approval=approve(tpm),
            parent_auth=SRK_AUTH,
            usage_auth=USAGE_AUTH,
            random=tpm.random,
        )
    )


@case(OWNED, Ordinal.CMK_APPROVE_MA, Ordinal.CMK_SET_RESTRICTIONS, Ordinal.CMK_CREATE_KEY)
def certified_keys_are_made(tpm: Script) -> None:
    wrong = tpm.oiap(spoil=True)
    tpm.call(Ordinal.CMK_APPROVE_MA, DIGEST, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(Ordinal.CMK_APPROVE_MA, DIGEST, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.capability(5, 0x11F)
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1 << 31, auth=[tpm.oiap()])
    tpm.capability(5, 0x11F)
    key = make_certified(tpm)
    handle = tpm.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    cert = tpm.load("sign-open")
    digest = authority_list(tpm).digest()
    masks = {"certify_info.migration_authority": len}
    tpm.call(Ordinal.CERTIFY_KEY2, handle, cert, digest, DIGEST, code=RC.AUTHFAIL)
    auth = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.CERTIFY_KEY2, handle, tpm.load("sign"), digest, DIGEST, auth=auth, masks=masks)
    auth = [tpm.oiap(USAGE_AUTH), tpm.oiap(USAGE_AUTH)]
    tpm.call(
        Ordinal.CERTIFY_KEY2, handle, tpm.load("sign"), DIGEST, DIGEST, auth=auth, code=RC.MA_SOURCE
    )


def _delegate(tpm: Script) -> Auth:
    """Open a session with all that the owner can delegate."""
    family = tpm.run(tss12.create_family(0x41, owner_auth=OWNER_AUTH, random=tpm.random))
    everything = Delegations(DelegateType.OWNER, 0xFFFFFFFF)
    public = DelegatePublic(0x5A, tss12.pcr_info_short(None), everything, family, 0)
    blob = tpm.run(
        tss12.create_owner_delegation(
            public, owner_auth=OWNER_AUTH, delegate_auth=DELEGATE_AUTH, random=tpm.random
        )
    )
    session = tpm.run(
        tss12.dsap(EntityType.DEL_OWNER_BLOB, blob.encode(), DELEGATE_AUTH, random=tpm.random)
    )
    return Auth(session, keep=True)


@case(OWNED, Ordinal.CMK_SET_RESTRICTIONS, Ordinal.GET_CAPABILITY_OWNER, Ordinal.CMK_APPROVE_MA)
def what_no_delegate_may(tpm: Script) -> None:
    tpm.call(Ordinal.CMK_APPROVE_MA, DIGEST, auth=[_delegate(tpm)])
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 1, auth=[_delegate(tpm)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.GET_CAPABILITY_OWNER, auth=[_delegate(tpm)], code=RC.AUTHFAIL)
    tpm.capability(5, 0x11F)


@dataclass(frozen=True, slots=True)
class KeyMaker:
    """Makes certified keys, or fails to; approval and digest of the authorities are at hand."""

    tpm: Script
    approval: bytes
    digest: bytes

    def create(
        self,
        template: Key,
        code: ReturnCode = RC.SUCCESS,
        *,
        approved: bytes | None = None,
        digest: bytes | None = None,
        parent: int = SRK,
        auth: Auth | None = None,
    ) -> None:
        """Send CMK_CreateKey."""
        auth = auth or self.tpm.osap_key(parent, SRK_AUTH if parent == SRK else USAGE_AUTH)
        values = (parent, bytes(20), template, approved or self.approval, digest or self.digest)
        self.tpm.call(Ordinal.CMK_CREATE_KEY, *values, auth=[auth], code=code)


def key_maker(tpm: Script) -> KeyMaker:
    """Have the owner approve of the authorities, for making keys."""
    return KeyMaker(tpm, approve(tpm), authority_list(tpm).digest())


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def certified_keys_of_each_usage(tpm: Script) -> None:
    maker = key_maker(tpm)
    for name in ("bind", "legacy", "sign-info", "sign-der"):
        maker.create(replace(KEYS[name], key_flags=CMK, is_key12=True))
    bound = replace(KEYS["sign-bound"], key_flags=CMK, auth_data_usage=0)
    maker.create(bound, parent=tpm.load("storage"))


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def certified_keys_that_cannot_be_made(tpm: Script) -> None:
    maker = key_maker(tpm)
    maker.create(cmk_template(), RC.AUTHFAIL, auth=tpm.osap_key(spoil=True))
    maker.create(cmk_template(), RC.AUTHFAIL, auth=tpm.osap_owner())
    maker.create(cmk_template(), RC.BAD_MODE, auth=tpm.oiap(SRK_AUTH))
    maker.create(cmk_template(), RC.INVALID_KEYHANDLE, parent=7, auth=tpm.osap_key())
    maker.create(cmk_template(), RC.MA_AUTHORITY, approved=DIGEST)
    maker.create(cmk_template(), RC.MA_AUTHORITY, digest=DIGEST)
    maker.create(cmk_template(KeyFlags.MIGRATABLE), RC.INVALID_KEYUSAGE)
    maker.create(cmk_template(KeyFlags.MIGRATE_AUTHORITY), RC.INVALID_KEYUSAGE)
    maker.create(cmk_template(), RC.INVALID_KEYUSAGE, parent=tpm.load("sign"))
    maker.create(cmk_template(), RC.INVALID_KEYUSAGE, parent=tpm.load("storage-migratable"))
    identity = KeyParms.for_rsa(sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    unfit = replace(cmk_template(usage=KeyUsage.IDENTITY), algorithm_parms=identity)
    maker.create(unfit, RC.INVALID_KEYUSAGE)
    ephemeral = KeyParms.for_rsa(enc_scheme=3, bits=1024)
    unfit = replace(cmk_template(usage=KeyUsage.AUTHCHANGE), algorithm_parms=ephemeral)
    maker.create(unfit, RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def certified_keys_with_unfit_properties(tpm: Script) -> None:
    maker = key_maker(tpm)
    sha1 = SigScheme.RSASSAPKCS1V15_SHA1
    for parms in (
        KeyParms.for_rsa(enc_scheme=3, sig_scheme=sha1, bits=1024),
        KeyParms.for_rsa(bits=1024),
        KeyParms.for_rsa(sig_scheme=sha1, bits=1000),
        KeyParms.for_rsa(sig_scheme=sha1, bits=1024, exponent=b"\2"),
    ):
        maker.create(replace(cmk_template(), algorithm_parms=parms), RC.BAD_KEY_PROPERTY)
    maker.create(replace(cmk_template(), key_usage=0x17), RC.BAD_KEY_PROPERTY)
    maker.create(replace(cmk_template(), algorithm_parms=AES), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def certified_keys_of_three_primes_or_too_many_bits(tpm: Script) -> None:
    maker = key_maker(tpm)
    for parms in (
        KeyParms(1, 1, 2, RsaKeyParms(1024, 3, b"").encode()),
        KeyParms.for_rsa(sig_scheme=2, bits=2064),
    ):
        maker.create(replace(cmk_template(), algorithm_parms=parms), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def certified_keys_with_two_faults_at_once(tpm: Script) -> None:
    maker = key_maker(tpm)
    unfit = replace(cmk_template(), algorithm_parms=KeyParms.for_rsa(bits=1024))
    maker.create(unfit, RC.AUTHFAIL, auth=tpm.osap_key(spoil=True))
    maker.create(unfit, RC.BAD_KEY_PROPERTY, parent=tpm.load("sign"))
    maker.create(cmk_template(0), RC.INVALID_KEYUSAGE, approved=DIGEST)
    identity = KeyParms.for_rsa(sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    identity_key = replace(cmk_template(usage=KeyUsage.IDENTITY), algorithm_parms=identity)
    maker.create(identity_key, RC.MA_AUTHORITY, approved=DIGEST)
    maker.create(replace(identity_key, is_key12=False), RC.INVALID_KEYUSAGE)


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def a_certified_key_in_the_old_form(tpm: Script) -> None:
    key_maker(tpm).create(replace(cmk_template(), is_key12=False), RC.INVALID_STRUCTURE)


@case(OWNED, Ordinal.CMK_CREATE_TICKET)
def tickets(tpm: Script) -> None:
    good = authority_signs(DIGEST)

    def create(
        code: ReturnCode = RC.SUCCESS,
        *,
        auth: Auth | None = None,
        digest: bytes = DIGEST,
        signature: bytes = good,
        enc_scheme: int = EncScheme.NONE,
        sig_scheme: int = SigScheme.RSASSAPKCS1V15_SHA1,
    ) -> None:
        key = authority_key(enc_scheme=enc_scheme, sig_scheme=sig_scheme)
        blocks = [auth or tpm.oiap()]
        tpm.call(Ordinal.CMK_CREATE_TICKET, key, digest, signature, auth=blocks, code=code)

    create()
    create(sig_scheme=SigScheme.RSASSAPKCS1V15_INFO, auth=tpm.osap_owner())
    create(RC.AUTHFAIL, auth=tpm.oiap(spoil=True))
    create(RC.AUTHFAIL, auth=tpm.osap_key())
    create(RC.BAD_SIGNATURE, digest=bytes(20))
    for signature in (b"", bytes(256), good[:-1], good + b"\0"):
        create(RC.BAD_SIGNATURE, signature=signature)
    create(RC.INAPPROPRIATE_ENC, enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
    create(RC.INVALID_KEYUSAGE, sig_scheme=SigScheme.NONE)
    create(RC.INVALID_KEYUSAGE, sig_scheme=SigScheme.RSASSAPKCS1V15_DER)
    # Two faults each: HMAC, encryption scheme, signature scheme, signature is the order.
    create(RC.AUTHFAIL, auth=tpm.oiap(spoil=True), enc_scheme=EncScheme.RSAESPKCSV15)
    create(RC.INAPPROPRIATE_ENC, enc_scheme=EncScheme.RSAESPKCSV15, sig_scheme=SigScheme.NONE)
    create(RC.INVALID_KEYUSAGE, sig_scheme=SigScheme.NONE, signature=b"")


@case(OWNED, Ordinal.CMK_CREATE_TICKET)
def a_ticket_for_a_key_that_is_not_for_rsa(tpm: Script) -> None:
    values = (PubKey(AES, bytes(16)), DIGEST, b"")
    tpm.call(Ordinal.CMK_CREATE_TICKET, *values, auth=[tpm.oiap()], code=RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.CMK_CREATE_KEY)
def the_session_of_a_certified_key_ends(tpm: Script) -> None:
    approval = approve(tpm)
    auth = tpm.osap_key(keep=True)
    secret, digest = tpm.encrypt(auth, USAGE_AUTH), authority_list(tpm).digest()
    tpm.call(Ordinal.CMK_CREATE_KEY, SRK, secret, cmk_template(), approval, digest, auth=[auth])
    tpm.call(Ordinal.TERMINATE_HANDLE, auth.session.handle, code=RC.INVALID_AUTHHANDLE)


@case(OWNED, Ordinal.CMK_SET_RESTRICTIONS, Ordinal.SIGN)
def delegates_of_a_certified_key(tpm: Script) -> None:
    key = tpm.run(
        tss12.load_key2(SRK, make_certified(tpm), parent_auth=SRK_AUTH, random=tpm.random)
    )
    blob = make_key_blob(tpm, key, new_family(tpm)).encode()
    signing, others = 1 << 31, 0x78000000
    for released, code in (
        (0, RC.INVALID_KEYUSAGE),
        (others, RC.INVALID_KEYUSAGE),
        (signing, RC.SUCCESS),
        (others | signing, RC.SUCCESS),
    ):
        tpm.call(Ordinal.CMK_SET_RESTRICTIONS, released, auth=[tpm.oiap()])
        auth = open_dsap(tpm, EntityType.DEL_KEY_BLOB, blob, key=key)
        tpm.call(Ordinal.SIGN, key, DIGEST, auth=[auth], code=code)
    # Whoever knows its secret is no delegate.
    tpm.call(Ordinal.CMK_SET_RESTRICTIONS, 0, auth=[tpm.oiap()])
    tpm.call(Ordinal.SIGN, key, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
