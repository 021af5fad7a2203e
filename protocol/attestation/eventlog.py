# SPDX-License-Identifier: Apache-2.0
"""The firmware's event log of TPM 1.2, as Linux shows it in
/sys/kernel/security/tpm0/binary_bios_measurements, and what it makes of the PCRs.

Each entry, little-endian: u32 PCR, u32 event type, 20 bytes digest, u32 length, event data. The
log itself is not protected; what it says counts as far as its digests, extended in its order, give
the PCRs that a TPM has signed. An event's data counts only where it is what the digest is of, which
holds for some types only; its type does not count at all.

Source: TCG PC Client Specific Implementation Specification for Conventional BIOS 1.21, 11.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.errors import WireError
from protocol.tpm12.constants import PCR_COUNT

EVENTS_LIMIT: Final = 100_000
_HEAD: Final = struct.Struct("<II20sI")
_EV_NO_ACTION: Final = 3
"""An event that tells something and is not extended."""
_DRTM_PCRS: Final = range(17, 23)
"""They hold ones until a dynamic launch (TPM Main Part 2, PC Client)."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An entry.

    Attributes:
        digest: 20 bytes.
    """

    pcr: int
    kind: int
    digest: bytes
    data: bytes

    @property
    def is_extended(self) -> bool:
        """Whether it changed its PCR."""
        return self.kind != _EV_NO_ACTION

    @property
    def is_of_data(self) -> bool:
        """Whether the digest is that of the data, so that the data counts too."""
        return hashlib.sha1(self.data).digest() == self.digest


def parse_event_log(data: bytes) -> tuple[LogEvent, ...]:
    """Return the entries of a log.

    Raises:
        WireError: it ends within an entry, has a PCR that a TPM 1.2 has not, or too many entries.
    """
    events: list[LogEvent] = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise WireError("event", at, f"{len(data) - at} bytes, an entry has {_HEAD.size}")
        pcr, kind, digest, size = _HEAD.unpack_from(data, at)
        if pcr >= PCR_COUNT:
            raise WireError("pcrIndex", at, f"{pcr}, there are {PCR_COUNT}")
        start = at + _HEAD.size
        if size > len(data) - start:
            raise WireError("eventSize", start - 4, f"{size}, {len(data) - start} are left")
        if len(events) == EVENTS_LIMIT:
            raise WireError("event", at, f"more than {EVENTS_LIMIT} entries")
        at = start + size
        events.append(LogEvent(pcr, kind, digest, data[start:at]))
    return tuple(events)


def start_value(index: int) -> bytes:
    """Return what a PCR holds after a reset of the platform, 20 bytes."""
    return (b"\xff" if index in _DRTM_PCRS else b"\0") * 20


def replay(events: Iterable[LogEvent], start: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return the PCRs that the events make.

    Args:
        start: values of those PCRs that do not begin with their usual value.
    """
    values = {index: start.get(index, start_value(index)) for index in range(PCR_COUNT)}
    for event in events:
        if event.is_extended:
            values[event.pcr] = hashlib.sha1(values[event.pcr] + event.digest).digest()
    return values
