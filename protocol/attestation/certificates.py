# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates of endorsement and identity keys: what is in them, making and checking them.

| certificate | subject             | subjectAltName              | extended key usage           |
|-------------|---------------------|-----------------------------|------------------------------|
| CA          | CN                  | -                           | -                            |
| EK          | empty               | manufacturer, model,        | tcg-kp-EKCertificate         |
|             |                     | version; vTPM               |                              |
| platform    | empty               | as EK, and of the platform  | tcg-kp-PlatformCertificate   |
| AIK         | empty               | label; EK; vTPM             | tcg-kp-AIKCertificate        |

The names of manufacturer, model and version are attributes with OIDs of the TCG in a directoryName.
A platform's certificate is of the endorsement key of its TPM, as swtpm_setup makes them; the TCG
also has attribute certificates for that.

An AIK's label is a directoryName with a common name (the TCG's tpmIdLabel is a UTF8String under
2.23.133.2.15; common name is what every tool shows). The EK of an AIK is a URI of RFC 6920 with the
SHA-256 of its SubjectPublicKeyInfo, so that a verifier can tell in which TPM the identity lives; a
Privacy CA that must not tell leaves it out.

The key of a vTPM has the vTPM's uuid as a URI (urn:uuid:), the nil uuid where the CA must not tell.
A verifier takes no key with such a URI for one of a hardware TPM: whoever owns a vTPM can have it
sign whatever a hardware TPM would. So a CA that leaves it out gives every guest the power to forge.

Signatures are SHA-256 with RSA; the subject's key is only described, as neither EK nor AIK can sign
a request. EK certificates have keyUsage keyEncipherment, AIK ones digitalSignature. Time and serial
number are given by the caller.

Source: TCG Credential Profiles 1.2, 3.2 (EK), 3.3 (platform), 3.4 (AIK); RFC 5280; RFC 6920.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, TypeVar
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

from protocol.tpm12.constants import Algorithm
from protocol.tpm12.keys import DEFAULT_EXPONENT, PubKey

EK_USAGE: Final = ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate."""
PLATFORM_USAGE: Final = ObjectIdentifier("2.23.133.8.2")
"""tcg-kp-PlatformCertificate."""
AIK_USAGE: Final = ObjectIdentifier("2.23.133.8.3")
"""tcg-kp-AIKCertificate."""
TPM_MANUFACTURER: Final = ObjectIdentifier("2.23.133.2.1")
TPM_MODEL: Final = ObjectIdentifier("2.23.133.2.2")
TPM_VERSION: Final = ObjectIdentifier("2.23.133.2.3")
PLATFORM_MANUFACTURER: Final = ObjectIdentifier("2.23.133.5.1.1")
PLATFORM_MODEL: Final = ObjectIdentifier("2.23.133.5.1.4")
PLATFORM_VERSION: Final = ObjectIdentifier("2.23.133.5.1.5")

UNNAMED: Final = UUID(int=0)
"""Stands for a vTPM that a certificate does not name."""
_URN: Final = "urn:uuid:"

E = TypeVar("E", bound=x509.ExtensionType)

_KEY_BITS: Final = range(2048, 8193)
_KNOWN_EXTENSIONS: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
)
_MODULUS_LIMIT: Final = 1024
_LAZY: Final = (
    "extensions",
    "signature_hash_algorithm",
    "subject",
    "issuer",
    "not_valid_before_utc",
    "not_valid_after_utc",
)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class BadCertificate(Exception):
    """A certificate or chain that does not hold; the message says why."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, both in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class TpmModel:
    """What an EK certificate says of the TPM.

    Attributes:
        manufacturer: "id:" and eight hexadecimal digits.
        version: "id:" and eight hexadecimal digits.
    """

    manufacturer: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class PlatformModel:
    """What a platform's certificate says of it, beside its TPM; each at least one character."""

    manufacturer: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey


def public_key(key: PubKey) -> rsa.RSAPublicKey:
    """Return a TPM's public key as the library has it.

    Raises:
        BadCertificate: it is no RSA key.
    """
    if key.algorithm_parms.algorithm_id != Algorithm.RSA or len(key.key) > _MODULUS_LIMIT:
        raise BadCertificate("not an RSA key of a TPM")
    try:
        numbers = rsa.RSAPublicNumbers(
            key.algorithm_parms.rsa.exponent_value, int.from_bytes(key.key, "big")
        )
        return numbers.public_key()
    except ValueError as error:
        raise BadCertificate(f"no RSA key: {error}") from None


