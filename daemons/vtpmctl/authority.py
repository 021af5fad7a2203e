# SPDX-License-Identifier: Apache-2.0
"""A small Privacy CA in a folder.

    ca.key         private key, PKCS #8 in PEM, encrypted if there is a passphrase; 0600
    ca.crt         its certificate, which verifiers are given
    ca.pub         its TPM_PUBKEY, which an identity's label digest may cover
    serial         number of the last certificate
    NUMBER.crt     every certificate that was issued

One process at a time works in the folder. A number is noted durably before a certificate has it, so
none is given twice, also after a crash; and a certificate is in the folder before anybody has it.

It certifies what its operator tells it to. What it checks itself is that an identity key is bound
to its label, and that the TPM's endorsement key has a certificate of an authority it trusts; that
the identity lives in that TPM is made true by encrypting its certificate for the two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from daemons.runtime.errors import DaemonError
from daemons.runtime.files import StateFolder
from daemons.runtime.secret import Secret
from daemons.vtpmctl.certfiles import pem
from daemons.vtpmctl.exchanges import IdentityFile
from protocol.attestation.certificates import (
    EK_USAGE,
    UNNAMED,
    BadCertificate,
    Issuer,
    PlatformModel,
    TpmModel,
    Validity,
    certify_aik,
    certify_ek,
    certify_platform,
    check_chain,
    make_authority,
    public_key,
    vtpm_of,
)
from protocol.attestation.identity import (
    SESSION_KEY_BYTES,
    BadIdentity,
    authority_key,
    check_binding,
    chosen_id_hash,
    encrypt_credential,
    encrypt_session_key,
)
from protocol.tpm12.keys import PubKey

KEY: Final = "ca.key"
CERTIFICATE: Final = "ca.crt"
PUBLIC: Final = "ca.pub"
_SERIAL: Final = "serial"
_KEY_BITS: Final = 3072
_EXPONENT: Final = 65537
_FILE_LIMIT_BYTES: Final = 64 * 1024
_SLACK: Final = timedelta(minutes=5)
"""A certificate is valid a little before now: clocks of verifiers differ."""
_LONGEST: Final = timedelta(days=100 * 365)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a Privacy CA sends for an identity key.

    Attributes:
        blob: for TPM_ActivateIdentity.
        attestation: TPM_SYM_CA_ATTESTATION.
        serial: of the certificate in it.
    """

    blob: bytes
    attestation: bytes
    serial: int


