# SPDX-License-Identifier: Apache-2.0
"""What a verifier expects, and what came of the links of evidence."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from cryptography import x509

from protocol.attestation.evidence import FRESHNESS_MODES


class LinkName(enum.Enum):
    """The links, in the order in which they are checked."""

    NONCE = "nonce"
    AIK = "aik"
    HARDWARE_QUOTE = "hardware-quote"
    HARDWARE_PCRS = "hardware-pcrs"
    AGENT = "agent"
    POLICY = "policy"
    CONFIGURATION = "configuration"
    LABEL = "label"
    VTPM = "vtpm"
    FRESHNESS = "freshness"
    GUEST_PCRS = "guest-pcrs"
    EVENT_LOG = "event-log"
    EK = "ek"
    GUEST_QUOTE = "guest-quote"


NEEDED: Final = frozenset(LinkName) - {
    LinkName.FRESHNESS,
    LinkName.EVENT_LOG,
    LinkName.EK,
    LinkName.GUEST_QUOTE,
}
"""Links without which evidence proves nothing about a guest."""


class Outcome(enum.Enum):
    """What came of a link."""

    OK = "ok"
    FAILED = "FAILED"
    NOT_PRESENT = "not present"


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the verifier knows beforehand.

    Attributes:
        nonce: that was sent, 20 bytes.
        at: the time, with time zone.
        authorities: Privacy CAs that are trusted.
        aik_modulus: of the group's AIK, where it is known without a certificate, 256 bytes.
        agent_modulus: of the agent that is trusted, 256 bytes.
        hardware_pcrs: values that PCRs of the hardware TPM must have.
        guest_pcrs: values that PCRs of the vTPM must have.
        vtpm: uuid that the vTPM must have.
        label: that the vTPM must have, as far as the list proves it.
        least_sequence: of the list.
        freshness: modes that are good enough.
        xen_lists: whether a list signed as in Xen counts.
        required: links that must be there besides those of `NEEDED`.
        waived: links that need not hold.
    """

    nonce: bytes
    at: datetime
    authorities: Sequence[x509.Certificate] = ()
    aik_modulus: bytes | None = None
    agent_modulus: bytes | None = None
    hardware_pcrs: Mapping[int, bytes] = field(default_factory=dict)
    guest_pcrs: Mapping[int, bytes] = field(default_factory=dict)
    vtpm: UUID | None = None
    label: str | None = None
    least_sequence: int = 0
    freshness: Set[str] = frozenset(FRESHNESS_MODES)
    xen_lists: bool = False
    required: Set[LinkName] = frozenset()
    waived: Set[LinkName] = frozenset()


@dataclass(frozen=True, slots=True)
class Link:
    """A link that was checked.

    Attributes:
        counts: whether the verdict needs it to be ok.
        detail: what was found, or why it failed; one line.
    """

    name: LinkName
    outcome: Outcome
    counts: bool
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the verdict may be good as far as this link goes."""
        return not self.counts or self.outcome is Outcome.OK


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of it all.

    Attributes:
        links: every link, in order.
    """

    links: tuple[Link, ...]

    @property
    def broken(self) -> Link | None:
        """The first link that does not hold."""
        return next((link for link in self.links if not link.holds), None)

    @property
    def is_verified(self) -> bool:
        """Whether every link holds that counts."""
        return self.broken is None

    @property
    def verdict(self) -> str:
        """One line: verified or not, and which link decides."""
        broken = self.broken
        if broken is not None:
            return f"NOT verified: {broken.name.value} {broken.outcome.value}: {broken.detail}"
        open_links = [link.name.value for link in self.links if link.outcome is not Outcome.OK]
        return f"verified, without {', '.join(open_links)}" if open_links else "verified"

    def link(self, name: LinkName) -> Link:
        """Return a link."""
        return next(link for link in self.links if link.name is name)
