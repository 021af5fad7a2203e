# SPDX-License-Identifier: Apache-2.0
"""Keys for engine tests: making and loading them, and RSA that shares nothing with the engine.

The RSA functions take raw bytes and use `cryptography` alone, so that a mistake in our structures
or padding cannot hide by being made on both sides.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.constants import EncScheme, KeyFlags, KeyUsage, ReservedHandle, SigScheme
from protocol.tpm12.keys import Key, StoreAsymKey
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong
from tests.unit.tpm12.world import SRK_AUTH, Chip, key_pair
from tpmcore import tss12

SRK: Final = ReservedHandle.SRK
USAGE_AUTH: Final = b"usage-secret-of-key!"
MIGRATION_AUTH: Final = b"migration-secret-key"
WRONG_AUTH: Final = b"nobody's secret-----"
NO_AUTH: Final = 0
PUBLIC_FREE: Final = 3

_EK_SERIAL: Final = 1
_SRK_SERIAL: Final = 2
_EXPONENT: Final = 65537


def signing_key(
    sig_scheme: SigScheme = SigScheme.RSASSAPKCS1V15_SHA1,
    *,
    bits: int = 1024,
    flags: int = 0,
    auth_data_usage: int = 1,
    pcr_info: PcrInfo | PcrInfoLong | None = None,
) -> Key:
    """Describe a signing key; a TPM_KEY12 if the PCR structure needs one."""
    return Key.template(
        KeyUsage.SIGNING,
        enc_scheme=EncScheme.NONE,
        sig_scheme=sig_scheme,
        bits=bits,
        flags=flags,
        auth_data_usage=auth_data_usage,
        pcr_info=pcr_info,
        is_key12=isinstance(pcr_info, PcrInfoLong),
    )


def storage_key(
    *, flags: int = 0, auth_data_usage: int = 1, pcr_info: PcrInfo | PcrInfoLong | None = None
) -> Key:
    """Describe a storage key."""
    return Key.template(
        KeyUsage.STORAGE,
        enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1,
        sig_scheme=SigScheme.NONE,
        flags=flags,
        auth_data_usage=auth_data_usage,
        pcr_info=pcr_info,
        is_key12=isinstance(pcr_info, PcrInfoLong),
    )


def binding_key(
    enc_scheme: EncScheme = EncScheme.RSAESOAEP_SHA1_MGF1, *, legacy: bool = False
) -> Key:
    """Describe a binding or legacy key."""
    return Key.template(
        KeyUsage.LEGACY if legacy else KeyUsage.BIND,
        enc_scheme=enc_scheme,
        sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1 if legacy else SigScheme.NONE,
        bits=1024,
    )


def make_key(chip: Chip, template: Key, *, parent: int = SRK, parent_auth: bytes = SRK_AUTH) -> Key:
    """Have the chip make a key with USAGE_AUTH and MIGRATION_AUTH."""
    return chip.run(
        tss12.create_wrap_key(
            parent,
            template,
            parent_auth=parent_auth,
            usage_auth=USAGE_AUTH,
            migration_auth=MIGRATION_AUTH,
            random=chip.client_random,
        )
    )


def load_code(
    chip: Chip, key: Key, *, parent: int = SRK, parent_auth: bytes | None = SRK_AUTH
) -> int:
    """Return the code that loading a key ends in."""
    return chip.code(
        tss12.load_key2(parent, key, parent_auth=parent_auth, random=chip.client_random)
    )


def load(chip: Chip, key: Key, *, parent: int = SRK, parent_auth: bytes = SRK_AUTH) -> int:
    """Load a key and return its handle."""
    return chip.run(
        tss12.load_key2(parent, key, parent_auth=parent_auth, random=chip.client_random)
    )


def make_and_load(
    chip: Chip, template: Key, *, parent: int = SRK, parent_auth: bytes = SRK_AUTH
) -> tuple[Key, int]:
    """Have the chip make a key and load it."""
    key = make_key(chip, template, parent=parent, parent_auth=parent_auth)
    return key, load(chip, key, parent=parent, parent_auth=parent_auth)


def _public(modulus: bytes) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(_EXPONENT, int.from_bytes(modulus, "big")).public_key()


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")


def ek_modulus() -> bytes:
    """Return the modulus of the endorsement key of every test chip."""
    p, q = key_pair(_EK_SERIAL, 2048, _EXPONENT)
    return (p * q).to_bytes(256, "big")


def srk_modulus() -> bytes:
    """Return the modulus of the storage root key of every owned test chip."""
    p, q = key_pair(_SRK_SERIAL, 2048, _EXPONENT)
    return (p * q).to_bytes(256, "big")


def encrypt_oaep(modulus: bytes, data: bytes) -> bytes:
    """Encrypt as TPM 1.2 does: OAEP with SHA-1 and the label TCPA."""
    return _public(modulus).encrypt(data, _oaep())


def encrypt_pkcs1v15(modulus: bytes, data: bytes) -> bytes:
    """Encrypt with PKCS#1 v1.5."""
    return _public(modulus).encrypt(data, padding.PKCS1v15())


