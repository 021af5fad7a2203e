# SPDX-License-Identifier: Apache-2.0
"""Certificates in files: PEM, one or several in a row."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.documents import read_file
from protocol.attestation.certificates import BadCertificate, load


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a PEM file.

    Raises:
        DaemonError: there is none, or something that is none.
    """
    try:
        found = x509.load_pem_x509_certificates(read_file(path))
        return tuple(load(each.public_bytes(Encoding.DER)) for each in found)
    except (ValueError, x509.InvalidVersion, BadCertificate) as error:
        raise DaemonError(f"{path}: no certificates in PEM: {error}") from error


def read_chain(path: Path | None) -> tuple[bytes, ...]:
    """Return the certificates in a PEM file as DER; none without a file."""
    if path is None:
        return ()
    return tuple(each.public_bytes(Encoding.DER) for each in read_certificates(path))


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as it stands in a file."""
    return certificate.public_bytes(Encoding.PEM)
