# SPDX-License-Identifier: Apache-2.0
"""Sealing: layout of the blobs, what releases them, and that nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocol.tpm12.constants import (
    AdipScheme,
    EntityType,
    Ordinal,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import SIZED, U32, Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    SRK,
    USAGE_AUTH,
    WRONG_AUTH,
    make_and_load,
    sha1,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.world import SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tss12.conversation import Conversation, execute
from tpmcore.tss12.sessions import (
    encrypt_secret,
    oiap,
    osap,
    osap_key,
    pair,
    prove,
    with_secret,
)

ZERO = bytes(20)
BLOB_AUTH = b"secret of the blob--"
DATA = b"what nobody else may know"


@pytest.fixture
def chip() -> Chip:
    return make_owned_chip()


def _seal(
    chip: Chip,
    pcr_info: PcrInfo | PcrInfoLong | None = None,
    data: bytes = DATA,
    *,
    key: int = SRK,
    key_auth: bytes = SRK_AUTH,
) -> StoredData:
    return chip.run(
        tss12.seal(
            key,
            parent_auth=key_auth,
            blob_auth=BLOB_AUTH,
            data=data,
            pcr_info=pcr_info,
            random=chip.client_random,
        )
    )


def _sealx(chip: Chip, pcr_info: PcrInfoLong | None = None) -> StoredData:
    return chip.run(
        tss12.sealx(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=BLOB_AUTH,
            data=DATA,
            pcr_info=pcr_info,
            random=chip.client_random,
        )
    )


def _unseal(
    chip: Chip,
    blob: StoredData,
    *,
    key: int = SRK,
    key_auth: bytes | None = SRK_AUTH,
    blob_auth: bytes = BLOB_AUTH,
) -> Conversation[bytes]:
    return tss12.unseal(
        key, blob, parent_auth=key_auth, blob_auth=blob_auth, random=chip.client_random
    )


def _raw_seal(
    chip: Chip,
    *,
    ordinal: Ordinal = Ordinal.SEAL,
    pcr_info: bytes = b"",
    data: bytes = DATA,
    key: int = SRK,
    key_auth: bytes = SRK_AUTH,
    adip: AdipScheme = AdipScheme.XOR,
) -> Conversation[bytes]:
    """Seal with any bytes as PCR structure."""
    entity = EntityType.SRK if key == SRK else EntityType.KEYHANDLE
    session = yield from osap(entity, key, key_auth, random=chip.client_random, adip=adip)
    return (
        yield from execute(
            ordinal,
            Reader.rest,
            handles=U32.write(key),
            parameters=encrypt_secret(session, BLOB_AUTH)
            + SIZED.write(pcr_info)
            + SIZED.write(data),
            auths=(prove(session, chip.client_random),),
        )
    )


def _response(chip: Chip, ordinal: Ordinal) -> bytes:
    return next(r for c, r in reversed(chip.log) if c[6:10] == U32.write(ordinal))


# Seal


def test_blob_without_pcrs_is_of_version_1_1_and_laid_out_as_the_specification_says(
    chip: Chip,
) -> None:
    _seal(chip)
    blob = _response(chip, Ordinal.SEAL)[10:-41]
    assert blob[:12].hex() == "01010000 00000000 00000100".replace(" ", "")
    plain = keychain.decrypt_with_srk(blob[12:])
    assert plain[0] == 5  # payload SEAL
    assert plain[1:21] == BLOB_AUTH
    assert plain[41:61] == sha1(blob[:8])
    assert plain[61:] == U32.write(len(DATA)) + DATA
    _seal(chip, data=b"other")
    other = keychain.decrypt_with_srk(_response(chip, Ordinal.SEAL)[22:-41])
    assert other[21:41] == plain[21:41] != ZERO  # tpmProof


def test_older_pcr_structure_gives_the_older_blob_with_the_creation_digest_filled_in(
    chip: Chip,
) -> None:
    value = chip.run(tss12.extend(10, b"m" * 20))
    info = PcrInfo(PcrSelection.of([10]), b"r" * 20, b"c" * 20)
    blob = _seal(chip, info)
    composite = sha1(b"\x00\x03\x00\x04\x00", U32.write(20), value)
    assert not blob.is_12
    assert blob.seal_info == dataclasses.replace(info, digest_at_creation=composite)


def test_newer_pcr_structure_gives_the_newer_blob_with_the_locality_filled_in(chip: Chip) -> None:
    info = PcrInfoLong(0x01, 0x1F, PcrSelection.of([10]), PcrSelection.of([]), b"c" * 20, b"r" * 20)
    chip.locality = 2
    blob = _seal(chip, info)
    assert blob.encode()[:4].hex() == "00160000"
    composite = sha1(b"\x00\x03\x00\x04\x00", U32.write(20), ZERO)
    assert blob.seal_info == dataclasses.replace(
        info, locality_at_creation=0x04, digest_at_creation=composite
    )


def test_selection_bytes_are_kept_as_given_and_an_empty_one_has_digest_zero(chip: Chip) -> None:
    for select, digest in (
        (b"\x01\x00", sha1(b"\x00\x02\x01\x00", U32.write(20), ZERO)),
        (b"\x00\x00", ZERO),
        (b"", ZERO),
    ):
        blob = _seal(chip, PcrInfo(PcrSelection(select), ZERO, b"c" * 20))
        assert blob.seal_info == PcrInfo(PcrSelection(select), ZERO, digest)


def test_no_more_is_sealed_than_fits_the_key(chip: Chip) -> None:
    assert chip.run(_unseal(chip, _seal(chip, data=b"a" * 149))) == b"a" * 149
    assert chip.code(_raw_seal(chip, data=b"a" * 150)) == ReturnCode.BAD_DATASIZE
    assert chip.code(_raw_seal(chip, data=b"")) == ReturnCode.BAD_PARAMETER


_LONG = tss12.pcr_info_long({0: ZERO}).encode()


@pytest.mark.parametrize("ordinal", [Ordinal.SEAL, Ordinal.SEALX])
@pytest.mark.parametrize(
    "pcr_info",
    [
        b"\x00",
        b"\x00\x04" + bytes(44),
        b"\x00\x03" + bytes(42),
        tss12.pcr_info({0: ZERO}).encode() + b"\x00",
        _LONG[:-1],
        _LONG + b"\x00",
        _LONG[:2] + b"\x00" + _LONG[3:],
        _LONG[:3] + b"\x20" + _LONG[4:],
    ],
    ids=["cut", "selects too much", "short", "longer", "LONG short", "LONG longer", "at 0", "at 5"],
)
def test_pcr_structure_that_does_not_parse_is_a_bad_index(
    chip: Chip, ordinal: Ordinal, pcr_info: bytes
) -> None:
    assert chip.code(_raw_seal(chip, ordinal=ordinal, pcr_info=pcr_info)) == ReturnCode.BADINDEX


def test_keys_that_do_not_seal(chip: Chip) -> None:
    for template in (storage_key(flags=MIGRATABLE), signing_key(bits=2048)):
        _, handle = make_and_load(chip, template)
        for ordinal in (Ordinal.SEAL, Ordinal.SEALX):
            code = chip.code(_raw_seal(chip, ordinal=ordinal, key=handle, key_auth=USAGE_AUTH))
            assert code == ReturnCode.INVALID_KEYUSAGE


def test_seal_wants_the_keys_secret_and_a_session_that_can_encrypt(chip: Chip) -> None:
    assert chip.code(_raw_seal(chip, key_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    parameters = ZERO + SIZED.write(b"") + SIZED.write(DATA)
    for ordinal in (Ordinal.SEAL, Ordinal.SEALX):
        conversation = with_secret(
            ordinal,
            Reader.rest,
            SRK_AUTH,
            random=chip.client_random,
            handles=U32.write(SRK),
            parameters=parameters,
        )
        assert chip.code(conversation) == ReturnCode.BAD_MODE


def test_seal_ends_its_session(chip: Chip) -> None:
    _seal(chip)
    assert _response(chip, Ordinal.SEAL)[-21] == 0
    assert chip.run(tss12.handles(ResourceType.AUTH)) == []


def test_key_other_than_the_srk_seals_too(chip: Chip) -> None:
    _, handle = make_and_load(chip, storage_key())
    blob = _seal(chip, key=handle, key_auth=USAGE_AUTH)
    assert chip.run(_unseal(chip, blob, key=handle, key_auth=USAGE_AUTH)) == DATA
    assert chip.code(_unseal(chip, blob)) == ReturnCode.NOTSEALED_BLOB


# Unseal


def test_blob_is_released_under_its_pcrs_only(chip: Chip) -> None:
    for info in (tss12.pcr_info({16: ZERO}), tss12.pcr_info_long({16: ZERO})):
        blob = _seal(chip, info)
        assert chip.run(_unseal(chip, blob)) == DATA
        chip.run(tss12.extend(16, b"x" * 20))
        assert chip.code(_unseal(chip, blob)) == ReturnCode.WRONGPCRVAL
        chip.run(tss12.pcr_reset([16]))
        assert chip.run(_unseal(chip, blob)) == DATA


def test_blob_is_released_at_its_localities_only(chip: Chip) -> None:
    blob = _seal(chip, tss12.pcr_info_long({}, localities=0x04))
    assert chip.code(_unseal(chip, blob)) == ReturnCode.BAD_LOCALITY
    assert chip.run(_unseal(chip, blob), locality=2) == DATA


def test_wrong_pcrs_are_told_before_a_wrong_locality_and_before_a_wrong_secret(chip: Chip) -> None:
    blob = _seal(chip, tss12.pcr_info_long({16: b"w" * 20}, localities=0x04))
    assert chip.code(_unseal(chip, blob, blob_auth=WRONG_AUTH)) == ReturnCode.WRONGPCRVAL


def test_blob_survives_the_power_and_other_boots(chip: Chip) -> None:
    blob = _seal(chip)
    chip.power_cycle()
    assert chip.run(_unseal(chip, blob)) == DATA


def test_both_secrets_are_wanted(chip: Chip) -> None:
    blob = _seal(chip)
    assert chip.code(_unseal(chip, blob, blob_auth=WRONG_AUTH)) == ReturnCode.AUTH2FAIL
    assert chip.code(_unseal(chip, blob, key_auth=WRONG_AUTH)) == ReturnCode.AUTHFAIL
    assert chip.code(_unseal(chip, blob, key_auth=None)) == ReturnCode.AUTHFAIL


def test_parent_without_secret_needs_only_the_secret_of_the_blob(chip: Chip) -> None:
    _, handle = make_and_load(chip, storage_key(auth_data_usage=keychain.NO_AUTH))
    blob = _seal(chip, key=handle, key_auth=USAGE_AUTH)
    assert chip.run(_unseal(chip, blob, key=handle, key_auth=None)) == DATA
    wrong = _unseal(chip, blob, key=handle, key_auth=None, blob_auth=WRONG_AUTH)
    assert chip.code(wrong) == ReturnCode.AUTHFAIL


def test_secret_of_the_blob_is_not_taken_from_a_session_on_something_else(chip: Chip) -> None:
    blob = _seal(chip)

    def conversation() -> Conversation[bytes]:
        parent, data = yield from pair(
            osap_key(SRK, SRK_AUTH, random=chip.client_random),
            osap_key(SRK, SRK_AUTH, random=chip.client_random),
        )
        return (
            yield from execute(
                Ordinal.UNSEAL,
                Reader.sized,
                handles=U32.write(SRK),
                parameters=blob.encode(),
                auths=(prove(parent, chip.client_random), prove(data, chip.client_random)),
            )
        )

    assert chip.code(conversation()) == ReturnCode.BAD_MODE


def test_keys_that_do_not_unseal(chip: Chip) -> None:
    blob = _seal(chip)
    for template in (storage_key(flags=MIGRATABLE), signing_key(bits=2048)):
        _, handle = make_and_load(chip, template)
        code = chip.code(_unseal(chip, blob, key=handle, key_auth=USAGE_AUTH))
        assert code == ReturnCode.INVALID_KEYUSAGE


def test_blob_of_another_tpm_with_the_same_storage_root_key_is_not_released() -> None:
    blob = _seal(make_owned_chip(seed="one"))
    other = make_owned_chip(seed="two")
    assert other.code(_unseal(other, blob)) == ReturnCode.NOTSEALED_BLOB


@pytest.mark.parametrize(
    "changed",
    [
        {"enc_data": b""},
        {"enc_data": bytes(256)},
        {"enc_data": b"\x01" * 256},
        {"seal_info": None},
        {"seal_info": PcrInfo(PcrSelection.of([]), ZERO, ZERO)},
        {"is_12": True, "seal_info": None},
        {"is_12": True, "seal_info": None, "entity_type": 5},
    ],
    ids=["no data", "zeros", "garbage", "no pcrs", "other pcrs", "version", "entity type"],
)
def test_whatever_was_changed_in_a_blob_there_is_one_error(
    chip: Chip, changed: dict[str, object]
) -> None:
    blob = _seal(chip, tss12.pcr_info({16: b"w" * 20}))
    forged = dataclasses.replace(blob, **changed)  # type: ignore[arg-type]
    assert chip.code(_unseal(chip, forged)) == ReturnCode.NOTSEALED_BLOB


@pytest.mark.parametrize(
    ("payload", "proof", "tail"),
    [(5, b"p" * 20, b""), (1, None, b""), (5, None, b"\x00")],
    ids=["proof", "payload", "longer"],
)
def test_blob_that_was_made_outside_is_not_released(
    chip: Chip, payload: int, proof: bytes | None, tail: bytes
) -> None:
    genuine = _seal(chip)
    tpm_proof = keychain.decrypt_with_srk(genuine.enc_data)[21:41]
    plain = b"".join(
        (
            bytes([payload]),
            BLOB_AUTH,
            tpm_proof if proof is None else proof,
            sha1(genuine.encode()[:8]),
            SIZED.write(DATA),
            tail,
        )
    )
    enc_data = keychain.encrypt_oaep(keychain.srk_modulus(), plain)
    forged = dataclasses.replace(genuine, enc_data=enc_data)
    assert chip.code(_unseal(chip, forged)) == ReturnCode.NOTSEALED_BLOB


def test_what_is_no_stored_data_is_a_bad_version(chip: Chip) -> None:
    conversation = with_secret(
        Ordinal.UNSEAL,
        Reader.sized,
        BLOB_AUTH,
        random=chip.client_random,
        handles=U32.write(SRK),
        parameters=bytes.fromhex("01020000 00000000 00000000"),
    )
    assert chip.code(conversation) == ReturnCode.BAD_VERSION


# Sealx


def test_data_of_sealx_is_in_the_clear_neither_on_its_way_in_nor_out(chip: Chip) -> None:
    blob = _sealx(chip)
    assert blob.encode()[:4].hex() == "00160005"
    assert chip.run(_unseal(chip, blob)) == DATA
    assert not any(DATA in message for exchange in chip.log for message in exchange)
    plain = keychain.decrypt_with_srk(blob.enc_data)
    assert plain[61:] == U32.write(len(DATA)) + DATA


def test_sealx_takes_the_newer_pcr_structure_only(chip: Chip) -> None:
    old = tss12.pcr_info({16: ZERO}).encode()
    code = chip.code(_raw_seal(chip, ordinal=Ordinal.SEALX, pcr_info=old))
    assert code == ReturnCode.BADINDEX
    blob = _sealx(chip, tss12.pcr_info_long({16: ZERO}))
    assert chip.run(_unseal(chip, blob)) == DATA
    chip.run(tss12.extend(16, b"x" * 20))
    assert chip.code(_unseal(chip, blob)) == ReturnCode.WRONGPCRVAL


def _aes_ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return cipher.update(data) + cipher.finalize()


def test_aes_session_encrypts_secret_and_data_with_aes_in_counter_mode(chip: Chip) -> None:
    def sealing() -> Conversation[StoredData]:
        session = yield from osap(
            EntityType.SRK, SRK, SRK_AUTH, random=chip.client_random, adip=AdipScheme.AES128_CTR
        )
        block = prove(session, chip.client_random)
        key = session.shared_secret[:16]
        counter = sha1(session.nonce_even, block.nonce_odd)[:16]
        return (
            yield from execute(
                Ordinal.SEALX,
                StoredData.read,
                handles=U32.write(SRK),
                parameters=_aes_ctr(key, session.nonce_even[:16], BLOB_AUTH)
                + SIZED.write(b"")
                + SIZED.write(_aes_ctr(key, counter, DATA)),
                auths=(block,),
            )
        )

    blob = chip.run(sealing())
    assert blob.encode()[:4].hex() == "00160600"

    def unsealing() -> Conversation[bytes]:
        # An XOR session: the scheme of the answer is the blob's.
        parent, data = yield from pair(osap_key(SRK, SRK_AUTH, random=chip.client_random), oiap())
        block = prove(parent, chip.client_random)
        counter = sha1(parent.nonce_even, block.nonce_odd)[:16]
        masked = yield from execute(
            Ordinal.UNSEAL,
            Reader.sized,
            handles=U32.write(SRK),
            parameters=blob.encode(),
            auths=(block, prove(data, chip.client_random, secret=BLOB_AUTH)),
        )
        return _aes_ctr(parent.shared_secret[:16], counter, masked)

    assert chip.run(unsealing()) == DATA


def test_sealx_blob_needs_a_parent_session_that_can_encrypt(chip: Chip) -> None:
    blob = _sealx(chip)

    def conversation() -> Conversation[bytes]:
        parent, data = yield from pair(oiap(), oiap())
        return (
            yield from execute(
                Ordinal.UNSEAL,
                Reader.sized,
                handles=U32.write(SRK),
                parameters=blob.encode(),
                auths=(
                    prove(parent, chip.client_random, secret=SRK_AUTH),
                    prove(data, chip.client_random, secret=BLOB_AUTH),
                ),
            )
        )

    assert chip.code(conversation()) == ReturnCode.BAD_MODE


def test_sealx_blob_needs_a_parent_session_even_if_the_parent_needs_none(chip: Chip) -> None:
    _, handle = make_and_load(chip, storage_key(auth_data_usage=keychain.NO_AUTH))
    blob = chip.run(
        tss12.sealx(
            handle,
            parent_auth=USAGE_AUTH,
            blob_auth=BLOB_AUTH,
            data=DATA,
            pcr_info=None,
            random=chip.client_random,
        )
    )
    conversation = with_secret(
        Ordinal.UNSEAL,
        Reader.sized,
        BLOB_AUTH,
        random=chip.client_random,
        handles=U32.write(handle),
        parameters=blob.encode(),
    )
    assert chip.code(conversation) == ReturnCode.AUTHFAIL


def test_unseal_of_a_sealx_blob_ends_the_parents_session(chip: Chip) -> None:
    blob = _sealx(chip)
    chip.run(_unseal(chip, blob))
    response = _response(chip, Ordinal.UNSEAL)
    assert response[-62] == 0
