# SPDX-License-Identifier: Apache-2.0
"""Certified migratable keys migrate (Part 3, 11.9 and 11.10).

A key goes from below the SRK to below the SRK. Blobs that no TPM would make are made here: the
inner block is masked with zeros.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from protocol.tpm12.constants import (
    KeyFlags,
    MigrationScheme,
    Ordinal,
    PayloadType,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.keys import Key, KeyParms, PubKey, StoreAsymKey
from protocol.tpm12.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from protocol.tpm12.wire import SIZED
from tests.conformance.cases_cmk import (
    CMK,
    authority_key,
    authority_list,
    authority_signs,
    cmk_template,
    key_maker,
    make_certified,
)
from tests.conformance.cases_migration import AES, create_blob, permit
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Auth, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.tpm12 import oaep
from tpmcore.tpm12.cmk import CmkConvertMigrationRequest, CmkCreateBlobRequest
from tpmcore.tpm12.migrationblob import encode_inner
from tpmcore.tpm12.oaep import OaepBlock
from tpmcore.tss12 import MigrationBlob

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
OWNED = World.OWNED
SCHEME = MigrationScheme


def _ticket(tpm: Script, signed: bytes) -> bytes:
    """Show the TPM the authority's signature of what has this digest."""
    signature = authority_signs(signed)
    return tpm.run(
        tss12.cmk_create_ticket(
            authority_key(), signed, signature, owner_auth=OWNER_AUTH, random=tpm.random
        )
    )


def _srk_public(tpm: Script) -> PubKey:
    return tpm.run(
        tss12.owner_read_internal_pub(ReservedHandle.SRK, owner_auth=OWNER_AUTH, random=tpm.random)
    )


@dataclass(frozen=True, slots=True)
class _Road:
    """A certified key, and all that lets it go from the SRK to the SRK.

    Attributes:
        srk: public key of the SRK.
        restrict: the authority's word that it may.
        ticket: that the TPM saw it signed.
    """

    tpm: Script
    key: Key
    srk: PubKey
    authorities: MsaComposite
    restrict: CmkAuth
    ticket: bytes
    permission: MigrationKeyAuth

    def out_request(self) -> CmkCreateBlobRequest:
        """Return the request that gives the key out."""
        return CmkCreateBlobRequest(
            SRK,
            SCHEME.RESTRICT_APPROVE,
            self.permission,
            self.key.public_key.digest(),
            self.authorities,
            self.restrict.encode(),
            self.ticket,
            self.key.enc_data,
        )

    def in_request(self, blob: MigrationBlob) -> CmkConvertMigrationRequest:
        """Return the request that takes the key in."""
        return CmkConvertMigrationRequest(
            SRK,
            self.restrict,
            self.ticket,
            replace(self.key, enc_data=blob.data),
            self.authorities,
            blob.random,
        )

    def give_out(
        self, code: ReturnCode = RC.SUCCESS, *, auth: Auth | None = None, **changes: object
    ) -> MigrationBlob:
        """Send CMK_CreateBlob, some fields of the request changed."""
        auth = auth or self.tpm.oiap(USAGE_AUTH if "parent_handle" in changes else SRK_AUTH)
        body = replace(self.out_request(), **changes).encode()  # type: ignore[arg-type]
        done = self.tpm.call(Ordinal.CMK_CREATE_BLOB, body=body, auth=[auth], code=code)
        return MigrationBlob(getattr(done, "random", b""), getattr(done, "out_data", b""))

    def take_in(
        self,
        blob: MigrationBlob,
        code: ReturnCode = RC.SUCCESS,
        *,
        auth: Auth | None = None,
        **changes: object,
    ) -> bytes:
        """Send CMK_ConvertMigration, some fields of the request changed."""
        auth = auth or self.tpm.oiap(USAGE_AUTH if "parent_handle" in changes else SRK_AUTH)
        body = replace(self.in_request(blob), **changes).encode()  # type: ignore[arg-type]
        done = self.tpm.call(Ordinal.CMK_CONVERT_MIGRATION, body=body, auth=[auth], code=code)
        return bytes(getattr(done, "out_data", b""))

    def forged(
        self,
        *,
        payload: int = PayloadType.CMK_MIGRATE,
        prime: bytes = b"",
        target: PubKey | None = None,
    ) -> MigrationBlob:
        """Return a blob with a pHash that is right, and a private key that need not be."""
        p_hash = hashlib.sha1(self.authorities.digest() + self.key.public_key.digest()).digest()
        store = StoreAsymKey(0, USAGE_AUTH, DIGEST, DIGEST, prime or bytes(63) + b"\7")
        inner = encode_inner(store, PayloadType(payload), p_hash)
        return _blob(target or self.srk, inner)


