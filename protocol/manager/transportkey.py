# SPDX-License-Identifier: Apache-2.0
"""Checking what comes with a transport key and with a package.

A transport key is believed to be bound to a hardware TPM if an attestation identity key certifies
(TPM_CertifyKey) a key that

    cannot migrate      neither `migratable` nor `migrateAuthority`, made inside the TPM
    only binds          usage BIND, RSA 2048, OAEP
    wants PCRs          is used only while the PCRs that it names have the values that it names
    is this one         SHA-1 of the modulus, and our nonce

That the identity key is one of a TPM a Privacy CA says, to the agent, as at GROUP_REGISTER; the
agent's approval names the identity key together with the transport key.
"""

from __future__ import annotations

import hashlib
from typing import Final

from protocol.errors import WireError
from protocol.manager.approval import EXPONENT
from protocol.manager.moving import TransportKey, Vouched
from protocol.manager.signatures import is_quote, is_signed
from protocol.tpm12.attestation import CertifyInfo, CertifyInfo2
from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    KeyFlags,
    KeyUsage,
    PayloadType,
    StructureTag,
)
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrInfo, PcrInfoShort, PcrSelection

KEY_BITS: Final = 2048
_MOVING_FLAGS: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY


class BadTransportKey(Exception):
    """A transport key that is not certified to be bound to a hardware TPM."""


def check_transport_key(key: TransportKey) -> None:
    """Return if the certificate says what it must.

    Raises:
        BadTransportKey: it does not.
    """
    if not is_binding_key(key.public_key):
        raise BadTransportKey("not an RSA key of 2048 bits with OAEP")
    if not is_signed(key.aik_modulus, key.signature, key.certificate):
        raise BadTransportKey("the certificate is not signed by the identity key")
    try:
        info, selection = _decode(key.certificate)
    except WireError as error:
        raise BadTransportKey(f"the certificate does not parse: {error}") from error
    if info.data != key.nonce:
        raise BadTransportKey("the certificate carries another nonce")
    if info.pubkey_digest != hashlib.sha1(key.public_key.key).digest():
        raise BadTransportKey("the certificate is of another key")
    if info.algorithm_parms != key.public_key.algorithm_parms:
        raise BadTransportKey("the certificate names other parameters")
    if info.key_flags & _MOVING_FLAGS:
        raise BadTransportKey("the key can migrate")
    if info.key_usage != KeyUsage.BIND:
        raise BadTransportKey("the key is not for binding")
    if selection.is_empty:
        raise BadTransportKey("the key wants no PCRs")


def is_binding_key(key: PubKey) -> bool:
    """Say whether a public key is RSA 2048 with the usual exponent and OAEP."""
    parms = key.algorithm_parms
    return (
        parms.algorithm_id == Algorithm.RSA
        and parms.enc_scheme == EncScheme.RSAESOAEP_SHA1_MGF1
        and parms.rsa.exponent_value == EXPONENT
        and parms.rsa.key_length == KEY_BITS
        and int.from_bytes(key.key, "big").bit_length() == KEY_BITS
    )


def is_quoted(package: Vouched) -> bool:
    """Say whether the identity key that a package names quoted it."""
    return is_quote(package.source_aik, package.signature, package.composite, package.external_data)


def _decode(certificate: bytes) -> tuple[CertifyInfo | CertifyInfo2, PcrSelection]:
    """Return the certificate and the PCRs that the key wants."""
    if certificate[:2] != StructureTag.CERTIFY_INFO2.to_bytes(2, "big"):
        info = CertifyInfo.decode(certificate)
        wanted = PcrInfo.decode(info.pcr_info).pcr_selection if info.pcr_info else PcrSelection()
        return info, wanted
    newer = CertifyInfo2.decode(certificate)
    if newer.payload_type != PayloadType.ASYM:
        raise BadTransportKey("the key was not made inside a TPM")
    if not newer.pcr_info:
        return newer, PcrSelection()
    return newer, PcrInfoShort.decode(newer.pcr_info).pcr_selection
