# SPDX-License-Identifier: Apache-2.0
"""What the manager asks of the hardware TPM, whatever TPM that is.

`daemons.vtpmmgr.tpm12hardware` is the TPM 1.2 of it. An operation either gives its result, or
raises TpmError (the chip answered with that code) or HardwareLost (no answer; it may or may not
have been executed).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from daemons.runtime.errors import DaemonError
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.sealing import PcrValues
from protocol.manager.quotes import Identification
from protocol.tpm12 import ReturnCode
from protocol.tpm12.pcr import PcrSelection

PASSING: Final = frozenset(
    {
        ReturnCode.RETRY,
        ReturnCode.DOING_SELFTEST,
        ReturnCode.NEEDS_SELFTEST,
        ReturnCode.DEFEND_LOCK_RUNNING,
        ReturnCode.RESOURCES,
        ReturnCode.INVALID_POSTINIT,
    }
)
"""Codes of a chip that may well take the same command later."""


class HardwareLost(DaemonError):
    """The chip gave no answer."""


@dataclass(frozen=True, slots=True)
class NewIdentity:
    """An attestation identity key.

    Attributes:
        key: as the chip wrapped it (TPM_KEY); given back to it for each use.
        modulus: of its public part, 256 bytes.
        binding: its signature over TPM_IDENTITY_CONTENTS, 256 bytes.
    """

    key: bytes
    modulus: bytes
    binding: bytes


@dataclass(frozen=True, slots=True)
class SignedQuote:
    """A quote.

    Attributes:
        signature: over TPM_QUOTE_INFO, 256 bytes.
        pcr_values: of the selected PCRs, ascending.
    """

    signature: bytes
    pcr_values: PcrValues


@dataclass(frozen=True, slots=True)
class BindingKey:
    """A key that decrypts, inside the chip only, and only in one configuration.

    Attributes:
        key: as the chip wrapped it; given back to it for each use.
        public_key: TPM_PUBKEY.
    """

    key: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True)
class KeyCertificate:
    """What one key says of another.

    Attributes:
        info: TPM_CERTIFY_INFO or TPM_CERTIFY_INFO2.
        signature: over it, 256 bytes.
    """

    info: bytes
    signature: bytes


class NvArea(Protocol):
    """An open NV area, protected by its own authorization value."""

    async def read(self) -> bytes:
        """Return all of it."""

    async def write(self, data: bytes) -> None:
        """Replace all of it."""


class Hardware(Protocol):
    """The hardware TPM."""

    @property
    def locality(self) -> int:
        """The locality at which the manager uses it, and to which it seals."""

    async def has_owner(self) -> bool:
        """Say whether somebody has taken ownership."""

    async def take_ownership(self) -> None:
        """Take ownership with the configured secrets; make the endorsement key if need be."""

    async def ek_digest(self) -> bytes:
        """Return SHA-256 of the modulus of the endorsement key, which names this chip.

        Raises:
            TpmError: AUTHFAIL if the owner's secret is another one.
        """

    async def read_pcrs(self, indices: Sequence[int]) -> PcrValues:
        """Return the values of PCRs, ascending."""

    async def seal(self, secret: bytes, selection: PcrSelection, composite: bytes) -> bytes:
        """Return a blob from which `unseal` gets `secret` while the PCRs have this composite hash.

        Args:
            composite: 20 bytes; need not be that of now.
        """

    def sealed_to(self, blob: bytes) -> tuple[PcrSelection, bytes]:
        """Return the selection and composite hash that a blob names, not verified.

        Raises:
            TpmError: NOTSEALED_BLOB if it is no blob of this kind of chip.
        """

    async def unseal(self, blob: bytes) -> Secret:
        """Return what is in a sealed blob; TpmError says why not."""

    async def nv_area_size(self, index: int) -> int | None:
        """Return the size in bytes of an NV area, None if there is none with this index."""

    async def read_pubek(self) -> bytes:
        """Return the public endorsement key, a TPM_PUBKEY."""

    async def make_identity(self, label_digest: bytes, auth: Secret) -> NewIdentity:
        """Make an identity key.

        Args:
            label_digest: TPM_CHOSENID_HASH, 20 bytes.
            auth: secret to use it with.
        """

    async def activate_identity(
        self,
        key: bytes,
        auth: Secret,
        blob: bytes,
        *,
        identification: Identification | None = None,
    ) -> bytes:
        """Return the TPM_SYMMETRIC_KEY that a Privacy CA encrypted for this identity and chip.

        Args:
            blob: may be bound to PCRs, those of `identification` among them.
        """

    async def quote(
        self,
        key: bytes,
        auth: Secret,
        *,
        external_data: bytes,
        selection: PcrSelection,
        identification: Identification | None = None,
        source: Hashable | None = None,
    ) -> SignedQuote:
        """Have an identity key sign PCRs, nothing coming between setting them and signing.

        Args:
            external_data: 20 bytes.
            identification: None leaves PCRs 20-23 as they are.
            source: the client in whose turn; None for the manager itself.

        Raises:
            Withdrawn: see `withdraw`.
        """

    def identity_modulus(self, key: bytes) -> bytes:
        """Return the modulus of an identity key, 256 bytes."""

    async def make_binding_key(
        self, auth: Secret, selection: PcrSelection, composite: bytes
    ) -> BindingKey:
        """Make an RSA key that cannot leave the chip, for what others encrypt to this machine.

        Args:
            auth: secret to use it with.
            composite: hash of the PCRs, 20 bytes, and with them our locality, for its every use.
        """

    async def certify(
        self, key: BindingKey, auth: Secret, *, by: bytes, by_auth: Secret, nonce: bytes
    ) -> KeyCertificate:
        """Have an identity key certify a binding key.

        Args:
            by: the identity key.
            nonce: 20 bytes, which the certificate carries.
        """

    async def unbind(self, key: bytes, auth: Secret, data: bytes) -> Secret:
        """Return what was encrypted with the public part of a binding key; TpmError says why not.

        Args:
            data: TPM_BOUND_DATA, encrypted with OAEP.
        """

    async def nv_define(self, index: int, size_bytes: int, auth: Secret) -> None:
        """Make an NV area that its own authorization value opens, for reading and writing."""

    async def nv_delete(self, index: int) -> None:
        """Remove an NV area."""

    async def nv_read(self, index: int, offset: int, size_bytes: int, auth: Secret) -> bytes:
        """Return part of an NV area."""

    async def nv_write(self, index: int, offset: int, data: bytes, auth: Secret) -> None:
        """Replace part of an NV area."""

    def nv_area(self, index: int, size_bytes: int, auth: Secret) -> NvArea:
        """Return access to an NV area; nothing is sent yet."""

    async def create_counter(self, auth: Secret) -> tuple[int, int]:
        """Make a monotonic counter with a secret of its own; gives its number and value.

        Counters that the manager made before are given back.
        """

    async def read_counter(self, count_id: int) -> int | None:
        """Return the value of a counter, None if there is none with this number."""

    async def increment_counter(self, count_id: int, auth: Secret) -> None:
        """Add one.

        Raises:
            TpmError: BAD_COUNTER if another one was incremented since the chip's start, RETRY if it
                is too early.
        """

    async def active_counter(self) -> int | None:
        """Return the counter that was incremented since the chip's start; None if none was yet."""

    async def release_counter(self, count_id: int, auth: Secret) -> None:
        """Give a counter back."""

    @property
    def answers(self) -> bool:
        """Whether the chip answered the last command."""

    async def probe(self) -> None:
        """Return if the chip answers now, to a command that changes nothing.

        Raises:
            HardwareLost, TpmError: it does not.
        """

    async def wait_reachable(self) -> None:
        """Return once the chip answers; at once if it answered last time."""

    async def pass_through(self, command: bytes, source: Hashable) -> bytes:
        """Have the chip execute a client's command, in that client's turn.

        Raises:
            HardwareLost: no answer.
            Withdrawn: see `withdraw`.
        """

    def withdraw(self, source: Hashable) -> None:
        """Give up a client's command that still waits for its turn."""
