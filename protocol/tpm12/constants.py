# SPDX-License-Identifier: Apache-2.0
"""Numbers of TPM 1.2: ordinals, return codes, tags, algorithms, usages, handles, flags.

Names are those of the specification without the TPM_ prefix. Source: TPM Main Part 2 (structures
and constants), level 2 revision 116; PC Client TIS for the TSC ordinals.
"""

from __future__ import annotations

import enum
from typing import TypeVar

Flags = TypeVar("Flags", bound=type[enum.IntFlag])


def tested_as_number(flags: Flags) -> Flags:
    """Let `number & flag` be a plain number, which is all that a test of a flag wants: the member
    that enum makes of it takes a microsecond."""
    # Not a pair that the types of enum foresee: they promise members.
    flags.__and__ = int.__and__  # type: ignore[assignment]
    flags.__rand__ = int.__rand__  # type: ignore[assignment,misc]
    return flags


class Tag(enum.IntEnum):
    """Tags of requests and responses (Part 2, 6)."""

    RQU_COMMAND = 0x00C1
    RQU_AUTH1_COMMAND = 0x00C2
    RQU_AUTH2_COMMAND = 0x00C3
    RSP_COMMAND = 0x00C4
    RSP_AUTH1_COMMAND = 0x00C5
    RSP_AUTH2_COMMAND = 0x00C6


