# SPDX-License-Identifier: Apache-2.0
"""The management commands (tag 0x01C2): a layout for each request and each response.

Sizes are those of RSA-2048: moduli, signatures and Diffie-Hellman values have 256 bytes. Where Xen
only declared a command, the layout is ours and says so. On the shared page a message ends at 4088
bytes; over the manager's admin socket it may be longer, so nothing here limits how many entries a
list has but the length of the message itself.

Source: Xen stubdom/vtpmmgr, vtpm_manager.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar
from uuid import UUID

from protocol.errors import WireError
from protocol.manager.constants import (
    HEADER_BYTES,
    ManagementOrdinal,
    ManagerTag,
)
from protocol.manager.framing import decode_response, encode_request
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import DIGEST, SIZED, U8, U32, U64, FixedBytes, ListOf, Reader, Structure

MODULUS_BYTES: Final = 256
SIGNATURE_BYTES: Final = 256
EXCHANGE_BYTES: Final = 256
"""A Diffie-Hellman value of RFC 3526 group 14."""
RECOVER_BYTES: Final = 32
UUID_BYTES: Final = 16

_LIST_LIMIT: Final = 1 << 20
"""Entries of a list; the message's own length is the limit that counts."""


class _Uuid:
    """A uuid, 16 bytes in RFC 4122's order."""

    def read(self, reader: Reader, field: str) -> UUID:
        """Take one."""
        return UUID(bytes=reader.take(UUID_BYTES, field))

    def write(self, value: UUID) -> bytes:
        """Give its bytes."""
        return value.bytes


T = TypeVar("T", bound=Structure)


class Rest:
    """Elements up to the end of the message, however many."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, reader: Reader, field: str) -> tuple[bytes, ...]:
        """Take them; a part of one at the end is a WireError."""
        found = []
        while reader.remaining:
            found.append(reader.take(self.size, field))
        return tuple(found)

    def write(self, value: tuple[bytes, ...]) -> bytes:
        """Give them."""
        return b"".join(value)


class _Selections:
    """PCR selections up to the end of the message."""

    def read(self, reader: Reader, field: str) -> tuple[PcrSelection, ...]:
        """Take them."""
        found = []
        while reader.remaining:
            found.append(PcrSelection.read(reader))
        return tuple(found)

    def write(self, value: tuple[PcrSelection, ...]) -> bytes:
        """Give them."""
        return b"".join([selection.encode() for selection in value])


class _Optional:
    """A uuid at the end of the message, or nothing."""

    def read(self, reader: Reader, field: str) -> UUID | None:
        """Take it if there is anything left."""
        return UUID_WIRE.read(reader, field) if reader.remaining else None

    def write(self, value: UUID | None) -> bytes:
        """Give it."""
        return b"" if value is None else value.bytes


UUID_WIRE: Final = _Uuid()
_MODULUS: Final = FixedBytes(MODULUS_BYTES)
_SIGNATURE: Final = FixedBytes(SIGNATURE_BYTES)
_EXCHANGE: Final = FixedBytes(EXCHANGE_BYTES)
_RECOVER: Final = FixedBytes(RECOVER_BYTES)
_DIGESTS: Final = ListOf(DIGEST, U32, _LIST_LIMIT)


@dataclass(frozen=True, slots=True)
class Nothing(Structure):
    """A message without a body."""


@dataclass(frozen=True, slots=True)
class ConfigList(Structure):
    """CFG_LIST: what a group's System Approval Agent approved.

    Attributes:
        sequence: grows with each list.
        configurations: composite hash of the hardware TPM's PCRs, 20 bytes each.
        kernels: SHA-1 of the label of a vTPM that may have its key, 20 bytes each.
    """

    sequence: Annotated[int, U64]
    configurations: Annotated[tuple[bytes, ...], _DIGESTS]
    kernels: Annotated[tuple[bytes, ...], _DIGESTS]


EMPTY_LIST: Final = ConfigList(0, (), ())


@dataclass(frozen=True, slots=True)
class GroupNumber(Structure):
    """A group by its position (GROUP_DEL, GROUP_SHOW, and GROUP_REKEY, which is ours)."""

    group: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class GroupCount(Structure):
    """GROUP_LIST's answer: how many groups there are, closed ones included."""

    groups: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class GroupNew(Structure):
    """GROUP_NEW: make a group, or provision the stub group 0.

    Attributes:
        label_digest: TPM_CHOSENID_HASH of the identity, 20 bytes.
        saa_modulus: of the agent's RSA key, whose exponent is 65537.
    """

    label_digest: Annotated[bytes, DIGEST]
    saa_modulus: Annotated[bytes, _MODULUS]


