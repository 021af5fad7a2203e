# SPDX-License-Identifier: Apache-2.0
"""Gathering evidence about a guest's TPM: from its manager, from the TPM itself, from files.

Nothing of it is secret, and nothing that this program adds makes it true: what counts is signed by
the hardware TPM, the agent, and keys inside of the guest's TPM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from daemons.runtime.config.options import Guest
from daemons.runtime.errors import DaemonError
from daemons.runtime.random import OsRandom
from daemons.runtime.secret import Secret
from daemons.vtpmctl.adminclient import Admin
from daemons.vtpmctl.exchanges import IdentityFile
from daemons.vtpmctl.guestaik import quote_with_aik
from daemons.vtpmctl.tpmstream import GuestTpm, TpmRefused
from protocol.attestation.eventlog import parse_event_log, start_value
from protocol.attestation.evidence import (
    FRESHNESS_MODES,
    EkProof,
    Evidence,
    GuestQuote,
    HardwareQuote,
    Pcrs,
    SignedList,
)
from protocol.attestation.verdict import Expectations, LinkName, Outcome
from protocol.attestation.verification import verify
from protocol.errors import WireError
from protocol.manager.constants import ManagementOrdinal, QuoteFlags
from protocol.manager.management import GroupNumber, GroupPolicy
from protocol.tpm12.constants import ReservedHandle, ReturnCode
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection
from tpmcore import tss12
from tpmcore.tss12.parent import ParentEvidence, deep_quote, parent_sign_ek

IDENTIFYING_PCRS: Final = range(20, 24)
_LABEL_PCR: Final = 22
_FLAGS: Final = QuoteFlags(sum(QuoteFlags))
_ATTEMPTS: Final = 3
"""PCRs of a guest that boots may change between reading and quoting."""
_LOCALITY: Final = 0
"""The raw stream socket's."""


@dataclass(frozen=True, slots=True)
class GuestAik:
    """An identity key inside of the guest's TPM, to quote with.

    Attributes:
        identity: with the wrapped key.
        auth: to use the key.
        srk_auth: to load it.
        certificates: DER.
    """

    identity: IdentityFile
    auth: Secret
    srk_auth: Secret
    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What evidence is to have.

    Attributes:
        guest: whose.
        label: as the manager knows it.
        nonce: of the verifier, 20 bytes.
        owner_auth: of the guest's TPM.
        pcrs: of the guest's TPM.
        hardware_pcrs: beside those that are always quoted.
        event_log: of the guest.
        aik_certificates, ek_certificates: DER.
        ek_proof: that was kept; None to try for one.
        guest_aik: None for no quote inside of the guest.
    """

    guest: Guest
    label: str
    nonce: bytes
    owner_auth: Secret
    pcrs: PcrSelection
    hardware_pcrs: Sequence[int] = ()
    event_log: bytes | None = None
    aik_certificates: tuple[bytes, ...] = ()
    ek_certificates: tuple[bytes, ...] = ()
    ek_proof: EkProof | None = None
    guest_aik: GuestAik | None = None


async def ask_policy(admin: Admin, guest: Guest) -> GroupPolicy:
    """Return the policy of a guest's group.

    Raises:
        DaemonError: the manager refuses, or nobody has decided about the group yet.
    """
    number = guest.identity.group
    policy = await admin.ask(ManagementOrdinal.GROUP_POLICY, GroupNumber(number), GroupPolicy)
    if not any(policy.saa_modulus):
        raise DaemonError(f"group {number} has no agent yet: vtpmctl group new")
    if not policy.signature:
        raise DaemonError(f"group {number} has no list yet: vtpmctl group update")
    return policy


async def gather(tpm: GuestTpm, policy: GroupPolicy, order: Order) -> Evidence:
    """Return evidence.

    Raises:
        DaemonError: a step failed, or the guest's PCRs do not stand still.
    """
    started = _hardware_start(order)
    chosen = _hardware_selection(policy, (*order.hardware_pcrs, *started))
    ek = await _read_ek(tpm, order.owner_auth)
    proof = order.ek_proof
    if proof is None:
        proof = await _try_ek_proof(tpm, policy, order, ek)
    for _ in range(_ATTEMPTS):
        evidence = await _quote(tpm, policy, order, chosen)
        if _is_of_one_moment(evidence):
            break
    else:
        raise DaemonError("the guest's PCRs change all the time: no quote is of what was read")
    quoted = evidence.hardware.pcrs.by_index
    return replace(
        evidence,
        hardware_start=tuple([i for i in started if quoted[i] != start_value(i)]),
        event_log=order.event_log,
        ek=ek,
        ek_certificates=order.ek_certificates,
        ek_proof=proof,
        guest_quote=await _quote_inside(tpm, order),
    )


async def prove_ek(tpm: GuestTpm, policy: GroupPolicy, nonce: bytes, owner_auth: Secret) -> EkProof:
    """Return the proof that a vTPM gives in its first run.

    Raises:
        TpmRefused: DISABLED_CMD in later runs.
        DaemonError: other failures.
    """
    ek = await _read_ek(tpm, owner_auth)
    chosen = _hardware_selection(policy)
    # the label may become another one, the vTPM not
    lasting = PcrSelection.of([index for index in chosen.indices if index != _LABEL_PCR])
    signed = await tpm.run(
        "prove its endorsement key",
        parent_sign_ek(nonce, lasting, owner_auth=owner_auth, random=OsRandom()),
    )
    return EkProof(ek, nonce, _pcrs(lasting, signed), signed.signature, _signed_list(policy))


def _hardware_selection(policy: GroupPolicy, others: Sequence[int] = ()) -> PcrSelection:
    """Return what must be quoted for a verifier to find the configuration, and others."""
    wanted = {*IDENTIFYING_PCRS, *others}
    for selection in policy.selections:
        wanted.update(selection.indices)
    return PcrSelection.of(wanted)


def _hardware_start(order: Order) -> list[int]:
    """Return the PCRs that begin with the hardware TPM's value, as far as a log needs them."""
    if order.event_log is None:
        return []
    quoted = order.pcrs.indices
    try:
        logged = {event.pcr for event in parse_event_log(order.event_log)}
    except WireError as error:
        raise DaemonError(f"no event log: {error}") from error
    if missing := logged.difference(quoted):
        raise DaemonError(f"the event log is about PCR {min(missing)} as well: name it with --pcrs")
    return sorted(order.guest.vtpm.hwinitpcr.intersection(quoted))