class Ordinal(enum.IntEnum):
    """Command ordinals (Part 2, 17), the two of the TIS and the two of Xen's vTPM; deleted ones
    included."""

    OIAP = 0x0A
    OSAP = 0x0B
    CHANGE_AUTH = 0x0C
    TAKE_OWNERSHIP = 0x0D
    CHANGE_AUTH_ASYM_START = 0x0E
    CHANGE_AUTH_ASYM_FINISH = 0x0F
    CHANGE_AUTH_OWNER = 0x10
    DSAP = 0x11
    CMK_CREATE_TICKET = 0x12
    CMK_CREATE_KEY = 0x13
    EXTEND = 0x14
    PCR_READ = 0x15
    QUOTE = 0x16
    SEAL = 0x17
    UNSEAL = 0x18
    DIR_WRITE_AUTH = 0x19
    DIR_READ = 0x1A
    CMK_CREATE_BLOB = 0x1B
    CMK_SET_RESTRICTIONS = 0x1C
    CMK_APPROVE_MA = 0x1D
    UNBIND = 0x1E
    CREATE_WRAP_KEY = 0x1F
    LOAD_KEY = 0x20
    GET_PUB_KEY = 0x21
    EVICT_KEY = 0x22
    KEY_CONTROL_OWNER = 0x23
    CMK_CONVERT_MIGRATION = 0x24
    MIGRATE_KEY = 0x25
    CREATE_MIGRATION_BLOB = 0x28
    DAA_JOIN = 0x29
    CONVERT_MIGRATION_BLOB = 0x2A
    AUTHORIZE_MIGRATION_KEY = 0x2B
    CREATE_MAINTENANCE_ARCHIVE = 0x2C
    LOAD_MAINTENANCE_ARCHIVE = 0x2D
    KILL_MAINTENANCE_FEATURE = 0x2E
    LOAD_MANU_MAINT_PUB = 0x2F
    READ_MANU_MAINT_PUB = 0x30
    DAA_SIGN = 0x31
    CERTIFY_KEY = 0x32
    CERTIFY_KEY2 = 0x33
    SIGN = 0x3C
    SEALX = 0x3D
    QUOTE2 = 0x3E
    SET_CAPABILITY = 0x3F
    RESET_LOCK_VALUE = 0x40
    LOAD_KEY2 = 0x41
    GET_RANDOM = 0x46
    STIR_RANDOM = 0x47
    SELF_TEST_FULL = 0x50
    CERTIFY_SELF_TEST = 0x52
    CONTINUE_SELF_TEST = 0x53
    GET_TEST_RESULT = 0x54
    RESET = 0x5A
    OWNER_CLEAR = 0x5B
    DISABLE_OWNER_CLEAR = 0x5C
    FORCE_CLEAR = 0x5D
    DISABLE_FORCE_CLEAR = 0x5E
    GET_CAPABILITY_SIGNED = 0x64
    GET_CAPABILITY = 0x65
    GET_CAPABILITY_OWNER = 0x66
    OWNER_SET_DISABLE = 0x6E
    PHYSICAL_ENABLE = 0x6F
    PHYSICAL_DISABLE = 0x70
    SET_OWNER_INSTALL = 0x71
    PHYSICAL_SET_DEACTIVATED = 0x72
    SET_TEMP_DEACTIVATED = 0x73
    SET_OPERATOR_AUTH = 0x74
    SET_OWNER_POINTER = 0x75
    CREATE_ENDORSEMENT_KEY_PAIR = 0x78
    MAKE_IDENTITY = 0x79
    ACTIVATE_IDENTITY = 0x7A
    READ_PUBEK = 0x7C
    OWNER_READ_PUBEK = 0x7D
    DISABLE_PUBEK_READ = 0x7E
    CREATE_REVOCABLE_EK = 0x7F
    REVOKE_TRUST = 0x80
    OWNER_READ_INTERNAL_PUB = 0x81
    GET_AUDIT_EVENT = 0x82
    GET_AUDIT_EVENT_SIGNED = 0x83
    GET_AUDIT_DIGEST = 0x85
    GET_AUDIT_DIGEST_SIGNED = 0x86
    GET_ORDINAL_AUDIT_STATUS = 0x8C
    SET_ORDINAL_AUDIT_STATUS = 0x8D
    TERMINATE_HANDLE = 0x96
    INIT = 0x97
    SAVE_STATE = 0x98
    STARTUP = 0x99
    SET_REDIRECTION = 0x9A
    SHA1_START = 0xA0
    SHA1_UPDATE = 0xA1
    SHA1_COMPLETE = 0xA2
    SHA1_COMPLETE_EXTEND = 0xA3
    FIELD_UPGRADE = 0xAA
    SAVE_KEY_CONTEXT = 0xB4
    LOAD_KEY_CONTEXT = 0xB5
    SAVE_AUTH_CONTEXT = 0xB6
    LOAD_AUTH_CONTEXT = 0xB7
    SAVE_CONTEXT = 0xB8
    LOAD_CONTEXT = 0xB9
    FLUSH_SPECIFIC = 0xBA
    PCR_RESET = 0xC8
    NV_DEFINE_SPACE = 0xCC
    NV_WRITE_VALUE = 0xCD
    NV_WRITE_VALUE_AUTH = 0xCE
    NV_READ_VALUE = 0xCF
    NV_READ_VALUE_AUTH = 0xD0
    DELEGATE_UPDATE_VERIFICATION = 0xD1
    DELEGATE_MANAGE = 0xD2
    DELEGATE_CREATE_KEY_DELEGATION = 0xD4
    DELEGATE_CREATE_OWNER_DELEGATION = 0xD5
    DELEGATE_VERIFY_DELEGATION = 0xD6
    DELEGATE_LOAD_OWNER_DELEGATION = 0xD8
    DELEGATE_READ_TABLE = 0xDB
    CREATE_COUNTER = 0xDC
    INCREMENT_COUNTER = 0xDD
    READ_COUNTER = 0xDE
    RELEASE_COUNTER = 0xDF
    RELEASE_COUNTER_OWNER = 0xE0
    ESTABLISH_TRANSPORT = 0xE6
    EXECUTE_TRANSPORT = 0xE7
    RELEASE_TRANSPORT_SIGNED = 0xE8
    GET_TICKS = 0xF1
    TICK_STAMP_BLOB = 0xF2
    DEEP_QUOTE = 0x20000016
    PARENT_SIGN_EK = 0x2000007C
    TSC_PHYSICAL_PRESENCE = 0x4000000A
    TSC_RESET_ESTABLISHMENT_BIT = 0x4000000B