@dataclass(frozen=True, slots=True)
class GroupMade(Structure):
    """GROUP_NEW's answer.

    Attributes:
        uuid: of the group.
        aik_modulus: of its attestation identity key.
        binding: that key's signature over TPM_IDENTITY_CONTENTS; given out once.
    """

    uuid: Annotated[UUID, UUID_WIRE]
    aik_modulus: Annotated[bytes, _MODULUS]
    binding: Annotated[bytes, _SIGNATURE]


@dataclass(frozen=True, slots=True)
class GroupActivate(Structure):
    """GROUP_ACTIVATE: what the Privacy CA encrypted to the endorsement key, for the group's AIK.

    The answer is a TPM_SYMMETRIC_KEY.
    """

    group: Annotated[int, U32]
    blob: Annotated[bytes, SIZED]


@dataclass(frozen=True, slots=True)
class GroupRegister(Structure):
    """GROUP_REGISTER: hand the group's secret to its agent.

    Attributes:
        exchange: the agent's half of the Diffie-Hellman exchange.
        proof: the agent's signature over it.
        selection: PCRs to quote.
    """

    group: Annotated[int, U32]
    exchange: Annotated[bytes, _EXCHANGE]
    proof: Annotated[bytes, _SIGNATURE]
    selection: PcrSelection


@dataclass(frozen=True, slots=True)
class GroupRegistered(Structure):
    """GROUP_REGISTER's answer.

    Attributes:
        exchange: our half.
        recover_blob: the group's secret, encrypted with the result of the exchange.
        signature: quote by the AIK that the two are from this group on this TPM.
    """

    exchange: Annotated[bytes, _EXCHANGE]
    recover_blob: Annotated[bytes, _RECOVER]
    signature: Annotated[bytes, _SIGNATURE]


@dataclass(frozen=True, slots=True)
class GroupUpdate(Structure):
    """GROUP_UPDATE: a new list.

    Attributes:
        signature: of the agent over the list.
        config_list: the list.
        selections: which PCRs each configuration hashes, one for each and none empty. The hashes
            bind them, so Xen's form of signature leaves them out.
    """

    group: Annotated[int, U32]
    signature: Annotated[bytes, _SIGNATURE]
    config_list: ConfigList
    selections: Annotated[tuple[PcrSelection, ...], _Selections()]


@dataclass(frozen=True, slots=True)
class GroupShown(Structure):
    """GROUP_SHOW's answer; the modulus is zeros for a group that has no agent yet."""

    uuid: Annotated[UUID, UUID_WIRE]
    saa_modulus: Annotated[bytes, _MODULUS]
    config_list: ConfigList


@dataclass(frozen=True, slots=True)
class GroupQuote(Structure):
    """GROUP_QUOTE (declared only in Xen): a quote by the group's AIK about the group itself."""

    group: Annotated[int, U32]
    nonce: Annotated[bytes, DIGEST]
    selection: PcrSelection


@dataclass(frozen=True, slots=True)
class SignedPcrs(Structure):
    """A quote: signature, then the selected PCRs in ascending order."""

    signature: Annotated[bytes, _SIGNATURE]
    pcr_values: Annotated[tuple[bytes, ...], Rest(20)]


@dataclass(frozen=True, slots=True)
class GroupRecover1(Structure):
    """GROUP_RECOVER1 (declared only in Xen): ask the agent for a closed group's secret.

    Attributes:
        proxy_aik: from MakeIdentity, since the group's own AIK cannot be used while it is closed.
        nonce: of the agent.
        selection: PCRs to quote.
    """

    group: Annotated[int, U32]
    proxy_aik: Key
    nonce: Annotated[bytes, DIGEST]
    selection: PcrSelection


@dataclass(frozen=True, slots=True)
class RecoveryAsked(Structure):
    """GROUP_RECOVER1's answer: our half of the exchange, and a quote that it is ours.

    The quote's external data is SHA-1("RCVR" || nonce || exchange). Unlike in Xen's sketch the PCR
    values come behind the signature.
    """

    exchange: Annotated[bytes, _EXCHANGE]
    signature: Annotated[bytes, _SIGNATURE]
    pcr_values: Annotated[tuple[bytes, ...], Rest(20)]


@dataclass(frozen=True, slots=True)
class GroupRecover2(Structure):
    """GROUP_RECOVER2 (declared only in Xen): the agent's answer, which opens the group."""

    group: Annotated[int, U32]
    exchange: Annotated[bytes, _EXCHANGE]
    recover_blob: Annotated[bytes, _RECOVER]