async def _read_ek(tpm: GuestTpm, owner_auth: Secret) -> PubKey:
    return await tpm.run(
        "tell its endorsement key",
        tss12.owner_read_internal_pub(ReservedHandle.EK, owner_auth=owner_auth, random=OsRandom()),
    )


async def _try_ek_proof(
    tpm: GuestTpm, policy: GroupPolicy, order: Order, ek: PubKey
) -> EkProof | None:
    try:
        proof = await prove_ek(tpm, policy, order.nonce, order.owner_auth)
    except TpmRefused as refusal:
        if refusal.code != ReturnCode.DISABLED_CMD:
            raise
        return None
    return proof if proof.ek == ek else None


async def _quote(
    tpm: GuestTpm, policy: GroupPolicy, order: Order, chosen: PcrSelection
) -> Evidence:
    """Return evidence with the deep quote in it, and nothing else of the guest."""
    values = {
        index: await tpm.run("read a PCR", tss12.pcr_read(index)) for index in order.pcrs.indices
    }
    signed = await tpm.run(
        "have its PCRs vouched for",
        deep_quote(
            order.nonce,
            order.pcrs,
            chosen,
            flags=_FLAGS,
            owner_auth=order.owner_auth,
            random=OsRandom(),
        ),
    )
    hardware = HardwareQuote(
        policy.aik_modulus,
        order.aik_certificates,
        _FLAGS,
        signed.hashes,
        _pcrs(chosen, signed),
        signed.signature,
    )
    evidence = Evidence(
        nonce=order.nonce,
        group=policy.uuid,
        agent_modulus=policy.saa_modulus,
        approved=_signed_list(policy),
        hardware=hardware,
        vtpm=order.guest.identity.uuid,
        label=order.label,
        locality=_LOCALITY,
        pcrs=Pcrs.of(values),
        hardware_start=(),
        event_log=None,
        ek=None,
        ek_certificates=(),
        ek_proof=None,
        guest_quote=None,
        freshness=None,
    )
    # the manager tells the hash of its mode only
    for mode in FRESHNESS_MODES:
        said = replace(evidence, freshness=mode)
        if _holds(said, LinkName.FRESHNESS):
            return said
    raise DaemonError("the manager is in a freshness mode that is not known here")


def _is_of_one_moment(evidence: Evidence) -> bool:
    """Whether the values that were read are those that were quoted."""
    return _holds(evidence, LinkName.HARDWARE_QUOTE)


def _holds(evidence: Evidence, name: LinkName) -> bool:
    expected = Expectations(nonce=evidence.nonce, at=datetime.now(UTC))
    return verify(evidence, expected).link(name).outcome is Outcome.OK


async def _quote_inside(tpm: GuestTpm, order: Order) -> GuestQuote | None:
    aik = order.guest_aik
    if aik is None:
        return None
    quoted = await quote_with_aik(
        tpm,
        aik.identity,
        order.nonce,
        order.pcrs,
        srk_auth=aik.srk_auth,
        aik_auth=aik.auth,
        random=OsRandom(),
    )
    values = dict(zip(quoted.composite.selection.indices, quoted.composite.values, strict=True))
    return GuestQuote(aik.identity.aik.key, aik.certificates, Pcrs.of(values), quoted.signature)


def _pcrs(selection: PcrSelection, signed: ParentEvidence) -> Pcrs:
    return Pcrs(tuple(zip(selection.indices, signed.pcr_values, strict=True)))


def _signed_list(policy: GroupPolicy) -> SignedList:
    return SignedList(policy.config_list, policy.selections, policy.signature)
