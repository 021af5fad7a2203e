# SPDX-License-Identifier: Apache-2.0
"""Delegation: families, rows and blobs, and what sessions opened with them may do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocol.tpm12.constants import (
    AdipScheme,
    CapabilityArea,
    CapabilityProperty,
    EntityType,
    KeyFlags,
    Ordinal,
    PayloadType,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    StartupType,
)
from protocol.tpm12.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateType,
    Delegations,
    FamilyOperation,
)
from protocol.tpm12.wire import U32
from tests.unit.tpm12.keychain import (
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    craft_key,
    load,
    make_and_load,
    sha1,
    signing_key,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Failed
from tpmcore.tpm12.stateformat import decode_permanent
from tpmcore.tss12 import Conversation, Session
from tpmcore.tss12.conversation import nothing

DELEGATE_AUTH = b"secret of a delegate"
OTHER_AUTH = b"secret of another one"[:20]
ZERO = bytes(20)
# Bits of per1 (Part 2, 20.2).
OWNER_READ_PUBEK = 1 << 9
MANAGE = 1 << 2
CREATE_OWNER = 1 << 1
UPDATE = 1 << 5
LOAD_OWNER = 1 << 24
SET_CAPABILITY = 1 << 12
EVERYTHING = 0xFFFFFFFF
SIGN = 1 << 14
CREATE_KEY = 1 << 7
EVERY_KEY_BIT = 0x1FFFFFFF


def _public(
    family_id: int,
    per1: int,
    *,
    kind: DelegateType = DelegateType.OWNER,
    release: dict[int, bytes] | None = None,
    localities: int = 0x1F,
    count: int = 0,
) -> DelegatePublic:
    info = tss12.pcr_info_short(release, localities=localities)
    return DelegatePublic(0x5A, info, Delegations(kind, per1), family_id, count)


def _family(chip: Chip, *, enable: bool = True) -> int:
    return chip.run(
        tss12.create_family(0x41, owner_auth=OWNER_AUTH, random=chip.client_random, enable=enable)
    )


def _manage(
    chip: Chip,
    family_id: int,
    operation: int,
    data: bytes = b"",
    *,
    auth: bytes | None = OWNER_AUTH,
    session: Session | None = None,
) -> int:
    return chip.code(
        tss12.delegate_manage(
            family_id,
            operation,
            data,
            owner_auth=auth,
            random=chip.client_random,
            session=session,
        )
    )


def _owner_blob(
    chip: Chip,
    public: DelegatePublic,
    *,
    increment: bool = False,
    session: Session | None = None,
    auth: bytes = DELEGATE_AUTH,
) -> Conversation[DelegateOwnerBlob]:
    return tss12.create_owner_delegation(
        public,
        owner_auth=OWNER_AUTH,
        delegate_auth=auth,
        random=chip.client_random,
        increment=increment,
        session=session,
    )


def _key_blob(
    chip: Chip, handle: int, public: DelegatePublic, *, session: Session | None = None
) -> Conversation[DelegateKeyBlob]:
    return tss12.create_key_delegation(
        handle,
        public,
        key_auth=USAGE_AUTH,
        delegate_auth=DELEGATE_AUTH,
        random=chip.client_random,
        session=session,
    )


def _load(
    chip: Chip,
    row: int,
    blob: DelegateOwnerBlob,
    *,
    auth: bytes | None = OWNER_AUTH,
    session: Session | None = None,
) -> int:
    return chip.code(
        tss12.load_owner_delegation(
            row, blob, owner_auth=auth, random=chip.client_random, session=session
        )
    )


def _row(chip: Chip, per1: int, *, row: int = 0, family_id: int | None = None) -> int:
    """Load a row of a new family; return the family."""
    family = _family(chip) if family_id is None else family_id
    blob = chip.run(_owner_blob(chip, _public(family, per1)))
    assert _load(chip, row, blob) == ReturnCode.SUCCESS
    return family


def _dsap(
    chip: Chip,
    kind: EntityType,
    value: bytes,
    *,
    key_handle: int = 0,
    adip: AdipScheme = AdipScheme.XOR,
) -> Conversation[Session]:
    return tss12.dsap(
        kind, value, DELEGATE_AUTH, random=chip.client_random, key_handle=key_handle, adip=adip
    )


def _row_session(chip: Chip, row: int = 0) -> Session:
    return chip.run(tss12.dsap_row(row, DELEGATE_AUTH, random=chip.client_random))


def _pubek(chip: Chip, session: Session | None = None, *, auth: bytes = OWNER_AUTH) -> int:
    """Run OwnerReadPubek, which needs bit 9."""
    return chip.code(
        tss12.with_secret(
            Ordinal.OWNER_READ_PUBEK,
            lambda reader: reader.rest(),
            auth,
            random=chip.client_random,
            session=session,
        )
    )


def _count(chip: Chip, family_id: int) -> int:
    families = chip.run(tss12.read_delegation_tables()).families
    return next(f.verification_count for f in families if f.family_id == family_id)


def _handles(chip: Chip) -> list[int]:
    return chip.run(tss12.handles(ResourceType.AUTH))


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


# --- families ------------------------------------------------------------------------------------


def test_a_new_family_has_the_next_id_count_one_and_no_flags(chip: Chip) -> None:
    assert [_family(chip, enable=False) for _ in range(2)] == [1, 2]
    families = chip.run(tss12.read_delegation_tables()).families
    # TPM_FAMILY_TABLE_ENTRY: tag, label, id, verification count, flags.
    assert families[1].encode().hex() == "0025" + "41" + "00000002" + "00000001" + "00000000"
    chip.power_cycle()
    assert chip.run(tss12.read_delegation_tables()).families == families


def test_flags_of_a_family_are_set_and_cleared(chip: Chip) -> None:
    family = _family(chip, enable=False)
    for operation, flag in ((FamilyOperation.ENABLE, 1), (FamilyOperation.ADMIN, 2)):
        for value in (1, 0):
            assert _manage(chip, family, operation, bytes([value])) == ReturnCode.SUCCESS
            assert chip.run(tss12.read_delegation_tables()).families[0].flags == flag * value


def test_an_id_is_never_used_again_and_a_freed_row_is(chip: Chip) -> None:
    first, second = _family(chip), _family(chip)
    assert _manage(chip, first, FamilyOperation.INVALIDATE) == ReturnCode.SUCCESS
    third = _family(chip)
    assert third == 3
    families = chip.run(tss12.read_delegation_tables()).families
    assert [family.family_id for family in families] == [third, second]


def test_the_family_table_has_sixteen_rows(chip: Chip) -> None:
    for _ in range(16):
        _family(chip, enable=False)
    assert _manage(chip, 0, FamilyOperation.CREATE, b"A") == ReturnCode.RESOURCES
    assert _manage(chip, 16, FamilyOperation.INVALIDATE) == ReturnCode.SUCCESS
    assert _family(chip) == 17


@pytest.mark.parametrize(
    ("operation", "data", "code"),
    [
        (FamilyOperation.CREATE, b"", ReturnCode.BAD_PARAM_SIZE),
        (FamilyOperation.CREATE, b"ab", ReturnCode.BAD_PARAM_SIZE),
        (FamilyOperation.ENABLE, b"", ReturnCode.BAD_PARAM_SIZE),
        (FamilyOperation.ADMIN, b"\x01\x01", ReturnCode.BAD_PARAM_SIZE),
        (FamilyOperation.ENABLE, b"\x02", ReturnCode.BAD_PARAMETER),
        (0, b"", ReturnCode.BAD_PARAMETER),
        (5, b"\x01", ReturnCode.BAD_PARAMETER),
    ],
)
def test_operations_that_are_none_change_nothing(
    chip: Chip, operation: int, data: bytes, code: ReturnCode
) -> None:
    family = _family(chip)
    before = chip.durable
    assert _manage(chip, family, operation, data) == code
    assert chip.durable == before


def test_families_belong_to_the_owner_if_there_is_one(chip: Chip) -> None:
    family = _family(chip)
    enable = FamilyOperation.ENABLE
    assert _manage(chip, 99, enable, b"\x00", auth=WRONG_AUTH) == ReturnCode.BADINDEX
    assert _manage(chip, family, enable, b"\x00", auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _manage(chip, family, enable, b"\x00", auth=None) == ReturnCode.AUTHFAIL
    assert chip.run(tss12.read_delegation_tables()).families[0].flags == 1


def test_without_an_owner_families_are_made_until_they_are_locked() -> None:
    chip = make_chip()
    family = chip.run(tss12.create_family(1))
    assert _manage(chip, family, FamilyOperation.ENABLE, b"\x01") == ReturnCode.AUTHFAIL
    assert _manage(chip, family, FamilyOperation.ADMIN, b"\x01", auth=None) == ReturnCode.SUCCESS
    code = _manage(chip, family, FamilyOperation.INVALIDATE, auth=None)
    assert code == ReturnCode.DELEGATE_LOCK
    assert _manage(chip, 0, FamilyOperation.CREATE, b"B", auth=None) == ReturnCode.SUCCESS


def test_without_an_owner_the_tables_are_written_sixty_four_times() -> None:
    chip = make_chip()
    family = chip.run(tss12.create_family(1))
    for _ in range(62):
        chip.run(tss12.delegate_manage(family, FamilyOperation.ENABLE, b"\x01"))
    code = _manage(chip, family, FamilyOperation.ENABLE, b"\x00", auth=None)
    assert code == ReturnCode.MAXNVWRITES
    assert decode_permanent(chip.durable).no_owner_nv_write == 64


def test_clearing_the_owner_empties_the_tables_and_ids_go_on(chip: Chip) -> None:
    _row(chip, EVERYTHING)
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    tables = chip.run(tss12.read_delegation_tables())
    assert (tables.families, tables.rows) == ((), {})
    assert chip.run(tss12.create_family(1)) == 2


# --- blobs ---------------------------------------------------------------------------------------


def test_an_owner_blob_is_what_the_specification_says(chip: Chip) -> None:
    family = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(family, MANAGE, count=77)))
    state = decode_permanent(chip.durable)
    cipher = Cipher(algorithms.AES(state.delegate_key), modes.CTR(blob.additional_area))
    # TPM_DELEGATE_SENSITIVE: tag, authValue.
    plain = cipher.decryptor().update(blob.sensitive_area)
    assert plain == bytes.fromhex("0026") + DELEGATE_AUTH
    public = bytes.fromhex(
        "001b 5a"  # tag, rowLabel
        "0003 000000 1f"
        + "00"
        * 20  # pcrInfo
        + "001a 00000001 00000004 00000000"  # permissions
        "00000001 00000001"  # familyID, verificationCount of the family
    )
    zeroed = bytes.fromhex("002a") + public + ZERO
    for area in (blob.additional_area, blob.sensitive_area):
        zeroed += len(area).to_bytes(4, "big") + area
    assert blob.integrity_digest == hmac.digest(state.tpm_proof, zeroed, "sha1")
    assert chip.code(tss12.verify_delegation(blob.encode())) == ReturnCode.SUCCESS


def test_a_key_blob_names_its_key_by_length_and_modulus(chip: Chip) -> None:
    family = _family(chip)
    key, handle = make_and_load(chip, signing_key())
    blob = chip.run(_key_blob(chip, handle, _public(family, SIGN, kind=DelegateType.KEY)))
    length = len(key.pub_key).to_bytes(4, "big")
    assert blob.pub_key_digest == hashlib.sha1(length + key.pub_key).digest()
    assert blob.public.verification_count == 1
    assert _handles(chip) == []
    assert chip.code(tss12.verify_delegation(blob.encode())) == ReturnCode.SUCCESS


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"family_id": 9}, ReturnCode.BADINDEX),
        ({"permissions": Delegations(DelegateType.KEY, 1)}, ReturnCode.BAD_PARAMETER),
        ({"permissions": Delegations(3, 0)}, ReturnCode.BAD_PARAMETER),
        ({"permissions": Delegations(DelegateType.OWNER, 1, 1)}, ReturnCode.BAD_PARAMETER),
        ({"permissions": Delegations(DelegateType.KEY, 1 << 29)}, ReturnCode.BAD_PARAMETER),
    ],
)
def test_an_owner_delegation_that_cannot_be(
    chip: Chip, change: dict[str, object], code: ReturnCode
) -> None:
    public = replace(_public(_family(chip), MANAGE), **change)  # type: ignore[arg-type]
    before = chip.durable
    assert chip.code(_owner_blob(chip, public, increment=True)) == code
    assert chip.durable == before


def test_a_key_delegation_that_cannot_be(chip: Chip) -> None:
    family = _family(chip)
    _, handle = make_and_load(chip, signing_key())
    key_bits = _public(family, SIGN, kind=DelegateType.KEY)
    for public, code in (
        (replace(key_bits, family_id=9), ReturnCode.BADINDEX),
        (_public(family, SIGN), ReturnCode.BAD_PARAMETER),
    ):
        assert chip.code(_key_blob(chip, handle, public)) == code
    assert chip.code(_key_blob(chip, 0x1234, key_bits)) == ReturnCode.INVALID_KEYHANDLE
    session = chip.run(tss12.osap_key(SRK, SRK_AUTH, random=chip.client_random))
    attempt = _key_blob(chip, handle, key_bits, session=session)
    assert chip.code(attempt) == ReturnCode.AUTHFAIL
    oiap = replace(chip.run(tss12.oiap()), shared_secret=USAGE_AUTH)
    assert chip.code(_key_blob(chip, handle, key_bits, session=oiap)) == ReturnCode.BAD_MODE


def test_making_an_owner_delegation_needs_an_osap_session(chip: Chip) -> None:
    family = _family(chip)
    oiap = replace(chip.run(tss12.oiap()), shared_secret=OWNER_AUTH)
    attempt = _owner_blob(chip, _public(family, 1), session=oiap)
    assert chip.code(attempt) == ReturnCode.BAD_MODE
    osap = chip.run(tss12.osap_owner(WRONG_AUTH, random=chip.client_random))
    attempt = _owner_blob(chip, _public(family, 1), session=osap)
    assert chip.code(attempt) == ReturnCode.AUTHFAIL


def test_incrementing_makes_every_older_delegation_stale(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    old = chip.run(_owner_blob(chip, _public(family, OWNER_READ_PUBEK)))
    session = _row_session(chip)
    new = chip.run(_owner_blob(chip, _public(family, OWNER_READ_PUBEK), increment=True))
    assert new.public.verification_count == _count(chip, family) == 2
    assert _pubek(chip, session) == ReturnCode.INVALID_AUTHHANDLE
    assert chip.code(tss12.verify_delegation(old.encode())) == ReturnCode.FAMILYCOUNT
    stale = _dsap(chip, EntityType.DEL_OWNER_BLOB, old.encode())
    assert chip.code(stale) == ReturnCode.FAMILYCOUNT
    assert chip.code(_dsap(chip, EntityType.DEL_ROW, U32.write(0))) == ReturnCode.FAMILYCOUNT
    assert chip.code(tss12.verify_delegation(new.encode())) == ReturnCode.SUCCESS


def test_verification_refuses_in_the_order_of_the_table(chip: Chip) -> None:
    family = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(family, 1)))

    def verify(changed: DelegateOwnerBlob) -> int:
        return chip.code(tss12.verify_delegation(changed.encode()))

    for too_short in (b"", b"\x00"):
        assert chip.code(tss12.verify_delegation(too_short)) == ReturnCode.BAD_PARAM_SIZE
    assert chip.code(tss12.verify_delegation(b"\x00\x26" + ZERO)) == ReturnCode.BAD_PARAMETER
    cut = tss12.verify_delegation(blob.encode()[:-1])
    assert chip.code(cut) == ReturnCode.BAD_PARAM_SIZE
    stale = replace(blob, public=replace(blob.public, verification_count=9))
    assert verify(stale) == ReturnCode.FAMILYCOUNT
    assert verify(replace(blob, integrity_digest=ZERO)) == ReturnCode.AUTHFAIL
    assert verify(replace(blob, sensitive_area=b"x" * 22)) == ReturnCode.AUTHFAIL
    assert _manage(chip, family, FamilyOperation.ENABLE, b"\x00") == ReturnCode.SUCCESS
    assert verify(stale) == ReturnCode.DISABLED_CMD
    assert _manage(chip, family, FamilyOperation.INVALIDATE) == ReturnCode.SUCCESS
    assert verify(stale) == ReturnCode.BADINDEX


def test_a_blob_that_was_updated_counts_again(chip: Chip) -> None:
    family = _family(chip)
    _, handle = make_and_load(chip, signing_key())
    owner_blob = chip.run(_owner_blob(chip, _public(family, MANAGE)))
    key_blob = chip.run(_key_blob(chip, handle, _public(family, SIGN, kind=DelegateType.KEY)))
    chip.run(_owner_blob(chip, _public(family, MANAGE), increment=True))
    for blob in (owner_blob.encode(), key_blob.encode()):
        assert chip.code(tss12.verify_delegation(blob)) == ReturnCode.FAMILYCOUNT
        updated = chip.run(
            tss12.update_verification(blob, owner_auth=OWNER_AUTH, random=chip.client_random)
        )
        assert chip.code(tss12.verify_delegation(updated)) == ReturnCode.SUCCESS
        assert len(updated) == len(blob)


def _update(
    chip: Chip, data: bytes, *, auth: bytes = OWNER_AUTH, session: Session | None = None
) -> int:
    return chip.code(
        tss12.update_verification(data, owner_auth=auth, random=chip.client_random, session=session)
    )


def test_a_row_that_was_updated_counts_again(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    chip.run(_owner_blob(chip, _public(family, MANAGE), increment=True))
    assert _update(chip, U32.write(0), auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _update(chip, U32.write(0)) == ReturnCode.SUCCESS
    assert _pubek(chip, _row_session(chip)) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert chip.run(tss12.read_delegation_tables()).rows[0].verification_count == 2


def test_what_cannot_be_updated(chip: Chip) -> None:
    family = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(family, 1)))
    assert _update(chip, U32.write(0)) == ReturnCode.BADINDEX
    assert _update(chip, U32.write(4)) == ReturnCode.BADINDEX
    assert _update(chip, b"") == ReturnCode.BAD_PARAM_SIZE
    assert _update(chip, b"\x00\x01\x02\x03\x04") == ReturnCode.BAD_PARAMETER
    assert _update(chip, replace(blob, integrity_digest=ZERO).encode()) == ReturnCode.AUTHFAIL
    assert _manage(chip, family, FamilyOperation.INVALIDATE) == ReturnCode.SUCCESS
    assert _update(chip, blob.encode()) == ReturnCode.BADINDEX


# --- rows ----------------------------------------------------------------------------------------


def test_a_loaded_row_is_told_without_its_secret_and_outlives_the_power(chip: Chip) -> None:
    family = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(family, MANAGE)))
    assert _load(chip, 3, blob) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert chip.run(tss12.read_delegation_tables()).rows == {3: blob.public}
    assert DELEGATE_AUTH not in chip.log[-1][1]


def test_loading_is_refused_in_the_order_of_the_table(chip: Chip) -> None:
    family = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(family, MANAGE)))
    foreign = replace(blob, integrity_digest=ZERO)
    before = chip.durable
    assert _load(chip, 9, foreign, auth=None) == ReturnCode.AUTHFAIL
    assert _load(chip, 9, foreign, auth=WRONG_AUTH) == ReturnCode.AUTHFAIL
    assert _load(chip, 9, foreign) == ReturnCode.AUTHFAIL
    assert _load(chip, 4, blob) == ReturnCode.BADINDEX
    assert chip.durable == before
    assert _manage(chip, family, FamilyOperation.ENABLE, b"\x00") == ReturnCode.SUCCESS
    assert _load(chip, 9, foreign, auth=None) == ReturnCode.DISABLED_CMD
    assert _manage(chip, family, FamilyOperation.INVALIDATE) == ReturnCode.SUCCESS
    assert _load(chip, 9, foreign, auth=None) == ReturnCode.BADINDEX


def test_without_an_owner_a_row_is_loaded_in_the_clear() -> None:
    chip = make_chip()
    family = chip.run(tss12.create_family(1))
    public = _public(family, OWNER_READ_PUBEK, count=1)
    clear = bytes.fromhex("0026") + DELEGATE_AUTH
    blob = DelegateOwnerBlob(public, ZERO, b"", clear)
    assert _load(chip, 0, blob) == ReturnCode.AUTHFAIL
    bad_tag = replace(blob, sensitive_area=b"\x00\x27" + DELEGATE_AUTH)
    assert _load(chip, 0, bad_tag, auth=None) == ReturnCode.INVALID_STRUCTURE
    assert _load(chip, 4, blob, auth=None) == ReturnCode.BADINDEX
    assert _load(chip, 0, blob, auth=None) == ReturnCode.SUCCESS
    assert decode_permanent(chip.durable).no_owner_nv_write == 3
    assert chip.code(_dsap(chip, EntityType.DEL_ROW, U32.write(0))) == ReturnCode.NOSRK
    chip.run(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=chip.client_random)
    )
    assert _pubek(chip, _row_session(chip)) == ReturnCode.SUCCESS


def test_without_an_owner_rows_of_a_locked_family_stay() -> None:
    chip = make_chip()
    family = chip.run(tss12.create_family(1))
    _manage(chip, family, FamilyOperation.ADMIN, b"\x01", auth=None)
    blob = DelegateOwnerBlob(_public(family, 1, count=1), ZERO, b"", b"")
    assert _load(chip, 0, blob, auth=None) == ReturnCode.DELEGATE_LOCK


def test_a_change_of_the_tables_that_was_not_saved_did_not_happen(chip: Chip) -> None:
    family = _family(chip)
    chip.persist_result = Failed(ReturnCode.IOERROR)
    assert _manage(chip, family, FamilyOperation.INVALIDATE) == ReturnCode.IOERROR
    assert chip.run(tss12.read_delegation_tables()).families[0].family_id == family


# --- sessions ------------------------------------------------------------------------------------


def test_a_row_opens_what_it_permits_and_nothing_else(chip: Chip) -> None:
    _row(chip, OWNER_READ_PUBEK)
    session = _row_session(chip)
    assert _pubek(chip, session) == ReturnCode.SUCCESS
    assert _pubek(chip, session) == ReturnCode.SUCCESS
    refused = tss12.with_secret(
        Ordinal.DISABLE_OWNER_CLEAR, nothing, b"", random=chip.client_random, session=session
    )
    assert chip.code(refused) == ReturnCode.AUTHFAIL
    assert _handles(chip) == []
    assert not chip.run(tss12.permanent_flags()).disable_owner_clear


def test_what_cannot_be_delegated_is_refused_to_every_delegate(chip: Chip) -> None:
    _row(chip, EVERYTHING)
    session = _row_session(chip)
    refused = tss12.with_secret(
        Ordinal.GET_CAPABILITY_OWNER, nothing, b"", random=chip.client_random, session=session
    )
    assert chip.code(refused) == ReturnCode.AUTHFAIL


def test_a_session_needs_the_secret_of_the_delegate(chip: Chip) -> None:
    _row(chip, OWNER_READ_PUBEK)
    for secret in (OWNER_AUTH, OTHER_AUTH):
        session = chip.run(tss12.dsap_row(0, secret, random=chip.client_random))
        assert _pubek(chip, session) == ReturnCode.AUTHFAIL


@pytest.mark.parametrize("adip", AdipScheme)
def test_an_owner_blob_opens_what_it_permits(chip: Chip, adip: AdipScheme) -> None:
    family = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(family, OWNER_READ_PUBEK)))
    session = chip.run(_dsap(chip, EntityType.DEL_OWNER_BLOB, blob.encode(), adip=adip))
    assert _pubek(chip, session) == ReturnCode.SUCCESS
    changed = replace(blob, public=_public(family, EVERYTHING, count=1))
    forged = _dsap(chip, EntityType.DEL_OWNER_BLOB, changed.encode())
    assert chip.code(forged) == ReturnCode.AUTHFAIL


def _sign(chip: Chip, handle: int, session: Session) -> int:
    return chip.code(
        tss12.sign(handle, ZERO, key_auth=b"", random=chip.client_random, session=session)
    )


@pytest.mark.parametrize("adip", AdipScheme)
def test_a_key_blob_opens_its_key_for_what_it_permits(chip: Chip, adip: AdipScheme) -> None:
    family = _family(chip)
    key, handle = make_and_load(chip, signing_key())
    blob = chip.run(_key_blob(chip, handle, _public(family, SIGN, kind=DelegateType.KEY)))
    session = chip.run(
        _dsap(chip, EntityType.DEL_KEY_BLOB, blob.encode(), key_handle=handle, adip=adip)
    )
    assert _sign(chip, handle, session) == ReturnCode.SUCCESS
    # The same key under another handle is the same entity.
    again = load(chip, key)
    assert _sign(chip, again, session) == ReturnCode.SUCCESS
    refused = tss12.with_secret(
        Ordinal.GET_PUB_KEY,
        nothing,
        b"",
        random=chip.client_random,
        handles=U32.write(handle),
        session=session,
    )
    assert chip.code(refused) == ReturnCode.AUTHFAIL


def test_a_key_blob_is_of_no_use_for_another_key(chip: Chip) -> None:
    family = _family(chip)
    _, handle = make_and_load(chip, signing_key())
    _, other = make_and_load(chip, signing_key())
    public = _public(family, EVERY_KEY_BIT, kind=DelegateType.KEY)
    blob = chip.run(_key_blob(chip, handle, public)).encode()
    wrong = _dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=other)
    assert chip.code(wrong) == ReturnCode.KEYNOTFOUND
    unknown = _dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=0x1234)
    assert chip.code(unknown) == ReturnCode.INVALID_KEYHANDLE
    session = chip.run(_dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=handle))
    assert _sign(chip, other, session) == ReturnCode.AUTHFAIL


def test_a_session_on_a_key_dies_with_it(chip: Chip) -> None:
    family = _family(chip)
    _, handle = make_and_load(chip, signing_key())
    public = _public(family, SIGN, kind=DelegateType.KEY)
    blob = chip.run(_key_blob(chip, handle, public)).encode()
    chip.run(_dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=handle))
    chip.run(tss12.flush_specific(handle, ResourceType.KEY))
    assert _handles(chip) == []


def test_a_migration_authority_is_delegated_only_where_the_owner_released_it(chip: Chip) -> None:
    family = _family(chip)
    flags = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY
    handle = load(chip, craft_key(signing_key(flags=flags), payload=PayloadType.MIGRATE_EXTERNAL))
    public = _public(family, SIGN, kind=DelegateType.KEY)
    blob = chip.run(_key_blob(chip, handle, public)).encode()
    session = chip.run(_dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=handle))
    assert _sign(chip, handle, session) == ReturnCode.INVALID_KEYUSAGE
    released = tss12.set_capability(
        SetCapabilityArea.PERM_DATA,
        23,
        bytes.fromhex("80000000"),  # TPM_CMK_DELEGATE_SIGNING
        owner_auth=OWNER_AUTH,
        random=chip.client_random,
    )
    chip.run(released)
    session = chip.run(_dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=handle))
    assert _sign(chip, handle, session) == ReturnCode.SUCCESS


def test_pcrs_and_localities_of_a_delegation_hold_at_each_use(chip: Chip) -> None:
    family = _family(chip)
    here = _public(family, OWNER_READ_PUBEK, release={5: ZERO}, localities=0b00101)
    blob = chip.run(_owner_blob(chip, here)).encode()
    first, second, third = (
        chip.run(_dsap(chip, EntityType.DEL_OWNER_BLOB, blob)) for _ in range(3)
    )
    assert _pubek(chip, first) == ReturnCode.SUCCESS
    chip.locality = 1
    assert _pubek(chip, first) == ReturnCode.BAD_LOCALITY
    chip.locality = 2
    assert _pubek(chip, second) == ReturnCode.SUCCESS
    chip.run(tss12.extend(5, b"m" * 20))
    assert _pubek(chip, second) == ReturnCode.WRONGPCRVAL
    assert third.handle in _handles(chip)


@pytest.mark.parametrize(
    ("entity_type", "value", "code"),
    [
        (EntityType.DEL_ROW, bytes(4), ReturnCode.BADINDEX),
        (EntityType.DEL_ROW, b"\x00\x00\x00\x04", ReturnCode.BADINDEX),
        (EntityType.DEL_ROW, b"\x00\x00", ReturnCode.BAD_PARAM_SIZE),
        (EntityType.DEL_ROW, bytes(5), ReturnCode.BAD_PARAM_SIZE),
        (EntityType.DEL_OWNER_BLOB, b"", ReturnCode.WRONG_ENTITYTYPE),
        (EntityType.DEL_OWNER_BLOB, b"\x00\x27" + bytes(99), ReturnCode.WRONG_ENTITYTYPE),
        (EntityType.DEL_KEY_BLOB, b"\x00\x2a" + bytes(99), ReturnCode.WRONG_ENTITYTYPE),
        (EntityType.OWNER, b"", ReturnCode.BAD_PARAMETER),
        (0, b"", ReturnCode.BAD_PARAMETER),
    ],
)
def test_dsap_with_what_delegates_nothing(
    chip: Chip, entity_type: EntityType, value: bytes, code: ReturnCode
) -> None:
    assert chip.code(_dsap(chip, entity_type, value)) == code
    assert _handles(chip) == []


def test_dsap_is_judged_in_the_reference_order(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    blob = chip.run(_owner_blob(chip, _public(family, 1)))
    value = blob.encode()
    bad_scheme = EntityType.DEL_OWNER_BLOB | 0x0100
    sessions = [chip.run(tss12.oiap()) for _ in range(16)]
    forged = replace(blob, integrity_digest=ZERO)
    assert chip.code(_dsap(chip, bad_scheme, forged.encode())) == ReturnCode.AUTHFAIL  # type: ignore[arg-type]
    assert chip.code(_dsap(chip, bad_scheme, value)) == ReturnCode.RESOURCES  # type: ignore[arg-type]
    chip.run(tss12.close_session(sessions.pop()))
    assert chip.code(_dsap(chip, bad_scheme, value)) == ReturnCode.INAPPROPRIATE_ENC  # type: ignore[arg-type]
    stale = replace(forged, public=replace(blob.public, verification_count=9)).encode()
    assert chip.code(_dsap(chip, EntityType.DEL_OWNER_BLOB, stale)) == ReturnCode.FAMILYCOUNT
    assert _manage(chip, family, FamilyOperation.ENABLE, b"\x00") == ReturnCode.SUCCESS
    assert chip.code(_dsap(chip, EntityType.DEL_OWNER_BLOB, stale)) == ReturnCode.DISABLED_CMD
    assert chip.code(_dsap(chip, EntityType.DEL_ROW, bytes(4))) == ReturnCode.DISABLED_CMD


def test_a_change_of_the_owners_secret_ends_the_sessions_of_delegates(chip: Chip) -> None:
    _row(chip, OWNER_READ_PUBEK)
    session = _row_session(chip)
    chip.run(
        tss12.change_auth_owner(
            entity_type=EntityType.OWNER,
            owner_auth=OWNER_AUTH,
            new_auth=OTHER_AUTH,
            random=chip.client_random,
        )
    )
    assert _pubek(chip, session) == ReturnCode.INVALID_AUTHHANDLE
    # The delegation itself goes on.
    assert _pubek(chip, _row_session(chip)) == ReturnCode.SUCCESS


def test_changed_tables_end_sessions_of_delegates_and_no_others(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    blob = chip.run(_owner_blob(chip, _public(family, 1)))
    changes: tuple[Callable[[], int], ...] = (
        lambda: _manage(chip, family, FamilyOperation.ADMIN, b"\x00"),
        lambda: _load(chip, 1, blob),
    )
    for change in changes:
        delegated = _row_session(chip)
        osap = chip.run(tss12.osap_owner(OWNER_AUTH, random=chip.client_random))
        assert change() == ReturnCode.SUCCESS
        assert _pubek(chip, delegated) == ReturnCode.INVALID_AUTHHANDLE
        assert _pubek(chip, osap) == ReturnCode.SUCCESS


@pytest.mark.parametrize(
    ("operation", "data", "code"),
    [
        (FamilyOperation.CREATE, b"", ReturnCode.BAD_PARAM_SIZE),
        (FamilyOperation.ENABLE, b"\x02", ReturnCode.BAD_PARAMETER),
        (9, b"\x01", ReturnCode.BAD_PARAMETER),
    ],
)
def test_sessions_of_delegates_end_before_an_operation_is_looked_at(
    chip: Chip, operation: int, data: bytes, code: ReturnCode
) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    session = _row_session(chip)
    assert _manage(chip, family, operation, data) == code
    assert _pubek(chip, session) == ReturnCode.INVALID_AUTHHANDLE
    # What is refused before that ends none.
    session = _row_session(chip)
    assert _manage(chip, 99, FamilyOperation.ENABLE, b"\x01") == ReturnCode.BADINDEX
    assert _manage(chip, family, operation, data, auth=OTHER_AUTH) == ReturnCode.AUTHFAIL
    assert _pubek(chip, session) == ReturnCode.SUCCESS


def test_the_owner_pointer_is_back_before_an_operation_is_looked_at(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK | MANAGE)
    chip.run(tss12.set_owner_pointer(EntityType.DEL_ROW, 0))
    assert _manage(chip, family, 9, b"\x01", auth=DELEGATE_AUTH) == ReturnCode.BAD_PARAMETER
    assert _pubek(chip, auth=OWNER_AUTH) == ReturnCode.SUCCESS


def test_a_delegate_manages_his_own_family_and_his_session_ends(chip: Chip) -> None:
    family = _row(chip, MANAGE | LOAD_OWNER | UPDATE | CREATE_OWNER)
    other = _family(chip)
    blob = chip.run(_owner_blob(chip, _public(other, 1)))
    lock = FamilyOperation.ADMIN
    session = _row_session(chip)
    assert _manage(chip, other, lock, b"\x01", session=session) == ReturnCode.DELEGATE_FAMILY
    assert _load(chip, 1, blob, session=_row_session(chip)) == ReturnCode.DELEGATE_FAMILY
    session = _row_session(chip)
    assert _update(chip, blob.encode(), session=session) == ReturnCode.DELEGATE_FAMILY
    session = _row_session(chip)
    attempt = _owner_blob(chip, _public(other, 0), session=session)
    assert chip.code(attempt) == ReturnCode.DELEGATE_FAMILY
    session = _row_session(chip)
    assert _manage(chip, family, lock, b"\x01", session=session) == ReturnCode.SUCCESS
    assert not session.is_open
    session = _row_session(chip)
    assert _manage(chip, 0, FamilyOperation.CREATE, b"C", session=session) == ReturnCode.SUCCESS


def test_a_delegate_passes_on_no_more_than_he_has(chip: Chip) -> None:
    family = _row(chip, CREATE_OWNER | OWNER_READ_PUBEK)
    more = _owner_blob(chip, _public(family, MANAGE), session=_row_session(chip))
    assert chip.code(more) == ReturnCode.AUTHFAIL
    session = _row_session(chip)
    passed = chip.run(
        _owner_blob(chip, _public(family, OWNER_READ_PUBEK), session=session, auth=OTHER_AUTH)
    )
    opened = chip.run(
        tss12.dsap(
            EntityType.DEL_OWNER_BLOB, passed.encode(), OTHER_AUTH, random=chip.client_random
        )
    )
    assert _pubek(chip, opened) == ReturnCode.SUCCESS


def test_a_delegate_of_a_key_passes_on_no_more_than_he_has(chip: Chip) -> None:
    family = _family(chip)
    _, handle = make_and_load(chip, signing_key())
    public = _public(family, SIGN | CREATE_KEY, kind=DelegateType.KEY)
    blob = chip.run(_key_blob(chip, handle, public)).encode()
    for per1, code in ((SIGN | 1, ReturnCode.AUTHFAIL), (SIGN, ReturnCode.SUCCESS)):
        session = chip.run(_dsap(chip, EntityType.DEL_KEY_BLOB, blob, key_handle=handle))
        passed = replace(public, permissions=Delegations(DelegateType.KEY, per1))
        assert chip.code(_key_blob(chip, handle, passed, session=session)) == code


# --- the owner pointer ---------------------------------------------------------------------------


def test_the_owner_pointer_lets_a_rows_secret_stand_for_the_owners(chip: Chip) -> None:
    _row(chip, OWNER_READ_PUBEK)
    assert _pubek(chip, auth=DELEGATE_AUTH) == ReturnCode.AUTHFAIL
    chip.run(tss12.set_owner_pointer(EntityType.DEL_ROW, 0))
    # Under OIAP and under OSAP.
    assert _pubek(chip, auth=DELEGATE_AUTH) == ReturnCode.SUCCESS
    session = chip.run(tss12.osap_owner(DELEGATE_AUTH, random=chip.client_random))
    assert _pubek(chip, session) == ReturnCode.SUCCESS
    assert _pubek(chip, auth=OWNER_AUTH) == ReturnCode.AUTHFAIL
    beyond = tss12.disable_pubek_read(owner_auth=DELEGATE_AUTH, random=chip.client_random)
    assert chip.code(beyond) == ReturnCode.AUTHFAIL
    refused = tss12.with_secret(
        Ordinal.DISABLE_PUBEK_READ, nothing, b"", random=chip.client_random, session=session
    )
    assert chip.code(refused) == ReturnCode.AUTHFAIL
    chip.run(tss12.set_owner_pointer(EntityType.OWNER, 0))
    assert _pubek(chip) == ReturnCode.SUCCESS


def test_the_owner_pointer_lasts_until_startup_clear_or_new_tables(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK | MANAGE)
    pointer = tss12.set_owner_pointer
    chip.run(pointer(EntityType.DEL_ROW, 0))
    chip.run(tss12.save_state())
    chip.power_cycle(StartupType.STATE)
    assert _pubek(chip, auth=DELEGATE_AUTH) == ReturnCode.SUCCESS
    chip.restart()
    assert _pubek(chip, auth=DELEGATE_AUTH) == ReturnCode.SUCCESS
    chip.power_cycle()
    assert _pubek(chip, auth=OWNER_AUTH) == ReturnCode.SUCCESS
    chip.run(pointer(EntityType.DEL_ROW, 0))
    session = chip.run(tss12.osap_owner(DELEGATE_AUTH, random=chip.client_random))
    code = _manage(chip, family, FamilyOperation.ADMIN, b"\x00", auth=DELEGATE_AUTH)
    assert code == ReturnCode.SUCCESS
    assert _pubek(chip, session) == ReturnCode.INVALID_AUTHHANDLE
    assert _pubek(chip, auth=OWNER_AUTH) == ReturnCode.SUCCESS


def test_the_owner_pointer_names_only_rows_that_count(chip: Chip) -> None:
    pointer = tss12.set_owner_pointer
    assert chip.code(pointer(EntityType.DEL_ROW, 0)) == ReturnCode.BADINDEX
    family = _row(chip, OWNER_READ_PUBEK)
    assert chip.code(pointer(EntityType.DEL_ROW, 1)) == ReturnCode.BADINDEX
    assert chip.code(pointer(EntityType.KEYHANDLE, 0)) == ReturnCode.BAD_PARAMETER
    assert chip.code(pointer(0x0608, 0)) == ReturnCode.BAD_PARAMETER
    chip.run(_owner_blob(chip, _public(family, 1), increment=True))
    assert chip.code(pointer(EntityType.DEL_ROW, 0)) == ReturnCode.FAMILYCOUNT
    _manage(chip, family, FamilyOperation.ENABLE, b"\x00")
    assert chip.code(pointer(EntityType.DEL_ROW, 0)) == ReturnCode.DISABLED_CMD
    assert _pubek(chip) == ReturnCode.SUCCESS


# --- state ---------------------------------------------------------------------------------------


def test_limits_of_a_session_outlive_a_restart_and_a_saved_context(chip: Chip) -> None:
    _row(chip, OWNER_READ_PUBEK)
    session = _row_session(chip)
    chip.restart()
    assert _pubek(chip, session) == ReturnCode.SUCCESS
    blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
    chip.run(tss12.load_context(blob))
    assert _pubek(chip, session) == ReturnCode.SUCCESS
    refused = tss12.with_secret(
        Ordinal.DISABLE_PUBEK_READ, nothing, b"", random=chip.client_random, session=session
    )
    assert chip.code(refused) == ReturnCode.AUTHFAIL


def test_a_saved_session_does_not_outlive_its_family(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    session = _row_session(chip)
    blob = chip.run(tss12.save_context(session.handle, ResourceType.AUTH))
    _manage(chip, family, FamilyOperation.ENABLE, b"\x00")
    assert chip.code(tss12.load_context(blob)) == ReturnCode.RESOURCEMISSING
    assert _handles(chip) == []


def test_a_change_that_was_saved_reaches_the_volatile_state_from_before_it(chip: Chip) -> None:
    family = _row(chip, OWNER_READ_PUBEK)
    _row_session(chip)
    chip.run(tss12.set_owner_pointer(EntityType.DEL_ROW, 0))
    before = chip.engine.volatile_state()
    chip.run(tss12.set_owner_pointer(EntityType.OWNER, 0))
    _manage(chip, family, FamilyOperation.INVALIDATE)
    # Killed after the tables were saved and before the volatile state was kept.
    chip.engine = type(chip.engine).restore(chip._world(), chip.profile, chip.durable, before)
    assert _handles(chip) == []
    assert _pubek(chip, auth=OWNER_AUTH) == ReturnCode.SUCCESS


def test_capabilities_tell_of_delegation(chip: Chip) -> None:
    assert chip.run(tss12.get_property(CapabilityProperty.FAMILYROWS)) == 16
    assert chip.run(tss12.get_property(CapabilityProperty.DELEGATE_ROW)) == 4
    assert chip.run(tss12.get_capability(CapabilityArea.PID, b"\x00\x06")) == b"\x01"


def test_secrets_of_delegates_do_not_show_in_representations(chip: Chip) -> None:
    _row(chip, OWNER_READ_PUBEK)
    state = decode_permanent(chip.durable)
    assert state.delegate_rows[0].auth_value == DELEGATE_AUTH
    assert DELEGATE_AUTH.decode() not in repr(state) + repr(state.delegate_rows)
    assert sha1(DELEGATE_AUTH).hex() not in repr(state)