def _blob(target: PubKey, inner: bytes) -> MigrationBlob:
    return MigrationBlob(bytes(len(inner)), tss12.encrypt_oaep(target, inner))


def _road(tpm: Script) -> _Road:
    key, srk, authorities = make_certified(tpm), _srk_public(tpm), authority_list(tpm)
    restrict = CmkAuth(authorities.digest(), srk.digest(), key.public_key.digest())
    ticket = _ticket(tpm, restrict.digest())
    permission = permit(tpm, srk, SCHEME.RESTRICT_APPROVE)
    return _Road(tpm, key, srk, authorities, restrict, ticket, permission)


@case(OWNED, Ordinal.CMK_CREATE_BLOB, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_key_migrates_with_approval(tpm: Script) -> None:
    road = _road(tpm)
    enc_data = road.take_in(road.give_out())
    moved = replace(road.key, enc_data=enc_data)
    handle = tpm.run(tss12.load_key2(SRK, moved, parent_auth=SRK_AUTH, random=tpm.random))
    tpm.call(Ordinal.SIGN, handle, DIGEST, auth=[tpm.oiap(USAGE_AUTH)])
    # It can go on from there, and migrationType need not be that of the permission.
    again = road.give_out(enc_data=enc_data, migration_type=SCHEME.RESTRICT_MIGRATE)
    road.take_in(again)
    # But only as what it is.
    create_blob(tpm, road.permission, RC.BAD_MIGRATION, data=enc_data)


@case(OWNED, Ordinal.CMK_CREATE_BLOB, Ordinal.MIGRATE_KEY, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_key_migrates_by_way_of_its_authority(tpm: Script) -> None:
    road = _road(tpm)
    permission = permit(tpm, tpm.wrapped("migrate").public_key, SCHEME.RESTRICT_MIGRATE)
    blob = road.give_out(migration_key_auth=permission, restrict_ticket=b"", sig_ticket=b"")
    data = tpm.run(
        tss12.migrate_key(
            tpm.load("migrate"),
            road.srk,
            blob.data,
            authority_auth=USAGE_AUTH,
            random=tpm.random,
        )
    )
    road.take_in(MigrationBlob(blob.random, data))


def _false_restrictions(road: _Road) -> tuple[tuple[CmkAuth, ReturnCode], ...]:
    """Return what an authority may have signed that does not let this key go to this place."""
    elsewhere = replace(road.restrict, destination_key_digest=DIGEST)
    return (
        (elsewhere, RC.MA_DESTINATION),
        (replace(road.restrict, source_key_digest=DIGEST), RC.MA_SOURCE),
        # Both at once: the destination is judged first.
        (replace(elsewhere, source_key_digest=DIGEST), RC.MA_DESTINATION),
    )


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migrations_that_are_refused(tpm: Script) -> None:
    road = _road(tpm)
    road.give_out(RC.AUTHFAIL, auth=tpm.oiap(SRK_AUTH, spoil=True))
    road.give_out(RC.AUTHFAIL, auth=tpm.osap_owner())
    road.give_out(RC.INVALID_KEYHANDLE, parent_handle=7)
    road.give_out(RC.INVALID_KEYUSAGE, parent_handle=tpm.load("sign"))
    road.give_out(RC.INVALID_KEYUSAGE, parent_handle=tpm.load("storage-migratable"))
    road.give_out(RC.DECRYPT_ERROR, enc_data=bytes(256))
    other = MsaComposite((DIGEST, authority_key().digest()))
    road.give_out(RC.MA_AUTHORITY, msa_list=other)
    road.give_out(RC.MA_AUTHORITY, pub_source_key_digest=DIGEST)
    plain = permit(tpm, road.srk, SCHEME.MIGRATE)
    road.give_out(RC.BAD_PARAMETER, migration_key_auth=plain)
    for restrict, code in _false_restrictions(road):
        ticket = _ticket(tpm, restrict.digest())
        road.give_out(code, restrict_ticket=restrict.encode(), sig_ticket=ticket)
    # The HMAC comes first, then the parent, then what is given out.
    unfit = tpm.load("sign")
    road.give_out(RC.AUTHFAIL, parent_handle=unfit, auth=tpm.osap_key())
    road.give_out(RC.INVALID_KEYUSAGE, parent_handle=unfit, enc_data=bytes(256))
    road.give_out(RC.MA_AUTHORITY, msa_list=other, migration_key_auth=plain)


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migration_without_permission(tpm: Script) -> None:
    road = _road(tpm)
    road.give_out(RC.MIGRATEFAIL, migration_key_auth=replace(road.permission, digest=DIGEST))
    # Before the payload type is looked at.
    road.give_out(
        RC.MIGRATEFAIL,
        migration_key_auth=replace(road.permission, digest=DIGEST),
        enc_data=tpm.wrapped("sign").enc_data,
    )


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def a_certified_migration_with_a_false_ticket(tpm: Script) -> None:
    road = _road(tpm)
    road.give_out(RC.MA_AUTHORITY, sig_ticket=DIGEST)
    # A ticket for something else, which the same authority signed.
    road.give_out(RC.MA_AUTHORITY, sig_ticket=_ticket(tpm, DIGEST))


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def a_certified_migration_to_what_is_no_authority(tpm: Script) -> None:
    road = _road(tpm)
    permission = permit(tpm, road.srk, SCHEME.RESTRICT_MIGRATE)
    road.give_out(
        RC.MA_AUTHORITY, migration_key_auth=permission, restrict_ticket=b"", sig_ticket=b""
    )


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migrations_to_an_authority_with_tickets(tpm: Script) -> None:
    road = _road(tpm)
    permission = permit(tpm, tpm.wrapped("migrate").public_key, SCHEME.RESTRICT_MIGRATE)
    road.give_out(RC.BAD_PARAMETER, migration_key_auth=permission, sig_ticket=b"")
    road.give_out(RC.BAD_PARAMETER, migration_key_auth=permission, restrict_ticket=b"")
    road.give_out(RC.BAD_PARAMETER, migration_key_auth=permission)


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def a_certified_migration_to_an_authority_that_signs(tpm: Script) -> None:
    """The authority's key is for encryption as its scheme says, but it has a signature scheme."""
    public = tpm.wrapped("migrate").public_key
    both = replace(public, algorithm_parms=KeyParms.for_rsa(enc_scheme=3, sig_scheme=2))
    authorities = MsaComposite((both.digest(),))
    approval = tpm.run(tss12.cmk_approve_ma(authorities, owner_auth=OWNER_AUTH, random=tpm.random))
    key = tpm.run(
        tss12.cmk_create_key(
            SRK,
            cmk_template(),
            authorities=authorities,
            approval=approval,
            parent_auth=SRK_AUTH,
            usage_auth=USAGE_AUTH,
            random=tpm.random,
        )
    )
    tpm.fails(
        tss12.cmk_create_blob(
            SRK,
            key,
            permission=permit(tpm, both, SCHEME.RESTRICT_MIGRATE),
            authorities=authorities,
            ticket=None,
            parent_auth=SRK_AUTH,
            random=tpm.random,
        ),
        Ordinal.CMK_CREATE_BLOB,
        RC.INVALID_KEYUSAGE,
    )


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migrations_with_tickets_of_the_wrong_size(tpm: Script) -> None:
    road = _road(tpm)
    road.give_out(RC.BAD_PARAM_SIZE, sig_ticket=DIGEST[:-1])
    short = road.restrict.encode()[:-1]
    ticket = _ticket(tpm, hashlib.sha1(short).digest())
    road.give_out(RC.BAD_PARAM_SIZE, restrict_ticket=short, sig_ticket=ticket)


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migrations_without_tickets(tpm: Script) -> None:
    road = _road(tpm)
    road.give_out(RC.BAD_PARAM_SIZE, sig_ticket=b"")
    ticket = _ticket(tpm, hashlib.sha1(b"").digest())
    road.give_out(RC.BAD_PARAM_SIZE, restrict_ticket=b"", sig_ticket=ticket)


def _listed(road: _Road, authorities: bytes, code: ReturnCode) -> None:
    """Give out and take in with other bytes where the list of the authorities is."""
    sized = SIZED.write(road.authorities.encode())
    for ordinal, request in (
        (Ordinal.CMK_CREATE_BLOB, road.out_request()),
        (Ordinal.CMK_CONVERT_MIGRATION, road.in_request(road.forged())),
    ):
        body = request.encode().replace(sized, SIZED.write(authorities))
        road.tpm.call(ordinal, body=body, auth=[road.tpm.oiap(SRK_AUTH)], code=code)


@case(OWNED, Ordinal.CMK_CREATE_BLOB, Ordinal.CMK_CONVERT_MIGRATION)
def certified_migrations_with_a_list_that_does_not_parse(tpm: Script) -> None:
    road = _road(tpm)
    _listed(road, bytes(4), RC.INVALID_STRUCTURE)
    _listed(road, road.authorities.encode()[:-1], RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.CMK_CREATE_BLOB, Ordinal.CMK_CONVERT_MIGRATION)
def certified_migrations_with_a_list_and_a_tail(tpm: Script) -> None:
    road = _road(tpm)
    _listed(road, road.authorities.encode() + b"\0", RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.CMK_CREATE_BLOB)
def certified_migration_of_a_key_that_is_not_certified(tpm: Script) -> None:
    road = _road(tpm)
    for name in ("sign", "sign-migratable"):
        road.give_out(RC.INVALID_STRUCTURE, enc_data=tpm.wrapped(name).enc_data)
    # Before its authorities are looked at.
    road.give_out(
        RC.INVALID_STRUCTURE,
        enc_data=tpm.wrapped("sign").enc_data,
        msa_list=MsaComposite((DIGEST,)),
    )


@case(OWNED, Ordinal.CREATE_MIGRATION_BLOB)
def plain_migration_of_a_certified_key(tpm: Script) -> None:
    permission = permit(tpm, tpm.wrapped("storage").public_key)
    create_blob(tpm, permission, RC.BAD_MIGRATION, data=make_certified(tpm).enc_data)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def certified_conversions_that_are_refused(tpm: Script) -> None:
    road = _road(tpm)
    blob = road.give_out()
    road.take_in(blob, RC.AUTHFAIL, auth=tpm.oiap(SRK_AUTH, spoil=True))
    road.take_in(blob, RC.AUTHFAIL, auth=tpm.osap_owner())
    road.take_in(blob, RC.INVALID_KEYHANDLE, parent_handle=7)
    road.take_in(blob, RC.INVALID_KEYUSAGE, parent_handle=tpm.load("sign"))
    road.take_in(MigrationBlob(blob.random, bytes(256)), RC.DECRYPT_ERROR)
    road.take_in(blob, RC.BAD_PARAMETER, random=blob.random[:-1])
    road.take_in(blob, RC.DECRYPT_ERROR, random=bytes(len(blob.random)))
    road.take_in(_blob(road.srk, bytes(40)), RC.DECRYPT_ERROR)
    # Other authorities, or another public key, than those that the blob was made for.
    road.take_in(blob, RC.AUTHFAIL, msa_list=MsaComposite((DIGEST,)))
    other = replace(tpm.wrapped("sign"), enc_data=blob.data, key_flags=CMK, is_key12=True)
    road.take_in(blob, RC.AUTHFAIL, migrated_key=other)
    road.take_in(road.forged(payload=PayloadType.MIGRATE), RC.BAD_MIGRATION)
    for restrict, code in _false_restrictions(road):
        ticket = _ticket(tpm, restrict.digest())
        road.take_in(blob, code, restrict_ticket=restrict, sig_ticket=ticket)
    for flags in (0, KeyFlags.MIGRATABLE, KeyFlags.MIGRATE_AUTHORITY):
        plain = replace(road.key, enc_data=blob.data, key_flags=flags)
        road.take_in(blob, RC.INVALID_KEYUSAGE, migrated_key=plain)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def certified_conversions_with_two_faults_at_once(tpm: Script) -> None:
    road = _road(tpm)
    blob = road.give_out()
    unfit = tpm.load("sign")
    road.take_in(blob, RC.AUTHFAIL, parent_handle=unfit, auth=tpm.osap_key())
    road.take_in(MigrationBlob(b"", b""), RC.INVALID_KEYUSAGE, parent_handle=unfit)
    wrong = road.forged(payload=PayloadType.MIGRATE)
    road.take_in(wrong, RC.AUTHFAIL, msa_list=MsaComposite((DIGEST,)))
    road.take_in(wrong, RC.BAD_MIGRATION, sig_ticket=DIGEST)
    restrict = replace(road.restrict, destination_key_digest=DIGEST)
    ticket = _ticket(tpm, restrict.digest())
    road.take_in(road.forged(), RC.MA_DESTINATION, restrict_ticket=restrict, sig_ticket=ticket)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_below_a_migratable_key(tpm: Script) -> None:
    road = _road(tpm)
    target = tpm.load("storage-migratable")
    blob = road.forged(target=tpm.wrapped("storage-migratable").public_key)
    road.take_in(blob, RC.INVALID_KEYUSAGE, parent_handle=target)
    # After pHash, before the payload type.
    other = MsaComposite((DIGEST,))
    road.take_in(blob, RC.AUTHFAIL, parent_handle=target, msa_list=other)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_with_a_private_key_of_another(tpm: Script) -> None:
    road = _road(tpm)
    road.take_in(road.forged(), RC.BAD_PARAMETER)
    # That is judged before the flags of the key and the source that the authority named.
    plain = replace(road.key, key_flags=0)
    road.take_in(road.forged(), RC.BAD_PARAMETER, migrated_key=plain)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_of_a_key_that_is_not_for_rsa(tpm: Script) -> None:
    road = _road(tpm)
    symmetric = replace(road, key=replace(road.key, algorithm_parms=AES, pub_key=bytes(16)))
    symmetric.take_in(symmetric.forged(), RC.BAD_KEY_PROPERTY)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_that_does_not_parse(tpm: Script) -> None:
    road = _road(tpm)
    inner = oaep.encode(OaepBlock(DIGEST, DIGEST, b"\x08"))
    road.take_in(_blob(road.srk, inner), RC.BAD_PARAM_SIZE)


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_with_the_public_part_in_the_old_form(tpm: Script) -> None:
    road = _road(tpm)
    blob = road.give_out()
    road.take_in(blob, migrated_key=replace(road.key, enc_data=blob.data, is_key12=False))


@case(OWNED, Ordinal.CMK_CONVERT_MIGRATION)
def a_certified_conversion_with_a_false_ticket(tpm: Script) -> None:
    road = _road(tpm)
    blob = road.give_out()
    road.take_in(blob, RC.MA_AUTHORITY, sig_ticket=DIGEST)
    road.take_in(blob, RC.MA_AUTHORITY, sig_ticket=_ticket(tpm, DIGEST))


@case(OWNED, Ordinal.CMK_CREATE_KEY, Ordinal.CMK_CREATE_BLOB, Ordinal.CMK_CONVERT_MIGRATION)
def certified_keys_and_parents_whose_pcrs_have_changed(tpm: Script) -> None:
    road, maker = _road(tpm), key_maker(tpm)
    parent = tpm.load("storage-bound")
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    maker.create(cmk_template(), RC.WRONGPCRVAL, parent=parent)
    road.give_out(RC.WRONGPCRVAL, parent_handle=parent)
    road.take_in(MigrationBlob(b"", b""), RC.WRONGPCRVAL, parent_handle=parent)


@case(OWNED, Ordinal.CMK_CREATE_KEY, Ordinal.CMK_CREATE_BLOB, Ordinal.CMK_CONVERT_MIGRATION)
def certified_keys_and_parents_of_another_locality(tpm: Script) -> None:
    road, maker = _road(tpm), key_maker(tpm)
    parent = tpm.load("storage-bound")
    tpm.locality = 1
    maker.create(cmk_template(), RC.BAD_LOCALITY, parent=parent)
    road.give_out(RC.BAD_LOCALITY, parent_handle=parent)
    road.take_in(MigrationBlob(b"", b""), RC.BAD_LOCALITY, parent_handle=parent)
