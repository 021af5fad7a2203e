# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys: made, given out, taken in, and all that stops them on the way."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.attestation import CertifyInfo2
from protocol.tpm12.constants import (
    AdipScheme,
    Algorithm,
    CapabilityProperty,
    EncScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    MigrationScheme,
    Ordinal,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from protocol.tpm12.wire import SIZED, U16, U32, Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    binding_key,
    load,
    make_and_load,
    make_key,
    sha1,
    signing_key,
    storage_key,
    verifies,
)
from tests.unit.tpm12.test_migration import make_other_chip, migrate_template, permit, srk_pub
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, key_pair, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12 import Conversation, MigrationBlob, Ticket
from tpmcore.tss12.sessions import with_secret

CMK: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY
DIGEST: Final = b"what is to be signed"
EXPONENT: Final = 65537
SIGNER_SERIAL: Final = 910
RESTRICT_MIGRATE: Final = MigrationScheme.RESTRICT_MIGRATE
RESTRICT_APPROVE: Final = MigrationScheme.RESTRICT_APPROVE


def _signer(
    *, enc_scheme: int = EncScheme.NONE, sig_scheme: int = SigScheme.RSASSAPKCS1V15_SHA1
) -> PubKey:
    """Return the key with which the authority signs; it is in no TPM."""
    p, q = key_pair(SIGNER_SERIAL, 2048, EXPONENT)
    parms = KeyParms.for_rsa(enc_scheme=enc_scheme, sig_scheme=sig_scheme)
    return PubKey(parms, (p * q).to_bytes(256))


def _sign(digest: bytes) -> bytes:
    p, q = key_pair(SIGNER_SERIAL, 2048, EXPONENT)
    d = pow(EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(EXPONENT, p * q)
    )
    return numbers.private_key().sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))


def _proof(chip: Chip) -> bytes:
    # tpmProof stands first in section 2 of the permanent state, behind the flags.
    return chip.durable[12 + 6 + 22 + 6 :][:20]


def _cmk_template(usage: KeyUsage = KeyUsage.SIGNING, *, flags: int = CMK) -> Key:
    template = storage_key() if usage == KeyUsage.STORAGE else signing_key()
    return dataclasses.replace(template, key_usage=usage, key_flags=flags, is_key12=True)


@dataclass
class Road:
    """A chip with a certified migratable key, an authority, and the chip that the key goes to.

    Attributes:
        authorities: the digests of the authority's two keys, for migration and for signing.
        authority_handle: the MIGRATE key in `authority`.
    """

    source: Chip
    authority: Chip
    target: Chip
    authority_pub: PubKey
    authority_handle: int
    authorities: MsaComposite
    key: Key

    def restrict(self) -> CmkAuth:
        """Return the authority's word that the key may go to the target's SRK."""
        return CmkAuth(
            self.authorities.digest(),
            srk_pub(self.target).digest(),
            self.key.public_key.digest(),
        )

    def permission(self, scheme: MigrationScheme = RESTRICT_APPROVE) -> MigrationKeyAuth:
        """Have the source's owner permit migration to the authority or the target."""
        key = self.authority_pub if scheme == RESTRICT_MIGRATE else srk_pub(self.target)
        return permit(self.source, key, scheme)

    def create(
        self,
        permission: MigrationKeyAuth,
        ticket: Ticket | None,
        *,
        key: Key | None = None,
        authorities: MsaComposite | None = None,
        parent: int = SRK,
        parent_auth: bytes = SRK_AUTH,
    ) -> Conversation[MigrationBlob]:
        """Have the source give the key out."""
        return tss12.cmk_create_blob(
            parent,
            key or self.key,
            permission=permission,
            authorities=authorities or self.authorities,
            ticket=ticket,
            parent_auth=parent_auth,
            random=self.source.client_random,
        )

    def convert(
        self,
        blob: MigrationBlob,
        ticket: Ticket,
        *,
        key: Key | None = None,
        authorities: MsaComposite | None = None,
        parent: int = SRK,
        parent_auth: bytes = SRK_AUTH,
    ) -> Conversation[bytes]:
        """Have the target take the key in."""
        return tss12.cmk_convert_migration(
            parent,
            dataclasses.replace(key or self.key, enc_data=blob.data),
            mask=blob.random,
            authorities=authorities or self.authorities,
            ticket=ticket,
            parent_auth=parent_auth,
            random=self.target.client_random,
        )

    def approved_blob(self) -> MigrationBlob:
        """Return the key encrypted for the target's SRK."""
        ticket = see(self.source, self.restrict())
        return self.source.run(self.create(self.permission(), ticket))

    def arrive(self, blob: MigrationBlob) -> Key:
        """Take a blob in at the target and return the key as it loads there."""
        ticket = see(self.target, self.restrict())
        enc_data = self.target.run(self.convert(blob, ticket))
        return dataclasses.replace(self.key, enc_data=enc_data)


