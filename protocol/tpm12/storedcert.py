# SPDX-License-Identifier: Apache-2.0
"""A certificate in the NV memory of a TPM 1.2 of a PC, where platform software looks for it.

    u16 tag 0x1001 (TCG_TAG_PCCLIENT_STORED_CERT)
    u8  certType: 0 is a whole certificate, 1 one without the TPM's public key
    u16 certSize: of what follows
    of a whole one:  u16 tag 0x1002 (TCG_TAG_PCCLIENT_FULL_CERT), the certificate in DER

Source: TCG PC Client Specific Implementation Specification for Conventional BIOS 1.21, 7.4.5.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import WireError
from protocol.tpm12.constants import NV_INDEX_D_BIT
from protocol.tpm12.wire import U8, U16, Reader

EK_CERT_INDEX: Final = NV_INDEX_D_BIT | 0xF000
"""TPM_NV_INDEX_EKCert, with the D bit: it stays when the owner is cleared."""
PLATFORM_CERT_INDEX: Final = NV_INDEX_D_BIT | 0xF002
"""TPM_NV_INDEX_PlatformCert, likewise."""

_STORED_CERT: Final = 0x1001
_FULL_CERT: Final = 0x1002
_WHOLE: Final = 0
_LIMIT_BYTES: Final = 0xFFFF - 2


def encode_stored_cert(certificate: bytes) -> bytes:
    """Return what is in the NV area of a certificate.

    Args:
        certificate: DER, at most 65533 bytes.

    Raises:
        ValueError: it is longer.
    """
    if len(certificate) > _LIMIT_BYTES:
        raise ValueError(f"a certificate of {len(certificate)} bytes")
    return (
        U16.write(_STORED_CERT)
        + U8.write(_WHOLE)
        + U16.write(len(certificate) + 2)
        + U16.write(_FULL_CERT)
        + certificate
    )


def decode_stored_cert(data: bytes) -> bytes:
    """Return the certificate of an NV area, DER; what is behind it in the area is left.

    Raises:
        WireError: there is no whole certificate.
    """
    reader = Reader(data)
    for name, expected in (("tag", _STORED_CERT), ("certType", _WHOLE)):
        start = reader.position
        found = reader.u16(name) if name == "tag" else reader.u8(name)
        if found != expected:
            raise WireError(name, start, f"{found:#x}, must be {expected:#x}")
    size = reader.u16("certSize")
    start = reader.position
    tag = reader.u16("tag")
    if tag != _FULL_CERT or size < 2:
        raise WireError("tag", start, f"{tag:#x} in {size} bytes, must be {_FULL_CERT:#x}")
    return reader.take(size - 2, "certificate")