class ReturnCode(enum.IntEnum):
    """Return codes (Part 2, 16)."""

    SUCCESS = 0
    AUTHFAIL = 1
    BADINDEX = 2
    BAD_PARAMETER = 3
    AUDITFAILURE = 4
    CLEAR_DISABLED = 5
    DEACTIVATED = 6
    DISABLED = 7
    DISABLED_CMD = 8
    FAIL = 9
    BAD_ORDINAL = 10
    INSTALL_DISABLED = 11
    INVALID_KEYHANDLE = 12
    KEYNOTFOUND = 13
    INAPPROPRIATE_ENC = 14
    MIGRATEFAIL = 15
    INVALID_PCR_INFO = 16
    NOSPACE = 17
    NOSRK = 18
    NOTSEALED_BLOB = 19
    OWNER_SET = 20
    RESOURCES = 21
    SHORTRANDOM = 22
    SIZE = 23
    WRONGPCRVAL = 24
    BAD_PARAM_SIZE = 25
    SHA_THREAD = 26
    SHA_ERROR = 27
    FAILEDSELFTEST = 28
    AUTH2FAIL = 29
    BADTAG = 30
    IOERROR = 31
    ENCRYPT_ERROR = 32
    DECRYPT_ERROR = 33
    INVALID_AUTHHANDLE = 34
    NO_ENDORSEMENT = 35
    INVALID_KEYUSAGE = 36
    WRONG_ENTITYTYPE = 37
    INVALID_POSTINIT = 38
    INAPPROPRIATE_SIG = 39
    BAD_KEY_PROPERTY = 40
    BAD_MIGRATION = 41
    BAD_SCHEME = 42
    BAD_DATASIZE = 43
    BAD_MODE = 44
    BAD_PRESENCE = 45
    BAD_VERSION = 46
    NO_WRAP_TRANSPORT = 47
    AUDITFAIL_UNSUCCESSFUL = 48
    AUDITFAIL_SUCCESSFUL = 49
    NOTRESETABLE = 50
    NOTLOCAL = 51
    BAD_TYPE = 52
    INVALID_RESOURCE = 53
    NOTFIPS = 54
    INVALID_FAMILY = 55
    NO_NV_PERMISSION = 56
    REQUIRES_SIGN = 57
    KEY_NOTSUPPORTED = 58
    AUTH_CONFLICT = 59
    AREA_LOCKED = 60
    BAD_LOCALITY = 61
    READ_ONLY = 62
    PER_NOWRITE = 63
    FAMILYCOUNT = 64
    WRITE_LOCKED = 65
    BAD_ATTRIBUTES = 66
    INVALID_STRUCTURE = 67
    KEY_OWNER_CONTROL = 68
    BAD_COUNTER = 69
    NOT_FULLWRITE = 70
    CONTEXT_GAP = 71
    MAXNVWRITES = 72
    NOOPERATOR = 73
    RESOURCEMISSING = 74
    DELEGATE_LOCK = 75
    DELEGATE_FAMILY = 76
    DELEGATE_ADMIN = 77
    TRANSPORT_NOTEXCLUSIVE = 78
    OWNER_CONTROL = 79
    DAA_RESOURCES = 80
    DAA_INPUT_DATA0 = 81
    DAA_INPUT_DATA1 = 82
    DAA_ISSUER_SETTINGS = 83
    DAA_TPM_SETTINGS = 84
    DAA_STAGE = 85
    DAA_ISSUER_VALIDITY = 86
    DAA_WRONG_W = 87
    BAD_HANDLE = 88
    BAD_DELEGATE = 89
    BADCONTEXT = 90
    TOOMANYCONTEXTS = 91
    MA_TICKET_SIGNATURE = 92
    MA_DESTINATION = 93
    MA_SOURCE = 94
    MA_AUTHORITY = 95
    PERMANENTEK = 97
    BAD_SIGNATURE = 98
    NOCONTEXTSPACE = 99
    RETRY = 0x800
    NEEDS_SELFTEST = 0x801
    DOING_SELFTEST = 0x802
    DEFEND_LOCK_RUNNING = 0x803


