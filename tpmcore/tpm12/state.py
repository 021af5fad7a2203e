# SPDX-License-Identifier: Apache-2.0
"""The state of one TPM 1.2, split as the specification splits it (Part 2, 7).

`PermanentState` survives power-off, `StclearState` lives until Startup(CLEAR), `StanyState` until
any Startup. Objects here hold data and answer questions about themselves; what commands do to them
is in the command modules, how they become bytes in `tpmcore.tpm12.stateformat`.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Final

from protocol.tpm12.constants import (
    COUNT_ID_NULL,
    PCR_COUNT,
    AdipScheme,
    KeyFlags,
    ProtocolId,
    ReservedHandle,
    StructureTag,
)
from protocol.tpm12.delegation import DelegatePublic, FamilyFlags, FamilyTableEntry
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.pcr import PcrInfoShort, release_of
from protocol.tpm12.records import record
from protocol.tpm12.resources import NvDataPublic
from protocol.tpm12.transport import TransportAttributes, TransportPublic
from protocol.tpm12.wire import BOOL, DIGEST_BYTES, Prefix, Structure, tag_prefix
from tpmcore.tpm12.daa_session import DaaSecrets, DaaSession
from tpmcore.tpm12.rsa import PrivateKey

ZERO_DIGEST = bytes(DIGEST_BYTES)
ONES_DIGEST = b"\xff" * DIGEST_BYTES
NV_AREA_OVERHEAD_BYTES = 91
"""TPM_NV_DATA_PUBLIC and the area's secret."""
MAX_NO_OWNER_WRITES: Final = 64
"""TPM_MAX_NV_WRITE_NOOWNER (Part 2, 19.1)."""
EK_BITS: Final = 2048
"""Length of an endorsement key (Part 1, 5.1)."""
_RESERVED_HANDLES: Final = 0x40
"""Top byte of the reserved handles; no loaded resource may get one (Part 2, 4.4)."""


def may_be_handle(handle: int) -> bool:
    """Whether a loaded key or a session may have a handle: not 0, and none that is reserved."""
    return handle != 0 and handle >> 24 != _RESERVED_HANDLES


@dataclass(slots=True)
class PermanentFlags(Structure):
    """TPM_PERMANENT_FLAGS (Part 2, 7.1), 22 bytes; defaults are those of a new chip.

    A new chip is enabled and activated, as libtpms has it, unless its profile says otherwise:
    firmware and TSS then work in a virtual machine without a ceremony of physical presence.
    """

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.PERMANENT_FLAGS)
    disable: Annotated[bool, BOOL] = False
    ownership: Annotated[bool, BOOL] = True
    deactivated: Annotated[bool, BOOL] = False
    read_pubek: Annotated[bool, BOOL] = True
    disable_owner_clear: Annotated[bool, BOOL] = False
    allow_maintenance: Annotated[bool, BOOL] = True
    physical_presence_lifetime_lock: Annotated[bool, BOOL] = False
    physical_presence_hw_enable: Annotated[bool, BOOL] = False
    physical_presence_cmd_enable: Annotated[bool, BOOL] = False
    cekp_used: Annotated[bool, BOOL] = False
    tpm_post: Annotated[bool, BOOL] = False
    tpm_post_lock: Annotated[bool, BOOL] = False
    fips: Annotated[bool, BOOL] = False
    operator: Annotated[bool, BOOL] = False
    enable_revoke_ek: Annotated[bool, BOOL] = True
    nv_locked: Annotated[bool, BOOL] = False
    read_srk_pub: Annotated[bool, BOOL] = False
    tpm_established: Annotated[bool, BOOL] = False
    maintenance_done: Annotated[bool, BOOL] = False
    disable_full_da_logic_info: Annotated[bool, BOOL] = False