def key_name(key: rsa.RSAPublicKey) -> str:
    """Return the URI (RFC 6920) that names a public key."""
    encoded = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = base64.urlsafe_b64encode(hashlib.sha256(encoded).digest()).rstrip(b"=")
    return f"ni:///sha-256;{digest.decode('ascii')}"


def make_authority(
    key: rsa.RSAPrivateKey, common_name: str, *, serial: int, validity: Validity
) -> x509.Certificate:
    """Return the certificate by which an authority signs itself.

    Raises:
        ValueError: the name is empty or longer than 64 characters.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(name, name, key.public_key(), serial, validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(own_id, critical=False)
        .sign(key, hashes.SHA256())
    )


def certify_ek(
    issuer: Issuer,
    ek: PubKey,
    model: TpmModel,
    vtpm: UUID | None,
    *,
    serial: int,
    validity: Validity,
) -> x509.Certificate:
    """Return the certificate of an endorsement key.

    Args:
        vtpm: whose it is; None for a hardware TPM.

    Raises:
        BadCertificate: it is no RSA key.
    """
    about = x509.Name(_about_tpm(model))
    names = x509.SubjectAlternativeName([x509.DirectoryName(about), *_uuid_names(vtpm)])
    return _certify(issuer, public_key(ek), names, EK_USAGE, _usage(keys=True), serial, validity)


def certify_platform(
    issuer: Issuer,
    ek: PubKey,
    model: TpmModel,
    platform: PlatformModel,
    vtpm: UUID | None,
    *,
    serial: int,
    validity: Validity,
) -> x509.Certificate:
    """Return the certificate of a platform, by the endorsement key of its TPM.

    Args:
        vtpm: whose key it is; None for a hardware TPM.

    Raises:
        BadCertificate: it is no RSA key.
    """
    about = x509.Name(
        [
            *_about_tpm(model),
            x509.NameAttribute(PLATFORM_MANUFACTURER, platform.manufacturer),
            x509.NameAttribute(PLATFORM_MODEL, platform.model),
            x509.NameAttribute(PLATFORM_VERSION, platform.version),
        ]
    )
    names = x509.SubjectAlternativeName([x509.DirectoryName(about), *_uuid_names(vtpm)])
    usage = _usage(keys=True)
    return _certify(issuer, public_key(ek), names, PLATFORM_USAGE, usage, serial, validity)


def _about_tpm(model: TpmModel) -> list[x509.NameAttribute[str]]:
    return [
        x509.NameAttribute(TPM_MANUFACTURER, model.manufacturer),
        x509.NameAttribute(TPM_MODEL, model.model),
        x509.NameAttribute(TPM_VERSION, model.version),
    ]


def certify_aik(
    issuer: Issuer,
    aik: rsa.RSAPublicKey,
    label: str,
    ek: rsa.RSAPublicKey | None,
    vtpm: UUID | None,
    *,
    serial: int,
    validity: Validity,
) -> x509.Certificate:
    """Return the certificate of an identity key.

    Args:
        label: of the identity, at most 64 characters.
        ek: endorsement key of its TPM, to be named in it; None leaves it out.
        vtpm: in which it lives, `UNNAMED` for one that is not told; None for a hardware TPM.
    """
    names: list[x509.GeneralName] = [
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)])),
        *_uuid_names(vtpm),
    ]
    if ek is not None:
        names.append(x509.UniformResourceIdentifier(key_name(ek)))
    return _certify(
        issuer,
        aik,
        x509.SubjectAlternativeName(names),
        AIK_USAGE,
        _usage(signatures=True),
        serial,
        validity,
    )


def load(data: bytes) -> x509.Certificate:
    """Return a DER certificate; BadCertificate if it is none."""
    try:
        found = x509.load_der_x509_certificate(data)
        # the library parses these only when they are asked for, and each may turn out to be wrong
        for part in _LAZY:
            getattr(found, part)
        found.public_key()
    except _UNREADABLE as error:
        raise BadCertificate(f"no certificate: {error}") from None
    return found


def check_chain(
    chain: Sequence[bytes],
    authorities: Sequence[x509.Certificate],
    usage: ObjectIdentifier,
    at: datetime,
) -> x509.Certificate:
    """Return the first certificate of a chain if an authority stands behind it.

    Args:
        chain: DER, each issued by the next, the last by one of the authorities.
        authorities: that are trusted.
        usage: extended key usage that the first one must have.
        at: the time, in UTC with time zone.

    Raises:
        BadCertificate: the chain does not hold.
    """
    certificates = [load(each) for each in chain]
    if not certificates:
        raise BadCertificate("no certificate")
    leaf = certificates[0]
    for certificate in certificates:
        _check_common(certificate, at)
    if _extension(leaf, x509.BasicConstraints) is None or _is_authority(leaf):
        raise BadCertificate("the certificate is that of an authority, or does not say what it is")
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    if usages is None or usage not in usages:
        raise BadCertificate(f"the certificate is not for extended key usage {usage.dotted_string}")
    for below, (subject, issuer) in enumerate(pairwise(certificates)):
        _check_issued(subject, issuer, below)
    last, below = certificates[-1], len(certificates) - 1
    reasons = []
    for authority in authorities:
        try:
            _check_common(authority, at)
            _check_issued(last, authority, below)
        except BadCertificate as error:
            reasons.append(str(error))
        else:
            return leaf
    raise BadCertificate("; ".join(reasons) or "no authority is trusted")


def names_key(certificate: x509.Certificate) -> str | None:
    """Return the URI by which an AIK's certificate names the EK; None if it names none."""
    return next((each for each in _uris(certificate) if each.startswith("ni:///")), None)


