# SPDX-License-Identifier: Apache-2.0
"""What goes between the operator of a manager and a System Approval Agent, as files.

    signed list       agent -> operator   a configuration list and its signature
    identity          operator -> agent   an identity key of the hardware TPM and its binding
    registration      agent -> operator   the agent's half of an exchange, signed
    registered        operator -> agent   the manager's half, the group's key hidden, a quote
    challenge         agent -> operator   nonce, and a credential that only one TPM can open
    recovery request  operator -> agent   the manager's half, a quote, the opened credential
    recovery answer   agent -> operator   the agent's half and the group's key, hidden

Each names its group, so that no answer gets to the wrong one. docs/formats.md has every field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final
from uuid import UUID

from daemons.runtime.control import Json
from daemons.vtpmctl.documents import (
    TEXT,
    UUID_TEXT,
    Document,
    Form,
    data,
    encoded,
    many,
    number,
    optional,
)
from daemons.vtpmctl.pcrs import Configuration, selection_of, show_selection
from protocol.manager.management import (
    EXCHANGE_BYTES,
    RECOVER_BYTES,
    SIGNATURE_BYTES,
    ConfigList,
    GroupUpdate,
)
from protocol.tpm12.constants import Algorithm
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.pcr import PcrSelection

DIGEST_BYTES: Final = 20

_DIGEST: Final = data(DIGEST_BYTES)
_SIGNATURE: Final = data(SIGNATURE_BYTES)
_EXCHANGE: Final = data(EXCHANGE_BYTES)
_RECOVER: Final = data(RECOVER_BYTES)
_PCRS: Final = Form(show_selection, lambda value: selection_of(TEXT.read(value)))


def decode_rsa_2048(encoding: bytes) -> PubKey:
    """Return a TPM_PUBKEY; ValueError or WireError if it is none of RSA with 2048 bits."""
    key = PubKey.decode(encoding)
    if key.algorithm_parms.algorithm_id != Algorithm.RSA or len(key.key) != SIGNATURE_BYTES:
        raise ValueError("no RSA key of 2048 bits")
    return key


_PUBKEY: Final = encoded(PubKey.encode, decode_rsa_2048)


def _read_configuration(value: Json) -> Configuration:
    match value:
        case {"pcrs": pcrs, "composite": composite, **others} if not others:
            return _PCRS.read(pcrs), _DIGEST.read(composite)
    raise ValueError("must have pcrs and composite, and nothing else")


_CONFIGURATION: Final[Form[Configuration]] = Form(
    lambda value: {"pcrs": _PCRS.show(value[0]), "composite": _DIGEST.show(value[1])},
    _read_configuration,
)


@dataclass(frozen=True, slots=True)
class SignedList(Document):
    """A configuration list with its signature.

    Attributes:
        configurations: selection and composite of each.
        kernels: hashes of labels.
        labels: that the kernels are hashes of, as far as the agent has said; for people.
        signature: see `protocol.manager.approval`.
    """

    KIND: ClassVar[str] = "vtpm-signed-list"
    group: Annotated[UUID, UUID_TEXT]
    sequence: Annotated[int, number(64)]
    configurations: Annotated[tuple[Configuration, ...], many(_CONFIGURATION)]
    kernels: Annotated[tuple[bytes, ...], many(_DIGEST)]
    labels: Annotated[tuple[str, ...], many(TEXT)]
    signature: Annotated[bytes, _SIGNATURE]

    @property
    def config_list(self) -> ConfigList:
        """The list itself."""
        return ConfigList(
            self.sequence, tuple(composite for _, composite in self.configurations), self.kernels
        )

    @property
    def selections(self) -> tuple[PcrSelection, ...]:
        """Which PCRs each configuration hashes."""
        return tuple(selection for selection, _ in self.configurations)

    def update(self, group: int) -> GroupUpdate:
        """Return the command that puts it into force for the group with a number."""
        return GroupUpdate(group, self.signature, self.config_list, self.selections)


@dataclass(frozen=True, slots=True)
class IdentityFile(Document):
    """An identity key and what a Privacy CA wants to see of it.

    Attributes:
        group: whose it is; None for one of no group.
        label: that it was made with.
        label_digest: TPM_CHOSENID_HASH.
        aik: public part.
        binding: its signature over TPM_IDENTITY_CONTENTS.
        ek: of the TPM that made it, as the manager says.
        key: the wrapped key; None for a group's, which the manager keeps.
    """

    KIND: ClassVar[str] = "vtpm-identity"
    group: Annotated[UUID | None, optional(UUID_TEXT)]
    label: Annotated[str, TEXT]
    label_digest: Annotated[bytes, _DIGEST]
    aik: Annotated[PubKey, _PUBKEY]
    binding: Annotated[bytes, _SIGNATURE]
    ek: Annotated[PubKey, _PUBKEY]
    key: Annotated[Key | None, optional(encoded(Key.encode, Key.decode))]


@dataclass(frozen=True, slots=True)
class Registration(Document):
    """What an agent asks a group to register with.

    Attributes:
        pcrs: to be quoted.
        exchange: the agent's half.
        proof: its signature over it.
    """

    KIND: ClassVar[str] = "vtpm-registration"
    group: Annotated[UUID, UUID_TEXT]
    pcrs: Annotated[PcrSelection, _PCRS]
    exchange: Annotated[bytes, _EXCHANGE]
    proof: Annotated[bytes, _SIGNATURE]


@dataclass(frozen=True, slots=True)
class Registered(Document):
    """What a manager answered to a registration.

    Attributes:
        exchange: the manager's half.
        recover_blob: the group's key, hidden.
        signature: quote by the group's AIK.
    """

    KIND: ClassVar[str] = "vtpm-registered"
    group: Annotated[UUID, UUID_TEXT]
    exchange: Annotated[bytes, _EXCHANGE]
    recover_blob: Annotated[bytes, _RECOVER]
    signature: Annotated[bytes, _SIGNATURE]


@dataclass(frozen=True, slots=True)
class Challenge(Document):
    """What an agent asks a manager that wants its group's key back.

    Attributes:
        pcrs: to be quoted.
        nonce: 20 bytes.
        blob: TPM_ASYM_CA_CONTENTS for the identity, encrypted to the endorsement key.
    """

    KIND: ClassVar[str] = "vtpm-recovery-challenge"
    group: Annotated[UUID, UUID_TEXT]
    pcrs: Annotated[PcrSelection, _PCRS]
    nonce: Annotated[bytes, _DIGEST]
    blob: Annotated[bytes, data(SIGNATURE_BYTES)]


@dataclass(frozen=True, slots=True, repr=False)
class RecoveryRequest(Document):
    """How a manager asks for its group's key.

    Attributes:
        credential: what was in the challenge's blob.
        exchange: the manager's half.
        signature: quote by the identity.
        pcr_values: that the quote is over, ascending.
    """

    KIND: ClassVar[str] = "vtpm-recovery-request"
    group: Annotated[UUID, UUID_TEXT]
    credential: Annotated[bytes, data()]
    exchange: Annotated[bytes, _EXCHANGE]
    signature: Annotated[bytes, _SIGNATURE]
    pcr_values: Annotated[tuple[bytes, ...], many(_DIGEST)]


@dataclass(frozen=True, slots=True)
class RecoveryAnswer(Document):
    """An agent's half of an exchange, and the group's key as only the manager reads it."""

    KIND: ClassVar[str] = "vtpm-recovery-answer"
    group: Annotated[UUID, UUID_TEXT]
    exchange: Annotated[bytes, _EXCHANGE]
    recover_blob: Annotated[bytes, _RECOVER]