class StructureTag(enum.IntEnum):
    """Tags at the head of structures (Part 2, 3.1)."""

    CONTEXT_BLOB = 0x0001
    CONTEXT_SENSITIVE = 0x0002
    SIGN_INFO = 0x0005
    PCR_INFO_LONG = 0x0006
    EK_BLOB = 0x000C
    EK_BLOB_AUTH = 0x000D
    COUNTER_VALUE = 0x000E
    TRANSPORT_LOG_IN = 0x0010
    TRANSPORT_LOG_OUT = 0x0011
    AUDIT_EVENT_IN = 0x0012
    AUDIT_EVENT_OUT = 0x0013
    CURRENT_TICKS = 0x0014
    STORED_DATA12 = 0x0016
    NV_ATTRIBUTES = 0x0017
    NV_DATA_PUBLIC = 0x0018
    DELEGATIONS = 0x001A
    DELEGATE_PUBLIC = 0x001B
    TRANSPORT_AUTH = 0x001D
    TRANSPORT_PUBLIC = 0x001E
    PERMANENT_FLAGS = 0x001F
    STCLEAR_FLAGS = 0x0020
    STANY_FLAGS = 0x0021
    FAMILY_TABLE_ENTRY = 0x0025
    DELEGATE_SENSITIVE = 0x0026
    DELEGATE_KEY_BLOB = 0x0027
    KEY12 = 0x0028
    CERTIFY_INFO2 = 0x0029
    DELEGATE_OWNER_BLOB = 0x002A
    EK_BLOB_ACTIVATE = 0x002B
    DAA_BLOB = 0x002C
    DAA_ISSUER = 0x002F
    CAP_VERSION_INFO = 0x0030
    DAA_SENSITIVE = 0x0031
    DAA_TPM = 0x0032
    CMK_MIGAUTH = 0x0033
    CMK_SIGTICKET = 0x0034
    CMK_MA_APPROVAL = 0x0035
    QUOTE_INFO2 = 0x0036
    DA_INFO = 0x0037
    DA_INFO_LIMITED = 0x0038
    DA_ACTION_TYPE = 0x0039


class ResourceType(enum.IntEnum):
    """TPM_RT (Part 2, 4.1)."""

    KEY = 1
    AUTH = 2
    HASH = 3
    TRANS = 4
    CONTEXT = 5
    COUNTER = 6
    DELEGATE = 7
    DAA_TPM = 8
    DAA_V0 = 9
    DAA_V1 = 10


class PayloadType(enum.IntEnum):
    """TPM_PT (Part 2, 4.2)."""

    ASYM = 1
    BIND = 2
    MIGRATE = 3
    MAINT = 4
    SEAL = 5
    MIGRATE_RESTRICTED = 6
    MIGRATE_EXTERNAL = 7
    CMK_MIGRATE = 8


class EntityType(enum.IntEnum):
    """Low byte of TPM_ENTITY_TYPE (Part 2, 4.3)."""

    KEYHANDLE = 0x01
    OWNER = 0x02
    DATA = 0x03
    SRK = 0x04
    KEY = 0x05
    REVOKE = 0x06
    DEL_OWNER_BLOB = 0x07
    DEL_ROW = 0x08
    DEL_KEY_BLOB = 0x09
    COUNTER = 0x0A
    NV = 0x0B
    OPERATOR = 0x0C
    RESERVED_HANDLE = 0x40


class AdipScheme(enum.IntEnum):
    """High byte of TPM_ENTITY_TYPE: how secrets in commands are encrypted (Part 2, 4.3)."""

    XOR = 0x00
    AES128_CTR = 0x06


