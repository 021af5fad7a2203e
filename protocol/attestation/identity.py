# SPDX-License-Identifier: Apache-2.0
"""What a TPM and a Privacy CA say to each other about a new identity key.

    TPM_MakeIdentity gives the key and its binding: a signature of the key itself over
    TPM_IDENTITY_CONTENTS, which has the key and a digest of the label it was made for.

    The CA checks the binding and the EK's certificate, and answers with two blobs: a session key
    encrypted to the EK (TPM_ASYM_CA_CONTENTS; TPM_ActivateIdentity gives it out only if the digest
    in it is that of an identity key of the same TPM), and the certificate encrypted with that key
    (TPM_SYM_CA_ATTESTATION). So only this TPM, holding this very key, gets at the certificate.

The binding alone proves nothing about a TPM, since anybody can sign such contents with a key of
their own; that the certificate can only be opened by the TPM is what makes it true.

The certificate is encrypted with AES-128 in CBC mode with PKCS #7 padding. The initialization
vector is in the parameters, as the specification has it, and once more in front of the ciphertext,
where trousers expects it.

Source: TPM Main Part 1, 8.3; Part 2, 12.5-12.7; Part 3, 15.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from protocol.attestation.certificates import BadCertificate, public_key
from protocol.errors import WireError
from protocol.tpm12.attestation import (
    AsymCaContents,
    IdentityContents,
    SymCaAttestation,
    SymmetricKey,
)
from protocol.tpm12.constants import Algorithm, EncScheme, Ordinal, SigScheme
from protocol.tpm12.keys import DEFAULT_EXPONENT, KeyParms, PubKey
from protocol.tpm12.wire import SIZED, U32

SESSION_KEY_BYTES: Final = 16
_BLOCK_BYTES: Final = 16
_CBC_PKCS5PAD: Final = 0x00FF
"""TPM_ES_SYM_CBC_PKCS5PAD of the TSS; TPM_ENC_SCHEME has CTR and OFB only."""
_OAEP_LABEL: Final = b"TCPA"
_MODULUS_BYTES: Final = 256


class BadIdentity(Exception):
    """An identity key or a credential that does not hold; the message says why."""


def identity_key(modulus: bytes) -> PubKey:
    """Return the TPM_PUBKEY of an identity key: RSA 2048, exponent 65537, scheme SHA1."""
    parms = KeyParms.for_rsa(enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    return PubKey(parms, modulus)


def authority_key(key: rsa.RSAPublicKey) -> PubKey:
    """Return the TPM_PUBKEY of a Privacy CA's key, exponent 65537."""
    modulus = key.public_numbers().n.to_bytes(key.key_size // 8, "big")
    parms = KeyParms.for_rsa(
        enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1, bits=key.key_size
    )
    return PubKey(parms, modulus)


def chosen_id_hash(label: str, privacy_ca: PubKey | None) -> bytes:
    """Return TPM_CHOSENID_HASH (Part 2, 5.8): of the label, and the Privacy CA's key.

    Args:
        privacy_ca: None where it is not known yet; the digest is of the label alone then.
    """
    ca = b"" if privacy_ca is None else privacy_ca.encode()
    return hashlib.sha1(label.encode() + ca).digest()


def check_binding(aik: PubKey, label_digest: bytes, binding: bytes) -> rsa.RSAPublicKey:
    """Return an identity key that has signed what it was made for.

    Args:
        label_digest: 20 bytes.
        binding: 256 bytes.

    Raises:
        BadIdentity: it has not, or is no identity key.
    """
    parms = aik.algorithm_parms
    if (
        parms.algorithm_id != Algorithm.RSA
        or parms.sig_scheme != SigScheme.RSASSAPKCS1V15_SHA1
        or len(aik.key) != _MODULUS_BYTES
        or parms.rsa.exponent_value != DEFAULT_EXPONENT
    ):
        raise BadIdentity("no identity key: RSA with 2048 bits, exponent 65537, signing SHA-1")
    contents = IdentityContents(Ordinal.MAKE_IDENTITY, label_digest, aik)
    try:
        key = public_key(aik)
        key.verify(binding, contents.encode(), padding.PKCS1v15(), hashes.SHA1())
    except (InvalidSignature, BadCertificate):
        raise BadIdentity("the identity key has not signed its binding to this label") from None
    return key


def encrypt_session_key(ek: PubKey, aik: PubKey, session_key: bytes) -> bytes:
    """Return the blob for TPM_ActivateIdentity that gives out a session key of 16 bytes.

    Raises:
        BadCertificate: the EK is no RSA key.
    """
    key = SymmetricKey(Algorithm.AES128, _CBC_PKCS5PAD, session_key)
    contents = AsymCaContents(key, aik.digest())
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), _OAEP_LABEL)
    return public_key(ek).encrypt(contents.encode(), oaep)


def encrypt_credential(certificate: bytes, session_key: bytes, iv: bytes) -> bytes:
    """Return an encoded TPM_SYM_CA_ATTESTATION.

    Args:
        certificate: DER.
        session_key: 16 fresh random bytes.
        iv: 16 random bytes.
    """
    padder = PKCS7(_BLOCK_BYTES * 8).padder()
    padded = padder.update(certificate) + padder.finalize()
    encryptor = Cipher(algorithms.AES(session_key), modes.CBC(iv)).encryptor()
    sizes = U32.write(SESSION_KEY_BYTES * 8) + U32.write(_BLOCK_BYTES * 8)
    parms = KeyParms(Algorithm.AES128, _CBC_PKCS5PAD, SigScheme.NONE, sizes + SIZED.write(iv))
    encrypted = encryptor.update(padded) + encryptor.finalize()
    return SymCaAttestation(parms, iv + encrypted).encode()


def decrypt_credential(attestation: bytes, session_key: SymmetricKey) -> bytes:
    """Return the certificate (DER) in an encoded TPM_SYM_CA_ATTESTATION.

    Whether it is a certificate, and of which key, is the caller's to check.

    Raises:
        BadIdentity: it is none, or encrypted with another key.
    """
    try:
        found = SymCaAttestation.decode(attestation)
    except WireError as error:
        raise BadIdentity(f"no TPM_SYM_CA_ATTESTATION: {error}") from None
    if found.algorithm.algorithm_id != Algorithm.AES128 or (
        session_key.algorithm_id != Algorithm.AES128 or len(session_key.key) != SESSION_KEY_BYTES
    ):
        raise BadIdentity("the credential or its session key is not for AES-128")
    iv, encrypted = found.credential[:_BLOCK_BYTES], found.credential[_BLOCK_BYTES:]
    if not encrypted or len(encrypted) % _BLOCK_BYTES:
        raise BadIdentity(f"a credential of {len(found.credential)} bytes, blocks have 16")
    decryptor = Cipher(algorithms.AES(session_key.key), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(_BLOCK_BYTES * 8).unpadder()
    try:
        padded = decryptor.update(encrypted) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise BadIdentity("the credential does not open with this session key") from None