@dataclass(slots=True)
class StclearFlags(Structure):
    """TPM_STCLEAR_FLAGS (Part 2, 7.2), 7 bytes."""

    prefix: ClassVar[Prefix | None] = tag_prefix(StructureTag.STCLEAR_FLAGS)
    deactivated: Annotated[bool, BOOL] = False
    disable_force_clear: Annotated[bool, BOOL] = False
    physical_presence: Annotated[bool, BOOL] = False
    physical_presence_lock: Annotated[bool, BOOL] = False
    b_global_lock: Annotated[bool, BOOL] = False


@dataclass(slots=True, repr=False)
class EndorsementKey:
    """The EK: its private part and the parameters it was asked for (they shape its TPM_PUBKEY).

    Attributes:
        encoded: cached wire form for the permanent state; None until asked for.
    """

    private: PrivateKey
    parms: KeyParms
    encoded: bytes | None = field(default=None, compare=False)

    def public_key(self) -> PubKey:
        """Return TPM_PUBKEY."""
        return PubKey(self.parms, self.private.modulus)

    def fingerprint(self) -> bytes:
        """Return 32 bytes that no other key has."""
        return hashlib.sha256(self.private.modulus).digest()


@dataclass(slots=True, repr=False)
class KeyBody:
    """A key as the TPM holds it: public structure and secrets.

    Attributes:
        public: TPM_KEY or TPM_KEY12 with empty encData.
        payload: PayloadType of its TPM_STORE_ASYMKEY.
        usage_auth: 20 bytes.
        migration_auth: 20 bytes; tpmProof for a key that is not migratable.
        digest: pubDataDigest; also what an OSAP session on the key is bound to.
        encoded: cached wire form for the permanent state of what never changes, before and behind
            the secrets; None until asked for.
    """

    public: Key
    payload: int
    usage_auth: bytes
    migration_auth: bytes
    private: PrivateKey
    digest: bytes
    encoded: tuple[bytes, bytes] | None = field(default=None, compare=False)

    @property
    def is_migratable(self) -> bool:
        """The migratable flag."""
        return bool(self.public.key_flags & KeyFlags.MIGRATABLE)

    @property
    def release(self) -> PcrInfoShort | None:
        """What PCRs and localities each use needs, or None."""
        info = self.public.pcr_info
        return None if info is None else release_of(info)


@dataclass(slots=True, repr=False)
class LoadedKey:
    """A key in a slot (Part 2, 7.6 KEY_HANDLE entries).

    Attributes:
        handle: random, never 0, never 0x40xxxxxx.
        parent_pcr_status: whether the key or an ancestor is bound to PCRs.
        owner_evict: kept in NV, dropped only by the owner (KeyControlOwner).
        encoded: cached wire form for the volatile state; None until asked for.
    """

    handle: int
    body: KeyBody
    parent_pcr_status: bool
    owner_evict: bool = False
    encoded: bytes | None = None


class EntityKind(enum.IntEnum):
    """What a secret belongs to."""

    KEY = 1
    OWNER = 2
    DATA = 3
    COUNTER = 4
    NV = 5
    OPERATOR = 6


@dataclass(slots=True, repr=False)
class Session:
    """An authorization session (Part 1, chapter on authorization protocols).

    Attributes:
        nonce_even: last one sent to the client, 20 bytes.
        shared_secret: OSAP and DSAP: 20 bytes; empty for OIAP.
        entity_kind: OSAP and DSAP: what the session is bound to.
        entity_digest: OSAP and DSAP: identity of that entity; empty for OIAP.
        adip: how encrypted secrets are decrypted.
        delegation: DSAP, and OSAP while the owner pointer names a row: what the session may do.
    """

    handle: int
    protocol: ProtocolId
    nonce_even: bytes
    shared_secret: bytes = b""
    entity_kind: EntityKind = EntityKind.OWNER
    entity_digest: bytes = b""
    adip: AdipScheme = AdipScheme.XOR
    delegation: DelegatePublic | None = None