class Authority:
    """The CA in a folder, which is locked while it is open; use as a context manager."""

    def __init__(self, folder: StateFolder, issuer: Issuer) -> None:
        self._folder = folder
        self._issuer = issuer

    @classmethod
    def create(
        cls, path: Path, common_name: str, days: int, passphrase: Secret | None = None
    ) -> Self:
        """Make a CA.

        Raises:
            DaemonError: there is one, or the name is none.
            OSError: the folder cannot be written.
        """
        folder = StateFolder(path).lock()
        try:
            if folder.read(KEY, _FILE_LIMIT_BYTES) is not None:
                raise DaemonError(f"{path} has a CA already; nothing was done")
            key = rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_KEY_BITS)
            try:
                certificate = make_authority(key, common_name, serial=1, validity=_validity(days))
            except ValueError as error:
                raise DaemonError(f"{common_name!r} is no name: {error}") from error
            encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
            if passphrase is not None:
                encryption = serialization.BestAvailableEncryption(bytes(passphrase))
            encoded = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
            )
            folder.replace(_SERIAL, b"1\n")
            folder.replace(CERTIFICATE, pem(certificate))
            folder.replace(PUBLIC, authority_key(key.public_key()).encode())
            # last: a folder without it is one in which nothing was made yet
            folder.replace(KEY, encoded)
        except BaseException:
            folder.close()
            raise
        return cls(folder, Issuer(certificate, key))

    @classmethod
    def open(cls, path: Path, passphrase: Secret | None = None) -> Self:
        """Take the CA in a folder.

        Raises:
            DaemonError: there is none, another process works in it, or the passphrase is wrong.
        """
        if not (path / KEY).is_file():
            raise DaemonError(f"{path} has no CA: vtpmctl ca init")
        folder = StateFolder(path).lock()
        try:
            return cls(folder, _issuer(folder, path, passphrase))
        except BaseException:
            folder.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._folder.close()

    @property
    def certificate(self) -> x509.Certificate:
        """Its own."""
        return self._issuer.certificate

    def certify_ek(
        self, ek: PubKey, model: TpmModel, vtpm: UUID | None, days: int
    ) -> x509.Certificate:
        """Issue the certificate of an endorsement key, on the operator's word.

        Args:
            vtpm: whose it is; None for a hardware TPM.

        Raises:
            DaemonError: it cannot be certified.
            OSError: the folder cannot be written.
        """
        serial = self._next_serial()
        try:
            found = certify_ek(
                self._issuer, ek, model, vtpm, serial=serial, validity=self._until(days)
            )
        except (BadCertificate, ValueError) as error:
            raise DaemonError(f"the endorsement key is not certified: {error}") from error
        return self._issued(serial, found)

    def certify_platform(
        self, ek: PubKey, model: TpmModel, platform: PlatformModel, vtpm: UUID | None, days: int
    ) -> x509.Certificate:
        """Issue the certificate of a platform by its TPM's endorsement key, as above.

        Raises:
            DaemonError: it cannot be certified.
            OSError: the folder cannot be written.
        """
        serial = self._next_serial()
        try:
            found = certify_platform(
                self._issuer, ek, model, platform, vtpm, serial=serial, validity=self._until(days)
            )
        except (BadCertificate, ValueError) as error:
            raise DaemonError(f"the platform is not certified: {error}") from error
        return self._issued(serial, found)

    def certify_aik(
        self,
        identity: IdentityFile,
        ek_chain: Sequence[bytes],
        ek_authorities: Sequence[x509.Certificate],
        days: int,
        *,
        anonymous: bool,
    ) -> Credential:
        """Issue the certificate of an identity key, encrypted for its TPM.

        Args:
            ek_chain: of the TPM's endorsement key, DER.
            ek_authorities: that are trusted beside this one.
            anonymous: leave out which EK, and which vTPM, the identity belongs to.

        Raises:
            DaemonError: a check failed; nothing was issued.
            OSError: the folder cannot be written.
        """
        try:
            aik = check_binding(identity.aik, identity.label_digest, identity.binding)
            self._check_label(identity)
            authorities = (self.certificate, *ek_authorities)
            leaf = check_chain(ek_chain, authorities, EK_USAGE, datetime.now(UTC))
            ek = public_key(identity.ek)
            if leaf.public_key() != ek:
                raise BadCertificate("it is of another endorsement key than the identity names")
            vtpm = vtpm_of(leaf)
        except (BadIdentity, BadCertificate) as error:
            raise DaemonError(f"the identity is not certified: {error}") from error
        serial = self._next_serial()
        try:
            certificate = certify_aik(
                self._issuer,
                aik,
                identity.label,
                None if anonymous else ek,
                UNNAMED if anonymous and vtpm is not None else vtpm,
                serial=serial,
                validity=self._until(days),
            )
        except ValueError as error:
            raise DaemonError(f"the identity is not certified: {error}") from error
        self._issued(serial, certificate)
        session_key = os.urandom(SESSION_KEY_BYTES)
        encoded = certificate.public_bytes(serialization.Encoding.DER)
        return Credential(
            encrypt_session_key(identity.ek, identity.aik, session_key),
            encrypt_credential(encoded, session_key, os.urandom(16)),
            serial,
        )

    def _check_label(self, identity: IdentityFile) -> None:
        own = authority_key(self._issuer.key.public_key())
        if identity.label_digest not in (
            chosen_id_hash(identity.label, own),
            chosen_id_hash(identity.label, None),
        ):
            raise BadIdentity("its digest is not that of its label, for this CA or for any")

    def _until(self, days: int) -> Validity:
        """Return a validity that does not outlast the CA's own."""
        found, limit = _validity(days), self.certificate.not_valid_after_utc
        return Validity(found.start, min(found.end, limit))

    def _next_serial(self) -> int:
        text = self._folder.read(_SERIAL, _FILE_LIMIT_BYTES)
        if text is None or not text.strip().isdigit():
            raise DaemonError(f"{self._folder.path / _SERIAL}: no number: give no number twice")
        serial = int(text) + 1
        self._folder.replace(_SERIAL, b"%d\n" % serial)
        return serial

    def _issued(self, serial: int, certificate: x509.Certificate) -> x509.Certificate:
        self._folder.replace(f"{serial}.crt", pem(certificate))
        return certificate


def _issuer(folder: StateFolder, path: Path, passphrase: Secret | None) -> Issuer:
    key_pem = folder.read(KEY, _FILE_LIMIT_BYTES) or b""
    own = folder.read(CERTIFICATE, _FILE_LIMIT_BYTES) or b""
    try:
        certificate = x509.load_pem_x509_certificate(own)
        key = serialization.load_pem_private_key(
            key_pem, None if passphrase is None else bytes(passphrase)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DaemonError(f"{path}: its key or certificate cannot be read: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey) or certificate.public_key() != key.public_key():
        raise DaemonError(f"{path}: {KEY} and {CERTIFICATE} do not belong together")
    return Issuer(certificate, key)


def _validity(days: int) -> Validity:
    now = datetime.now(UTC).replace(microsecond=0)
    return Validity(now - _SLACK, now + min(timedelta(days=days), _LONGEST))
