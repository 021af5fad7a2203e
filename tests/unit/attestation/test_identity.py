# SPDX-License-Identifier: Apache-2.0
"""What a Privacy CA answers opens in one TPM and for one key only."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.attestation.certificates import (
    AIK_USAGE,
    EK_USAGE,
    UNNAMED,
    BadCertificate,
    Issuer,
    TpmModel,
    Validity,
    certify_aik,
    certify_ek,
    check_chain,
    key_name,
    label_of,
    make_authority,
    modulus_of,
    names_key,
    public_key,
    vtpm_of,
)
from protocol.attestation.identity import (
    BadIdentity,
    authority_key,
    check_binding,
    chosen_id_hash,
    decrypt_credential,
    encrypt_credential,
    encrypt_session_key,
)
from protocol.tpm12.attestation import SymmetricKey
from protocol.tpm12.constants import ReservedHandle
from protocol.tpm12.keys import PubKey
from tests.unit.attestation.signer import (
    CA_KEY,
    EK_KEY,
    GUEST_KEY,
    NOW,
    OTHER_KEY,
    VTPM,
    modulus,
    pubkey,
    sha1,
    uri,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, make_owned_chip
from tpmcore import tss12
from tpmcore.errors import TpmError

VALID = Validity(NOW.replace(year=2025), NOW.replace(year=2027))
AUTHORITY = make_authority(CA_KEY, "A Privacy CA", serial=1, validity=VALID)
ISSUER = Issuer(AUTHORITY, CA_KEY)
MODEL = TpmModel("id:5654504D", "vTPM suite", "id:01020000")
EK = PubKey.decode(pubkey(EK_KEY))
AIK_AUTH = b"identity's own".ljust(20)
SESSION_KEY = bytes(range(16))


def test_a_credential_goes_through_a_tpm_and_opens_for_its_key_alone() -> None:
    chip = make_owned_chip()
    random = chip.client_random
    digest = chosen_id_hash("web", authority_key(CA_KEY.public_key()))

    def identity() -> tss12.Identity:
        return chip.run(
            tss12.make_identity(
                owner_auth=OWNER_AUTH,
                srk_auth=SRK_AUTH,
                identity_auth=AIK_AUTH,
                label_digest=digest,
                random=random,
            )
        )

    made, other = identity(), identity()
    ek = chip.run(
        tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=OWNER_AUTH, random=random)
    )
    aik = check_binding(made.key.public_key, digest, made.binding)
    certificate = certify_aik(ISSUER, aik, "web", None, None, serial=2, validity=VALID)
    encoded = certificate.public_bytes(Encoding.DER)
    blob = encrypt_session_key(ek, made.key.public_key, SESSION_KEY)
    attestation = encrypt_credential(encoded, SESSION_KEY, bytes(16))

    def activate(key: tss12.Identity) -> SymmetricKey:
        handle = chip.run(
            tss12.load_key2(ReservedHandle.SRK, key.key, parent_auth=SRK_AUTH, random=random)
        )
        return chip.run(
            tss12.activate_identity(
                handle, blob, owner_auth=OWNER_AUTH, identity_auth=AIK_AUTH, random=random
            )
        )

    session_key = activate(made)
    assert session_key.key == SESSION_KEY
    assert decrypt_credential(attestation, session_key) == encoded
    with pytest.raises(TpmError):
        activate(other)
    assert SESSION_KEY not in blob
    assert encoded[:64] not in attestation


def test_a_binding_is_the_keys_own_signature_over_label_and_key() -> None:
    chip = make_owned_chip()
    digest = sha1(b"label")
    made = chip.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=AIK_AUTH,
            label_digest=digest,
            random=chip.client_random,
        )
    )
    aik = made.key.public_key
    check_binding(aik, digest, made.binding)
    broken = bytes([made.binding[0] ^ 1]) + made.binding[1:]
    for key, label, binding in (
        (aik, sha1(b"other label"), made.binding),
        (aik, digest, broken),
        (replace(aik, key=modulus(OTHER_KEY)), digest, made.binding),
        # a signature, by a key that no TPM treats as an identity
        (EK, digest, made.binding),
        (replace(aik, key=aik.key[1:]), digest, made.binding),
    ):
        with pytest.raises(BadIdentity):
            check_binding(key, label, binding)


def test_a_credential_of_another_key_or_shape_is_refused() -> None:
    key = SymmetricKey(6, 0xFF, SESSION_KEY)
    attestation = encrypt_credential(b"certificate", SESSION_KEY, bytes(16))
    assert decrypt_credential(attestation, key) == b"certificate"
    for bad in (b"", attestation[:-1], attestation + b"\0", attestation[:40]):
        with pytest.raises(BadIdentity):
            decrypt_credential(bad, key)
    for wrong in (SymmetricKey(6, 0xFF, bytes(16)), SymmetricKey(9, 0xFF, SESSION_KEY)):
        with pytest.raises(BadIdentity):
            decrypt_credential(attestation, wrong)


def test_trousers_opens_a_credential() -> None:
    """Its library, which knows nothing of ours: TPM_SYM_CA_ATTESTATION and the cipher."""
    tspi = ctypes.CDLL("libtspi.so.1")
    plain = b"a certificate of some length"
    attestation = encrypt_credential(plain, SESSION_KEY, bytes(range(16, 32)))
    size = int.from_bytes(attestation[:4], "big")
    # u32 credSize, TPM_KEY_PARMS (u32, u16, u16, u32 28, TPM_SYMMETRIC_KEY_PARMS), credential
    parms = 4 + 12 + 28
    assert len(attestation) == parms + size
    assert attestation[4:16].hex() == "0000000600ff00010000001c"
    assert attestation[16:28].hex() == "000000800000008000000010"
    credential = attestation[parms:]
    out = ctypes.create_string_buffer(size)
    out_size = ctypes.c_uint32(size)
    done = tspi.Trspi_SymDecrypt(
        ctypes.c_uint16(6),  # TPM_ALG_AES
        ctypes.c_uint16(0xFF),  # TPM_ES_SYM_CBC_PKCS5PAD
        SESSION_KEY,
        None,
        credential,
        ctypes.c_uint32(size),
        out,
        ctypes.byref(out_size),
    )
    assert done == 0
    assert out.raw[: out_size.value] == plain


# --- certificates --------------------------------------------------------------------------------


def test_an_ek_certificate_says_which_tpm_it_is_of() -> None:
    for vtpm in (None, VTPM):
        found = certify_ek(ISSUER, EK, MODEL, vtpm, serial=3, validity=VALID)
        leaf = check_chain([found.public_bytes(Encoding.DER)], [AUTHORITY], EK_USAGE, NOW)
        assert modulus_of(leaf) == modulus(EK_KEY)
        assert vtpm_of(leaf) == vtpm
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        # RFC 5280, 4.2.1.6: an empty subject makes it critical
        assert names.critical
        assert list(leaf.subject) == []
        (about,) = names.value.get_values_for_type(x509.DirectoryName)
        assert [(each.oid.dotted_string, each.value) for each in about] == [
            ("2.23.133.2.1", "id:5654504D"),
            ("2.23.133.2.2", "vTPM suite"),
            ("2.23.133.2.3", "id:01020000"),
        ]
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_encipherment
        assert not usage.digital_signature
        with pytest.raises(BadCertificate, match="not for extended key usage"):
            check_chain([found.public_bytes(Encoding.DER)], [AUTHORITY], AIK_USAGE, NOW)


def test_an_aik_certificate_has_label_and_tpm_or_leaves_the_tpm_out() -> None:
    key, ek = GUEST_KEY.public_key(), public_key(EK)
    named = certify_aik(ISSUER, key, "web", ek, VTPM, serial=4, validity=VALID)
    leaf = check_chain([named.public_bytes(Encoding.DER)], [AUTHORITY], AIK_USAGE, NOW)
    assert label_of(leaf) == "web"
    assert names_key(leaf) == key_name(ek) == uri(EK_KEY)
    assert vtpm_of(leaf) == VTPM
    anonymous = certify_aik(ISSUER, key, "web", None, UNNAMED, serial=5, validity=VALID)
    assert names_key(anonymous) is None
    assert vtpm_of(anonymous) == UNNAMED
    assert vtpm_of(certify_aik(ISSUER, key, "w", ek, None, serial=6, validity=VALID)) is None


def test_an_authority_certifies_keys_and_no_other_authorities() -> None:
    limits = AUTHORITY.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert limits.value.ca
    assert limits.value.path_length == 0
    with pytest.raises(BadCertificate, match="that of an authority"):
        check_chain([AUTHORITY.public_bytes(Encoding.DER)], [AUTHORITY], AIK_USAGE, NOW)