def see(chip: Chip, restrict: CmkAuth) -> Ticket:
    """Show a chip that the authority signed something."""
    signature = chip.run(_ticket(chip, restrict.digest()))
    return Ticket(restrict, signature)


def _ticket(
    chip: Chip,
    digest: bytes,
    *,
    key: PubKey | None = None,
    signature: bytes | None = None,
    owner_auth: bytes = OWNER_AUTH,
) -> Conversation[bytes]:
    return tss12.cmk_create_ticket(
        key or _signer(),
        digest,
        _sign(digest) if signature is None else signature,
        owner_auth=owner_auth,
        random=chip.client_random,
    )


def _approve(chip: Chip, authorities: MsaComposite) -> bytes:
    return chip.run(
        tss12.cmk_approve_ma(authorities, owner_auth=OWNER_AUTH, random=chip.client_random)
    )


def _create_key(
    chip: Chip,
    template: Key,
    authorities: MsaComposite,
    *,
    approval: bytes | None = None,
    parent: int = SRK,
    parent_auth: bytes = SRK_AUTH,
) -> Conversation[Key]:
    return tss12.cmk_create_key(
        parent,
        template,
        authorities=authorities,
        approval=_approve(chip, authorities) if approval is None else approval,
        parent_auth=parent_auth,
        usage_auth=USAGE_AUTH,
        random=chip.client_random,
    )


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


@pytest.fixture
def authorities() -> MsaComposite:
    return MsaComposite((b"digest of some key--", _signer().digest()))


@pytest.fixture
def road() -> Road:
    source = make_owned_chip()
    authority = make_other_chip("authority", 700)
    target = make_other_chip("target", 500)
    authority_key, handle = make_and_load(authority, migrate_template())
    authority_pub = authority_key.public_key
    authorities = MsaComposite((authority_pub.digest(), _signer().digest()))
    key = source.run(_create_key(source, _cmk_template(), authorities))
    return Road(source, authority, target, authority_pub, handle, authorities, key)


def _signs(chip: Chip, key: Key) -> bool:
    handle = load(chip, key)
    sign = tss12.sign(handle, DIGEST, key_auth=USAGE_AUTH, random=chip.client_random)
    return verifies(key.pub_key, DIGEST, chip.run(sign))


# Making


def test_a_short_key_is_not_made_where_fips_rules(chip: Chip, authorities: MsaComposite) -> None:
    approval = _approve(chip, authorities)
    chip.engine._tpm.permanent.flags.fips = True
    chip.durable = chip.engine.permanent_state()
    parms = KeyParms.for_rsa(sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1, bits=512)
    short = dataclasses.replace(_cmk_template(), algorithm_parms=parms)
    session = chip.run(
        tss12.osap(
            EntityType.KEYHANDLE,
            SRK,
            SRK_AUTH,
            random=chip.client_random,
            adip=AdipScheme.AES128_CTR,
        )
    )
    create = tss12.execute(
        Ordinal.CMK_CREATE_KEY,
        Key.read,
        handles=U32.write(SRK),
        parameters=bytes(20) + short.encode() + approval + authorities.digest(),
        auths=(tss12.prove(session, chip.client_random),),
    )
    assert chip.code(create) == ReturnCode.NOTFIPS


# From chip to chip


def test_key_goes_through_its_authority(road: Road) -> None:
    blob = road.source.run(road.create(road.permission(RESTRICT_MIGRATE), None))
    data = road.authority.run(
        tss12.migrate_key(
            road.authority_handle,
            srk_pub(road.target),
            blob.data,
            authority_auth=USAGE_AUTH,
            random=road.authority.client_random,
        )
    )
    assert _signs(road.target, road.arrive(MigrationBlob(blob.random, data)))


def test_key_goes_where_its_authority_lets_it(road: Road) -> None:
    assert _signs(road.source, road.key)
    assert _signs(road.target, road.arrive(road.approved_blob()))