@dataclass(frozen=True, slots=True)
class VtpmList(Structure):
    """VTPM_LIST: the uuids of a group's vTPMs from an offset on, in ascending order."""

    group: Annotated[int, U32]
    offset: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class VtpmsListed(Structure):
    """VTPM_LIST's answer: how many there are in all, and as many as fit into the message."""

    total: Annotated[int, U32]
    uuids: Annotated[tuple[bytes, ...], Rest(UUID_BYTES)]


@dataclass(frozen=True, slots=True)
class VtpmNew(Structure):
    """VTPM_NEW: register a vTPM, under this uuid if one is given."""

    group: Annotated[int, U32]
    uuid: Annotated[UUID | None, _Optional()]


@dataclass(frozen=True, slots=True)
class VtpmName(Structure):
    """A vTPM by its uuid: VTPM_DEL, VTPM_SHOW, and VTPM_NEW's answer."""

    uuid: Annotated[UUID, UUID_WIRE]


@dataclass(frozen=True, slots=True)
class VtpmShown(Structure):
    """VTPM_SHOW's answer (declared only in Xen).

    Attributes:
        group: number of its group.
        flags: see `VtpmFlag`.
        open: 1 while somebody has it open.
        saved: 1 if it ever saved an image.
        kern_hash: of who has it open, 20 bytes; zeros while nobody has.
    """

    group: Annotated[int, U32]
    flags: Annotated[int, U32]
    open: Annotated[int, U8]
    saved: Annotated[int, U8]
    kern_hash: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True)
class VtpmEdit(Structure):
    """VTPM_EDIT (declared only in Xen): change flags.

    Attributes:
        mask: flags to change.
        flags: their new values.
    """

    uuid: Annotated[UUID, UUID_WIRE]
    mask: Annotated[int, U32]
    flags: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class MakeIdentity(Structure):
    """MakeIdentity (declared only in Xen): an identity key of no group, for GROUP_RECOVER1."""

    label_digest: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True)
class IdentityMade(Structure):
    """MakeIdentity's answer: the wrapped key and its signature over TPM_IDENTITY_CONTENTS."""

    aik: Key
    binding: Annotated[bytes, _SIGNATURE]


@dataclass(frozen=True, slots=True)
class ActivateIdentity(Structure):
    """ActivateIdentity (declared only in Xen): as GROUP_ACTIVATE for a key of MakeIdentity."""

    aik: Key
    blob: Annotated[bytes, SIZED]


@dataclass(frozen=True, slots=True)
class Endorsement(Structure):
    """ReadPubek's answer (declared only in Xen): the hardware TPM's public endorsement key."""

    pubek: PubKey


@dataclass(frozen=True, slots=True)
class NvDefineSpace(Structure):
    """NV_DefineSpace (declared only in Xen): an area of the hardware TPM with a secret of its own.

    Attributes:
        index: of the area; not the manager's.
        size_bytes: 0 removes the area.
        auth: its secret, 20 bytes.
    """

    index: Annotated[int, U32]
    size_bytes: Annotated[int, U32]
    auth: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True)
class NvWriteValue(Structure):
    """NV_WriteValue (declared only in Xen)."""

    index: Annotated[int, U32]
    offset: Annotated[int, U32]
    auth: Annotated[bytes, DIGEST]
    data: Annotated[bytes, SIZED]


@dataclass(frozen=True, slots=True)
class NvReadValue(Structure):
    """NV_ReadValue (declared only in Xen)."""

    index: Annotated[int, U32]
    offset: Annotated[int, U32]
    size_bytes: Annotated[int, U32]
    auth: Annotated[bytes, DIGEST]


@dataclass(frozen=True, slots=True)
class NvValue(Structure):
    """NV_ReadValue's answer."""

    data: Annotated[bytes, SIZED]


def encode_management(ordinal: ManagementOrdinal, request: Structure) -> bytes:
    """Return a whole request with tag 0x01C2."""
    return encode_request(ManagerTag.REQ2, ordinal, request.encode())


def decode_answer(response: bytes, kind: type[T]) -> T:
    """Return the answer in a response to a management command.

    Raises:
        ManagerRefused: the manager answered with a return code.
        WireError: it is no such answer.
    """
    body = decode_response(response, ManagerTag.REQ2)
    try:
        return kind.decode(body)
    except WireError as error:
        raise WireError(error.field, HEADER_BYTES + error.offset, error.reason) from error
