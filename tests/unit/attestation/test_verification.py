# SPDX-License-Identifier: Apache-2.0
"""Every link of evidence: what holds, what breaks it, and which link says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from protocol.attestation.evidence import Evidence, Pcrs
from protocol.attestation.evidencefile import BadEvidence, decode, encode
from protocol.attestation.verdict import LinkName, Outcome
from protocol.attestation.verification import verify
from protocol.manager.management import ConfigList
from protocol.tpm12.pcr import PcrSelection
from tests.unit.attestation.signer import (
    AGENT_KEY,
    AIK_CHAIN,
    AIK_KEY,
    AIK_OID,
    CA_KEY,
    CONFIGURATION,
    EK_KEY,
    EK_OID,
    GUEST_KEY,
    HARDWARE,
    LABEL,
    LOG,
    NONCE,
    NOW,
    OTHER_KEY,
    URN,
    VTPM,
    WILD,
    Event,
    approve,
    certificate,
    composite,
    der,
    expectations,
    extended,
    guest_pcrs,
    identifying,
    log_bytes,
    make,
    modulus,
    prove_ek,
    quote,
    select,
    sha1,
    sign_list,
    uri,
)

L = LinkName


def broken(evidence: Evidence, **changes: object) -> list[LinkName]:
    """Return the links that do not hold."""
    result = verify(evidence, expectations(**changes))
    assert result.is_verified == (not [link for link in result.links if not link.holds])
    return [link.name for link in result.links if link.outcome is Outcome.FAILED]


def absent(evidence: Evidence, **changes: object) -> list[LinkName]:
    """Return the links that are not present."""
    result = verify(evidence, expectations(**changes))
    return [link.name for link in result.links if link.outcome is Outcome.NOT_PRESENT]


def flipped(data: bytes, bit: int = 0) -> bytes:
    return bytes([data[0] ^ 1 << bit]) + data[1:]


def test_evidence_as_it_should_be_holds_in_every_link() -> None:
    result = verify(decode(encode(make())), expectations())
    assert [link.outcome for link in result.links] == [Outcome.OK] * len(LinkName)
    assert [link.name for link in result.links] == list(LinkName)
    assert result.is_verified
    assert result.verdict == "verified"


# --- one bit -------------------------------------------------------------------------------------


def _does_not_count(before: Evidence, after: Evidence) -> bool:
    """Whether two differ only where a log is not measured: types and data of its events, and all of
    an event that is not extended but its length."""
    if replace(after, event_log=before.event_log) != before:
        return False
    assert before.event_log is not None
    assert after.event_log is not None
    loose: set[int] = set()
    at = 0
    for event in LOG:
        end = at + 32 + len(event.data)
        loose |= {*range(at + 4, at + 8), *range(at + 32, end)}
        if event.kind == 3:
            loose |= {*range(at, at + 28)}
        at = end
    pairs = zip(before.event_log, after.event_log, strict=True)
    return {index for index, (one, other) in enumerate(pairs) if one != other} <= loose


@pytest.mark.parametrize("part", range(8))
def test_a_bit_of_any_byte_of_the_file_breaks_it(part: int) -> None:
    """One bit in each byte of the file, another one in each part."""
    evidence, expected = make(), expectations()
    data = encode(evidence)
    readable = 0
    for position in range(part, len(data), 8):
        changed = bytearray(data)
        changed[position] ^= 1 << (position // 8 + part) % 8
        try:
            found = decode(bytes(changed))
        except BadEvidence:
            continue
        readable += 1
        if verify(found, expected).is_verified:
            assert _does_not_count(evidence, found), (position, bytes(changed))
    # the change is caught by the links too, not by the form of the file alone
    assert readable > len(data) // 8 // 10


# --- the hardware TPM ----------------------------------------------------------------------------


def test_evidence_over_another_nonce_is_not_taken() -> None:
    other = make(nonce=b"o" * 20)
    assert broken(other) == [L.NONCE]
    # a replay with the nonce put right
    assert broken(replace(other, nonce=NONCE)) == [L.HARDWARE_QUOTE, L.GUEST_QUOTE]


def test_a_quote_by_another_key_is_not_that_of_the_certified_aik() -> None:
    forged = make(key=OTHER_KEY)
    assert broken(forged) == [L.AIK, L.EK]
    claimed = replace(forged.hardware, aik_modulus=modulus(AIK_KEY))
    assert broken(replace(forged, hardware=claimed)) == [L.HARDWARE_QUOTE]


def test_without_anything_that_puts_the_aik_into_a_tpm_nothing_is_verified() -> None:
    bare = make()
    bare = replace(bare, hardware=replace(bare.hardware, certificates=()))
    result = verify(bare, expectations())
    assert result.broken is not None
    assert result.broken.name is L.AIK
    assert result.verdict.startswith("NOT verified: aik not present")
    known = verify(bare, expectations(aik_modulus=modulus(AIK_KEY)))
    assert known.is_verified
    assert broken(bare, aik_modulus=modulus(OTHER_KEY)) == [L.AIK]
    waived = verify(bare, expectations(waived=frozenset({L.AIK})))
    assert waived.is_verified
    assert waived.verdict == "verified, without aik"


def test_a_certificate_counts_that_the_authority_issued_for_an_aik_and_now() -> None:
    whole = make()

    def certified(*chain: bytes) -> Evidence:
        return replace(whole, hardware=replace(whole.hardware, certificates=chain))

    assert broken(certified(der(certificate(AIK_KEY, EK_OID)))) == [L.AIK]
    assert broken(certified(der(certificate(OTHER_KEY, AIK_OID)))) == [L.AIK]
    by_other = certificate(AIK_KEY, AIK_OID, by=OTHER_KEY)
    assert broken(certified(der(by_other))) == [L.AIK]
    assert broken(certified(der(certificate(AIK_KEY, AIK_OID, issuer="B CA")))) == [L.AIK]
    assert broken(certified(der(certificate(AIK_KEY, AIK_OID, is_ca=True)))) == [L.AIK]
    assert broken(certified(b"no certificate")) == [L.AIK]
    assert broken(certified(*AIK_CHAIN, *AIK_CHAIN)) == [L.AIK]
    assert L.AIK in broken(whole, at=NOW + timedelta(days=400))
    assert L.AIK in broken(whole, at=NOW - timedelta(days=11))


def test_a_certificate_may_come_by_way_of_an_authority_below() -> None:
    whole = make()
    below = certificate(OTHER_KEY, None, is_ca=True)
    leaf = certificate(AIK_KEY, AIK_OID, by=OTHER_KEY)
    chain = (der(leaf), der(below))
    evidence = replace(whole, hardware=replace(whole.hardware, certificates=chain))
    assert broken(evidence) == []
    # an authority that may have none below it
    narrow = certificate(CA_KEY, None, is_ca=True, path_length=0)
    assert L.AIK in broken(evidence, authorities=(narrow,))
    # a certificate of a key that is no authority issues nothing
    plain = certificate(OTHER_KEY, AIK_OID)
    chain = (der(leaf), der(plain))
    assert broken(replace(whole, hardware=replace(whole.hardware, certificates=chain))) == [L.AIK]


def test_hardware_pcrs_are_as_expected_or_the_verdict_says_which_is_not() -> None:
    assert broken(make(), hardware_pcrs={0: HARDWARE[0], 17: HARDWARE[17]}) == []
    assert broken(make(), hardware_pcrs={0: HARDWARE[1]}) == [L.HARDWARE_PCRS]
    assert broken(make(), hardware_pcrs={3: bytes(20)}) == [L.HARDWARE_PCRS]
    result = verify(make(), expectations(hardware_pcrs={17: bytes(20)}))
    assert result.verdict == f"NOT verified: hardware-pcrs FAILED: PCR 17 is {HARDWARE[17].hex()}"


@pytest.mark.parametrize("index", [20, 21, 22, 23])
def test_pcrs_20_to_23_name_what_the_evidence_says(index: int) -> None:
    values = {**HARDWARE, **identifying(approve(), LABEL)}
    assert broken(make(hardware={**values, index: sha1(b"else")})) == [L.HARDWARE_PCRS]
    del values[index]
    assert broken(make(hardware=values)) == [L.HARDWARE_PCRS]


def test_pcrs_20_to_22_may_begin_with_zeros_after_a_dynamic_launch() -> None:
    assert broken(make(start=bytes(20))) == []
    assert broken(make(start=b"\x01" * 20)) == [L.HARDWARE_PCRS]


# --- agent, list, label, uuid --------------------------------------------------------------------


def test_the_agent_is_the_one_that_is_trusted() -> None:
    assert broken(make(), agent_modulus=modulus(OTHER_KEY)) == [L.AGENT]
    assert absent(make(), agent_modulus=None) == [L.AGENT]
    assert not verify(make(), expectations(agent_modulus=None)).is_verified


def test_a_list_counts_that_the_agent_signed_for_this_group() -> None:
    current = approve()
    others = sign_list(
        current.config_list, [each.encode() for each in current.selections], group=UUID(int=9)
    )
    assert broken(make(approved=others)) == [L.POLICY]
    assert broken(make(approved=replace(current, signature=b""))) == [L.POLICY]
    fewer = replace(current, selections=current.selections[:1])
    assert L.POLICY in broken(make(approved=fewer))


def test_another_list_of_the_same_agent_is_not_what_the_hardware_tpm_signed() -> None:
    newer = replace(make(), approved=approve(sequence=4))
    assert broken(newer) == [L.HARDWARE_PCRS, L.POLICY]


def test_a_list_older_than_the_verifier_knows_of_is_not_taken() -> None:
    assert broken(make(), least_sequence=3) == []
    assert broken(make(), least_sequence=4) == [L.POLICY]


def test_a_list_as_in_xen_counts_where_the_verifier_says_so() -> None:
    current = approve()
    signature = AGENT_KEY.sign(current.config_list.encode(), PKCS1v15(), hashes.SHA1())
    evidence = make(approved=replace(current, signature=signature))
    assert broken(evidence) == [L.POLICY]
    assert broken(evidence, xen_lists=True) == []


def test_a_configuration_that_the_list_has_not_is_not_approved() -> None:
    changed = {**HARDWARE, 2: sha1(b"other firmware"), **identifying(approve(), LABEL)}
    assert broken(make(hardware=changed)) == [L.CONFIGURATION]
    # PCRs that were left out of the quote cannot show a configuration
    fewer = {**HARDWARE, **identifying(approve(), LABEL)}
    del fewer[17]
    assert broken(make(hardware=fewer)) == [L.CONFIGURATION]


def test_a_configuration_of_no_pcrs_approves_nothing() -> None:
    empty = sign_list(
        ConfigList(3, (bytes(20), sha1(select(()) + bytes(4))), (sha1(LABEL.encode()),)),
        [select(()), select(())],
    )
    assert broken(make(approved=empty)) == [L.CONFIGURATION]


def test_a_label_is_a_kernel_of_the_list_and_what_the_manager_saw() -> None:
    assert broken(make(), label=LABEL) == []
    assert broken(make(label="stranger", proven_label="stranger")) == [L.LABEL]
    assert broken(make(label=LABEL, proven_label="stranger")) == [L.HARDWARE_PCRS, L.LABEL]
    assert broken(make(), label="other_u:vm_r:vtpm_t") == [L.LABEL]


def test_a_label_that_a_wildcard_approves_is_proven_without_its_first_part() -> None:
    evidence = make(approved=approve(labels=(WILD,)), proven_label=WILD)
    assert broken(evidence) == []
    assert broken(evidence, label=WILD) == []
    # who the user is was not measured: anything could stand there
    assert broken(replace(evidence, label="guest2_u:vm_r:vtpm_t")) == []
    assert broken(evidence, label=LABEL) == [L.LABEL]


def test_the_uuid_is_what_the_manager_saw() -> None:
    assert broken(make(), vtpm=VTPM) == []
    assert broken(make(), vtpm=UUID(int=1)) == [L.VTPM]
    moved = replace(make(), vtpm=UUID(int=1))
    assert broken(moved) == [L.HARDWARE_PCRS, L.VTPM, L.EK, L.GUEST_QUOTE]


@pytest.mark.parametrize(
    ("flag", "link"), [(1, L.VTPM), (2, L.LABEL), (4, L.POLICY), (8, L.AGENT), (0x100, L.FRESHNESS)]
)
def test_what_the_deep_quote_was_not_asked_for_is_not_proven(flag: int, link: LinkName) -> None:
    assert broken(make(flags=0x10F & ~flag)) == [link]


def test_a_flag_of_tomorrow_is_not_passed_over() -> None:
    evidence = make()
    hardware = replace(
        evidence.hardware, flags=0x30F, hashes=(*evidence.hardware.hashes, bytes(20))
    )
    assert broken(replace(evidence, hardware=hardware)) == [L.HARDWARE_QUOTE]


def test_the_freshness_mode_is_the_managers_word_and_good_enough() -> None:
    assert broken(make(mode="none")) == []
    assert broken(make(mode="none"), freshness=frozenset({"nv", "counter"})) == [L.FRESHNESS]
    assert broken(replace(make(mode="none"), freshness="nv")) == [L.FRESHNESS]
    assert broken(replace(make(), freshness=None)) == [L.FRESHNESS]
    silent = replace(make(flags=0xF), freshness=None)
    assert absent(silent) == [L.FRESHNESS]
    assert verify(silent, expectations()).is_verified
    assert not verify(silent, expectations(required=frozenset({L.FRESHNESS}))).is_verified


# --- the guest -----------------------------------------------------------------------------------


def test_guest_pcrs_are_as_expected_and_those_that_were_signed() -> None:
    values = guest_pcrs()
    assert broken(make(), guest_pcrs={4: values[4]}) == []
    assert broken(make(), guest_pcrs={4: bytes(20)}) == [L.GUEST_PCRS]
    assert broken(make(), guest_pcrs={9: bytes(20)}) == [L.GUEST_PCRS]
    lied = replace(make(), pcrs=Pcrs.of({**values, 4: bytes(20)}))
    assert broken(lied) == [L.HARDWARE_QUOTE, L.EVENT_LOG, L.GUEST_QUOTE]
    fewer = replace(make(), pcrs=Pcrs.of({4: values[4]}))
    assert L.HARDWARE_QUOTE in broken(fewer)


def test_another_locality_is_not_what_was_signed() -> None:
    assert broken(replace(make(), locality=1)) == [L.HARDWARE_QUOTE]


@pytest.mark.parametrize("left_out", range(len(LOG)))
def test_a_log_that_leaves_something_out_does_not_give_the_pcrs(left_out: int) -> None:
    events = [event for at, event in enumerate(LOG) if at != left_out]
    evidence = replace(make(), event_log=log_bytes(events))
    # what is not extended is not missed
    assert broken(evidence) == ([] if LOG[left_out].kind == 3 else [L.EVENT_LOG])


def test_a_log_in_another_order_does_not_give_the_pcrs() -> None:
    twice = (Event(4, 13, b"first"), Event(4, 13, b"second"))
    values = {**guest_pcrs(), 4: extended(bytes(20), *[each.measured for each in twice])}
    rest = [event for event in LOG if event.pcr != 4]
    right = replace(make(guest=values), event_log=log_bytes([*rest, *twice]))
    assert broken(right) == []
    wrong = replace(right, event_log=log_bytes([*rest, *reversed(twice)]))
    assert broken(wrong) == [L.EVENT_LOG]


def test_a_pcr_that_no_event_explains_fails_unless_its_value_is_known() -> None:
    values = {**guest_pcrs(), 10: sha1(b"another log")}
    evidence = make(guest=values)
    assert broken(evidence) == [L.EVENT_LOG]
    assert broken(evidence, guest_pcrs={10: values[10]}) == []


def test_a_log_about_a_pcr_that_is_not_quoted_proves_nothing_about_it() -> None:
    events = (*LOG, Event(9, 13, b"kernel"))
    assert broken(replace(make(), event_log=log_bytes(events))) == [L.EVENT_LOG]


def test_a_log_that_is_none_is_refused() -> None:
    whole = log_bytes()
    for bad in (whole[:-1], whole + b"\0", b"\x18\0\0\0" + whole[4:], whole[:40]):
        assert broken(replace(make(), event_log=bad)) == [L.EVENT_LOG]


def test_pcrs_may_begin_with_what_the_hardware_tpm_has_and_only_with_that() -> None:
    evidence = make()
    assert broken(replace(evidence, hardware_start=())) == [L.EVENT_LOG]
    assert broken(replace(evidence, hardware_start=(1, 2))) == [L.EVENT_LOG]
    assert broken(replace(evidence, hardware_start=(1, 3))) == [L.EVENT_LOG]
    assert broken(replace(evidence, event_log=None)) == [L.EVENT_LOG]
    assert absent(replace(evidence, event_log=None, hardware_start=())) == [L.EVENT_LOG]


# --- keys of the guest's TPM ---------------------------------------------------------------------


def test_an_ek_is_proven_by_the_parents_signature_or_a_certificate() -> None:
    whole = make()
    assert absent(replace(whole, ek_proof=None, ek_certificates=())) == [L.EK]
    assert broken(replace(whole, ek_proof=None)) == []
    assert broken(replace(whole, ek_certificates=())) == []
    assert broken(replace(whole, ek=None)) == [L.EK]
    for key, name in ((OTHER_KEY, URN), (EK_KEY, f"urn:uuid:{UUID(int=1)}"), (EK_KEY, "x:y")):
        others = (der(certificate(key, EK_OID, names=(name,))),)
        assert broken(replace(whole, ek_certificates=others)) == [L.EK]
    assert broken(replace(whole, ek_certificates=AIK_CHAIN)) == [L.EK]


def test_a_proof_is_about_this_ek_this_vtpm_and_a_list_of_this_agent() -> None:
    whole, proof = make(), prove_ek()

    def with_proof(**changes: object) -> Evidence:
        changed = replace(proof, **changes)  # type: ignore[arg-type]  # fields, by name
        return replace(whole, ek_proof=changed, ek_certificates=())

    assert broken(with_proof()) == []
    assert broken(with_proof(nonce=b"m" * 20)) == [L.EK]
    assert broken(with_proof(signature=flipped(proof.signature))) == [L.EK]
    assert broken(with_proof(approved=approve(sequence=1))) == [L.EK]
    # a list from after the evidence
    newer = prove_ek(approve(sequence=9))
    assert broken(replace(whole, ek_proof=newer, ek_certificates=())) == [L.EK]
    # a configuration that was never approved
    unknown = sign_list(ConfigList(1, (bytes(20),), ()), [select(CONFIGURATION)])
    assert broken(replace(whole, ek_proof=prove_ek(unknown), ek_certificates=())) == [L.EK]


def test_a_proof_for_another_vtpm_of_the_group_is_no_proof() -> None:
    whole, proof = make(), prove_ek()
    values = {**proof.pcrs.by_index, 23: extended(bytes(20), b"another vTPM".ljust(20))}
    external = sha1(bytes(4) + sha1(whole.ek.encode() + proof.nonce)) if whole.ek else b""
    signature = quote(AIK_KEY, values, external)
    moved = replace(proof, pcrs=Pcrs.of(values), signature=signature)
    assert broken(replace(whole, ek_proof=moved)) == [L.EK]


def test_a_quote_of_the_guest_says_the_same_over_the_same_nonce() -> None:
    whole = make()
    assert whole.guest_quote is not None
    assert absent(replace(whole, guest_quote=None)) == [L.GUEST_QUOTE]
    values = {**guest_pcrs(), 4: bytes(20)}
    lied = replace(
        whole.guest_quote, pcrs=Pcrs.of(values), signature=quote(GUEST_KEY, values, NONCE)
    )
    assert broken(replace(whole, guest_quote=lied)) == [L.GUEST_QUOTE]
    few = {4: guest_pcrs()[4]}
    less = replace(whole.guest_quote, pcrs=Pcrs.of(few), signature=quote(GUEST_KEY, few, NONCE))
    assert broken(replace(whole, guest_quote=less)) == []
    old = replace(whole.guest_quote, signature=quote(GUEST_KEY, guest_pcrs(), b"o" * 20))
    assert broken(replace(whole, guest_quote=old)) == [L.GUEST_QUOTE]


def test_an_identity_in_another_tpm_is_not_the_guests() -> None:
    whole = make()

    def by(*names: str, key: RSAPrivateKey = GUEST_KEY) -> Evidence:
        assert whole.guest_quote is not None
        chain = (der(certificate(key, AIK_OID, names=names)),)
        return replace(whole, guest_quote=replace(whole.guest_quote, certificates=chain))

    assert broken(by(URN)) == []
    assert broken(by(URN, uri(OTHER_KEY))) == [L.GUEST_QUOTE]
    assert broken(by(uri(EK_KEY))) == [L.GUEST_QUOTE]  # a hardware TPM's
    assert broken(by(f"urn:uuid:{UUID(int=1)}")) == [L.GUEST_QUOTE]
    assert broken(by(URN, f"urn:uuid:{UUID(int=1)}")) == [L.GUEST_QUOTE]
    assert broken(by("urn:uuid:none")) == [L.GUEST_QUOTE]
    assert broken(by(URN, key=OTHER_KEY)) == [L.GUEST_QUOTE]
    # some vTPM has these PCRs too, which proves nothing about this one
    assert absent(by(f"urn:uuid:{UUID(int=0)}")) == [L.GUEST_QUOTE]
    assert whole.guest_quote is not None
    bare = replace(whole.guest_quote, certificates=())
    assert absent(replace(whole, guest_quote=bare)) == [L.GUEST_QUOTE]


@pytest.mark.parametrize("uuid", [VTPM, UUID(int=0), UUID(int=1)])
def test_a_certified_key_of_a_vtpm_signs_for_no_hardware_tpm(uuid: UUID) -> None:
    """Its owner could have it sign whatever a hardware TPM would."""
    forged = make(key=GUEST_KEY)
    chain = (der(certificate(GUEST_KEY, AIK_OID, names=(f"urn:uuid:{uuid}",))),)
    evidence = replace(forged, hardware=replace(forged.hardware, certificates=chain), ek_proof=None)
    assert broken(evidence) == [L.AIK]


def test_what_is_there_and_wrong_counts_though_it_need_not_be_there() -> None:
    evidence = replace(make(), event_log=b"no log")
    result = verify(evidence, expectations())
    assert not result.is_verified
    assert verify(evidence, expectations(waived=frozenset({L.EVENT_LOG}))).is_verified


def test_the_composite_of_the_signer_is_that_of_the_specification() -> None:
    # two PCRs, all zeros: H(0003 030000 00000028 40 bytes)
    encoded = bytes.fromhex("0003 030000 00000028") + bytes(40)
    assert composite({0: bytes(20), 1: bytes(20)}) == sha1(encoded)
    assert Pcrs.of({0: bytes(20), 1: bytes(20)}).composite() == sha1(encoded)
    assert PcrSelection.of([0, 1]).encode() == select([0, 1])
    assert EK_KEY is not GUEST_KEY