def test_arrived_key_still_obeys_its_authorities_and_goes_back(road: Road) -> None:
    arrived = road.arrive(road.approved_blob())
    back = dataclasses.replace(road, source=road.target, target=road.source, key=arrived)
    foreign = MsaComposite((_signer().digest(),))
    ticket = see(back.source, back.restrict())
    refused = back.create(back.permission(), ticket, authorities=foreign)
    assert back.source.code(refused) == ReturnCode.MA_AUTHORITY
    assert _signs(back.target, back.arrive(back.approved_blob()))


def test_certification_names_the_authorities_before_and_after(road: Road) -> None:
    arrived = road.arrive(road.approved_blob())
    for chip, key, payload in ((road.source, road.key, 6), (road.target, arrived, 7)):
        _, cert = make_and_load(chip, signing_key())
        handle = load(chip, key)
        digest = road.authorities.digest()

        def certify(
            digest: bytes, chip: Chip = chip, handle: int = handle, cert: int = cert
        ) -> Conversation[tss12.Certification]:
            return tss12.certify_key2(
                handle,
                cert,
                key_auth=USAGE_AUTH,
                cert_auth=USAGE_AUTH,
                migration_pub_digest=digest,
                random=chip.client_random,
            )

        info = chip.run(certify(digest)).info
        assert isinstance(info, CertifyInfo2)
        assert info.payload_type == payload
        assert info.migration_authority == sha1(digest, bytes([payload]))
        assert chip.code(certify(bytes(20))) == ReturnCode.MA_SOURCE


def test_migration_without_authorities_does_not_take_the_key(road: Road) -> None:
    create = tss12.create_migration_blob(
        SRK,
        road.key.enc_data,
        scheme=MigrationScheme.MIGRATE,
        permission=permit(road.source, srk_pub(road.target)),
        parent_auth=SRK_AUTH,
        migration_auth=keychain.decrypt_with_srk(road.key.enc_data)[21:41],
        random=road.source.client_random,
    )
    assert road.source.code(create) == ReturnCode.BAD_MIGRATION
    convert = tss12.convert_migration_blob(
        SRK,
        road.approved_blob(),
        parent_auth=SRK_AUTH,
        random=road.target.client_random,
    )
    assert road.target.code(convert) == ReturnCode.BAD_MIGRATION


# The bytes


def test_notes_are_hashes_with_the_proof(chip: Chip, authorities: MsaComposite) -> None:
    assert authorities.encode() == b"".join(
        (bytes.fromhex("00000002"), b"digest of some key--", sha1(_signer().encode()))
    )
    digest = sha1(authorities.encode())
    expected = hmac.digest(_proof(chip), bytes.fromhex("0035") + digest, "sha1")
    assert _approve(chip, authorities) == expected
    ticket = chip.run(_ticket(chip, DIGEST))
    statement = bytes.fromhex("0034") + sha1(_signer().encode()) + DIGEST
    assert ticket == hmac.digest(_proof(chip), statement, "sha1")


def test_key_is_bound_to_its_authorities(chip: Chip, authorities: MsaComposite) -> None:
    key = chip.run(_create_key(chip, _cmk_template(), authorities))
    plain = keychain.decrypt_with_srk(key.enc_data)
    pub = key.algorithm_parms.encode() + bytes.fromhex("00000080") + key.pub_key
    statement = bytes.fromhex("0033") + sha1(authorities.encode()) + sha1(pub)
    assert plain[:41] == b"".join(
        (b"\x06", USAGE_AUTH, hmac.digest(_proof(chip), statement, "sha1"))
    )
    assert key.key_flags == CMK
    assert key.is_key12


def test_blob_carries_who_controls_the_key(road: Road) -> None:
    own = dataclasses.replace(road, target=road.source)
    blob = own.approved_blob()
    inner = keychain.decrypt_with_srk(blob.data)
    block = bytes(a ^ b for a, b in zip(inner, blob.random, strict=True))
    # Unmasked with MGF1 written out: 20 bytes of seed, then pHash, 01, payload.
    data = block[20:]
    mask = sha1(data, bytes(4))
    seed = bytes(a ^ b for a, b in zip(block[:20], mask, strict=True))
    mask = sha1(seed, bytes(4)) + sha1(seed, bytes.fromhex("00000001"))
    start = bytes(a ^ b for a, b in zip(data, mask, strict=False))
    source = sha1(road.key.public_key.encode())
    assert start[:22] == sha1(sha1(road.authorities.encode()), source) + b"\x01\x08"