def decrypt_with_srk(ciphertext: bytes) -> bytes:
    """Decrypt what the storage root key encrypted, outside of the chip."""
    p, q = key_pair(_SRK_SERIAL, 2048, _EXPONENT)
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p,
        q,
        d,
        d % (p - 1),
        d % (q - 1),
        pow(q, -1, p),
        rsa.RSAPublicNumbers(_EXPONENT, p * q),
    )
    return numbers.private_key().decrypt(ciphertext, _oaep())


def verifies(modulus: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether a signature is RSASSA-PKCS1-v1_5 with SHA-1 over a digest of 20 bytes."""
    try:
        _public(modulus).verify(
            signature, digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1())
        )
    except InvalidSignature:
        return False
    return True


def signed_block(modulus: bytes, signature: bytes) -> bytes:
    """Return what was signed, without the padding of type 1, whatever it is."""
    return _public(modulus).recover_data_from_signature(
        signature, padding.PKCS1v15(), utils.NoDigestInfo()
    )


def sha1(*parts: bytes) -> bytes:
    """Return SHA-1 over the concatenation."""
    return hashlib.sha1(b"".join(parts)).digest()


def craft_key(
    template: Key,
    *,
    serial: int = 900,
    payload: int = 1,
    prime: bytes | None = None,
    modulus: bytes | None = None,
    migration_auth: bytes = MIGRATION_AUTH,
    digest: bytes | None = None,
    cut: int | None = None,
    tail: bytes = b"",
    parent: bytes | None = None,
) -> Key:
    """Wrap a key for the storage root key outside of any chip, as a client may do.

    Args:
        parent: modulus of the storage root key; None is that of the owned test chips.
        prime: what stands as private key; None is the right one.
        modulus: what stands as public key; None is the right one.
        digest: pubDataDigest; None is the right one.
        cut: number of bytes of the private structure that are left; None is all.
        tail: what follows it.
    """
    bits = template.algorithm_parms.rsa.key_length
    p, q = key_pair(serial, bits, _EXPONENT)
    public = Key(
        template.is_key12,
        template.key_usage,
        template.key_flags,
        template.auth_data_usage,
        template.algorithm_parms,
        template.pcr_info,
        (p * q).to_bytes(bits // 8, "big") if modulus is None else modulus,
    )
    plain = StoreAsymKey(
        payload,
        USAGE_AUTH,
        migration_auth,
        sha1(public.encode()[:-4]) if digest is None else digest,
        p.to_bytes(bits // 16, "big") if prime is None else prime,
    ).encode()
    enc_data = encrypt_oaep(parent or srk_modulus(), plain[:cut] + tail)
    return Key(
        public.is_key12,
        public.key_usage,
        public.key_flags,
        public.auth_data_usage,
        public.algorithm_parms,
        public.pcr_info,
        public.pub_key,
        enc_data,
    )


MIGRATABLE: Final = KeyFlags.MIGRATABLE
