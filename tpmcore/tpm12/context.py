# SPDX-License-Identifier: Apache-2.0
"""What a command handler sees: the TPM, its locality, and the authorizations that came with the
command.

Handlers call `authorize_*`, which raise rather than return False, so that a forgotten `if` cannot
let somebody in; the dispatcher refuses to give out a success for which an authorization block was
never checked.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from protocol.tpm12.constants import (
    LOCALITY_ALL,
    AdipScheme,
    AuthDataUsage,
    KeyFlags,
    KeyUsage,
    ProtocolId,
    ReservedHandle,
    ReturnCode,
)
from protocol.tpm12.delegation import DelegatePublic, DelegateType
from protocol.tpm12.pcr import PcrInfoShort, composite_hash
from protocol.tpm12.records import record
from protocol.tpm12.wire import BOOL, DIGEST, U32, Structure
from tpmcore.errors import EngineFault, TpmError
from tpmcore.tpm12.primitives import aes128_ctr, hmac_sha1, xor
from tpmcore.tpm12.state import EntityKind, KeyBody, LoadedKey, Session, TransportSession

if TYPE_CHECKING:
    from tpmcore.tpm12.command import Command
    from tpmcore.tpm12.dispatch import Dispatcher
    from tpmcore.tpm12.tpm import Tpm

OIAP_ONLY = frozenset({ProtocolId.OIAP})
OSAP_ONLY = frozenset({ProtocolId.OSAP, ProtocolId.DSAP})
ANY_SESSION = OIAP_ONLY | OSAP_ONLY
# Asked for by every command, see dispatch.
_SRK: Final = int(ReservedHandle.SRK)
_OWNER: Final = int(ReservedHandle.OWNER)
_OIAP: Final = int(ProtocolId.OIAP)
BOOL_BYTES: Final = (b"\x00", b"\x01")
"""Wire form of continueAuthSession."""


@dataclass(slots=True, repr=False)
class AuthBlock(Structure):
    """One authorization block of a request, 45 bytes (Part 3, 1.1), and what became of it.

    Attributes:
        continue_session: as asked.
        ends: set by a handler that ends the session whatever was asked.
        session: the session once it is verified, else None.
        hmac_key: the secret that verified the request; the response is keyed with it too.
        delegation: once it is verified: what it was limited to, or None.
        nonce_even: of the response, where a handler needs it before; empty lets the dispatcher
            choose.
    """

    handle: Annotated[int, U32]
    nonce_odd: Annotated[bytes, DIGEST]
    continue_session: Annotated[bool, BOOL]
    auth: Annotated[bytes, DIGEST]
    ends: bool = field(default=False, init=False)
    session: Session | TransportSession | None = field(default=None, init=False)
    hmac_key: bytes = field(default=b"", init=False)
    delegation: DelegatePublic | None = field(default=None, init=False)
    nonce_even: bytes = field(default=b"", init=False)

    @property
    def continues(self) -> bool:
        """Whether the session outlives the command."""
        return self.continue_session and not self.ends


@record(repr=False)
class Entity:
    """Something with a secret that a session can be bound to.

    Attributes:
        secret: 20 bytes.
        digest: its identity for OSAP; None if only OIAP makes sense.
        migration_usage: keyUsage of a key that is a migration authority; else None.
    """

    kind: EntityKind
    secret: bytes
    digest: bytes | None = None
    migration_usage: int | None = None


CMK_DELEGATE_BITS: Final[Mapping[int, int]] = {
    KeyUsage.SIGNING: 1 << 31,
    KeyUsage.STORAGE: 1 << 30,
    KeyUsage.BIND: 1 << 29,
    KeyUsage.LEGACY: 1 << 28,
    KeyUsage.MIGRATE: 1 << 27,
}
"""TPM_CMK_DELEGATE (Part 2, 5.17): bits of restrictDelegate by usage of the key."""


def key_entity(key: KeyBody) -> Entity:
    """Return a key as something to authorize against."""
    public = key.public
    is_authority = public.key_flags & KeyFlags.MIGRATE_AUTHORITY
    return Entity(
        EntityKind.KEY, key.usage_auth, key.digest, public.key_usage if is_authority else None
    )


@dataclass(slots=True, repr=False)
class Context:
    """One command being executed.

    Attributes:
        dispatcher: what runs it, and can run a command that is wrapped in it.
        transport: the session that it is wrapped in, or None.
        out_param_digest: set by a handler whose response has a digest of its own, else by the
            dispatcher if something wants it.
        audited_as: set by a handler whose audit events have digests of their own: that of the
            parameters and that of the response.
    """

    tpm: Tpm
    command: Command
    locality: int
    auths: list[AuthBlock]
    in_param_digest: bytes
    dispatcher: Dispatcher
    transport: TransportSession | None = None
    out_param_digest: bytes = b""
    audited_as: tuple[bytes, bytes] | None = None

    def find_key(self, handle: int) -> KeyBody:
        """Look a key up without looking at its PCR binding (0.4 of the engine reference).

        Raises:
            TpmError: KEYNOTFOUND, INVALID_RESOURCE or INVALID_KEYHANDLE.
        """
        if handle == _SRK:
            srk = self.tpm.permanent.srk
            if srk is None:
                raise TpmError(ReturnCode.KEYNOTFOUND)
            return srk
        if handle == ReservedHandle.EK:
            raise TpmError(ReturnCode.KEYNOTFOUND)
        if ReservedHandle.OWNER <= handle < ReservedHandle.EK:
            raise TpmError(ReturnCode.INVALID_RESOURCE)
        return self.find_loaded(handle).body

    def find_loaded(self, handle: int) -> LoadedKey:
        """Look up a key in a slot.

        Raises:
            TpmError: INVALID_KEYHANDLE.
        """
        loaded = self.tpm.stclear.keys.get(handle)
        if loaded is None:
            raise TpmError(ReturnCode.INVALID_KEYHANDLE)
        return loaded

    def key(self, handle: int, *, reads_public: bool = False) -> KeyBody:
        """Look a key up for use; its PCRs and localities must allow it now.

        Args:
            reads_public: only the public part is wanted, so pcrIgnoredOnRead counts.

        Raises:
            TpmError: as find_key, WRONGPCRVAL, BAD_LOCALITY.
        """
        body = self.find_key(handle)
        ignored = reads_public and body.public.key_flags & KeyFlags.PCR_IGNORED_ON_READ
        if body.release is not None and not ignored:
            self.check_release(body.release)
        return body

    def parent_pcr_status(self, handle: int) -> bool:
        """Return what a child of this key inherits as parentPCRStatus."""
        body = self.find_key(handle)
        if body.release is not None and not body.release.pcr_selection.is_empty:
            return True
        return handle != _SRK and self.find_loaded(handle).parent_pcr_status

    def check_release(self, release: PcrInfoShort) -> None:
        """Check PCR values and locality of a release condition (Part 1, 4.10.3).

        Raises:
            TpmError: WRONGPCRVAL, BAD_LOCALITY.
        """
        selection = release.pcr_selection
        if not selection.is_empty:
            current = composite_hash(selection, self.tpm.stclear.pcrs)
            if not hmac.compare_digest(current, release.digest_at_release):
                raise TpmError(ReturnCode.WRONGPCRVAL)
        allowed = release.locality_at_release
        if allowed != LOCALITY_ALL and not allowed >> self.locality & 1:
            raise TpmError(ReturnCode.BAD_LOCALITY)

    def require_session(self, index: int, allowed: frozenset[ProtocolId]) -> Session:
        """Return the session that an authorization block names; its HMAC is not looked at.

        For commands that judge something else between the kind of session and the HMAC.

        Raises:
            TpmError: INVALID_AUTHHANDLE, BAD_MODE.
        """
        session = self.tpm.stany.sessions.get(self.auths[index].handle)
        if session is None:
            raise TpmError(ReturnCode.INVALID_AUTHHANDLE)
        if session.protocol not in allowed:
            raise TpmError(ReturnCode.BAD_MODE)
        return session

    def authorize(
        self,
        index: int,
        entity: Entity,
        allowed: frozenset[ProtocolId] = ANY_SESSION,
        *,
        failure: ReturnCode | None = None,
    ) -> None:
        """Verify one authorization block against an entity's secret.

        Args:
            index: 0 for the first block, 1 for the second.
            allowed: protocols that the command accepts.
            failure: code for a wrong HMAC; None is AUTHFAIL for the first block, AUTH2FAIL for the
                second.

        Raises:
            TpmError: INVALID_AUTHHANDLE, BAD_MODE, AUTHFAIL, AUTH2FAIL; through a delegation also
                WRONGPCRVAL, BAD_LOCALITY, INVALID_KEYUSAGE.
        """
        block = self.auths[index]
        session = self.require_session(index, allowed)
        delegation: DelegatePublic | None = None
        if session.protocol == _OIAP:
            secret = entity.secret
            reference = self.tpm.stclear.owner_reference
            if reference != _OWNER and entity.kind is EntityKind.OWNER:
                row = self.tpm.permanent.delegate_rows.get(reference)
                if row is None:
                    raise TpmError(ReturnCode.AUTHFAIL)
                secret, delegation = row.auth_value, row.public
        else:
            # Bound to another entity: the specification's AUTHFAIL, whichever block it is.
            if (
                entity.digest is None
                or entity.kind != session.entity_kind
                or not hmac.compare_digest(entity.digest, session.entity_digest)
            ):
                raise TpmError(ReturnCode.AUTHFAIL)
            secret, delegation = session.shared_secret, session.delegation
        if delegation is not None:
            self._check_delegation(delegation, entity)
        expected = hmac_sha1(
            secret,
            self.in_param_digest
            + session.nonce_even
            + block.nonce_odd
            + BOOL_BYTES[block.continue_session],
        )
        if not hmac.compare_digest(expected, block.auth):
            self.tpm.lockout.record_failure()
            if failure is None:
                failure = ReturnCode.AUTHFAIL if index == 0 else ReturnCode.AUTH2FAIL
            raise TpmError(failure)
        block.session = session
        block.hmac_key = secret
        block.delegation = delegation

    def _check_delegation(self, delegation: DelegatePublic, entity: Entity) -> None:
        """Require that this command, now and here, is among what was delegated (4.1.3, 5).

        Raises:
            TpmError: AUTHFAIL, WRONGPCRVAL, BAD_LOCALITY, INVALID_KEYUSAGE.
        """
        if entity.kind is EntityKind.OWNER:
            kind, bit = DelegateType.OWNER, self.command.owner_bit
        else:
            kind, bit = DelegateType.KEY, self.command.key_bit
        permissions = delegation.permissions
        if permissions.delegate_type != kind or bit is None or not permissions.per1 >> bit & 1:
            raise TpmError(ReturnCode.AUTHFAIL)
        self.check_release(delegation.pcr_info)
        if entity.migration_usage is not None:
            released = CMK_DELEGATE_BITS.get(entity.migration_usage, 0)
            if not self.tpm.permanent.restrict_delegate & released:
                raise TpmError(ReturnCode.INVALID_KEYUSAGE)

    def authorize_owner(self, index: int = 0, allowed: frozenset[ProtocolId] = ANY_SESSION) -> None:
        """Verify a block against the owner's secret.

        Raises:
            TpmError: as authorize; AUTHFAIL without an owner.
        """
        if not self.tpm.is_owned:
            # That there is no owner is known once it is his session that is asked for (4.1.3, 3).
            self.require_session(index, allowed)
        self.authorize(index, self.tpm.owner_entity(), allowed)

    def authorize_key(
        self, index: int, key: KeyBody, allowed: frozenset[ProtocolId] = ANY_SESSION
    ) -> None:
        """Verify a block against a key's usage secret."""
        self.authorize(index, key_entity(key), allowed)

    def authorize_key_if_present(
        self, index: int, key: KeyBody, *, present: bool, reads_public: bool = False
    ) -> None:
        """Verify the block if the command has one for this key, else require that the key needs
        none (0.5).

        Raises:
            TpmError: as authorize; AUTHFAIL if the key needs a block.
        """
        if present:
            self.authorize_key(index, key)
            return
        usage = key.public.auth_data_usage
        free = usage == AuthDataUsage.NEVER or (
            reads_public and usage == AuthDataUsage.PRIV_USE_ONLY
        )
        if not free:
            raise TpmError(ReturnCode.AUTHFAIL)

    def session_of(self, index: int) -> Session:
        """Return the session of a block that was verified."""
        session = self.auths[index].session
        if not isinstance(session, Session):
            raise EngineFault("session used before it was verified")
        return session

    def end_session(self, index: int) -> None:
        """Make the response say continueAuthSession = FALSE and end the session."""
        self.auths[index].ends = True

    def decrypt_secret(self, index: int, encrypted: bytes, *, second: bool = False) -> bytes:
        """Undo ADIP: decrypt a 20-byte secret sent under a verified OSAP or DSAP session (Part 1,
        4.3).

        Args:
            second: the second secret of the command, masked with nonceOdd rather than nonceEven.
        """
        session = self.session_of(index)
        nonce = self.auths[index].nonce_odd if second else session.nonce_even
        if session.adip == AdipScheme.AES128_CTR:
            return aes128_ctr(session.shared_secret[:16], nonce[:16], encrypted)
        pad = hashlib.sha1(session.shared_secret + nonce).digest()
        return xor(encrypted, pad)

    def require_presence(self) -> None:
        """Require physical presence.

        Raises:
            TpmError: BAD_PRESENCE.
        """
        if not self.tpm.physical_presence:
            raise TpmError(ReturnCode.BAD_PRESENCE)

    @property
    def auth_count(self) -> int:
        """Number of authorization blocks that came."""
        return len(self.auths)
