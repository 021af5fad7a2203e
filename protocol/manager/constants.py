# SPDX-License-Identifier: Apache-2.0
"""Tags, ordinals and return codes of the manager's protocol.

Names are those of Xen's `vtpm_manager.h`, recased. Ordinals that Xen only declared are here as
well, so that a dispatcher can tell "not built" from "unknown".
"""

from __future__ import annotations

import enum
from typing import Final

HEADER_BYTES: Final = 10
"""u16 tag, u32 paramSize (whole message), u32 ordinal or return code."""

MAX_MESSAGE_BYTES: Final = 4088
"""What one shared page of the split driver carries after its header."""

DIGEST_BYTES: Final = 20
"""SHA-1, the only hash that this protocol knows."""


class ManagerTag(enum.IntEnum):
    """Tag of a message."""

    REQ = 0x01C1
    """Request of a vTPM for itself."""
    REQ2 = 0x01C2
    """Management request; needs the ADMIN right."""
    RSP = 0x01C4
    """Response to both, also errors found by a command."""
    RSP2 = 0x01C5
    """Error found before a REQ2 command ran (request tag + 3)."""


class PassThroughTag(enum.IntEnum):
    """Tags of raw TPM 1.2 commands that go on to the hardware TPM."""

    RQU_COMMAND = 0x00C1
    RQU_AUTH1_COMMAND = 0x00C2
    RQU_AUTH2_COMMAND = 0x00C3


RSP_COMMAND: Final = 0x00C4
"""TPM 1.2 response tag; also answers a request too short to have a tag."""


class VtpmOrdinal(enum.IntEnum):
    """Commands of tag REQ; from 5 on they are ours."""

    SAVEHASHKEY = 1
    LOADHASHKEY = 2
    GET_BOOT_HASH = 3
    GET_QUOTE = 4
    STATE_KEY_NEW = 5
    STATE_KEY_OPEN = 6


class ManagementOrdinal(enum.IntEnum):
    """Commands of tag REQ2. Base 0x02000000; from 0x400 on they are ours."""

    GROUP_LIST = 0x02000101
    GROUP_NEW = 0x02000102
    GROUP_DEL = 0x02000103
    GROUP_ACTIVATE = 0x02000104
    GROUP_REGISTER = 0x02000105
    GROUP_UPDATE = 0x02000106
    GROUP_SHOW = 0x02000107
    GROUP_QUOTE = 0x02000108
    GROUP_RECOVER1 = 0x02000109
    GROUP_RECOVER2 = 0x0200010A
    VTPM_LIST = 0x02000201
    VTPM_SHOW = 0x02000202
    VTPM_EDIT = 0x02000203
    VTPM_NEW = 0x02000204
    VTPM_DEL = 0x02000205
    MAKE_IDENTITY = 0x02000301
    ACTIVATE_IDENTITY = 0x02000302
    READ_PUBEK = 0x02000303
    NV_DEFINE_SPACE = 0x02000304
    NV_WRITE_VALUE = 0x02000305
    NV_READ_VALUE = 0x02000306
    MANAGER_REKEY = 0x02000401
    GROUP_REKEY = 0x02000402
    NV_REKEY = 0x02000403
    COUNTER_REKEY = 0x02000404
    GROUP_POLICY = 0x02000405
    TRANSPORT_KEY = 0x02000500
    MOVE_EXPORT = 0x02000501
    MOVE_IMPORT = 0x02000502
    MOVE_RELEASE = 0x02000503
    MOVE_ACTIVATE = 0x02000504
    MOVE_CANCEL = 0x02000505
    MOVE_ABANDON = 0x02000506
    MOVE_LIST = 0x02000507
    STATE_TARGET_SET = 0x02000508
    STATE_TARGET_CLEAR = 0x02000509
    STATE_TARGET_SHOW = 0x0200050A
    STATE_TARGET_LOCAL = 0x0200050B


class QuoteFlags(enum.IntFlag):
    """What a quote says beside PCRs: one hash for each, in this order; from 0x100 on they are
    ours."""

    HASH_UUID = 1
    """The vTPM's uuid."""
    VTPM_MEASUREMENTS = 2
    """The vTPM's kern_hash."""
    GROUP_INFO = 4
    """The agent's modulus and the group's CFG_LIST."""
    GROUP_PUBKEY = 8
    """The agent's modulus."""
    FRESHNESS = 0x100
    """How the manager notices an older copy of its database."""


class VtpmFlag(enum.IntFlag):
    """What VTPM_SHOW tells and VTPM_EDIT changes."""

    ADMIN = 1
    """It may send management commands. Only who the configuration gives the right has it; here it
    can be taken back and restored."""


class ManagerCode(enum.IntEnum):
    """Return codes that the manager makes itself; those of the hardware pass as numbers.

    An enumeration of its own because INVALID_REQUEST has the number of TPM_CLEAR_DISABLED; all
    others mean what TPM 1.2 says.
    """

    SUCCESS = 0
    AUTHFAIL = 1
    BADINDEX = 2
    BAD_PARAMETER = 3
    INVALID_REQUEST = 5
    DISABLED = 7
    DISABLED_CMD = 8
    FAIL = 9
    BAD_ORDINAL = 10
    SIZE = 23
    BADTAG = 30
    IOERROR = 31
    ENCRYPT_ERROR = 32
    DECRYPT_ERROR = 33
    INAPPROPRIATE_SIG = 39