@dataclass(slots=True, repr=False)
class TransportSession:
    """A transport session (Part 2, 13.3 TPM_TRANSPORT_INTERNAL).

    Attributes:
        auth_data: its secret, 20 bytes.
        nonce_even: last one sent to the client, 20 bytes.
        digest: transDigest, over what a session with the LOG attribute executed.
    """

    handle: int
    public: TransportPublic
    auth_data: bytes
    nonce_even: bytes
    digest: bytes = ZERO_DIGEST

    def has(self, attribute: TransportAttributes) -> bool:
        """Whether the session was opened with an attribute."""
        return bool(self.public.trans_attributes & attribute)


@dataclass(slots=True, repr=False)
class NvArea:
    """A defined NV index.

    Attributes:
        public: as defined; its three lock flags are kept below, not in here.
        auth_value: secret of the area, 20 bytes.
        entity_digest: random identity that OSAP sessions on the area are bound to.
        data: exactly public.data_size bytes.
        write_define_locked: bWriteDefine, persistent.
        read_st_clear: bReadSTClear, until Startup(CLEAR).
        write_st_clear: bWriteSTClear, until Startup(CLEAR).
    """

    public: NvDataPublic
    auth_value: bytes
    entity_digest: bytes
    data: bytes
    write_define_locked: bool = False
    read_st_clear: bool = False
    write_st_clear: bool = False

    @property
    def cost_bytes(self) -> int:
        """What the area takes of the profile's nv_space_bytes."""
        return NV_AREA_OVERHEAD_BYTES + len(self.data)

    def current_public(self) -> NvDataPublic:
        """Return TPM_NV_DATA_PUBLIC with the locks as they are now."""
        return replace(
            self.public,
            b_read_st_clear=self.read_st_clear,
            b_write_st_clear=self.write_st_clear,
            b_write_define=self.write_define_locked,
        )


@record(repr=False)
class Counter:
    """A monotonic counter slot; the value outlives the release of the counter."""

    valid: bool = False
    label: bytes = b"\0\0\0\0"
    value: int = 0
    auth: bytes = ZERO_DIGEST
    entity_digest: bytes = ZERO_DIGEST

    def released(self) -> Counter:
        """Return the slot without its counter: the next one begins above every value there was."""
        return Counter(False, self.label, self.value) if self.valid else self


@record(repr=False)
class DelegateRow:
    """A row of the delegate table (Part 2, 20.9): who holds auth_value may do what public says."""

    public: DelegatePublic
    auth_value: bytes


@dataclass(slots=True, repr=False)
class PermanentState:
    """TPM_PERMANENT_FLAGS and TPM_PERMANENT_DATA (Part 2, 7.1 and 7.4), and the NV areas.

    Attributes:
        owner_auth: None without an owner; srk is then None too.
        ek_reset: secret that RevokeTrust wants.
        counters: as many slots as the profile has.
        nv: areas by index, in the order of their definition.
        no_owner_nv_write: writes and definitions made without an owner, at most 64.
        owner_evict_keys: keys that KeyControlOwner pinned.
        saved_state: volatile state kept by SaveState, or empty.
        daa: None in a chip of a version that had no DAA, until it is needed.
        manu_maint_pub: the manufacturer's key for maintenance; None until it is loaded.
        audit_counter: auditMonotonicCounter.
        audit_status: whether an ordinal is audited where that is not its default.
        last_family_id: of the family created last; ids are never used again.
        families: family table by row number.
        delegate_rows: delegate table by row number.
        kept_sections: runs of sections as they were written last, by the number of the first, and
            what they were made of.
    """

    flags: PermanentFlags
    tpm_proof: bytes
    context_key: bytes
    delegate_key: bytes
    counters: list[Counter]
    ek: EndorsementKey | None = None
    ek_reset: bytes = ZERO_DIGEST
    srk: KeyBody | None = None
    owner_auth: bytes | None = None
    operator_auth: bytes = ZERO_DIGEST
    auth_dir: bytes = ZERO_DIGEST
    restrict_delegate: int = 0
    no_owner_nv_write: int = 0
    nv: dict[int, NvArea] = field(default_factory=dict)
    owner_evict_keys: dict[int, LoadedKey] = field(default_factory=dict)
    saved_state: bytes = b""
    daa: DaaSecrets | None = None
    manu_maint_pub: PubKey | None = None
    audit_counter: int = 0
    audit_status: dict[int, bool] = field(default_factory=dict)
    last_family_id: int = 0
    families: dict[int, FamilyTableEntry] = field(default_factory=dict)
    delegate_rows: dict[int, DelegateRow] = field(default_factory=dict)
    kept_sections: dict[int, tuple[object, bytes]] = field(default_factory=dict, compare=False)

    def family(self, family_id: int) -> FamilyTableEntry | None:
        """Return the family with an id, or None."""
        for family in self.families.values():
            if family.family_id == family_id:
                return family
        return None

    def upholds(self, public: DelegatePublic) -> bool:
        """Whether a delegation counts: its family is there, enabled, and has not moved on."""
        family = self.family(public.family_id)
        return (
            family is not None
            and bool(family.flags & FamilyFlags.ENABLED)
            and family.verification_count == public.verification_count
        )