# Restrictions


def test_restrictions_are_set_by_the_owner_and_survive_the_power(chip: Chip) -> None:
    def restrict(owner_auth: bytes) -> Conversation[None]:
        return tss12.cmk_set_restrictions(
            0x88000000, owner_auth=owner_auth, random=chip.client_random
        )

    assert chip.code(restrict(WRONG_AUTH)) == ReturnCode.AUTHFAIL
    assert chip.run(tss12.get_property(CapabilityProperty.CMK_RESTRICTION)) == 0
    chip.run(restrict(OWNER_AUTH))
    chip.power_cycle()
    restriction = chip.run(tss12.get_property(CapabilityProperty.CMK_RESTRICTION))
    assert restriction == 0x88000000


# CMK_ApproveMA, CMK_CreateKey


def test_approval_needs_the_owner(chip: Chip, authorities: MsaComposite) -> None:
    approve = tss12.cmk_approve_ma(authorities, owner_auth=WRONG_AUTH, random=chip.client_random)
    assert chip.code(approve) == ReturnCode.AUTHFAIL


@pytest.mark.parametrize(
    ("template", "code"),
    [
        (_cmk_template(flags=KeyFlags.MIGRATABLE), ReturnCode.INVALID_KEYUSAGE),
        (_cmk_template(flags=KeyFlags.MIGRATE_AUTHORITY), ReturnCode.INVALID_KEYUSAGE),
        (_cmk_template(flags=0), ReturnCode.INVALID_KEYUSAGE),
        (_cmk_template(KeyUsage.BIND), ReturnCode.BAD_KEY_PROPERTY),
        (
            dataclasses.replace(tss12.identity_template(), key_flags=CMK),
            ReturnCode.INVALID_KEYUSAGE,
        ),
        (
            dataclasses.replace(storage_key(flags=CMK), key_usage=KeyUsage.AUTHCHANGE),
            ReturnCode.INVALID_KEYUSAGE,
        ),
        (signing_key(flags=CMK), ReturnCode.INVALID_STRUCTURE),
        (_cmk_template(KeyUsage.STORAGE), ReturnCode.SUCCESS),
    ],
    ids=[
        "no authority",
        "not migratable",
        "neither",
        "schemes",
        "identity",
        "authchange",
        "key of 1.1",
        "storage",
    ],
)
def test_what_can_be_a_certified_migratable_key(
    chip: Chip, authorities: MsaComposite, template: Key, code: ReturnCode
) -> None:
    assert chip.code(_create_key(chip, template, authorities)) == code


def test_parent_secret_is_needed(chip: Chip, authorities: MsaComposite) -> None:
    create = _create_key(chip, _cmk_template(), authorities, parent_auth=WRONG_AUTH)
    assert chip.code(create) == ReturnCode.AUTHFAIL


def test_parent_must_be_a_storage_key_that_stays(chip: Chip, authorities: MsaComposite) -> None:
    for template in (binding_key(), storage_key(flags=MIGRATABLE)):
        _, parent = make_and_load(chip, template)
        create = _create_key(
            chip, _cmk_template(), authorities, parent=parent, parent_auth=USAGE_AUTH
        )
        assert chip.code(create) == ReturnCode.INVALID_KEYUSAGE


def test_authorities_must_be_the_approved_ones(chip: Chip, authorities: MsaComposite) -> None:
    approval = _approve(chip, MsaComposite((bytes(20),)))
    create = _create_key(chip, _cmk_template(), authorities, approval=approval)
    assert chip.code(create) == ReturnCode.MA_AUTHORITY


# CMK_CreateTicket


