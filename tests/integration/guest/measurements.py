# SPDX-License-Identifier: Apache-2.0
"""The list of IMA, Linux's Integrity Measurement Architecture, as
/sys/kernel/security/ima/binary_runtime_measurements shows it.

Each entry, in the byte order of the machine, here little-endian: u32 PCR, 20 bytes template
digest, u32 length and name of the template, u32 length and template data. The digest is SHA-1 over
the template data and extends the PCR; a violation has zeros there and extends ones.

Source: Linux, security/integrity/ima/ima_fs.c, ima_measurements_show.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_HEAD = struct.Struct("<I20sI")
_LENGTH = struct.Struct("<I")
VIOLATION = bytes(20)


@dataclass(frozen=True, slots=True)
class Measurement:
    """An entry.

    Attributes:
        digest: 20 bytes, of the template data.
        fields: of the template, such as digest and name of a file.
    """

    pcr: int
    digest: bytes
    template: str
    fields: tuple[bytes, ...]

    @property
    def file_digest(self) -> bytes:
        """What was measured, without the name of the algorithm."""
        return self.fields[0].partition(b":\0")[2]

    @property
    def name(self) -> str:
        """The file, or what else was measured."""
        return self.fields[1].rstrip(b"\0").decode()


def parse_measurements(data: bytes) -> tuple[Measurement, ...]:
    """Return the entries of a list.

    Raises:
        struct.error, ValueError: it ends within an entry, or a digest is not that of its data.
    """
    found = []
    at = 0
    while at < len(data):
        pcr, digest, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        template = data[at : at + size].decode()
        at += size
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        content = data[at : at + size]
        at += size
        if len(content) != size:
            raise ValueError(f"{len(content)} bytes at the end, an entry says {size}")
        if digest not in (VIOLATION, hashlib.sha1(content).digest()):
            raise ValueError(f"the digest before offset {at} is of something else")
        found.append(Measurement(pcr, digest, template, _fields(content)))
    return tuple(found)


def replay_measurements(entries: Iterable[Measurement]) -> bytes:
    """Return what the entries make of a PCR that was zero, 20 bytes."""
    value = bytes(20)
    for entry in entries:
        digest = b"\xff" * 20 if entry.digest == VIOLATION else entry.digest
        value = hashlib.sha1(value + digest).digest()
    return value


def _fields(content: bytes) -> tuple[bytes, ...]:
    fields = []
    at = 0
    while at < len(content):
        (size,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        fields.append(content[at : at + size])
        at += size
    return tuple(fields)