class ProtocolId(enum.IntEnum):
    """TPM_PROTOCOL_ID (Part 2, 4.5)."""

    OIAP = 1
    OSAP = 2
    ADIP = 3
    ADCP = 4
    OWNER = 5
    DSAP = 6
    TRANSPORT = 7


class StartupType(enum.IntEnum):
    """TPM_STARTUP_TYPE (Part 2, 4.6)."""

    CLEAR = 1
    STATE = 2
    DEACTIVATED = 3


class KeyUsage(enum.IntEnum):
    """TPM_KEY_USAGE (Part 2, 5.8)."""

    SIGNING = 0x10
    STORAGE = 0x11
    IDENTITY = 0x12
    AUTHCHANGE = 0x13
    BIND = 0x14
    LEGACY = 0x15
    MIGRATE = 0x16


@tested_as_number
class KeyFlags(enum.IntFlag):
    """TPM_KEY_FLAGS (Part 2, 5.10)."""

    REDIRECTION = 0x01
    MIGRATABLE = 0x02
    IS_VOLATILE = 0x04
    PCR_IGNORED_ON_READ = 0x08
    MIGRATE_AUTHORITY = 0x10


KEY_FLAGS_MASK = 0x1F


class AuthDataUsage(enum.IntEnum):
    """TPM_AUTH_DATA_USAGE (Part 2, 5.9)."""

    NEVER = 0x00
    ALWAYS = 0x01
    PRIV_USE_ONLY = 0x03


class Algorithm(enum.IntEnum):
    """TPM_ALGORITHM_ID (Part 2, 4.8)."""

    RSA = 1
    SHA = 4
    HMAC = 5
    AES128 = 6
    MGF1 = 7
    AES192 = 8
    AES256 = 9
    XOR = 10


class EncScheme(enum.IntEnum):
    """TPM_ENC_SCHEME (Part 2, 5.8.1)."""

    NONE = 1
    RSAESPKCSV15 = 2
    RSAESOAEP_SHA1_MGF1 = 3
    SYM_CTR = 4
    SYM_OFB = 5


class SigScheme(enum.IntEnum):
    """TPM_SIG_SCHEME (Part 2, 5.8.1)."""

    NONE = 1
    RSASSAPKCS1V15_SHA1 = 2
    RSASSAPKCS1V15_DER = 3
    RSASSAPKCS1V15_INFO = 4


class MigrationScheme(enum.IntEnum):
    """TPM_MIGRATE_SCHEME (Part 2, 4.10)."""

    MIGRATE = 1
    REWRAP = 2
    MAINT = 3
    RESTRICT_MIGRATE = 4
    RESTRICT_APPROVE = 5


class EkType(enum.IntEnum):
    """TPM_EK_TYPE (Part 2, 4.11)."""

    ACTIVATE = 1
    AUTH = 2


class ReservedHandle(enum.IntEnum):
    """Handles that are no loaded resource (Part 2, 4.4)."""

    SRK = 0x40000000
    OWNER = 0x40000001
    REVOKE = 0x40000002
    TRANSPORT = 0x40000003
    OPERATOR = 0x40000004
    ADMIN = 0x40000005
    EK = 0x40000006


@tested_as_number
class PhysicalPresenceFlags(enum.IntFlag):
    """TPM_PHYSICAL_PRESENCE (Part 2, 4.9)."""

    LOCK = 0x0004
    PRESENT = 0x0008
    NOTPRESENT = 0x0010
    CMD_ENABLE = 0x0020
    HW_ENABLE = 0x0040
    LIFETIME_LOCK = 0x0080
    CMD_DISABLE = 0x0100
    HW_DISABLE = 0x0200


