# SPDX-License-Identifier: Apache-2.0
"""Making keys, wrapping them for a parent and unwrapping them (Part 1, 5; Part 2, 10.6).

Sections "4.8.x" are those of the engine reference: key blobs, property rules.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from protocol.tpm12.constants import (
    Algorithm,
    AuthDataUsage,
    EncScheme,
    KeyUsage,
    PayloadType,
    ReturnCode,
    SigScheme,
)
from protocol.tpm12.keys import (
    DEFAULT_EXPONENT,
    PAYLOADS_OF_LOADABLE_KEYS,
    Key,
    KeyParms,
    RsaKeyParms,
    StoreAsymKey,
)
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, composite_hash
from protocol.tpm12.records import record
from tpmcore.errors import TpmError
from tpmcore.tpm12.parsing import decode_plaintext
from tpmcore.tpm12.rsa import MIN_KEY_BITS, PrivateKey, RsaError
from tpmcore.tpm12.state import KeyBody
from tpmcore.tpm12.tpm import Tpm

MAX_KEY_BITS: Final = 2048
_KEY_BITS_STEP: Final = 16
_FIPS_MIN_BITS: Final = 1024
_EXPONENTS: Final = frozenset({3, 5, 7, 17, 257, DEFAULT_EXPONENT})
"""Public exponents of libtpms."""
_MAX_EXPONENT_BYTES: Final = 8
"""Room for padding to a machine word; more would let a public key outgrow every response."""


@record
class _Rule:
    """What keys of one usage may be (a row of 4.8.4)."""

    enc_schemes: frozenset[int]
    sig_schemes: frozenset[int]
    min_bits: int = MIN_KEY_BITS
    any_exponent: bool = True


_NO_ENC: Final = frozenset({EncScheme.NONE})
_OAEP: Final = frozenset({EncScheme.RSAESOAEP_SHA1_MGF1})
_ANY_ENC: Final = frozenset({EncScheme.RSAESOAEP_SHA1_MGF1, EncScheme.RSAESPKCSV15})
_NO_SIG: Final = frozenset({SigScheme.NONE})
_SHA1: Final = frozenset({SigScheme.RSASSAPKCS1V15_SHA1})
_SHA1_OR_DER: Final = _SHA1 | {SigScheme.RSASSAPKCS1V15_DER}
_ANY_SIG: Final = _SHA1_OR_DER | {SigScheme.RSASSAPKCS1V15_INFO}

_RULES: Final[Mapping[int, _Rule]] = {
    KeyUsage.SIGNING: _Rule(_NO_ENC, _ANY_SIG),
    KeyUsage.STORAGE: _Rule(_OAEP, _NO_SIG, min_bits=2048, any_exponent=False),
    KeyUsage.IDENTITY: _Rule(_NO_ENC, _SHA1, min_bits=2048, any_exponent=False),
    KeyUsage.AUTHCHANGE: _Rule(_OAEP, _NO_SIG),
    KeyUsage.BIND: _Rule(_ANY_ENC, _NO_SIG),
    KeyUsage.LEGACY: _Rule(_ANY_ENC, _SHA1_OR_DER),
    KeyUsage.MIGRATE: _Rule(_OAEP, _NO_SIG, min_bits=2048, any_exponent=False),
}


def check_rsa_parms(parms: KeyParms) -> RsaKeyParms:
    """Check algorithm, length, number of primes and exponent (4.8.4, common rules).

    Returns:
        The RSA parameters, decoded.

    Raises:
        TpmError: BAD_KEY_PROPERTY.
    """
    if parms.algorithm_id != Algorithm.RSA or not _is_usable(parms.parms):
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    return parms.rsa


@functools.lru_cache(maxsize=32)
def _is_usable(parms: bytes) -> bool:
    """Judge RSA parameters: there are few, and every new key asks twice."""
    rsa = RsaKeyParms.decode(parms)
    return (
        rsa.num_primes == 2
        and MIN_KEY_BITS <= rsa.key_length <= MAX_KEY_BITS
        and rsa.key_length % _KEY_BITS_STEP == 0
        and len(rsa.exponent) <= _MAX_EXPONENT_BYTES
        and rsa.exponent_value in _EXPONENTS
    )


def check_key_properties(key: Key, *, fips: bool = False) -> None:
    """Check that a key's algorithms suit its usage (4.8.4).

    Args:
        fips: PERMANENT_FLAGS.FIPS.

    Raises:
        TpmError: BAD_KEY_PROPERTY, NOTFIPS.
    """
    parms = key.algorithm_parms
    rsa = check_rsa_parms(parms)
    rule = _RULES.get(key.key_usage)
    bits = rsa.key_length
    if (
        rule is None
        or parms.enc_scheme not in rule.enc_schemes
        or parms.sig_scheme not in rule.sig_schemes
        or bits < rule.min_bits
        or (rsa.exponent_value != DEFAULT_EXPONENT and not rule.any_exponent)
    ):
        raise TpmError(ReturnCode.BAD_KEY_PROPERTY)
    if fips and (
        key.auth_data_usage == AuthDataUsage.NEVER
        or bits < _FIPS_MIN_BITS
        or key.key_usage == KeyUsage.LEGACY
    ):
        raise TpmError(ReturnCode.NOTFIPS)


def with_creation_values(
    tpm: Tpm, info: PcrInfo | PcrInfoLong | None
) -> PcrInfo | PcrInfoLong | None:
    """Return a PCR structure with what the TPM fills in when it makes a blob: the digest of the
    PCRs as they are and, in a PcrInfoLong, the locality of the command."""
    if isinstance(info, PcrInfoLong):
        return PcrInfoLong(
            1 << tpm.stany.locality_modifier,
            info.locality_at_release,
            info.creation_selection,
            info.release_selection,
            composite_hash(info.creation_selection, tpm.stclear.pcrs),
            info.digest_at_release,
        )
    if info is None:
        return None
    return replace(info, digest_at_creation=composite_hash(info.pcr_selection, tpm.stclear.pcrs))


def create_key(
    tpm: Tpm,
    template: Key,
    *,
    usage_auth: bytes,
    migration_auth: bytes,
    payload: PayloadType = PayloadType.ASYM,
) -> KeyBody:
    """Make a new key as a template describes it (4.8.3).

    Args:
        template: usage, flags, parameters and PCR binding; its pubKey and encData are ignored.
        usage_auth: 20 bytes.
        migration_auth: 20 bytes; tpmProof for a key that is not migratable.

    Raises:
        TpmError: BAD_KEY_PROPERTY if no RSA key of these parameters is supported.
    """
    rsa = check_rsa_parms(template.algorithm_parms)
    private = PrivateKey.generate(tpm.world.keys, rsa.key_length, rsa.exponent_value)
    pcr_info = with_creation_values(tpm, template.pcr_info)
    public = template.with_public(private.modulus, pcr_info)
    return KeyBody(public, payload, usage_auth, migration_auth, private, public.public_digest())


def wrap(parent: KeyBody, body: KeyBody) -> bytes:
    """Return encData: the private part of a key, encrypted for its parent (4.8.2).

    Raises:
        TpmError: BAD_DATASIZE if the parent is too short for it.
    """
    private = body.private.prime
    plain = StoreAsymKey(
        body.payload, body.usage_auth, body.migration_auth, body.digest, private
    ).encode()
    try:
        return parent.private.encrypt_oaep(plain)
    except RsaError as error:
        raise TpmError(ReturnCode.BAD_DATASIZE) from error


def wrapped(parent: KeyBody, body: KeyBody) -> Key:
    """Return the key structure of a key with its private part wrapped for a parent."""
    return body.public.with_private(wrap(parent, body))


def unwrap(parent: KeyBody, key: Key) -> KeyBody:
    """Decrypt a key's private part and check that it belongs to the public part (1.10, LoadKey2).

    Whether the key may be loaded is not judged here, see `check_loadable`.

    Raises:
        TpmError: DECRYPT_ERROR, BAD_PARAM_SIZE, INVALID_STRUCTURE, BAD_PARAMETER, AUTHFAIL.
    """
    try:
        plain = parent.private.decrypt_oaep(key.enc_data)
    except RsaError as error:
        raise TpmError(ReturnCode.DECRYPT_ERROR) from error
    store = decode_plaintext(StoreAsymKey, plain)
    if store.payload not in PAYLOADS_OF_LOADABLE_KEYS:
        raise TpmError(ReturnCode.INVALID_STRUCTURE)
    public = key.with_private(b"")
    rsa = public.algorithm_parms.rsa
    try:
        private = PrivateKey.from_factor(
            int.from_bytes(public.pub_key, "big"),
            int.from_bytes(store.private_key, "big"),
            rsa.exponent_value,
        )
    except RsaError as error:
        raise TpmError(ReturnCode.BAD_PARAMETER) from error
    digest = public.public_digest()
    if not hmac.compare_digest(digest, store.pub_data_digest):
        raise TpmError(ReturnCode.AUTHFAIL)
    # A length that is not the modulus' own would make TPM_PUBKEY and signatures disagree; libtpms
    # does not look.
    size_bytes = private.size_bytes
    if len(public.pub_key) != size_bytes or public.algorithm_parms.rsa.key_length != size_bytes * 8:
        raise TpmError(ReturnCode.BAD_PARAMETER)
    return KeyBody(public, store.payload, store.usage_auth, store.migration_auth, private, digest)


def check_loadable(tpm: Tpm, body: KeyBody) -> None:
    """Check what only shows in the unwrapped key: usage, and that it belongs to this TPM and owner.

    Raises:
        TpmError: INVALID_KEYUSAGE.
    """
    usage = body.public.key_usage
    if usage == KeyUsage.AUTHCHANGE or (usage == KeyUsage.IDENTITY and body.is_migratable):
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
    if not body.is_migratable and not hmac.compare_digest(
        body.migration_auth, tpm.permanent.tpm_proof
    ):
        raise TpmError(ReturnCode.INVALID_KEYUSAGE)