def test_ticket_needs_the_owner_and_a_signature(chip: Chip) -> None:
    assert chip.code(_ticket(chip, DIGEST, owner_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    for signature in (b"", bytes(256), _sign(b"x" * 20), _sign(DIGEST)[1:]):
        code = chip.code(_ticket(chip, DIGEST, signature=signature))
        assert code == ReturnCode.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (PubKey(KeyParms(Algorithm.AES128, 1, 2, b""), b""), ReturnCode.BAD_KEY_PROPERTY),
        (_signer(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1), ReturnCode.INAPPROPRIATE_ENC),
        (_signer(sig_scheme=SigScheme.RSASSAPKCS1V15_DER), ReturnCode.INVALID_KEYUSAGE),
        (_signer(sig_scheme=SigScheme.NONE), ReturnCode.INVALID_KEYUSAGE),
        (_signer(sig_scheme=SigScheme.RSASSAPKCS1V15_INFO), ReturnCode.SUCCESS),
        (PubKey(_signer().algorithm_parms, b""), ReturnCode.BAD_SIGNATURE),
        (PubKey(_signer().algorithm_parms, b"\xff" * 3000), ReturnCode.BAD_SIGNATURE),
    ],
)
def test_which_keys_verify(chip: Chip, key: PubKey, code: ReturnCode) -> None:
    assert chip.code(_ticket(chip, DIGEST, key=key)) == code


# CMK_CreateBlob


def test_parent_of_the_key_that_leaves(road: Road) -> None:
    permission, ticket = road.permission(), see(road.source, road.restrict())
    wrong = road.create(permission, ticket, parent_auth=WRONG_AUTH)
    assert road.source.code(wrong) == ReturnCode.AUTHFAIL
    for template in (binding_key(), storage_key(flags=MIGRATABLE)):
        _, parent = make_and_load(road.source, template)
        create = road.create(permission, ticket, parent=parent, parent_auth=USAGE_AUTH)
        assert road.source.code(create) == ReturnCode.INVALID_KEYUSAGE


def test_only_a_certified_migratable_key_leaves(road: Road) -> None:
    permission, ticket = road.permission(), see(road.source, road.restrict())
    ordinary = make_key(road.source, signing_key(flags=MIGRATABLE))
    for key, code in (
        (ordinary, ReturnCode.INVALID_STRUCTURE),
        (dataclasses.replace(road.key, enc_data=bytes(256)), ReturnCode.DECRYPT_ERROR),
        (dataclasses.replace(road.key, pub_key=b"other"), ReturnCode.MA_AUTHORITY),
    ):
        assert road.source.code(road.create(permission, ticket, key=key)) == code


def test_permission_must_be_of_the_owner(road: Road) -> None:
    forged = dataclasses.replace(
        road.permission(RESTRICT_MIGRATE), migration_scheme=RESTRICT_APPROVE
    )
    ticket = see(road.source, road.restrict())
    assert road.source.code(road.create(forged, ticket)) == ReturnCode.MIGRATEFAIL


def test_permission_of_ordinary_migration_is_not_enough(road: Road) -> None:
    permission = permit(road.source, road.authority_pub, MigrationScheme.MIGRATE)
    assert road.source.code(road.create(permission, None)) == ReturnCode.BAD_PARAMETER


def test_key_goes_only_to_an_authority_unless_one_lets_it(road: Road) -> None:
    elsewhere = permit(road.source, srk_pub(road.target), RESTRICT_MIGRATE)
    assert road.source.code(road.create(elsewhere, None)) == ReturnCode.MA_AUTHORITY


