# SPDX-License-Identifier: Apache-2.0
"""One TPM: its world, its state, and what several command families do to that state."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from protocol.tpm12.constants import ProtocolId, ReturnCode
from tpmcore.errors import TpmError
from tpmcore.tpm12.blob_cipher import BlobCipher
from tpmcore.tpm12.context import Entity
from tpmcore.tpm12.daa_session import BLOB_KEY_BYTES, DaaSecrets
from tpmcore.tpm12.lockout import Lockout
from tpmcore.tpm12.state import (
    ZERO_DIGEST,
    EntityKind,
    LoadedKey,
    PermanentState,
    SelfTest,
    Session,
    StanyState,
    StclearState,
    TransportSession,
    may_be_handle,
)
from tpmcore.tpm12.world import Profile, World


class Tpm:
    """State and world of one TPM 1.2.

    Attributes:
        hardware_presence: the platform's signal of physical presence.
        sha1_thread: the hash between SHA1Start and SHA1Complete, or None. It is no part of any
            saved state: after a restart the client is told SHA_THREAD and begins anew.
        sha1_transport: the transport session in which that hash was started, or None.
        hash_sequence: the open hash of the hash sequence of locality 4, or None.
        fresh_ek: fingerprint of the endorsement key if it was made in this run of the TPM, else
            empty. A run is what one manufacture or restore from the permanent state alone begins: a
            reset of the platform does not end it, nor does a restart that takes up the volatile
            state.
        blob_cipher: encrypts what is kept outside.
    """

    def __init__(self, world: World, profile: Profile, permanent: PermanentState) -> None:
        self.world = world
        self.profile = profile
        self.permanent = permanent
        self.stclear = StclearState()
        self.stany = StanyState()
        self.self_test = SelfTest.LIMITED
        self.hardware_presence = False
        self.sha1_thread: hashlib._Hash | None = None
        self.sha1_transport: TransportSession | None = None
        self.hash_sequence: hashlib._Hash | None = None
        self.fresh_ek = b""
        self.lockout = Lockout(self)
        self.blob_cipher = BlobCipher()

    def random(self, size_bytes: int) -> bytes:
        """Return random bytes of the TPM's generator."""
        return self.world.random.random(size_bytes)

    def new_nonce(self) -> bytes:
        """Return a random nonce, 20 bytes."""
        return self.world.random.random(20)

    @property
    def is_owned(self) -> bool:
        """True if an owner is installed."""
        return self.permanent.owner_auth is not None

    @property
    def physical_presence(self) -> bool:
        """Whether physical presence is asserted by command or by hardware, whichever is enabled
        (4.15)."""
        flags = self.permanent.flags
        by_command = flags.physical_presence_cmd_enable and self.stclear.flags.physical_presence
        return by_command or (flags.physical_presence_hw_enable and self.hardware_presence)

    def owner_entity(self) -> Entity:
        """Return the owner as something to authorize against.

        Raises:
            TpmError: AUTHFAIL without an owner.
        """
        owner_auth = self.permanent.owner_auth
        if owner_auth is None:
            raise TpmError(ReturnCode.AUTHFAIL)
        return Entity(EntityKind.OWNER, owner_auth, owner_auth)

    def new_handle(self, taken: Callable[[int], bool]) -> int:
        """Return a random handle that is neither 0, reserved nor taken."""
        while True:
            handle = int.from_bytes(self.random(4), "big")
            if may_be_handle(handle) and not taken(handle):
                return handle

    @property
    def free_key_slots(self) -> int:
        """Number of keys that can still be loaded."""
        return self.profile.max_keys - len(self.stclear.keys)

    def unload_key(self, loaded: LoadedKey) -> None:
        """Drop a key and the OSAP and DSAP sessions bound to it."""
        del self.stclear.keys[loaded.handle]
        self.end_entity_sessions(EntityKind.KEY, loaded.body.digest)

    @property
    def free_nv_bytes(self) -> int:
        """Room left for NV areas, see NvArea.cost_bytes."""
        used = sum([area.cost_bytes for area in self.permanent.nv.values()])
        return max(0, self.profile.nv_space_bytes - used)

    def renew_daa_secrets(self) -> DaaSecrets:
        """Make new secrets for DAA; all TPM_DAA_BLOBs become useless."""
        secrets = DaaSecrets(self.new_nonce(), self.new_nonce(), self.random(BLOB_KEY_BYTES))
        self.permanent.daa = secrets
        return secrets

    @property
    def free_daa_slots(self) -> int:
        """Number of DAA sessions that can still be begun."""
        return self.profile.max_daa_sessions - len(self.stany.daa_sessions)

    @property
    def free_session_slots(self) -> int:
        """Number of authorization sessions that can still be opened."""
        return self.profile.max_sessions - len(self.stany.sessions)

    def open_session(self, session: Session) -> Session:
        """Put a session into a slot and give it a handle.

        Raises:
            TpmError: RESOURCES if no slot is free.
        """
        if self.free_session_slots <= 0:
            raise TpmError(ReturnCode.RESOURCES)
        session.handle = self.new_handle(self.is_session)
        self.stany.sessions[session.handle] = session
        return session

    def is_session(self, handle: int) -> bool:
        """Whether an authorization or transport session has this handle."""
        return handle in self.stany.sessions or handle in self.stany.transports

    @property
    def free_transport_slots(self) -> int:
        """Number of transport sessions that can still be opened."""
        return self.profile.max_transports - len(self.stany.transports)

    def open_transport(self, transport: TransportSession) -> TransportSession:
        """Put a transport session into a slot and give it a handle.

        Raises:
            TpmError: RESOURCES if no slot is free.
        """
        if self.free_transport_slots <= 0:
            raise TpmError(ReturnCode.RESOURCES)
        transport.handle = self.new_handle(self.is_session)
        self.stany.transports[transport.handle] = transport
        return transport

    def end_transport(self, handle: int) -> TransportSession | None:
        """End a transport session, and exclusiveness if it was the exclusive one; None if there is
        none."""
        stany = self.stany
        if stany.transport_exclusive == handle:
            stany.transport_exclusive = 0
        return stany.transports.pop(handle, None)

    def end_exclusive_transport(self) -> None:
        """End the exclusive transport session, if there is one."""
        self.end_transport(self.stany.transport_exclusive)

    def end_entity_sessions(self, kind: EntityKind, digest: bytes | None = None) -> None:
        """End OSAP and DSAP sessions bound to an entity, or to any of that kind."""
        sessions = self.stany.sessions
        for handle, session in list(sessions.items()):
            if (
                session.protocol != ProtocolId.OIAP
                and session.entity_kind == kind
                and (digest is None or hmac.compare_digest(session.entity_digest, digest))
            ):
                del sessions[handle]

    def end_all_sessions(self) -> None:
        """End every session, active or saved (4.14, 4)."""
        stany = self.stany
        stany.sessions.clear()
        stany.daa_sessions.clear()
        stany.transports.clear()
        stany.context_list.clear()
        stany.context_nonce_session = stany.deprecated_nonce = ZERO_DIGEST
        stany.transport_exclusive = 0
