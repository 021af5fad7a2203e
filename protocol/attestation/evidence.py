# SPDX-License-Identifier: Apache-2.0
"""Evidence: everything that a verifier needs about one guest's TPM, over one nonce.

`evidencefile` is how it travels, `verification` judges it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from protocol.manager.management import ConfigList
from protocol.tpm12.constants import PCR_COUNT
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection, composite_hash
from protocol.tpm12.wire import DIGEST_BYTES

FRESHNESS_MODES: Final = ("nv", "counter", "none")
"""How a manager may notice older copies of its database."""


@dataclass(frozen=True, slots=True)
class Pcrs:
    """PCRs and their values as they were quoted.

    Attributes:
        values: index and 20 bytes each, ascending.
    """

    values: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, values: Mapping[int, bytes]) -> Pcrs:
        """Make it of values by index."""
        return cls(tuple(sorted(values.items())))

    @property
    def by_index(self) -> dict[int, bytes]:
        """The values by index."""
        return dict(self.values)

    @property
    def selection(self) -> PcrSelection:
        """What was quoted, in three bytes."""
        return PcrSelection.of([index for index, _ in self.values])

    def composite(self, selection: PcrSelection | None = None) -> bytes:
        """Return the composite hash, 20 bytes, of all of them or of a selection.

        Raises:
            KeyError: the selection has others.
        """
        chosen = self.selection if selection is None else selection
        known = self.by_index
        row = [bytes(DIGEST_BYTES)] * PCR_COUNT
        for index in chosen.indices:
            row[index] = known[index]
        return composite_hash(chosen, row)


@dataclass(frozen=True, slots=True)
class SignedList:
    """A configuration list with its agent's signature.

    Attributes:
        selections: which PCRs each configuration hashes.
        signature: 256 bytes; empty while nobody has signed a list.
    """

    config_list: ConfigList
    selections: tuple[PcrSelection, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class HardwareQuote:
    """The quote by the hardware TPM that everything hangs on.

    Attributes:
        aik_modulus: of the group's attestation identity key, 256 bytes.
        certificates: of that key, DER, each issued by the next; may be none.
        flags: extraInfoFlags of the deep quote.
        hashes: one for each flag, 20 bytes.
        signature: 256 bytes.
    """

    aik_modulus: bytes
    certificates: tuple[bytes, ...]
    flags: int
    hashes: tuple[bytes, ...]
    pcrs: Pcrs
    signature: bytes


@dataclass(frozen=True, slots=True)
class EkProof:
    """Answer to ParentSignEK: the endorsement key was made by this vTPM on this machine.

    A vTPM can give it in its first run only, so it is kept, and has the nonce and the list of then.

    Attributes:
        ek: the endorsement key.
        nonce: 20 bytes.
        signature: by the group's AIK, 256 bytes.
        approved: list that was in force.
    """

    ek: PubKey
    nonce: bytes
    pcrs: Pcrs
    signature: bytes
    approved: SignedList


@dataclass(frozen=True, slots=True)
class GuestQuote:
    """A TPM_Quote by an identity key inside of the guest, over the same nonce.

    Attributes:
        aik_modulus: 256 bytes.
        certificates: of that key, DER, each issued by the next; may be none.
        signature: 256 bytes.
    """

    aik_modulus: bytes
    certificates: tuple[bytes, ...]
    pcrs: Pcrs
    signature: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it.

    Attributes:
        nonce: of who asked, 20 bytes.
        group: uuid of the group.
        agent_modulus: of the group's System Approval Agent, 256 bytes.
        approved: the list in force.
        hardware: the deep quote.
        vtpm: uuid of the vTPM.
        label: of the vTPM.
        locality: at which the vTPM got the command, 0-4.
        pcrs: of the vTPM.
        hardware_start: its PCRs that began with the hardware TPM's value instead of zeros.
        event_log: of the guest's firmware, as the TCG wrote it down for TPM 1.2; None without one.
        ek: endorsement key of the vTPM, None if it is not told.
        ek_certificates: of that key, DER, each issued by the next; may be none.
        ek_proof: None if there is none.
        guest_quote: None if there is none.
        freshness: how the manager says that it notices older copies: nv, counter, none; None if it
            was not asked.
    """

    nonce: bytes
    group: UUID
    agent_modulus: bytes
    approved: SignedList
    hardware: HardwareQuote
    vtpm: UUID
    label: str
    locality: int
    pcrs: Pcrs
    hardware_start: tuple[int, ...]
    event_log: bytes | None
    ek: PubKey | None
    ek_certificates: tuple[bytes, ...]
    ek_proof: EkProof | None
    guest_quote: GuestQuote | None
    freshness: str | None