def test_authority_key_must_not_be_one_that_signs(chip: Chip) -> None:
    signing = _signer(enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
    authorities = MsaComposite((signing.digest(),))
    key = chip.run(_create_key(chip, _cmk_template(), authorities))
    create = tss12.cmk_create_blob(
        SRK,
        key,
        permission=permit(chip, signing, RESTRICT_MIGRATE),
        authorities=authorities,
        ticket=None,
        parent_auth=SRK_AUTH,
        random=chip.client_random,
    )
    assert chip.code(create) == ReturnCode.INVALID_KEYUSAGE


@pytest.mark.parametrize(("restrict", "ticket"), [(b"x", b""), (b"", bytes(20))])
def test_no_tickets_on_the_way_to_an_authority(road: Road, restrict: bytes, ticket: bytes) -> None:
    create = _raw_create(road, road.permission(RESTRICT_MIGRATE), restrict, ticket)
    assert road.source.code(create) == ReturnCode.BAD_PARAMETER


def _raw_create(
    road: Road,
    permission: MigrationKeyAuth,
    restrict: bytes,
    ticket: bytes,
    *,
    msa_list: bytes | None = None,
) -> Conversation[bytes]:
    authorities = road.authorities.encode() if msa_list is None else msa_list
    return with_secret(
        Ordinal.CMK_CREATE_BLOB,
        Reader.rest,
        SRK_AUTH,
        random=road.source.client_random,
        handles=U32.write(SRK),
        parameters=b"".join(
            (
                U16.write(RESTRICT_APPROVE),
                permission.encode(),
                road.key.public_key.digest(),
                SIZED.write(authorities),
                SIZED.write(restrict),
                SIZED.write(ticket),
                SIZED.write(road.key.enc_data),
            )
        ),
    )


@pytest.mark.parametrize(
    ("msa_list", "code"),
    [
        ("00000000", ReturnCode.INVALID_STRUCTURE),
        ("", ReturnCode.BAD_PARAM_SIZE),
        ("00000001" + "00" * 19, ReturnCode.BAD_PARAM_SIZE),
        ("00000001" + "00" * 21, ReturnCode.BAD_PARAM_SIZE),
        ("ffffffff" + "00" * 20, ReturnCode.BAD_PARAM_SIZE),
    ],
)
def test_list_of_authorities_must_be_well_formed(
    road: Road, msa_list: str, code: ReturnCode
) -> None:
    create = _raw_create(road, road.permission(), b"", b"", msa_list=bytes.fromhex(msa_list))
    assert road.source.code(create) == code


def test_ticket_must_be_one_of_this_chip_for_these_words(road: Road) -> None:
    permission, restrict = road.permission(), road.restrict()
    good = see(road.source, restrict)
    foreign = see(road.target, restrict)
    other_words = dataclasses.replace(restrict, migration_authority_digest=bytes(20))
    for ticket in (foreign, Ticket(other_words, good.signature)):
        assert road.source.code(road.create(permission, ticket)) == ReturnCode.MA_AUTHORITY
    for signature in (b"", good.signature[1:], good.signature + b"\0"):
        short = _raw_create(road, permission, restrict.encode(), signature)
        assert road.source.code(short) == ReturnCode.BAD_PARAM_SIZE


def test_ticket_of_a_stranger_does_not_count(road: Road) -> None:
    restrict = road.restrict()
    p, q = key_pair(SIGNER_SERIAL, 2048, EXPONENT)
    # The same numbers under another name: the digest of the key is not in the list.
    stranger = PubKey(
        KeyParms.for_rsa(
            enc_scheme=EncScheme.NONE,
            sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1,
            exponent=bytes.fromhex("010001"),
        ),
        (p * q).to_bytes(256),
    )
    seen = road.source.run(_ticket(road.source, restrict.digest(), key=stranger))
    create = road.create(road.permission(), Ticket(restrict, seen))
    assert road.source.code(create) == ReturnCode.MA_AUTHORITY


def test_words_must_be_a_whole_structure(road: Road) -> None:
    words = road.restrict().encode()[:-1]
    seen = road.source.run(_ticket(road.source, sha1(words)))
    create = _raw_create(road, road.permission(), words, seen)
    assert road.source.code(create) == ReturnCode.BAD_PARAM_SIZE


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("destination_key_digest", ReturnCode.MA_DESTINATION),
        ("source_key_digest", ReturnCode.MA_SOURCE),
    ],
)
def test_words_must_be_about_this_key_and_destination(
    road: Road, field: str, code: ReturnCode
) -> None:
    restrict = dataclasses.replace(road.restrict(), **{field: bytes(20)})
    create = road.create(road.permission(), see(road.source, restrict))
    assert road.source.code(create) == code
    convert = road.convert(road.approved_blob(), see(road.target, restrict))
    assert road.target.code(convert) == code


# CMK_ConvertMigration


def test_parent_that_the_key_comes_to(road: Road) -> None:
    blob, ticket = road.approved_blob(), see(road.target, road.restrict())
    wrong = road.convert(blob, ticket, parent_auth=WRONG_AUTH)
    assert road.target.code(wrong) == ReturnCode.AUTHFAIL
    _, binding = make_and_load(road.target, binding_key())
    convert = road.convert(blob, ticket, parent=binding, parent_auth=USAGE_AUTH)
    assert road.target.code(convert) == ReturnCode.INVALID_KEYUSAGE


def test_key_does_not_come_below_a_parent_that_can_leave(road: Road) -> None:
    target = road.target
    parent_key, parent = make_and_load(target, storage_key(flags=MIGRATABLE))
    pub = parent_key.public_key
    restrict = dataclasses.replace(road.restrict(), destination_key_digest=pub.digest())
    create = road.create(permit(road.source, pub, RESTRICT_APPROVE), see(road.source, restrict))
    blob = road.source.run(create)
    convert = road.convert(blob, see(target, restrict), parent=parent, parent_auth=USAGE_AUTH)
    assert target.code(convert) == ReturnCode.INVALID_KEYUSAGE


