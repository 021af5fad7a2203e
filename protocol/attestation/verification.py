# SPDX-License-Identifier: Apache-2.0
"""Verifying evidence: one link after the other, from the hardware TPM up to the guest.

    result = verify(decode(data), Expectations(nonce=nonce, at=now, authorities=(ca,)))
    if not result.is_verified:
        print(result.verdict)

Each link is checked by itself, so that the one that broke has a name, and each speaks about bytes
that a link below it has bound:

    nonce             the evidence is over the nonce that was asked for
    aik               the key that signed is in a hardware TPM: certificate, or known key
    hardware-quote    that key signed hardware PCRs, hashes, vTPM PCRs and the nonce
    hardware-pcrs     PCRs 20-23 name group, list, label and vTPM; others are as expected
    agent             the group's agent is the one that is trusted
    policy            that agent signed the list, for this group
    configuration     the hardware PCRs are a configuration of the list
    label             the label is a kernel of the list, and is what the manager saw
    vtpm              the uuid is what the manager saw
    freshness         how the manager, in that configuration, notices older copies of its database
    guest-pcrs        PCRs of the vTPM are as expected
    event-log         the guest's log gives exactly these PCRs
    ek                the endorsement key is this vTPM's: ParentSignEK, or a certificate
    guest-quote       an identity key inside of this vTPM says the same PCRs over the same nonce

What is not in the evidence is "not present". The verdict needs those of `NEEDED`, and what the
caller requires besides; what the caller waives is checked and shown, and does not count. What a
link proves and what it does not is in docs/attestation.md.

The nonce must be unguessable and used once: nothing else tells fresh evidence from old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cryptography import x509

from protocol.attestation.certificates import (
    AIK_USAGE,
    EK_USAGE,
    UNNAMED,
    BadCertificate,
    check_chain,
    key_name,
    label_of,
    modulus_of,
    names_key,
    public_key,
    vtpm_of,
)
from protocol.attestation.eventlog import parse_event_log, replay, start_value
from protocol.attestation.evidence import EkProof, Evidence, Pcrs, SignedList
from protocol.attestation.verdict import (
    NEEDED,
    Expectations,
    Link,
    LinkName,
    Outcome,
    Verification,
)
from protocol.errors import WireError
from protocol.manager.approval import BadSignature, check_config_list, is_agent_modulus
from protocol.manager.constants import QuoteFlags
from protocol.manager.labels import approved_form, label_hash
from protocol.manager.quotes import external_data, identification, quoted_hashes
from protocol.manager.signatures import is_quote
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrInfoShort

_KNOWN_FLAGS: Final = QuoteFlags(sum(QuoteFlags))
_STARTS: Final = {20: (0, 0xFF), 21: (0, 0xFF), 22: (0, 0xFF), 23: (0,)}
"""What their bytes are after TPM_PCR_Reset: ones, or zeros once there was a dynamic launch."""
_IDENTIFYING: Final = (20, 21, 22, 23)
_IDENTIFYING_EK: Final = (20, 21, 23)
"""Which of them a proof of the EK must have: the label may have been another one then."""


class _Failed(Exception):
    """The link does not hold."""


class _Absent(Exception):
    """There is nothing to check the link by."""


def verify(evidence: Evidence, expected: Expectations) -> Verification:
    """Check all links of evidence."""
    return Verification(tuple(_checked(name, check, evidence, expected) for name, check in _CHECKS))


_Check = Callable[[Evidence, Expectations], str]


def _checked(name: LinkName, check: _Check, evidence: Evidence, expected: Expectations) -> Link:
    try:
        outcome, detail = Outcome.OK, check(evidence, expected)
    except _Absent as absent:
        outcome, detail = Outcome.NOT_PRESENT, str(absent)
    except (_Failed, BadCertificate) as failed:
        outcome, detail = Outcome.FAILED, str(failed)
    # what is there and does not hold is never passed over silently
    is_wanted = name in NEEDED or name in expected.required or outcome is Outcome.FAILED
    return Link(name, outcome, is_wanted and name not in expected.waived, detail)


# --- the links -----------------------------------------------------------------------------------


def _nonce(evidence: Evidence, expected: Expectations) -> str:
    if not hmac.compare_digest(evidence.nonce, expected.nonce):
        raise _Failed("the evidence is over another nonce")
    return evidence.nonce.hex()


def _aik(evidence: Evidence, expected: Expectations) -> str:
    modulus = evidence.hardware.aik_modulus
    chain = evidence.hardware.certificates
    if expected.aik_modulus is not None and expected.aik_modulus != modulus:
        raise _Failed("it is another key than the one that is known")
    if expected.authorities and chain:
        leaf = check_chain(chain, expected.authorities, AIK_USAGE, expected.at)
        if modulus_of(leaf) != modulus:
            raise _Failed("the certificate is of another key")
        if vtpm_of(leaf) is not None:
            raise _Failed("it is a key of a vTPM, not of a hardware TPM")
        return f"certified as {label_of(leaf)!r} by {_name(leaf)}"
    if expected.aik_modulus is not None:
        return "the key that is known"
    if chain:
        raise _Absent("no authority is given to check its certificate by")
    raise _Absent("it has no certificate, and no key is given to compare it with")


def _hardware_quote(evidence: Evidence, expected: Expectations) -> str:
    quote = evidence.hardware
    info = PcrInfoShort(evidence.pcrs.selection, 1 << evidence.locality, evidence.pcrs.composite())
    asked = bytes(4) + b"DQUT" + evidence.nonce + info.encode()
    flags = QuoteFlags(quote.flags)
    if quote.flags & ~_KNOWN_FLAGS or quote.flags.bit_count() != len(quote.hashes):
        raise _Failed("unknown flags, or not one hash for each")
    external = external_data(flags, hashlib.sha1(asked).digest(), quote.hashes)
    if not is_quote(quote.aik_modulus, quote.signature, quote.pcrs.composite(), external):
        raise _Failed("not signed by the AIK over these PCRs, hashes and this nonce")
    return f"PCRs {_indices(quote.pcrs)}"


def _hardware_pcrs(evidence: Evidence, expected: Expectations) -> str:
    kern_hash = label_hash(_approved_form(evidence) or evidence.label)
    quoted = evidence.hardware.pcrs
    _check_identifying(evidence, quoted, evidence.approved, _IDENTIFYING, [kern_hash])
    return _check_expected(quoted, expected.hardware_pcrs, "20-23 name group, list and vTPM")


def _agent(evidence: Evidence, expected: Expectations) -> str:
    _check_hash(evidence, QuoteFlags.GROUP_PUBKEY, "the hardware TPM signed another agent")
    if expected.agent_modulus is None:
        raise _Absent("no agent's key is given to compare with")
    if expected.agent_modulus != evidence.agent_modulus:
        raise _Failed("it is another agent than the one that is trusted")
    return "the agent that is trusted"


def _policy(evidence: Evidence, expected: Expectations) -> str:
    _check_hash(evidence, QuoteFlags.GROUP_INFO, "the hardware TPM signed another list")
    _check_list(evidence, evidence.approved, expected)
    sequence = evidence.approved.config_list.sequence
    if sequence < expected.least_sequence:
        raise _Failed(f"list {sequence} is older than list {expected.least_sequence}")
    return f"list {sequence} of group {evidence.group}"


def _configuration(evidence: Evidence, expected: Expectations) -> str:
    return _check_configuration(evidence.hardware.pcrs, evidence.approved)


def _label(evidence: Evidence, expected: Expectations) -> str:
    form = _approved_form(evidence)
    if form is None:
        raise _Failed(f"{evidence.label!r} is no kernel of the list")
    _check_hash(
        evidence, QuoteFlags.VTPM_MEASUREMENTS, f"the manager saw another label than {form!r}"
    )
    if expected.label is not None and expected.label != form:
        raise _Failed(f"{form!r} is proven, not {expected.label!r}")
    return repr(form)


def _vtpm(evidence: Evidence, expected: Expectations) -> str:
    _check_hash(evidence, QuoteFlags.HASH_UUID, "the manager saw another uuid")
    if expected.vtpm is not None and expected.vtpm != evidence.vtpm:
        raise _Failed(f"it is {evidence.vtpm}, not {expected.vtpm}")
    return str(evidence.vtpm)


def _freshness(evidence: Evidence, expected: Expectations) -> str:
    mode = evidence.freshness
    if mode is None:
        if evidence.hardware.flags & QuoteFlags.FRESHNESS:
            raise _Failed("the manager was asked, and what it said is left out")
        raise _Absent("the manager was not asked")
    _check_hash(evidence, QuoteFlags.FRESHNESS, f"the manager did not say {mode}")
    if mode not in expected.freshness:
        raise _Failed(f"{mode} is not good enough")
    return mode


def _guest_pcrs(evidence: Evidence, expected: Expectations) -> str:
    found = f"PCRs {_indices(evidence.pcrs)} at locality {evidence.locality}"
    return _check_expected(evidence.pcrs, expected.guest_pcrs, found)


def _event_log(evidence: Evidence, expected: Expectations) -> str:
    if evidence.event_log is None:
        if evidence.hardware_start:
            raise _Failed("PCRs that begin with the hardware TPM's value, and no log")
        raise _Absent("no log")
    try:
        events = parse_event_log(evidence.event_log)
    except WireError as error:
        raise _Failed(f"no log: {error}") from None
    start = _hardware_start(evidence)
    quoted, replayed = evidence.pcrs.by_index, replay(events, start)
    logged = {event.pcr for event in events} | start.keys()
    if logged - quoted.keys():
        raise _Failed(f"it speaks of PCR {min(logged - quoted.keys())}, which is not quoted")
    # a PCR whose value the verifier knows anyhow needs no log
    for index in sorted(quoted.keys() - (expected.guest_pcrs.keys() - logged)):
        if quoted[index] != replayed[index]:
            raise _Failed(f"PCR {index} is not what the log makes of it")
    covered = sum([event.is_extended and event.is_of_data for event in events])
    return f"{len(events)} events, the data of {covered} is measured itself"


def _ek(evidence: Evidence, expected: Expectations) -> str:
    ek, proof = evidence.ek, evidence.ek_proof
    if ek is None:
        if proof is not None or evidence.ek_certificates:
            raise _Failed("a proof or certificate of a key that is not there")
        raise _Absent("the key is not told")
    found = []
    if proof is not None:
        found.append(_check_ek_proof(evidence, ek, proof, expected))
    if evidence.ek_certificates and expected.authorities:
        leaf = check_chain(evidence.ek_certificates, expected.authorities, EK_USAGE, expected.at)
        if leaf.public_key() != public_key(ek):
            raise _Failed("the certificate is of another key")
        if vtpm_of(leaf) != evidence.vtpm:
            raise _Failed("the certificate is not that of this vTPM's key")
        found.append(f"certified by {_name(leaf)}")
    if not found:
        raise _Absent("the key is only claimed: there is no proof and no certificate to check")
    return ", ".join(found)


def _guest_quote(evidence: Evidence, expected: Expectations) -> str:
    quote = evidence.guest_quote
    if quote is None:
        raise _Absent("none")
    if not is_quote(quote.aik_modulus, quote.signature, quote.pcrs.composite(), evidence.nonce):
        raise _Failed("not signed by the guest's AIK over these PCRs and this nonce")
    known = evidence.pcrs.by_index
    for index, value in quote.pcrs.values:
        if known.get(index) != value:
            raise _Failed(f"PCR {index} is not what the deep quote has")
    if not quote.certificates or not expected.authorities:
        raise _Absent("signed, by a key that no certificate puts into a TPM")
    leaf = check_chain(quote.certificates, expected.authorities, AIK_USAGE, expected.at)
    if modulus_of(leaf) != quote.aik_modulus:
        raise _Failed("the certificate is of another key")
    if vtpm_of(leaf) == UNNAMED:
        raise _Absent("signed, by a certified key in some vTPM with the same PCRs")
    if vtpm_of(leaf) != evidence.vtpm:
        raise _Failed("the key does not live in this vTPM")
    named = names_key(leaf)
    if named and evidence.ek and named != key_name(public_key(evidence.ek)):
        raise _Failed("the key lives in a TPM with another EK")
    return f"certified as {label_of(leaf)!r} by {_name(leaf)}"


# --- what several links need ---------------------------------------------------------------------


def _check_hash(evidence: Evidence, flag: QuoteFlags, otherwise: str) -> None:
    """Check that the deep quote has the hash of a flag, over what the evidence says of it."""
    flags = QuoteFlags(evidence.hardware.flags)
    if flag not in flags:
        raise _Failed("the deep quote was not asked to say it")
    form = _approved_form(evidence)
    (expected,) = quoted_hashes(
        flag,
        uuid=evidence.vtpm,
        kern_hash=label_hash(evidence.label if form is None else form),
        saa_modulus=evidence.agent_modulus,
        config_list=evidence.approved.config_list,
        freshness=evidence.freshness or "",
    )
    position = (int(flags) & (int(flag) - 1)).bit_count()
    if evidence.hardware.hashes[position : position + 1] != (expected,):
        raise _Failed(otherwise)


def _check_identifying(
    evidence: Evidence,
    pcrs: Pcrs,
    approved: SignedList,
    needed: Iterable[int],
    kern_hashes: Iterable[bytes],
) -> None:
    """Check what a quote has of the PCRs that the manager sets for it.

    Args:
        approved: list that was in force.
        needed: which of them must be there.
        kern_hashes: of the labels that the vTPM may have had.
    """
    quoted = pcrs.by_index
    for index in needed:
        if index not in quoted:
            raise _Failed(f"PCR {index} is not quoted")
    allowed: dict[int, set[bytes]] = {index: set() for index in _IDENTIFYING}
    for kern_hash in kern_hashes:
        rows = identification(
            evidence.group,
            evidence.agent_modulus,
            approved.config_list,
            vtpm=(evidence.vtpm, kern_hash),
        )
        for index, digests in rows.items():
            for byte in _STARTS[index]:
                value = bytes([byte]) * 20
                for digest in digests:
                    value = hashlib.sha1(value + digest).digest()
                allowed[index].add(value)
    for index in _IDENTIFYING:
        if index in quoted and quoted[index] not in allowed[index]:
            raise _Failed(f"PCR {index} names something else than the evidence")


def _check_list(evidence: Evidence, approved: SignedList, expected: Expectations) -> None:
    if not is_agent_modulus(evidence.agent_modulus):
        raise _Failed("the agent's key is no RSA key of 2048 bits")
    if len(approved.selections) != len(approved.config_list.configurations):
        raise _Failed("not one selection for each configuration")
    try:
        check_config_list(
            evidence.agent_modulus,
            approved.signature,
            evidence.group,
            approved.config_list,
            approved.selections,
            xen_form=expected.xen_lists,
        )
    except BadSignature:
        raise _Failed("the list is not signed by the agent for this group") from None


def _check_configuration(pcrs: Pcrs, approved: SignedList) -> str:
    quoted = pcrs.by_index.keys()
    pairs = zip(approved.config_list.configurations, approved.selections, strict=False)
    for number, (composite, selection) in enumerate(pairs, start=1):
        # an empty selection would approve everything
        chosen = set(selection.indices)
        if chosen and quoted >= chosen and pcrs.composite(selection) == composite:
            return f"configuration {number} of the list: {composite.hex()}"
    raise _Failed("the hardware PCRs are no configuration of the list")


def _check_expected(pcrs: Pcrs, expected: Mapping[int, bytes], detail: str) -> str:
    quoted = pcrs.by_index
    for index, value in sorted(expected.items()):
        if index not in quoted:
            raise _Failed(f"PCR {index} is expected and not quoted")
        if quoted[index] != value:
            raise _Failed(f"PCR {index} is {quoted[index].hex()}")
    return f"{detail}; {len(expected)} as expected" if expected else detail


def _check_ek_proof(evidence: Evidence, ek: PubKey, proof: EkProof, expected: Expectations) -> str:
    if proof.ek != ek:
        raise _Failed("the proof is of another key")
    data = hashlib.sha1(ek.encode() + proof.nonce).digest()
    external = external_data(QuoteFlags(0), data, ())
    aik = evidence.hardware.aik_modulus
    if not is_quote(aik, proof.signature, proof.pcrs.composite(), external):
        raise _Failed("the proof is not signed by the AIK over this key")
    _check_list(evidence, proof.approved, expected)
    then, now = proof.approved.config_list, evidence.approved.config_list
    if then.sequence > now.sequence:
        raise _Failed(f"the proof is of list {then.sequence}, newer than list {now.sequence}")
    _check_identifying(evidence, proof.pcrs, proof.approved, _IDENTIFYING_EK, then.kernels)
    _check_configuration(proof.pcrs, proof.approved)
    return f"made by this vTPM under list {then.sequence}"


def _hardware_start(evidence: Evidence) -> dict[int, bytes]:
    """Return the values of those PCRs that began with the hardware TPM's."""
    hardware = evidence.hardware.pcrs.by_index
    found = {
        index: hardware[index]
        for index in sorted(evidence.hardware_start)
        if index in hardware and hardware[index] != start_value(index)
    }
    if tuple(found) != evidence.hardware_start:
        raise _Failed("PCRs begin with a value of the hardware TPM that is not quoted, or is none")
    return found


def _approved_form(evidence: Evidence) -> str | None:
    return approved_form(evidence.approved.config_list.kernels, evidence.label)


def _indices(pcrs: Pcrs) -> str:
    return ",".join([str(index) for index, _ in pcrs.values])


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.issuer.rfc4514_string())


_CHECKS: Final[tuple[tuple[LinkName, _Check], ...]] = (
    (LinkName.NONCE, _nonce),
    (LinkName.AIK, _aik),
    (LinkName.HARDWARE_QUOTE, _hardware_quote),
    (LinkName.HARDWARE_PCRS, _hardware_pcrs),
    (LinkName.AGENT, _agent),
    (LinkName.POLICY, _policy),
    (LinkName.CONFIGURATION, _configuration),
    (LinkName.LABEL, _label),
    (LinkName.VTPM, _vtpm),
    (LinkName.FRESHNESS, _freshness),
    (LinkName.GUEST_PCRS, _guest_pcrs),
    (LinkName.EVENT_LOG, _event_log),
    (LinkName.EK, _ek),
    (LinkName.GUEST_QUOTE, _guest_quote),
)
