# SPDX-License-Identifier: Apache-2.0
"""Addresses, bits and constants of the TIS register interface (TCG PC Client TIS 1.2).

Everything is per locality page of 0x1000 bytes; offsets are those inside the page. Multi-byte
registers are little-endian.
"""

from __future__ import annotations

import enum
from typing import Final, NewType

Locality = NewType("Locality", int)
"""0 to 4; the platform decides who may use which."""

LOCALITIES: Final = 5
HASH_LOCALITY: Final = 4
"""The only locality whose page decodes HASH_START, HASH_DATA and HASH_END."""

PAGE_SIZE: Final = 0x1000


class Register(enum.IntEnum):
    """First offset of each register in a locality page."""

    ACCESS = 0x000
    INT_ENABLE = 0x008
    INT_VECTOR = 0x00C
    INT_STATUS = 0x010
    INTF_CAPABILITY = 0x014
    STS = 0x018
    HASH_END = 0x020
    DATA_FIFO = 0x024
    HASH_START = 0x028
    INTERFACE_ID = 0x030
    DID_VID = 0xF00
    RID = 0xF04


FIFO_WINDOW: Final = 4
"""DATA_FIFO and HASH_DATA occupy these many addresses, all of them the same FIFO."""


class Access(enum.IntFlag):
    """Bits of ACCESS (TIS 5.6.5)."""

    VALID = 0x80
    ACTIVE_LOCALITY = 0x20
    BEEN_SEIZED = 0x10
    SEIZE = 0x08
    PENDING_REQUEST = 0x04
    REQUEST_USE = 0x02
    NOT_ESTABLISHED = 0x01  # tpmEstablishment is inverted: 1 = no dynamic launch has happened


class Sts(enum.IntFlag):
    """Bits of the lowest byte of STS."""

    VALID = 0x80
    COMMAND_READY = 0x40
    GO = 0x20
    DATA_AVAIL = 0x10
    EXPECT = 0x08
    SELF_TEST_DONE = 0x04  # TIS 1.3; reads 0 on a 1.2 chip
    RESPONSE_RETRY = 0x02


STS_ACTIONS: Final = int(Sts.COMMAND_READY | Sts.GO | Sts.RESPONSE_RETRY)
"""What a write to STS can act on; exactly one of them must be set."""

STS_MUST_BE_ZERO: Final = 0x23
"""Bits that read 0 on a chip that answers; any of them set means that the locality is not
active."""

STS_CANCELLED: Final = int(Sts.COMMAND_READY)
"""The whole byte after an aborted command, by which drivers recognise it."""

BURST_SHIFT: Final = 8
BURST_MASK: Final = 0xFFFF


class Interrupt(enum.IntFlag):
    """Bits of INT_ENABLE and INT_STATUS, and the sources in INTF_CAPABILITY."""

    DATA_AVAIL = 0x01
    STS_VALID = 0x02
    LOCALITY_CHANGE = 0x04
    COMMAND_READY = 0x80


INTERRUPT_SOURCES: Final = 0x87
INT_POLARITY_LOW_LEVEL: Final = 0x08
INT_GLOBAL_ENABLE: Final = 0x8000_0000
INT_ENABLE_MASK: Final = INT_GLOBAL_ENABLE | 0x18 | INTERRUPT_SOURCES

INTF_CAPABILITY_VALUE: Final = 0x97
"""A plain TIS 1.2 chip: the four interrupt sources, low level, burstCount dynamic, legacy transfer
size."""

INTERFACE_ID_VALUE: Final = 0xFFFF_FFFF
"""The register came with TIS 1.3; type 0xF (FIFO of TIS 1.3 and before) makes the rest read
ones."""

VENDOR_ID: Final = 0x1014
"""IBM, as QEMU's device has it. Vendors for which drivers have special cases (0x8086, 0x1114,
0x104A, 0x1050) are out."""

DEVICE_ID: Final = 0x0001
REVISION_ID: Final = 0x01

BUFFER_SIZE: Final = 4096
"""Command and response buffer of the chip in bytes (TPM_CAP_PROP_INPUT_BUFFER)."""

MAX_BURST: Final = 0xFF
"""Largest burstCount the chip shows: a driver that reads the two bytes separately then never sees a
torn value."""

HEADER_SIZE: Final = 10
"""Tag (2), size (4), ordinal or return code (4), big-endian, of every TPM command and response."""