@dataclass(slots=True, repr=False)
class StclearState:
    """TPM_STCLEAR_FLAGS and TPM_STCLEAR_DATA (Part 2, 7.2 and 7.5).

    Attributes:
        pcrs: 24 values of 20 bytes.
        count_id: the one counter that may be incremented in this boot.
        failure_count: wrong authorizations, see tpmcore.tpm12.lockout.
        lockout_until_us: tick at which the lockout ends; 0 if none.
        keys: loaded keys by handle, owner-evict keys included.
        owner_reference: ReservedHandle.OWNER, or the number of the delegate row whose secret stands
            for the owner's.
    """

    flags: StclearFlags = field(default_factory=StclearFlags)
    pcrs: list[bytes] = field(default_factory=lambda: [ZERO_DIGEST] * PCR_COUNT)
    context_nonce_key: bytes = ZERO_DIGEST
    count_id: int = COUNT_ID_NULL
    disable_reset_lock: bool = False
    deferred_physical_presence: int = 0
    failure_count: int = 0
    lockout_until_us: int = 0
    keys: dict[int, LoadedKey] = field(default_factory=dict)
    owner_reference: int = ReservedHandle.OWNER


@dataclass(slots=True, repr=False)
class StanyState:
    """TPM_STANY_FLAGS and TPM_STANY_DATA (Part 2, 7.3 and 7.6).

    Attributes:
        transport_exclusive: handle of the transport session that any other command ends, or 0.
        transports: open transport sessions by handle; no handle is in `sessions` too.
        context_list: saved session contexts that may still be loaded, oldest first: their counts,
            and whether a deprecated command saved them.
        deprecated_nonce: identifies what the deprecated commands save until it is zeroed.
        tick_nonce: identity of the tick session; tick_base_us is the tick at which it began.
    """

    post_initialise: bool = True
    locality_modifier: int = 0
    transport_exclusive: int = 0
    tos_present: bool = False
    context_nonce_session: bytes = ZERO_DIGEST
    context_count: int = 0
    context_list: dict[int, bool] = field(default_factory=dict)
    deprecated_nonce: bytes = ZERO_DIGEST
    audit_digest: bytes = ZERO_DIGEST
    sessions: dict[int, Session] = field(default_factory=dict)
    transports: dict[int, TransportSession] = field(default_factory=dict)
    daa_sessions: dict[int, DaaSession] = field(default_factory=dict)
    tick_nonce: bytes = ZERO_DIGEST
    tick_base_us: int = 0


class SelfTest(enum.IntEnum):
    """State of the self tests (Part 1, chapter on self test)."""

    LIMITED = 0
    FULL = 1
    FAILED = 2