class NvIndex(enum.IntEnum):
    """Indices with a meaning of their own (Part 2, 19.1)."""

    INDEX0 = 0x00000000
    TRIAL = 0x0000F004
    DIR = 0x10000001
    GPIO_FIRST = 0x00011600
    GPIO_LAST = 0x000116FF
    LOCK = 0xFFFFFFFF


NV_INDEX_D_BIT = 0x10000000
NV_INDEX_RESERVED_BITS = 0x0F000000


@tested_as_number
class NvAttributes(enum.IntFlag):
    """TPM_NV_ATTRIBUTES (Part 2, 19.2)."""

    PPWRITE = 0x00000001
    OWNERWRITE = 0x00000002
    AUTHWRITE = 0x00000004
    WRITEALL = 0x00001000
    WRITEDEFINE = 0x00002000
    WRITE_STCLEAR = 0x00004000
    GLOBALLOCK = 0x00008000
    PPREAD = 0x00010000
    OWNERREAD = 0x00020000
    AUTHREAD = 0x00040000
    READ_STCLEAR = 0x80000000


class CapabilityArea(enum.IntEnum):
    """TPM_CAPABILITY_AREA of GetCapability (Part 2, 21.1)."""

    ORD = 0x01
    ALG = 0x02
    PID = 0x03
    FLAG = 0x04
    PROPERTY = 0x05
    VERSION = 0x06
    KEY_HANDLE = 0x07
    CHECK_LOADED = 0x08
    SYM_MODE = 0x09
    KEY_STATUS = 0x0C
    NV_LIST = 0x0D
    MFR = 0x10
    NV_INDEX = 0x11
    TRANS_ALG = 0x12
    HANDLE = 0x14
    TRANS_ES = 0x15
    AUTH_ENCRYPT = 0x17
    SELECT_SIZE = 0x18
    DA_LOGIC = 0x19
    VERSION_VAL = 0x1A


class CapabilityFlag(enum.IntEnum):
    """subCap of CapabilityArea.FLAG."""

    PERMANENT = 0x108
    VOLATILE = 0x109


class CapabilityProperty(enum.IntEnum):
    """subCap of CapabilityArea.PROPERTY (Part 2, 21.2)."""

    PCR = 0x101
    DIR = 0x102
    MANUFACTURER = 0x103
    KEYS = 0x104
    MIN_COUNTER = 0x107
    AUTHSESS = 0x10A
    TRANSESS = 0x10B
    COUNTERS = 0x10C
    MAX_AUTHSESS = 0x10D
    MAX_TRANSESS = 0x10E
    MAX_COUNTERS = 0x10F
    MAX_KEYS = 0x110
    OWNER = 0x111
    CONTEXT = 0x112
    MAX_CONTEXT = 0x113
    FAMILYROWS = 0x114
    TIS_TIMEOUT = 0x115
    STARTUP_EFFECT = 0x116
    DELEGATE_ROW = 0x117
    MAX_DAASESS = 0x119
    DAASESS = 0x11A
    CONTEXT_DIST = 0x11B
    DAA_INTERRUPT = 0x11C
    SESSIONS = 0x11D
    MAX_SESSIONS = 0x11E
    CMK_RESTRICTION = 0x11F
    DURATION = 0x120
    ACTIVE_COUNTER = 0x122
    MAX_NV_AVAILABLE = 0x123
    INPUT_BUFFER = 0x124


class SetCapabilityArea(enum.IntEnum):
    """TPM_CAPABILITY_AREA of SetCapability (Part 2, 21.4)."""

    PERM_FLAGS = 1
    PERM_DATA = 2
    STCLEAR_FLAGS = 3
    STCLEAR_DATA = 4
    STANY_FLAGS = 5
    STANY_DATA = 6
    VENDOR = 7


PCR_COUNT = 24
COUNT_ID_NULL = 0xFFFFFFFF
COUNT_ID_ILLEGAL = 0xFFFFFFFE
LOCALITY_ALL = 0x1F
"""Locality selection that admits localities 0-4 (Part 2, 8.6)."""