def test_blob_and_mask_must_be_whole(road: Road) -> None:
    blob, ticket = road.approved_blob(), see(road.target, road.restrict())
    for damaged, code in (
        (MigrationBlob(blob.random, bytes(256)), ReturnCode.DECRYPT_ERROR),
        (MigrationBlob(blob.random[1:], blob.data), ReturnCode.BAD_PARAMETER),
        (MigrationBlob(bytes(len(blob.random)), blob.data), ReturnCode.DECRYPT_ERROR),
    ):
        assert road.target.code(road.convert(damaged, ticket)) == code


def test_blob_must_be_of_this_key_and_these_authorities(road: Road) -> None:
    blob, ticket = road.approved_blob(), see(road.target, road.restrict())
    other_key = dataclasses.replace(road.key, pub_key=bytes(128))
    fewer = MsaComposite(road.authorities.digests[1:])
    for convert in (
        road.convert(blob, ticket, key=other_key),
        road.convert(blob, ticket, authorities=fewer),
    ):
        assert road.target.code(convert) == ReturnCode.AUTHFAIL


def test_ticket_of_another_chip_does_not_let_the_key_in(road: Road) -> None:
    blob, foreign = road.approved_blob(), see(road.source, road.restrict())
    assert road.target.code(road.convert(blob, foreign)) == ReturnCode.MA_AUTHORITY


def _clear_flag(key: Key) -> Key:
    return dataclasses.replace(key, key_flags=KeyFlags.MIGRATABLE)


def _clear_migratable(key: Key) -> Key:
    return dataclasses.replace(key, key_flags=KeyFlags.MIGRATE_AUTHORITY)


@pytest.mark.parametrize("change", [_clear_flag, _clear_migratable])
def test_public_part_must_be_that_of_a_certified_migratable_key(
    road: Road, change: Callable[[Key], Key]
) -> None:
    blob, ticket = road.approved_blob(), see(road.target, road.restrict())
    convert = road.convert(blob, ticket, key=change(road.key))
    assert road.target.code(convert) == ReturnCode.INVALID_KEYUSAGE


def _forge(
    road: Road, *, payload: int = 8, prime: bytes | None = None, parms: KeyParms | None = None
) -> tuple[MigrationBlob, Ticket, Key]:
    """Make a blob for the source's own SRK outside of any chip, with the authority's consent."""
    key = dataclasses.replace(road.key, algorithm_parms=parms or road.key.algorithm_parms)
    own = dataclasses.replace(road, target=road.source, key=key)
    if prime is None:
        prime = keychain.decrypt_with_srk(road.key.enc_data)[65:]
    private = SIZED.write(prime)
    message = b"".join((bytes([payload]), USAGE_AUTH, bytes(20), SIZED.write(private[20:])))
    p_hash = sha1(sha1(road.authorities.encode()), sha1(key.public_key.encode()))
    data = p_hash + b"\x01" + message
    mask = b"".join(sha1(private[:20], U32.write(i)) for i in range(12))
    masked = bytes(a ^ b for a, b in zip(data, mask, strict=False))
    seed_mask = sha1(masked, bytes(4))
    block = bytes(a ^ b for a, b in zip(private[:20], seed_mask, strict=True)) + masked
    blob = MigrationBlob(bytes(len(block)), keychain.encrypt_oaep(keychain.srk_modulus(), block))
    return blob, see(road.source, own.restrict()), key


@pytest.mark.parametrize(
    ("payload", "prime", "parms", "code"),
    [
        (8, None, None, ReturnCode.SUCCESS),
        (3, None, None, ReturnCode.BAD_MIGRATION),
        (8, b"\x07" * 64, None, ReturnCode.BAD_PARAMETER),
        (8, None, KeyParms(Algorithm.AES128, 1, 1, b""), ReturnCode.BAD_KEY_PROPERTY),
    ],
)
def test_what_an_authority_may_have_put_into_a_blob(
    road: Road, payload: int, prime: bytes | None, parms: KeyParms | None, code: ReturnCode
) -> None:
    blob, ticket, key = _forge(road, payload=payload, prime=prime, parms=parms)
    own = dataclasses.replace(road, target=road.source)
    assert own.target.code(own.convert(blob, ticket, key=key)) == code