def vtpm_of(certificate: x509.Certificate) -> UUID | None:
    """Return the uuid of the vTPM whose key was certified, `UNNAMED` for one that is not told; None
    for a key of a hardware TPM.

    Raises:
        BadCertificate: it says several, or none that is a uuid.
    """
    found = [each for each in _uris(certificate) if each.lower().startswith(_URN)]
    if not found:
        return None
    try:
        (only,) = found
        return UUID(only[len(_URN) :])
    except ValueError:
        raise BadCertificate("it does not say of which vTPM it is") from None


def label_of(certificate: x509.Certificate) -> str:
    """Return the label in an AIK's certificate; empty if there is none."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    for name in [] if names is None else names.get_values_for_type(x509.DirectoryName):
        for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME):
            return str(attribute.value)
    return ""


def modulus_of(certificate: x509.Certificate) -> bytes:
    """Return the modulus of the subject's RSA key with exponent 65537; empty for another key."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.public_numbers().e != DEFAULT_EXPONENT:
        return b""
    return key.public_numbers().n.to_bytes((key.key_size + 7) // 8, "big")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPublicKey,
    serial: int,
    validity: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(validity.start)
        .not_valid_after(validity.end)
    )


def _certify(
    issuer: Issuer,
    key: rsa.RSAPublicKey,
    names: x509.SubjectAlternativeName,
    extended: ObjectIdentifier,
    usage: x509.KeyUsage,
    serial: int,
    validity: Validity,
) -> x509.Certificate:
    authority = issuer.certificate
    own_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id)
    return (
        _builder(x509.Name([]), authority.subject, key, serial, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        # RFC 5280, 4.2.1.6: critical, as the subject is empty
        .add_extension(names, critical=True)
        .add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _usage(
    *, certificates: bool = False, keys: bool = False, signatures: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signatures,
        content_commitment=False,
        key_encipherment=keys,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _check_common(certificate: x509.Certificate, at: datetime) -> None:
    algorithm = certificate.signature_hash_algorithm
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _KNOWN_EXTENSIONS):
            oid = extension.oid.dotted_string
            raise BadCertificate(f"the critical extension {oid} is unknown")
    if algorithm is None or algorithm.digest_size < hashes.SHA256.digest_size:
        raise BadCertificate("signed with a hash that is too weak")
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise BadCertificate(
            f"valid from {certificate.not_valid_before_utc:%F} to "
            f"{certificate.not_valid_after_utc:%F} only"
        )


def _check_issued(subject: x509.Certificate, issuer: x509.Certificate, below: int) -> None:
    """Check that one certificate issued another, with so many authorities below it."""
    if not _is_authority(issuer):
        raise BadCertificate("the issuer is no authority")
    limit = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if limit is not None and below > limit:
        raise BadCertificate("too many authorities below one")
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in _KEY_BITS:
        raise BadCertificate("the issuer's key is no RSA key of 2048 bits or more")
    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise BadCertificate("not issued by the authority") from None


def _uuid_names(vtpm: UUID | None) -> list[x509.GeneralName]:
    return [] if vtpm is None else [x509.UniformResourceIdentifier(f"{_URN}{vtpm}")]


def _uris(certificate: x509.Certificate) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    signs = usage is None or usage.key_cert_sign
    return constraints is not None and constraints.ca and signs


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
